"""The linen face: parameters, options, dropout, Flax's transformations, both directions, and errors."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx, traverse_util
from flax import linen as nn

import flax_rnn as core
import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face
from flax_rnn.linen import GRU, LSTM, Bidirectional, GRUCell, LSTMCell, SimpleRNN, SimpleRNNCell

B, T, D, H = 3, 4, 3, 2
# Type checkers take their first argument to be `deterministic`.
RNN: Any = linen_face.RNN
StackedRNNCells: Any = linen_face.StackedRNNCells
SHAPES = {
    SimpleRNN: {"kernel": (D, H), "recurrent_kernel": (H, H), "bias": (H,)},
    LSTM: {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)},
    GRU: {"kernel": (D, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)},
}
CELLS: dict[Any, Any] = {SimpleRNN: SimpleRNNCell, LSTM: LSTMCell, GRU: GRUCell}
CORES: dict[Any, Any] = {SimpleRNN: core.SimpleRNNCell, LSTM: core.LSTMCell, GRU: core.GRUCell}
MASK: Any = np.array([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
LENGTHS: Any = np.array([2, 0, 4])
KEY = jax.random.key(0)
# Outputs of these are the dropped inputs, so masks are seen as they are.
TRANSPARENT: dict[str, Any] = {"activation": None, "kernel_initializer": "identity", "recurrent_initializer": "zeros"}
ONES = jnp.ones((4, 3, 8))


def inputs(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=shape or (B, T, D)), jnp.float32)


def initialized(module: nn.Module, *args: Any, **call: Any) -> Any:
    """Random parameters of ``module``, biases too."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(KEY, *args, **call))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), shapes)


def paths(variables: Any) -> set[str]:
    return set(traverse_util.flatten_dict(variables["params"], sep="/"))


def stack(**options: Any) -> Any:
    return StackedRNNCells((LSTMCell(H, **options), GRUCell(3, **options)))


def core_stack(**options: Any) -> Any:
    cells: Any = core.LSTMCell(H, **options), core.GRUCell(3, **options)
    return core.StackedRNNCells(cells)


def of_stack(params: Any) -> Any:
    """The parameters of a stack as the core takes them."""
    return tuple(params[f"cells_{index}"] for index in range(2))


@pytest.mark.parametrize("layer_type", SHAPES)
def test_parameters(layer_type: Any) -> None:
    cell = CELLS[layer_type](H)
    variables = jax.jit(lambda x: layer_type(H).init(KEY, x))(inputs())
    assert set(variables) == {"params"} and set(variables["params"]) == {"cell"}
    shapes = {name: leaf.shape for name, leaf in variables["params"]["cell"].items()}
    assert shapes == SHAPES[layer_type]
    of_cell = cell.init(KEY, cell.initialize_carry(KEY, (B, D)), jnp.ones((B, D)))
    assert {name: leaf.shape for name, leaf in of_cell["params"].items()} == SHAPES[layer_type]
    for name in ("kernel", "recurrent_kernel"):
        assert np.all(np.asarray(variables["params"]["cell"][name]) != 0)
    np.testing.assert_array_equal(variables["params"]["cell"]["bias"].sum(), H if layer_type is LSTM else 0)
    assert "bias" not in layer_type(H, use_bias=False).init(KEY, inputs())["params"]["cell"]


