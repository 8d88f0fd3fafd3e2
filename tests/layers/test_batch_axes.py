"""Any number of batch axes is what one axis of all of them is, in the core and in both faces."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn import GRUCell, LSTMCarry, LSTMCell, SimpleRNNCell, StackedRNNCells
from flax_rnn.implementations.native import library

T, D, H = 4, 2, 3
BATCHES: dict[str, tuple[int, ...]] = {"none": (), "one": (3,), "two": (2, 3), "three": (2, 1, 3)}
BATCH = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
IMPLEMENTATION = pytest.mark.parametrize(
    "implementation",
    [
        pytest.param("native", marks=pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))),
        "fused",
        "scan",
    ],
)
CELLS: dict[str, Any] = {
    "SimpleRNN": SimpleRNNCell(H),
    "LSTM": LSTMCell(H),
    "GRU": GRUCell(H),
    "GRU reset before": GRUCell(H, reset_after=False),
    "stack": StackedRNNCells((LSTMCell(H), GRUCell(2))),
}
MASKS = ("none", "mask", "seq_lengths")


def problem(cell: Any, batch: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Weights, inputs and a state to start from, the latter with these batch axes."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(np.float32, oracle.random_weights(cell, D, rng))

    def state(cell: Any) -> Any:
        if isinstance(cell, StackedRNNCells):
            return tuple(map(state, cell.cells))
        parts: Any = [rng.normal(size=(*batch, cell.units)).astype("f4") for _ in range(2)]
        return LSTMCarry(*parts) if isinstance(cell, LSTMCell) else parts[0]

    return weights, rng.normal(size=(*batch, T, D)).astype("f4"), state(cell)


def rows_of(cell: Any, state: Any) -> Any:
    """A state as the oracle takes it."""
    if isinstance(cell, StackedRNNCells):
        return [rows_of(own, part) for own, part in zip(cell.cells, state, strict=True)]
    return [*state] if isinstance(state, LSTMCarry) else [state]


def masking(which: str, batch: tuple[int, ...]) -> dict[str, Any]:
    """A mask with holes, or lengths, different from row to row; each a keyword argument with these batch axes."""
    rng, size = np.random.default_rng(1), math.prod(batch)
    if which == "mask":
        holes = rng.random((size, T)) < 0.6
        holes[0] = [True, False, True, False]
        return {"mask": holes.reshape(*batch, T)}
    return {"seq_lengths": (np.arange(size) * 2 + 1).clip(max=T).reshape(batch)} if which == "seq_lengths" else {}


def flat(tree: Any, batch: tuple[int, ...]) -> Any:
    """`tree` with one batch axis in the place of `batch`."""
    return jax.tree.map(lambda leaf: leaf.reshape(math.prod(batch), *leaf.shape[len(batch) :]), tree)


def deep(tree: Any, batch: tuple[int, ...]) -> Any:
    """The reverse of `flat`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*batch, *leaf.shape[1:]), tree)


def time_first(tree: Any, batch: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), len(batch), 0), tree)


def assert_same(actual: Any, expected: Any, tolerance: float = 1e-6) -> None:
    assert jax.tree.map(np.shape, actual) == jax.tree.map(np.shape, expected)
    oracle.assert_close(actual, expected, tolerance)


@pytest.mark.each(2, at_most=12, full=2)
@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("name", CELLS)
@IMPLEMENTATION
@BATCH
def test_the_core(batch: tuple[int, ...], implementation: str, name: str, which: str) -> None:
    """Against the loop in NumPy, which has one batch axis."""
    cell, sequences = CELLS[name], which != "none"
    weights, x, state = problem(cell, batch)
    masks = masking(which, batch)
    outputs, carry = flax_rnn.rnn(
        cell, weights, x, initial_state=state, return_state=True, return_sequences=sequences, go_backwards=True,
        implementation=implementation, **masks,
    )  # fmt: skip
    expected, last = oracle.run(
        oracle.of(cell, weights), flat(x, batch), rows_of(cell, flat(state, batch)),
        return_sequences=sequences, go_backwards=True, **flat(masks, batch),
    )  # fmt: skip
    last = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(deep(last, batch)))
    assert_same((outputs, carry), (deep(expected, batch), last), 2e-5)


