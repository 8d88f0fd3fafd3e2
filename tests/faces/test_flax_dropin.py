"""Our cells inside Flax's own layers, and against Flax's own cells with the same weights."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn as core
import flax_rnn.linen as ours_linen
import flax_rnn.nnx as ours_nnx

B, T, D, H = 3, 4, 3, 2
KEY = jax.random.key(0)
LENGTHS: Any = np.array([2, 1, 4])

Apply = Callable[..., Any]
Layer = Callable[..., Apply]

# Type checkers take its first argument to be `deterministic`.
linen_rnn: Any = ours_linen.RNN

KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "simple": lambda face, extra: face.SimpleRNNCell(*extra(D), H, **extra()),
    "lstm": lambda face, extra: face.LSTMCell(*extra(D), H, dropout=0.5, **extra()),
    "gru": lambda face, extra: face.GRUCell(*extra(D), H, **extra()),
    "gru before": lambda face, extra: face.GRUCell(*extra(D), H, reset_after=False, **extra()),
    "stack": lambda face, extra: face.StackedRNNCells(
        [face.LSTMCell(*extra(D), H, **extra()), face.GRUCell(*extra(H), 3, **extra())]
    ),
}


def normal(shape: tuple[int, ...], seed: int = 9) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(0, 0.6, shape), jnp.float32)


def randomized(tree: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), tree)


def linen_cell(kind: str) -> Any:
    return KINDS[kind](ours_linen, lambda *features: () if features else {})


def nnx_cell(kind: str, seed: int = 0) -> Any:
    cell = KINDS[kind](ours_nnx, lambda *features: features or {"rngs": nnx.Rngs(0)})
    nnx.update(cell, randomized(nnx.state(cell, nnx.Param), seed))
    cell.eval()
    return cell


def pair(api: str, kind: str) -> tuple[Layer, Layer]:
    """Flax's RNN and ours around the same cell with the same weights; each takes options, then inputs."""
    if api == "nnx":
        cell = nnx_cell(kind)
        return lambda **o: nnx.RNN(cell, **o), lambda **o: ours_nnx.RNN(cell, deterministic=True, **o)
    variables = randomized(jax.eval_shape(lambda: linen_rnn(linen_cell(kind)).init(KEY, jnp.ones((B, T, D)))))

    def layer(cls: Any) -> Any:
        return lambda **o: lambda *args, **call: cls(linen_cell(kind), **o).apply(variables, *args, **call)

    return layer(nn.RNN), layer(linen_rnn)


def state(kind: str) -> Any:
    carry = linen_cell(kind).initialize_carry(KEY, (B, D))
    return randomized(carry, 5)


@pytest.mark.each(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_flax_rnn_runs_our_cells_as_our_layer_does(api: str, kind: str) -> None:
    flax, ours = pair(api, kind)
    x, carry = normal((B, T, D)), state(kind)
    theirs = flax(return_carry=True)(x, initial_carry=carry)
    expected = ours(return_sequences=True, return_state=True)(x, carry)
    chex.assert_trees_all_close(theirs, expected[::-1], rtol=1e-5, atol=1e-6)


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"reverse": True}, {"go_backwards": True}),
    ({"reverse": True, "keep_order": True}, {"go_backwards": True, "keep_order": True}),
    ({"time_major": True, "unroll": 4}, {"time_major": True, "unroll": True}),
]