def test_parameters_of_stacks_and_directions() -> None:
    weights = ("kernel", "recurrent_kernel", "bias")
    expected = {f"cell/cells_{index}/{name}" for index in range(2) for name in weights}
    for layer in (RNN(stack()), RNN([LSTMCell(H), GRUCell(3)]), RNN((LSTMCell(H), GRUCell(3)))):
        assert paths(initialized(layer, inputs())) == expected
    both = Bidirectional(RNN(stack()))
    assert paths(initialized(both, inputs())) == {
        f"{direction}_layer/{path}" for direction in ("forward", "backward") for path in expected
    }
    variables = Bidirectional(LSTM(H)).init(KEY, inputs())["params"]
    forward, backward = (np.asarray(variables[f"{name}_layer"]["cell"]["kernel"]) for name in ("forward", "backward"))
    assert np.all(forward != backward)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"return_sequences": True, "return_state": True}, {"initial_state": True}),
        ({"return_sequences": True, "go_backwards": True}, {"mask": MASK}),
        ({"return_sequences": True, "go_backwards": True, "keep_order": True, "unroll": 2}, {}),
        ({"return_sequences": True, "zero_output_for_mask": True, "return_state": True}, {"mask": MASK}),
        ({"return_sequences": True, "time_major": True}, {"seq_lengths": LENGTHS}),
    ],
    ids=str,
)
@pytest.mark.parametrize("layer_type", [LSTM, GRU])
def test_layers_give_the_numbers_of_the_core(layer_type: Any, options: dict[str, Any], call: dict[str, Any]) -> None:
    own: dict[str, Any] = {"activation": "softsign"}
    if layer_type is GRU:
        own |= {"reset_after": False, "recurrent_activation": "hard_sigmoid"}
    layer, cell = layer_type(H, **own, **options), CORES[layer_type](H, **own)
    x = inputs(T, B, D) if "time_major" in options else inputs()
    if "initial_state" in call:
        call = {"initial_state": jax.tree.map(lambda leaf: leaf + 0.5, core.zero_carry(cell, (B, D)))}
    variables = initialized(layer, x)
    expected = core.rnn(cell, variables["params"]["cell"], x, **options, **call)
    chex.assert_trees_all_close(layer.apply(variables, x, **call), expected, rtol=1e-6)
    if not options:
        chex.assert_trees_all_close(RNN(CELLS[layer_type](H, **own)).apply(variables, x), expected, rtol=1e-6)


def test_simple_rnn_gives_the_numbers_of_the_core() -> None:
    layer, cell = SimpleRNN(H, "relu", return_sequences=True), CORES[SimpleRNN](H, "relu")
    variables = initialized(layer, inputs())
    expected = core.rnn(cell, variables["params"]["cell"], inputs(), mask=MASK, return_sequences=True)
    chex.assert_trees_all_close(layer.apply(variables, inputs(), mask=MASK), expected, rtol=1e-6)


def test_every_option_reaches_the_loop() -> None:
    given: dict[str, Any] = {
        "return_sequences": True, "return_state": True, "go_backwards": True, "keep_order": True, "unroll": 3,
        "zero_output_for_mask": True, "time_major": True, "checkpoint_every": 4, "implementation": "scan",
    }  # fmt: skip
    for layer in (LSTM(H, **given), RNN(stack(), **given)):
        variables = initialized(layer, inputs(T, B, D))
        assert layer.options == layer.clone().options == given
        assert "unroll=3" in str(jax.make_jaxpr(layer.apply)(variables, inputs(T, B, D)))


def test_stacks() -> None:
    x, layer = inputs(), RNN(stack(), return_sequences=True, return_state=True)
    variables = initialized(layer, x)
    state = jax.tree.map(lambda leaf: leaf + 0.5, stack().initialize_carry(KEY, (B, D)))
    weights = of_stack(variables["params"]["cell"])
    expected = core.rnn(
        core_stack(), weights, x, initial_state=state, mask=MASK, return_sequences=True, return_state=True
    )
    chex.assert_trees_all_close(layer.apply(variables, x, state, MASK), expected, rtol=1e-6)
    step = stack().apply({"params": variables["params"]["cell"]}, state, x[:, 0])
    chex.assert_trees_all_close(step, core.apply_cell(core_stack(), weights, state, x[:, 0]), rtol=1e-6)


def test_both_faces_give_the_same_numbers_and_gradients() -> None:
    x = inputs()
    model: Any = Bidirectional(GRU(H, return_sequences=True), "mul")
    variables = initialized(model, x)
    other = nnx_face.Bidirectional(nnx_face.GRU(D, H, return_sequences=True, rngs=nnx.Rngs(0)), "mul", rngs=nnx.Rngs(1))
    nnx.update(other, variables["params"])
    value, gradients = jax.value_and_grad(lambda v: jnp.sum(model.apply(v, x, mask=MASK) ** 2))(variables)
    expected, expected_gradients = nnx.value_and_grad(lambda m: jnp.sum(m(x, mask=MASK) ** 2))(other)
    chex.assert_trees_all_close(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(gradients["params"], nnx.to_pure_dict(expected_gradients), rtol=1e-5)
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradients))


