"""The nnx face: weights, options, dropout, Flax's transformations, both directions, and errors."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import flax_rnn as core
from flax_rnn.nnx import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    GRUCell,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
    StackedRNNCells,
)

B, T, D, H = 3, 4, 3, 2
SHAPES = {
    SimpleRNN: {"kernel": (D, H), "recurrent_kernel": (H, H), "bias": (H,)},
    LSTM: {"kernel": (D, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (4 * H,)},
    GRU: {"kernel": (D, 3 * H), "recurrent_kernel": (H, 3 * H), "bias": (2, 3 * H)},
}
CELLS: dict[Any, Any] = {SimpleRNN: SimpleRNNCell, LSTM: LSTMCell, GRU: GRUCell}
CORES: dict[Any, Any] = {SimpleRNN: core.SimpleRNNCell, LSTM: core.LSTMCell, GRU: core.GRUCell}
MASK: Any = np.array([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
LENGTHS: Any = np.array([2, 0, 4])
# Outputs of these are the dropped inputs, so masks are seen as they are.
TRANSPARENT: dict[str, Any] = {"activation": None, "kernel_initializer": "identity", "recurrent_initializer": "zeros"}


def inputs(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(9).normal(size=shape or (B, T, D)), jnp.float32)


def randomized(model: Any, seed: int = 0) -> Any:
    """``model`` with other weights, biases too."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), state))
    return model


def arrays(cell: Any) -> Any:
    """The weights of a cell as the core takes them, by their names."""
    if isinstance(cell, StackedRNNCells):
        return tuple(arrays(one) for one in cell.cells)
    names = ("kernel", "recurrent_kernel", "bias")
    return {name: getattr(cell, name)[...] for name in names if hasattr(cell, name)}


def stack(**options: Any) -> StackedRNNCells:
    rngs = nnx.Rngs(3)
    return randomized(StackedRNNCells([LSTMCell(D, H, rngs=rngs, **options), GRUCell(H, 3, rngs=rngs, **options)]))


def core_stack(**options: Any) -> Any:
    cells: Any = core.LSTMCell(H, **options), core.GRUCell(3, **options)
    return core.StackedRNNCells(cells)


@pytest.mark.parametrize("layer_type", SHAPES)
def test_weights_are_params_under_keras_names(layer_type: Any) -> None:
    layer, cell = (cls(D, H, rngs=nnx.Rngs(0)) for cls in (layer_type, CELLS[layer_type]))
    assert {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(cell))} == {
        (name,): shape for name, shape in SHAPES[layer_type].items()
    }
    assert [path for path, _ in nnx.to_flat_state(nnx.state(layer))] == [
        ("cell", name) for name in sorted(SHAPES[layer_type])
    ]
    for name in SHAPES[layer_type]:
        assert type(getattr(cell, name)) is nnx.Param
    assert not hasattr(CELLS[layer_type](D, H, use_bias=False, rngs=nnx.Rngs(0)), "bias")
    expected = CORES[layer_type](H).init_params(nnx.Rngs(0).params(), D)
    chex.assert_trees_all_equal(arrays(layer.cell), expected)


def test_initializers_and_dtypes_of_weights() -> None:
    cell = LSTMCell(D, H, bias_initializer="normal", recurrent_initializer="uniform", rngs=nnx.Rngs(0))
    bias = np.asarray(arrays(cell)["bias"])
    np.testing.assert_array_equal(bias[H : 2 * H], 1)
    assert np.all((bias[:H] != 0) & (np.abs(bias[:H]) < 0.5))
    assert np.all(np.abs(arrays(cell)["recurrent_kernel"]) <= 0.05)