@pytest.mark.each(1)
@pytest.mark.parametrize("which", MASKS)
@IMPLEMENTATION
@BATCH
def test_time_major(batch: tuple[int, ...], implementation: str, which: str) -> None:
    """The time axis ahead of all batch axes, also that of the mask and of where sequences start anew."""
    cell = CELLS["GRU"]
    weights, x, state = problem(cell, batch)
    resets = np.random.default_rng(2).random((*batch, T)) < 0.3
    masks = masking(which, batch) | ({"resets": resets} if implementation != "native" else {})
    options: dict[str, Any] = {"initial_state": state, "return_sequences": True, "return_state": True}
    options["implementation"] = implementation
    outputs, carry = flax_rnn.rnn(cell, weights, x, **masks, **options)
    turned = masks | {name: time_first(value, batch) for name, value in masks.items() if name != "seq_lengths"}
    actual, last = flax_rnn.rnn(cell, weights, time_first(x, batch), time_major=True, **turned, **options)
    assert_same((actual, last), (time_first(outputs, batch), carry))


@pytest.mark.each(1)
@IMPLEMENTATION
@BATCH
def test_gradients(batch: tuple[int, ...], implementation: str) -> None:
    cell = CELLS["LSTM"]
    weights, x, state = problem(cell, batch)
    masks = masking("mask", batch)

    def loss(weights: Any, x: Any, state: Any, mask: Any, how: str) -> Any:
        last = flax_rnn.rnn(cell, weights, x, initial_state=state, mask=mask, implementation=how)
        return jnp.sum(jnp.sin(last + jnp.arange(H)))

    gradient = jax.grad(loss, (0, 1, 2))
    ours = gradient(weights, x, state, masks["mask"], implementation)
    d_weights, *others = gradient(weights, *flat((x, state, masks["mask"]), batch), "scan")
    assert_same(ours, (d_weights, *deep(others, batch)), 1e-5)
    assert np.abs(ours[2].c).max() > 1e-3


FORMS = ("layer", "stack", "bidirectional")


@pytest.mark.each(2, at_most=8, full=2)
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("which", MASKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("face", ["nnx", "linen"])
@BATCH
def test_the_faces(batch: tuple[int, ...], face: str, form: str, which: str, time_major: bool) -> None:
    """Against the same layer for one batch axis, from a state to start from, too; and the carries it makes."""
    options: dict[str, Any] = {"return_sequences": True, "return_state": True, "time_major": time_major}
    core: Any = [LSTMCell(H), GRUCell(2)] if form == "stack" else CELLS["LSTM"]
    single = problem(StackedRNNCells(tuple(core)) if form == "stack" else core, batch)
    _, x, state = (
        single if form != "bidirectional" else (*single[:2], (single[2], jax.tree.map(np.negative, single[2])))
    )
    masks = masking(which, batch)
    run: Any
    if face == "nnx":
        layer: Any = flax_rnn.nnx.RNN(core, in_features=D, rngs=nnx.Rngs(0), **options)
        layer = flax_rnn.nnx.Bidirectional(layer, rngs=nnx.Rngs(1)) if form == "bidirectional" else layer
        run, start = layer, layer.initialize_carry((*batch, D))
    else:
        build: Any = flax_rnn.linen.RNN
        layer = build(core, **options)
        layer = flax_rnn.linen.Bidirectional(layer) if form == "bidirectional" else layer
        turned = time_first(x, batch) if time_major else x
        variables = layer.init(jax.random.key(0), turned)
        run = lambda *args, **kwargs: layer.apply(variables, *args, **kwargs)  # noqa: E731
        start = layer.initialize_carry(jax.random.key(0), (*batch, D))
    assert jax.tree.map(np.shape, start) == jax.tree.map(np.shape, state)

    def evaluate(axes: tuple[int, ...], x: Any, state: Any, masks: Any) -> Any:
        if time_major:
            x, masks = (
                time_first(x, axes),
                {k: v if k == "seq_lengths" else time_first(v, axes) for k, v in masks.items()},
            )
        outputs, carry = run(x, state, **masks)
        return (np.moveaxis(np.asarray(outputs), 0, len(axes)) if time_major else outputs), carry

    one = (math.prod(batch),)
    expected = evaluate(one, *flat((x, state, masks), batch))
    assert_same(evaluate(batch, x, state, masks), deep(expected, batch))


@pytest.mark.parametrize("shape", [(T, D), (1, 1, 1, T, D)])
def test_masks_have_to_have_all_batch_axes(shape: tuple[int, ...]) -> None:
    cell = CELLS["GRU"]
    weights, x = problem(cell, ())[0], np.ones(shape, "f4")
    arguments: dict[str, Any] = {"mask": np.ones((1, T), bool), "resets": np.ones((1, 1, T), bool)}
    for argument in arguments:
        with pytest.raises(ValueError, match=rf"^{argument}: expected shape .*\(\*batch, T\) = \({shape[0]},"):
            flax_rnn.rnn(cell, weights, x, **{argument: arguments[argument]})
    with pytest.raises(ValueError, match=r"^seq_lengths: expected shape \(\*batch,\) = \("):
        flax_rnn.rnn(cell, weights, x, seq_lengths=np.array([1, 2]))