# --- dropout ----------------------------------------------------------------------------------------------------------


def transparent(**options: Any) -> SimpleRNN:
    return SimpleRNN(8, dropout=0.5, return_sequences=True, **TRANSPARENT, **options)


def drop(layer: Any, seed: int = 1, training: bool | None = True) -> np.ndarray:
    variables = layer.init(KEY, ONES)
    return np.asarray(layer.apply(variables, ONES, training=training, rngs={"dropout": jax.random.key(seed)}))


def test_masks_are_constant_over_time_and_follow_the_key() -> None:
    output = drop(transparent())
    assert set(np.unique(output)) == {0.0, 2.0}
    np.testing.assert_array_equal(output, output[:, :1].repeat(3, axis=1))
    assert np.any(output[0] != output[1])
    np.testing.assert_array_equal(drop(transparent()), output)
    assert np.any(drop(transparent(), seed=2) != output)


@pytest.mark.parametrize(
    "build",
    [
        transparent,
        lambda **options: RNN([transparent_cell(), transparent_cell()], return_sequences=True, **options),
        lambda **options: Bidirectional(transparent(**options), "ave"),
    ],
    ids=["layer", "stack", "bidirectional"],
)
def test_when_dropout_is_active(build: Any) -> None:
    assert np.any(drop(build()) != 1)
    np.testing.assert_array_equal(drop(build(), training=None), 1)
    np.testing.assert_array_equal(drop(build(deterministic=False), training=False), 1)
    assert np.any(drop(build(deterministic=False), training=None) != 1)


def transparent_cell(**options: Any) -> SimpleRNNCell:
    return SimpleRNNCell(8, dropout=0.5, **TRANSPARENT, **options)


def test_a_cell_called_by_itself_drops_too() -> None:
    def step(cell: SimpleRNNCell) -> np.ndarray:
        carry = cell.initialize_carry(KEY, (4, 8))
        variables = transparent_cell().init(KEY, carry, ONES[:, 0])
        return np.asarray(cell.apply(variables, carry, ONES[:, 0], rngs={"dropout": KEY})[1])

    assert set(np.unique(step(transparent_cell(deterministic=False)))) == {0.0, 2.0}
    np.testing.assert_array_equal(step(transparent_cell()), 1)


def test_dropout_needs_a_key_where_it_is_active() -> None:
    for layer in (transparent(), Bidirectional(transparent()), RNN([SimpleRNNCell(8), transparent_cell()])):
        variables = layer.init(KEY, ONES)
        layer.apply(variables, ONES)
        with pytest.raises(errors.InvalidRngError, match="dropout"):
            layer.apply(variables, ONES, training=True)
    plain = LSTM(H)
    plain.apply(initialized(plain, inputs()), inputs(), training=True)


def test_two_calls_have_masks_of_their_own() -> None:
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer = transparent()
            return layer(x, training=True), layer(x, training=True)

    variables = Twice().init({"params": KEY, "dropout": KEY}, ONES)
    assert set(variables["params"]) == {"SimpleRNN_0"}
    one, other = Twice().apply(variables, ONES, rngs={"dropout": KEY})
    assert np.any(np.asarray(one) != other)


# --- modules and transformations --------------------------------------------------------------------------------------