def test_bfloat16_weights() -> None:
    cell = LSTMCell(D, H, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(arrays(cell))} == {jnp.dtype(jnp.bfloat16)}


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
    layer = randomized(layer_type(D, H, rngs=nnx.Rngs(0), **own, **options))
    cell, weights = CORES[layer_type](H, **own), arrays(layer.cell)
    x = inputs(T, B, D) if "time_major" in options else inputs()
    if "initial_state" in call:
        call = {"initial_state": jax.tree.map(lambda leaf: leaf + 0.5, core.zero_carry(cell, (B, D)))}

    expected = core.rnn(cell, weights, x, **options, **call)
    chex.assert_trees_all_close(layer(x, **call), expected, rtol=1e-6)
    if not options:
        chex.assert_trees_all_close(RNN(layer.cell)(x), expected, rtol=1e-6)


def test_simple_rnn_gives_the_numbers_of_the_core() -> None:
    layer = randomized(SimpleRNN(D, H, "relu", return_sequences=True, rngs=nnx.Rngs(0)))
    cell: Any = core.SimpleRNNCell(H, "relu")
    expected = core.rnn(cell, arrays(layer.cell), inputs(), mask=MASK, return_sequences=True)
    chex.assert_trees_all_close(layer(inputs(), mask=MASK), expected, rtol=1e-6)


def test_every_option_reaches_the_loop() -> None:
    given: dict[str, Any] = {
        "return_sequences": True, "return_state": True, "go_backwards": True, "keep_order": True, "unroll": 3,
        "zero_output_for_mask": True, "time_major": True, "checkpoint_every": 4, "implementation": "scan",
    }  # fmt: skip
    for layer in (LSTM(D, H, rngs=nnx.Rngs(0), **given), RNN(stack(), **given)):
        assert layer.options == given
        assert "unroll=3" in str(jax.make_jaxpr(layer)(inputs(T, B, D)))


def test_stacks_and_lists_of_cells() -> None:
    cell, x = stack(), inputs()
    state = jax.tree.map(lambda leaf: leaf + 0.5, cell.initialize_carry((B, D)))
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    expected = core.rnn(core_stack(), arrays(cell), x, initial_state=state, mask=MASK, **options)
    for layer in (RNN(cell, **options), RNN(list(cell.cells), **options), RNN(tuple(cell.cells), **options)):
        chex.assert_trees_all_close(layer(x, state, MASK), expected, rtol=1e-6)
    assert ("cell", "cells", 1, "bias") in nnx.to_flat_state(nnx.state(RNN(cell))).paths
    carry, output = cell(state, x[:, 0])
    assert output.shape == (B, 3)
    chex.assert_trees_all_close((carry, output), core.apply_cell(core_stack(), arrays(cell), state, x[:, 0]), rtol=1e-6)


def test_gradients_equal_those_of_the_core() -> None:
    layer, x = randomized(LSTM(D, H, rngs=nnx.Rngs(0))), inputs()
    gradients = nnx.grad(lambda m: jnp.sum(m(x, mask=MASK) ** 2))(layer)
    cell: Any = core.LSTMCell(H)
    expected = jax.grad(lambda w: jnp.sum(core.rnn(cell, w, x, mask=MASK) ** 2))(arrays(layer.cell))
    chex.assert_trees_all_close(nnx.to_pure_dict(gradients)["cell"], expected, rtol=1e-5)
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(expected))


# --- dropout ----------------------------------------------------------------------------------------------------------


def transparent(seed: int = 0, **options: Any) -> SimpleRNN:
    return SimpleRNN(8, 8, dropout=0.5, return_sequences=True, rngs=nnx.Rngs(seed), **TRANSPARENT, **options)


ONES = jnp.ones((4, 3, 8))


def test_masks_are_constant_over_time_fresh_for_each_call_and_reproducible() -> None:
    layer, again = transparent(), transparent()
    first, second = np.asarray(layer(ONES)), np.asarray(layer(ONES))
    assert set(np.unique(first)) == {0.0, 2.0}
    np.testing.assert_array_equal(first, first[:, :1].repeat(3, axis=1))
    assert np.any(first[0] != first[1])
    assert np.any(first != second)
    np.testing.assert_array_equal([again(ONES), again(ONES)], [first, second])
    assert np.any(first != transparent(1)(ONES))