@pytest.mark.each(1)
@pytest.mark.parametrize(("theirs", "ours"), OPTIONS, ids=str)
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_options(api: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    flax, own = pair(api, "stack")
    x = normal((T, B, D) if "time_major" in ours else (B, T, D))
    actual = flax(return_carry=True, **theirs)(x)
    expected = own(return_sequences=True, return_state=True, **ours)(x)
    chex.assert_trees_all_close(actual, expected[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.each(1)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_sequence_lengths(api: str, reverse: bool) -> None:
    flax, own = pair(api, "stack")
    x = normal((B, T, D))
    carry, outputs = flax(return_carry=True, reverse=reverse, keep_order=True)(x, seq_lengths=LENGTHS)
    layer = own(return_sequences=True, return_state=True, go_backwards=reverse, keep_order=True)
    expected, expected_carry = layer(x, seq_lengths=LENGTHS)
    chex.assert_trees_all_close(carry, expected_carry, rtol=1e-5, atol=1e-6)
    # Flax's outputs of the padding are those of more steps.
    used = np.arange(T) < LENGTHS[:, None]
    np.testing.assert_allclose(outputs[used], expected[used], rtol=1e-5, atol=1e-6)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_any_number_of_batch_axes(api: str) -> None:
    flax, own = pair(api, "stack")
    x = normal((2, B, T, D))
    carry, outputs = flax(return_carry=True)(x)
    flat, flat_carry = own(return_sequences=True, return_state=True)(x.reshape(2 * B, T, D))
    chex.assert_trees_all_close(outputs, flat.reshape(2, B, T, -1), rtol=1e-5, atol=1e-6)
    expected = jax.tree.map(lambda leaf: leaf.reshape(2, B, -1), flat_carry)
    chex.assert_trees_all_close(carry, expected, rtol=1e-5, atol=1e-6)
    alone = flax(return_carry=True)(x[1, 2])
    chex.assert_trees_all_close(alone, jax.tree.map(lambda leaf: leaf[1, 2], (carry, outputs)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_flax_bidirectional(api: str) -> None:
    x = normal((B, T, D))
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    if api == "nnx":
        forward, backward = nnx_cell("lstm"), nnx_cell("gru", 1)
        theirs: Any = nnx.Bidirectional(nnx.RNN(forward), nnx.RNN(backward), return_carry=True)(x, seq_lengths=LENGTHS)
        other = ours_nnx.RNN(backward, go_backwards=True, **options)
        ours = ours_nnx.Bidirectional(ours_nnx.RNN(forward, **options), backward_layer=other)
        ours.eval()
    else:
        other = linen_rnn(linen_cell("gru"), go_backwards=True, **options)
        module = ours_linen.Bidirectional(linen_rnn(linen_cell("lstm"), **options), backward_layer=other)
        params = randomized(jax.eval_shape(lambda: module.init(KEY, x)))["params"]
        both = nn.Bidirectional(nn.RNN(linen_cell("lstm")), nn.RNN(linen_cell("gru")), return_carry=True)
        renamed = {"forward_rnn": params["forward_layer"], "backward_rnn": params["backward_layer"]}
        theirs = both.apply({"params": renamed}, x, seq_lengths=LENGTHS)
        ours = module.bind({"params": params})
    outputs, carries = ours(x, seq_lengths=LENGTHS)
    chex.assert_trees_all_close(theirs[0], carries, rtol=1e-5, atol=1e-6)
    used = np.arange(T) < LENGTHS[:, None]
    np.testing.assert_allclose(theirs[1][used], outputs[used], rtol=1e-5, atol=1e-6)


def test_flax_rnn_initializes_our_parameters() -> None:
    x = normal((B, T, D))
    for kind in ("lstm", "stack"):
        theirs, ours = (
            jax.eval_shape(lambda cls=cls, kind=kind: cls(linen_cell(kind)).init(KEY, x)) for cls in (nn.RNN, linen_rnn)
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(theirs, ours)


# --- dropout in Flax's layers -----------------------------------------------------------------------------------------

# The outputs of such a cell are the dropped inputs, so masks are seen as they are.
TRANSPARENT: dict[str, Any] = {
    "activation": None, "kernel_initializer": "identity", "recurrent_initializer": "zeros", "dropout": 0.5
}  # fmt: skip
ONES = jnp.ones((2, 6, 8))


@pytest.mark.each(1)
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_dropout_in_flax_layers(api: str, constant: bool) -> None:
    """A mask per sequence or per step, as Flax's layer is told; it does not know of ours."""
    if api == "nnx":
        rngs = nnx.Rngs(0, dropout=1)
        cell: Any = ours_nnx.SimpleRNNCell(8, 8, rngs=rngs, **TRANSPARENT)
        layer = nnx.RNN(cell, broadcast_rngs="dropout" if constant else None)
        first, second = np.asarray(layer(ONES)), np.asarray(layer(ONES))
        cell.eval()
        inactive = layer(ONES)
    else:
        cell = ours_linen.SimpleRNNCell(8, deterministic=False, **TRANSPARENT)
        layer = nn.RNN(cell, split_rngs={"params": False, "dropout": not constant})
        variables = layer.init({"params": KEY, "dropout": KEY}, ONES)
        first, second = (
            np.asarray(layer.apply(variables, ONES, rngs={"dropout": jax.random.key(seed)})) for seed in (1, 2)
        )
        inactive = nn.RNN(cell.clone(deterministic=True)).apply(variables, ONES)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert np.any(first != second)
    assert np.all(first == first[:, :1]) == constant
    np.testing.assert_array_equal(inactive, ONES)


# --- Flax's cells -----------------------------------------------------------------------------------------------------


def gates(array: Any, count: int) -> list[Any]:
    return np.split(np.asarray(array), count, -1)


def linen_lstm(weights: Any) -> Any:
    cell = {f"i{n}": {"kernel": k} for n, k in zip("ifgo", gates(weights["kernel"], 4), strict=True)}
    pairs = zip("ifgo", gates(weights["recurrent_kernel"], 4), gates(weights["bias"], 4), strict=True)
    return cell | {f"h{n}": {"kernel": k, "bias": b} for n, k, b in pairs}


def linen_gru(weights: Any) -> Any:
    """Keras' order is z, r, n. Flax has no recurrent bias for z and r, so it gets the sum."""
    kernels, recurrent = gates(weights["kernel"], 3), gates(weights["recurrent_kernel"], 3)
    inner, outer = (gates(row, 3) for row in weights["bias"])
    biases = inner[0] + outer[0], inner[1] + outer[1], inner[2]
    cell = {f"i{n}": {"kernel": k, "bias": b} for n, k, b in zip("zrn", kernels, biases, strict=True)}
    cell |= {f"h{n}": {"kernel": k} for n, k in zip("zr", recurrent[:2], strict=True)}
    return cell | {"hn": {"kernel": recurrent[2], "bias": outer[2]}}


def linen_simple(weights: Any) -> Any:
    return {
        "i": {"kernel": weights["kernel"], "bias": weights["bias"]},
        "h": {"kernel": weights["recurrent_kernel"]},
    }


def nnx_lstm(weights: Any) -> Any:
    return {
        "dense_i": {"kernel": weights["kernel"]},
        "dense_h": {"kernel": weights["recurrent_kernel"], "bias": weights["bias"]},
    }


def nnx_simple(weights: Any) -> Any:
    return {
        "dense_i": {"kernel": weights["kernel"], "bias": weights["bias"]},
        "dense_h": {"kernel": weights["recurrent_kernel"]},
    }


def run_linen(cell: Any) -> Callable[[Any, Any, Any], Any]:
    return lambda weights, x, carry: nn.RNN(cell, return_carry=True).apply(
        {"params": {"cell": weights}}, x, initial_carry=carry
    )


def run_nnx(cell_type: Any) -> Callable[[Any, Any, Any], Any]:
    def run(weights: Any, x: Any, carry: Any) -> Any:
        layer = nnx.RNN(cell_type(D, H, rngs=nnx.Rngs(0)), return_carry=True)
        nnx.update(layer.cell, weights)
        return layer(x, initial_carry=carry)

    return run


def swapped(carry: Any) -> Any:
    """Flax's LSTMs have ``(c, h)``."""
    return (carry[1], carry[0]) if isinstance(carry, tuple) else carry


@pytest.mark.each(1, at_most=3)
@pytest.mark.parametrize(
    ("cell", "run", "convert"),
    [
        (core.LSTMCell(H), run_linen(nn.LSTMCell(H)), linen_lstm),
        (core.LSTMCell(H), run_linen(nn.OptimizedLSTMCell(H)), linen_lstm),
        (core.GRUCell(H), run_linen(nn.GRUCell(H)), linen_gru),
        (core.SimpleRNNCell(H), run_linen(nn.SimpleCell(H)), linen_simple),
        (core.LSTMCell(H), run_nnx(nnx.OptimizedLSTMCell), nnx_lstm),
        (core.SimpleRNNCell(H), run_nnx(nnx.SimpleCell), nnx_simple),
    ],
    ids=["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell", "nnx.OptimizedLSTMCell", "nnx.SimpleCell"],
)
def test_values_and_gradients_equal_those_of_flax_cells(cell: Any, run: Any, convert: Any) -> None:
    weights = randomized(cell.init_params(KEY, D))
    carry = randomized(core.zero_carry(cell, (B, D)), 5)
    x = normal((B, T, D))

    def ours(weights: Any, x: Any, carry: Any) -> Any:
        outputs, carry = core.rnn(cell, weights, x, initial_state=carry, return_sequences=True, return_state=True)
        return swapped(carry), outputs

    def of(run: Any) -> Any:
        """Value, and gradients of a loss in which every output has a weight of its own."""

        def loss(*point: Any) -> Any:
            result = run(*point)
            leaves = jax.tree.leaves(result)
            return sum(jnp.sum(leaf * normal(leaf.shape, i)) for i, leaf in enumerate(leaves)), result

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))

    (_, values), (by_weights, by_x, by_carry) = of(ours)(weights, x, carry)
    (_, expected), (flax_by_weights, flax_by_x, flax_by_carry) = of(run)(convert(weights), x, swapped(carry))
    chex.assert_trees_all_close(values, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close((by_x, swapped(by_carry)), (flax_by_x, flax_by_carry), rtol=1e-5, atol=1e-5)
    by_weights = dict(by_weights)
    if isinstance(cell, core.GRUCell):
        # The biases that Flax has once have the same gradients in both rows, which must not be added up.
        np.testing.assert_allclose(by_weights["bias"][0, : 2 * H], by_weights["bias"][1, : 2 * H], rtol=1e-5)
        by_weights["bias"] = by_weights["bias"].at[1, : 2 * H].set(0)
    chex.assert_trees_all_close(convert(by_weights), flax_by_weights, rtol=1e-5, atol=1e-5)


# --- the carry --------------------------------------------------------------------------------------------------------


def test_initial_carries() -> None:
    shape = (2, B, D)
    for kind in KINDS:
        expected = jax.tree.map(lambda leaf: jnp.zeros((2, B, leaf.shape[-1])), state(kind))
        for carry in (
            linen_cell(kind).initialize_carry(KEY, shape),
            nnx_cell(kind).initialize_carry(shape),
            nnx_cell(kind).initialize_carry(shape, nnx.Rngs(0)),
        ):
            chex.assert_trees_all_equal(carry, expected)
            chex.assert_trees_all_equal_dtypes(carry, expected)
    for rngs in (nnx.Rngs(0), nnx.Rngs(0).carry):
        leaves = jax.tree.leaves(nnx_cell("stack").initialize_carry((B, D), rngs, jax.nn.initializers.normal()))
        assert [leaf.shape for leaf in leaves] == [(B, H), (B, H), (B, 3)]
        assert all(np.all(np.asarray(leaf) != 0) for leaf in leaves)
        assert np.all(np.asarray(leaves[0]) != leaves[1])


@pytest.mark.each(1)
@pytest.mark.parametrize(
    "dtypes",
    [{"dtype": jnp.bfloat16}, {"param_dtype": jnp.bfloat16}, {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}],
    ids=["dtype", "param_dtype", "both"],
)
@pytest.mark.parametrize("name", ["SimpleRNNCell", "LSTMCell", "GRUCell"])
def test_bfloat16_through_flax_scan(name: str, dtypes: dict[str, Any]) -> None:
    """``lax.scan`` needs carries to keep their dtypes, also where inputs have another one than the weights."""
    options = dtypes | {"recurrent_initializer": "glorot_uniform"}
    for dtype in (jnp.float32, jnp.bfloat16):
        x = normal((B, T, D)).astype(dtype)
        cell = getattr(ours_linen, name)(H, **options)
        (carry, outputs), _ = jax.eval_shape(lambda c=cell, x=x: nn.RNN(c, return_carry=True).init_with_output(KEY, x))
        module = getattr(ours_nnx, name)(D, H, rngs=nnx.Rngs(0), **options)
        nnx_outputs: Any
        nnx_carry, nnx_outputs = nnx.eval_shape(lambda m, x: nnx.RNN(m, return_carry=True)(x), module, x)
        compute = options.get("dtype") or jnp.promote_types(dtype, jnp.bfloat16)
        assert outputs.dtype == nnx_outputs.dtype == compute
        for initial, final in [
            (cell.initialize_carry(KEY, (B, D)), carry),
            (module.initialize_carry((B, D)), nnx_carry),
        ]:
            chex.assert_trees_all_equal_dtypes(initial, final)
        if name == "LSTMCell":
            assert (carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.float32)