class Compact(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = LSTM(H, return_sequences=True, name="first")(x)
        x = Bidirectional(GRU(H, return_sequences=True))(x)
        return nn.Dense(1)(RNN([SimpleRNNCell(2), GRUCell(3)])(x))


class Setup(nn.Module):
    def setup(self) -> None:
        self.first = LSTM(H, return_sequences=True)
        self.both = Bidirectional(GRU(H, return_sequences=True))
        self.rest = RNN([SimpleRNNCell(2), GRUCell(3)])
        self.head = nn.Dense(1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.rest(self.both(self.first(x))))


def test_nested_modules() -> None:
    x, compact, setup = inputs(), Compact(), Setup()
    variables = initialized(compact, x)
    params = dict(variables["params"])
    # As in Flax's own RNN, a cell made in a compact method belongs to the module of that method.
    cells = {"cells_0": params.pop("SimpleRNNCell_0"), "cells_1": params.pop("GRUCell_0")}
    names = {"first": "first", "Bidirectional_0": "both", "Dense_0": "head"}
    assert set(params) == set(names)
    renamed = {"params": {names[name]: value for name, value in params.items()} | {"rest": {"cell": cells}}}
    chex.assert_trees_all_equal_shapes(renamed, jax.eval_shape(lambda: setup.init(KEY, x)))
    output = jax.jit(compact.apply)(variables, x)
    chex.assert_trees_all_close(output, setup.apply(renamed, x), rtol=1e-5)
    for name in ("LSTM", "GRUCell", "recurrent_kernel"):
        assert name in compact.tabulate(KEY, x, console_kwargs={"width": 300})


def test_a_layer_called_twice_shares_its_weights() -> None:
    class Shared(nn.Module):
        def setup(self) -> None:
            self.layer = LSTM(H)

        def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
            return self.layer(x) - self.layer(y)

    x = inputs()
    variables = initialized(Shared(), x, x)
    assert paths(variables) == {f"layer/cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")}
    params = {"params": variables["params"]["layer"]}
    layer: Any = LSTM(H)
    expected = layer.apply(params, x) - layer.apply(params, x[::-1])
    chex.assert_trees_all_close(Shared().apply(variables, x, x[::-1]), expected, atol=1e-6)
    np.testing.assert_array_equal(Shared().apply(variables, x, x), 0)


def test_vmap_over_models_and_over_inputs() -> None:
    x = inputs(2, B, T, D)
    many = nn.vmap(LSTM, in_axes=0, variable_axes={"params": 0}, split_rngs={"params": True})(H)
    variables = jax.jit(many.init)(KEY, x)
    kernel = variables["params"]["cell"]["kernel"]
    assert kernel.shape == (2, D, 4 * H) and np.all(kernel[0] != kernel[1])
    single = [jax.tree.map(lambda leaf, i=i: leaf[i], variables) for i in range(2)]
    plain: Any = LSTM(H)
    expected = jnp.stack([plain.apply(v, one) for v, one in zip(single, x, strict=True)])
    chex.assert_trees_all_close(many.apply(variables, x), expected, rtol=1e-5)
    vmapped = jax.vmap(plain.apply, (None, 0))(single[0], x)
    chex.assert_trees_all_close(vmapped[0], expected[0], rtol=1e-5)


def test_remat_gives_the_same_gradients() -> None:
    x = inputs()
    options: dict[str, Any] = {"dropout": 0.5, "recurrent_dropout": 0.5}
    plain = GRU(H, **options)
    # ``training`` is the fifth argument, and must not be traced.
    remat = nn.remat(GRU, static_argnums=(4,))(H, **options)
    variables, rngs = initialized(plain, x), {"dropout": KEY}

    def gradients(layer: Any) -> Any:
        return jax.jit(jax.grad(lambda v: jnp.sum(layer.apply(v, x, None, None, True, rngs=rngs) ** 2)))(variables)

    chex.assert_trees_all_close(gradients(remat), gradients(plain), rtol=1e-5)


def test_clones_and_equality() -> None:
    for module in (LSTMCell(H), LSTM(H, return_state=True), RNN([LSTMCell(H)]), Bidirectional(GRU(H), "sum")):
        clone: Any = module.clone()
        assert clone == module and hash(clone) == hash(module)
        assert str(initialized(clone, *arguments(module))) == str(initialized(module, *arguments(module)))
    assert LSTM(H).clone(units=3) == LSTM(3) != LSTM(H)


def arguments(module: nn.Module) -> Any:
    if isinstance(module, LSTMCell):
        return module.initialize_carry(KEY, (B, D)), inputs()[:, 0]
    return (inputs(),)