def test_when_dropout_is_active() -> None:
    def dropped(layer: Any, **call: Any) -> bool:
        return bool(np.any(np.asarray(layer(ONES, **call)) != 1))

    layer = transparent()
    assert dropped(layer)
    assert not dropped(layer, training=False)
    layer.eval()
    assert not dropped(layer)
    assert dropped(layer, training=True)
    layer.train()
    assert dropped(layer)
    assert not dropped(transparent(deterministic=True))
    stacked = RNN([layer.cell, transparent(1).cell], return_sequences=True)
    both = Bidirectional(transparent(), merge_mode="ave", rngs=nnx.Rngs(1))
    for model in (stacked, both):
        assert dropped(model)
        model.eval()
        assert not dropped(model)
        assert dropped(model, training=True)


def test_views() -> None:
    class Model(nnx.Module):
        """Beside a module that has ``deterministic``, ``nnx.view`` does not complain about those that have not."""

        def __init__(self) -> None:
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
            self.layer = transparent()
            self.cells = RNN([transparent().cell], return_sequences=True)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.cells(self.layer(self.dropout(x)))

    model: Any = Model()
    view: Any = nnx.view(model, deterministic=True)
    assert view.layer.cell.kernel is model.layer.cell.kernel
    assert np.any(np.asarray(model(ONES)) != ONES)
    np.testing.assert_array_equal(view(ONES), ONES)


def test_a_cell_called_by_itself_drops_too() -> None:
    cell = transparent().cell
    carry = cell.initialize_carry((4, 8))
    outputs = [np.asarray(cell(carry, ONES[:, 0])[1]) for _ in range(2)]
    assert set(np.unique(outputs)) == {0.0, 2.0}
    assert np.any(outputs[0] != outputs[1])
    cell.eval()
    np.testing.assert_array_equal(cell(carry, ONES[:, 0])[1], ONES[:, 0])


@pytest.mark.parametrize(
    "source",
    [
        lambda: jax.random.key(5),
        lambda: nnx.Rngs(params=0, dropout=jax.random.key(5)),
        lambda: nnx.Rngs(jax.random.key(5)),
        lambda: nnx.Rngs(dropout=jax.random.key(5)).dropout,
    ],
    ids=["key", "dropout stream of Rngs", "default stream of Rngs", "stream"],
)
def test_keys_can_come_from_elsewhere(source: Callable[[], Any]) -> None:
    layer = transparent()
    outputs = [np.asarray(layer(ONES, rngs=source())) for _ in range(2)]
    assert set(np.unique(outputs)) == {0.0, 2.0}
    np.testing.assert_array_equal(outputs[0], outputs[1])
    # The layer's own stream has not moved.
    np.testing.assert_array_equal(layer(ONES), transparent()(ONES))


def test_dropout_is_that_of_the_core_for_a_key() -> None:
    key, x, rates = jax.random.key(1), inputs(), {"dropout": 0.4, "recurrent_dropout": 0.3}
    cell = stack(**rates)
    layer = RNN(cell)
    expected = core.rnn(core_stack(**rates), arrays(cell), x, dropout_key=key)
    assert np.any(np.asarray(expected) != layer(x, training=False))
    chex.assert_trees_all_close(layer(x, rngs=key), expected, rtol=1e-6)
    both = Bidirectional(RNN(cell), rngs=nnx.Rngs(0))
    weights = arrays(cell), arrays(both.backward_layer.cell)
    expected = core.bidirectional((core_stack(**rates), core_stack(**rates)), weights, x, dropout_key=key)
    chex.assert_trees_all_close(both(x, rngs=key), expected, rtol=1e-6)


def test_only_what_drops_has_and_needs_a_stream() -> None:
    assert not jax.tree.leaves(nnx.state(LSTM(D, H, rngs=nnx.Rngs(0)), nnx.RngState))
    assert jax.tree.leaves(nnx.state(LSTM(D, H, recurrent_dropout=0.1, rngs=nnx.Rngs(0)), nnx.RngState))
    LSTM(D, H, rngs=nnx.Rngs(params=0))(inputs(), training=True)
    with pytest.raises(AttributeError, match="No RngStream named 'dropout'"):
        LSTM(D, H, dropout=0.1, rngs=nnx.Rngs(params=0))
    with pytest.raises(TypeError, match="rngs"):
        LSTM(D, H)  # pyright: ignore[reportCallIssue]
    only_top = RNN([SimpleRNNCell(8, 8, rngs=nnx.Rngs(0)), transparent().cell])
    assert np.any(np.asarray(only_top(ONES)) != only_top(ONES))


# --- transformations --------------------------------------------------------------------------------------------------


def test_modules_are_equal_to_themselves_only() -> None:
    for build in (lambda: LSTMCell(D, H, rngs=nnx.Rngs(0)), lambda: LSTM(D, H, rngs=nnx.Rngs(0)), stack):
        one, other = build(), build()
        assert one == one and one != other
        assert len({one, other, one}) == 2


def test_split_merge_clone_and_jit() -> None:
    layer, x = randomized(GRU(D, H, rngs=nnx.Rngs(0))), inputs()
    expected = layer(x)
    graphdef, state = nnx.split(layer)
    run = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    clone = nnx.clone(layer)
    for output in (run(state, x), clone(x), nnx.jit(lambda m, x: m(x))(layer, x), jax.jit(layer)(x)):
        chex.assert_trees_all_close(output, expected, rtol=1e-6)
    clone.cell.kernel[...] *= 2
    assert np.any(np.asarray(clone(x)) != expected)
    np.testing.assert_array_equal(layer(x), expected)


def test_streams_move_on_within_nnx_jit() -> None:
    layer, eager = transparent(), transparent()
    run = nnx.jit(lambda layer: layer(ONES))
    np.testing.assert_array_equal([run(layer), run(layer)], [eager(ONES), eager(ONES)])


def test_tabulate() -> None:
    model = RNN(StackedRNNCells([LSTMCell(D, H, rngs=nnx.Rngs(0)), GRUCell(H, 3, rngs=nnx.Rngs(0))]))
    for layer in (model, Bidirectional(model, rngs=nnx.Rngs(0))):
        table = nnx.tabulate(layer, inputs(), console_kwargs={"width": 300, "no_color": True})
        size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
        assert f"Total Parameters: {size}" in table


def test_training_lowers_a_loss() -> None:
    layer = LSTM(D, H, dropout=0.1, recurrent_dropout=0.1, rngs=nnx.Rngs(0))
    model = Bidirectional(layer, merge_mode="sum", rngs=nnx.Rngs(1))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    x, y = inputs(), inputs(B, H)

    def loss_of(model: Bidirectional, training: bool = True) -> jax.Array:
        return jnp.mean((model(x, training=training) - y) ** 2)

    @nnx.jit
    def step(model: Bidirectional, optimizer: nnx.Optimizer[Any]) -> jax.Array:
        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    before = loss_of(model, training=False)
    losses = [float(step(model, optimizer)) for _ in range(8)]
    assert loss_of(model, training=False) < 0.8 * before
    assert len(set(losses)) == len(losses)


def test_tree_mode() -> None:
    x = inputs()
    dropping, again = transparent(), transparent()
    run = nnx.jit(lambda model: model(ONES), graph=False)
    np.testing.assert_array_equal([run(dropping), run(dropping)], [again(ONES), again(ONES)])

    model = randomized(RNN(stack()))
    weights = arrays(model.cell)
    with nnx.set_graph_mode(False):
        graphdef, state = nnx.split(model)
        output = nnx.merge(graphdef, state)(x)
        gradients = nnx.grad(lambda model: jnp.sum(model(x) ** 2))(model)
    expected, expected_gradients = jax.value_and_grad(
        lambda w: (y := core.rnn(core_stack(), w, x), jnp.sum(y**2))[::-1], has_aux=True
    )(weights)
    chex.assert_trees_all_close(output, expected[1], rtol=1e-6)
    chex.assert_trees_all_close(arrays(gradients.cell), expected_gradients, rtol=1e-5)