def test_bfloat16() -> None:
    x = inputs()
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    half: Any
    half, full = LSTM(H, dtype=jnp.bfloat16, **options), LSTM(H, **options)
    variables = initialized(half, x)
    y, carry = half.apply(variables, x)
    assert (y.dtype, carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(y.astype(jnp.float32), full.apply(variables, x)[0], atol=0.03)


def test_bfloat16_weights() -> None:
    variables = LSTM(H, param_dtype=jnp.bfloat16).init(KEY, inputs())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.bfloat16)}


# --- both directions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
def test_bidirectional_gives_the_numbers_of_the_core(merge_mode: str | None) -> None:
    x, state = inputs(), (jnp.full((B, H), 0.5), jnp.full((B, H), -0.5))
    both = Bidirectional(GRU(H, return_sequences=True, return_state=True, reset_after=False), merge_mode)
    variables = initialized(both, x)
    weights = tuple(variables["params"][f"{direction}_layer"]["cell"] for direction in ("forward", "backward"))
    cells: Any = (core.GRUCell(H, reset_after=False),) * 2
    expected = core.bidirectional(
        cells, weights, x,
        merge_mode=merge_mode, initial_state=state, mask=MASK, return_sequences=True, return_state=True,
    )  # fmt: skip
    chex.assert_trees_all_close(both.apply(variables, x, state, MASK), expected, rtol=1e-6)


def test_bidirectional_of_another_layer_and_of_a_stack() -> None:
    x = inputs()
    for forward, backward in [
        (GRU(H), LSTM(3, go_backwards=True)),
        (RNN(stack(), go_backwards=True), None),
    ]:
        both = Bidirectional(forward, backward_layer=backward)
        variables = initialized(both, x)
        layers = {"forward_layer": forward, "backward_layer": backward or RNN(stack())}
        outputs: Any = [layer.apply({"params": variables["params"][name]}, x) for name, layer in layers.items()]
        chex.assert_trees_all_close(both.apply(variables, x), jnp.concatenate(outputs, -1), rtol=1e-6)


def test_errors_name_the_argument() -> None:
    x, wrong_cell = inputs(), core.LSTMCell(H)
    wrong: Any = [wrong_cell, "gru"]
    variables, layer = initialized(LSTM(H), x), LSTM(H)
    for error, match, call in [
        (TypeError, "cell: expected a cell of flax_rnn.linen", lambda: RNN(wrong[1])),
        (TypeError, "cell: expected a cell, got the class LSTMCell; call it", lambda: RNN(LSTMCell)),
        (ValueError, "cells: expected at least one cell", lambda: RNN([])),
        (TypeError, r"cells\[1\]: expected", lambda: RNN([LSTMCell(H), wrong[1]])),
        (ValueError, "units: expected a positive integer, got 0", lambda: LSTM(0)),
        (ValueError, r"recurrent_dropout: expected a rate in \[0, 1\), got 1", lambda: GRUCell(H, recurrent_dropout=1)),
        (ValueError, "recurrent_activation: unknown", lambda: LSTM(H, recurrent_activation="sig")),
        (TypeError, "layer: expected a layer of flax_rnn.linen, got LSTMCell", lambda: Bidirectional(wrong[0])),
        (ValueError, "merge_mode: expected one of", lambda: Bidirectional(layer, "add")),
        (ValueError, "backward_layer: expected go_backwards=True", lambda: Bidirectional(layer, "sum", LSTM(H))),
        (
            ValueError,
            "backward_layer: expected return_state=False",
            lambda: Bidirectional(layer, "sum", GRU(H, go_backwards=True, return_state=True)),
        ),
        (
            ValueError,
            "inputs: expected 3 features in the last axis, got 5",
            lambda: layer.apply(variables, inputs(B, T, 5)),
        ),
        (ValueError, "inputs: expected at least 2 axes", lambda: layer.apply(variables, x[0, 0])),
        (ValueError, r"initial_state: expected LSTMCarry\(h=", lambda: layer.apply(variables, x, jnp.zeros((B, H)))),
        (
            ValueError,
            "carry: expected LSTMCarry",
            lambda: LSTMCell(H).apply({"params": variables["params"]["cell"]}, jnp.zeros((B, H)), x[:, 0]),
        ),
    ]:
        with pytest.raises(error, match=match):
            call()