def test_vmap_over_models_and_over_inputs() -> None:
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> LSTM:
        return LSTM(D, H, recurrent_initializer="normal", rngs=rngs)

    models: Any = create(nnx.Rngs(0))
    x = inputs(2, B, T, D)
    assert models.cell.kernel.shape == (2, D, 4 * H)
    outputs = nnx.jit(nnx.vmap(lambda model, x: model(x)))(models, x)
    graphdef, state = nnx.split(models)
    every: Any = None
    for i in range(2):
        model = nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
        every = jax.jit(jax.vmap(model))(x)
        chex.assert_trees_all_close(every[i], outputs[i], rtol=1e-5)
        chex.assert_trees_all_close(every[i], model(x[i]), rtol=1e-5)
    assert np.any(np.asarray(every[0]) != outputs[0])


def test_remat_gives_the_same_gradients() -> None:
    layer, x = randomized(GRU(D, H, dropout=0.5, rngs=nnx.Rngs(0))), inputs()
    again = nnx.clone(layer)
    remat = nnx.jit(nnx.grad(lambda m: jnp.sum(nnx.remat(lambda m, x: m(x))(m, x) ** 2)))
    plain = nnx.jit(nnx.grad(lambda m: jnp.sum(m(x) ** 2)))
    chex.assert_trees_all_close(remat(again), plain(layer), rtol=1e-5)


def test_bfloat16() -> None:
    x = inputs()
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    full = randomized(LSTM(D, H, rngs=nnx.Rngs(0), **options))
    half = randomized(LSTM(D, H, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **options))
    y, carry = half(x)
    assert (y.dtype, carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert half.cell.kernel[...].dtype == jnp.float32
    np.testing.assert_allclose(y.astype(jnp.float32), full(x)[0], atol=0.03)
    assert half.cell.initialize_carry((B, D)).c.dtype == jnp.float32


# --- both directions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
def test_bidirectional_gives_the_numbers_of_the_core(merge_mode: str | None) -> None:
    layer = GRU(D, H, return_sequences=True, return_state=True, reset_after=False, rngs=nnx.Rngs(0))
    both = randomized(Bidirectional(layer, merge_mode, rngs=nnx.Rngs(1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(both, nnx.Param))) == 2 * (D + H + 1) * 3 * H
    assert np.all(np.asarray(both.forward_layer.cell.kernel[...]) != both.backward_layer.cell.kernel[...])
    assert both.backward_layer.go_backwards and not both.backward_layer.cell.reset_after
    weights = arrays(both.forward_layer.cell), arrays(both.backward_layer.cell)
    state = jnp.full((B, H), 0.5), jnp.full((B, H), -0.5)
    cells: Any = (core.GRUCell(H, reset_after=False),) * 2
    expected = core.bidirectional(
        cells, weights, inputs(),
        merge_mode=merge_mode, initial_state=state, mask=MASK, return_sequences=True, return_state=True,
    )  # fmt: skip
    chex.assert_trees_all_close(both(inputs(), state, MASK), expected, rtol=1e-6)


def test_bidirectional_of_another_layer_and_of_a_stack() -> None:
    x = inputs()
    backward = LSTM(D, 3, go_backwards=True, rngs=nnx.Rngs(1))
    both = randomized(Bidirectional(GRU(D, H, rngs=nnx.Rngs(0)), backward_layer=backward))
    expected = jnp.concatenate([both.forward_layer(x), backward(x)], -1)
    chex.assert_trees_all_close(both(x), expected, rtol=1e-6)
    both = Bidirectional(RNN(stack(), go_backwards=True), rngs=nnx.Rngs(1))
    assert not both.backward_layer.go_backwards
    chex.assert_trees_all_equal_shapes(arrays(both.backward_layer.cell), arrays(stack()))
    expected = jnp.concatenate([both.forward_layer(x), both.backward_layer(x)], -1)
    chex.assert_trees_all_close(both(x), expected, rtol=1e-6)


def test_each_direction_drops_if_its_own_layer_does() -> None:
    x, rngs = inputs(), nnx.Rngs(0)
    layers = [LSTM(D, H, dropout=0.5, go_backwards=back, deterministic=back, rngs=rngs) for back in (False, True)]
    both = Bidirectional(layers[0], backward_layer=layers[1])
    outputs, quiet = both(x, training=None), both(x, training=False)
    np.testing.assert_array_equal(outputs[:, H:], quiet[:, H:])
    assert np.any(outputs[:, :H] != quiet[:, :H])
    # One key for both, and yet two masks.
    same: Any = jnp.ones((B, T, 50))
    pair = Bidirectional(RNN(SimpleRNNCell(50, 50, rngs=rngs, dropout=0.5, **TRANSPARENT)), rngs=rngs)
    halves = np.split(np.asarray(pair(same, rngs=jax.random.key(1))), 2, -1)
    assert np.any((halves[0] == 0) != (halves[1] == 0))


def test_errors_name_the_argument() -> None:
    rngs, x = nnx.Rngs(0), inputs()
    layer: Any = LSTM(D, H, rngs=rngs)
    wrong_cell: Any = core.LSTMCell(H)
    for error, match, call in [
        (TypeError, "cell: expected a cell of flax_rnn.nnx", lambda: RNN(wrong_cell)),
        (ValueError, "cells: expected at least one cell", lambda: RNN([])),
        (TypeError, r"cells\[1\]: expected", lambda: RNN([layer.cell, "gru"])),  # pyright: ignore
        (TypeError, "use_cudnn", lambda: RNN(layer.cell, use_cudnn=True)),
        (ValueError, "units: expected a positive integer, got 0", lambda: LSTM(D, 0, rngs=rngs)),
        (ValueError, "in_features: expected a positive integer, got -1", lambda: GRUCell(-1, H, rngs=rngs)),
        (ValueError, r"dropout: expected a rate in \[0, 1\), got 1", lambda: GRU(D, H, dropout=1, rngs=rngs)),
        (ValueError, "recurrent_activation: unknown", lambda: LSTM(D, H, recurrent_activation="sig", rngs=rngs)),
        (ValueError, "merge_mode: expected one of", lambda: Bidirectional(layer, "add", rngs=rngs)),
        (ValueError, "rngs: expected nnx.Rngs for the weights of the backward", lambda: Bidirectional(layer)),
        (ValueError, "backward_layer: expected go_backwards=True", lambda: Bidirectional(layer, "sum", layer)),
        (
            ValueError,
            "backward_layer: expected return_sequences=False",
            lambda: Bidirectional(layer, "sum", GRU(D, H, go_backwards=True, return_sequences=True, rngs=rngs)),
        ),
        (ValueError, "inputs: expected 3 features in the last axis, got 5", lambda: layer(inputs(B, T, 5))),
        (ValueError, "inputs: expected at least 2 axes", lambda: layer(x[0, 0])),
        (ValueError, r"initial_state: expected LSTMCarry\(h=", lambda: layer(x, jnp.zeros((B, H)))),
        (ValueError, "carry: expected LSTMCarry", lambda: layer.cell(jnp.zeros((B, H)), x[:, 0])),
        (ValueError, "rngs: expected", lambda: layer.cell.initialize_carry((B, D), None, jax.nn.initializers.ones)),
    ]:
        with pytest.raises(error, match=match):
            call()
