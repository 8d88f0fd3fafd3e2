"""Dropout: the masks, who shares them, whose keys they come from, and what a layer does with them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import DropoutMasks, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, rnn
from flax_rnn.cells.dropout import draw_masks

KEY = jax.random.key(11)
CELLS = {"SimpleRNN": (SimpleRNNCell, 1), "LSTM": (LSTMCell, 4), "GRU": (GRUCell, 3)}
B, T, D, H = 3, 4, 3, 2


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def agreement(a: Any, b: Any) -> float:
    """How often two masks agree on what they drop: 1 if they are the same, about 0.5 if independent at rate 0.5."""
    return float(np.mean((np.asarray(a) == 0) == (np.asarray(b) == 0)))


def assert_independent(masks: Any) -> None:
    masks = list(masks)
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert 0.45 < agreement(first, second) < 0.55


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_masks_are_zero_or_the_inverse_of_the_rate_of_keeping(rate: float) -> None:
    masks = draw_masks(KEY, rate, jnp.ones((100, 7)), 50, 2)
    assert [(m.shape, m.dtype) for m in masks] == [((100, 50), jnp.float32)] * 2
    for mask in masks:
        kept = np.asarray(mask)[np.asarray(mask) != 0]
        np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-6)
        assert abs(kept.size / mask.size - (1 - rate)) < 0.03
        assert abs(float(mask.mean()) - 1) < 0.05


def test_masks_differ_between_gates_samples_and_keys() -> None:
    cell = LSTMCell(40, dropout=0.5, recurrent_dropout=0.5)
    masks = cell.dropout_masks(KEY, jnp.ones((50, 40)))
    assert masks is not None
    assert masks.inputs is not None and masks.recurrent is not None
    assert_independent([*masks.inputs, *masks.recurrent])
    rows = np.asarray(masks.inputs[0])
    assert_independent([rows[:25], rows[25:]])
    other = cell.dropout_masks(jax.random.key(12), jnp.ones((50, 40)))
    assert other is not None and other.inputs is not None
    assert_independent([masks.inputs[0], other.inputs[0]])
    again = cell.dropout_masks(KEY, jnp.ones((50, 40)))
    assert jax.tree.all(jax.tree.map(np.array_equal, masks, again))


@pytest.mark.parametrize("name", CELLS)
def test_gates_share_the_mask_of_the_inputs_unless_there_is_recurrent_dropout(name: str) -> None:
    cls, gates = CELLS[name]

    def counts(**rates: Any) -> tuple[int | None, int | None]:
        masks = cls(H, **rates).dropout_masks(KEY, jnp.ones((B, D)))
        assert isinstance(masks, DropoutMasks)
        assert all(mask.shape == (B, D) for mask in masks.inputs or ())
        assert all(mask.shape == (B, H) for mask in masks.recurrent or ())
        inputs, recurrent = (None if part is None else len(part) for part in masks)
        return inputs, recurrent

    assert counts(dropout=0.5) == (1, None)
    assert counts(recurrent_dropout=0.5) == (None, gates)
    assert counts(dropout=0.5, recurrent_dropout=0.5) == (gates, gates)
    assert cls(H).dropout_masks(KEY, jnp.ones((B, D))) is None


@pytest.mark.each(1, at_most=3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "rates"),
    [*((name, (0.4, 0.3)) for name in (*CELLS, "GRU_before")), ("LSTM", (0.5, 0.0)), ("GRU", (0.0, 0.5))],
)
def test_layer_with_dropout_equals_the_oracle_with_its_masks(name: str, rates: tuple[float, float]) -> None:
    cls = CELLS[name.removesuffix("_before")][0]
    options: dict[str, Any] = {"reset_after": False} if name == "GRU_before" else {}
    cell = cls(H, dropout=rates[0], recurrent_dropout=rates[1], **options)
    rng = np.random.default_rng(0)
    weights, state = oracle.random_weights(cell, D, rng), oracle.random_state(cell, B, rng)
    weights, x = jax.tree.map(jnp.asarray, weights), rng.normal(size=(B, T, D))

    def loss(point: Any) -> Any:
        weights, state, x = point
        result = rnn(cell, weights, x, initial_state=state, return_sequences=True, return_state=True, dropout_key=KEY)
        return oracle.weighted_sum(1, result), result

    def expected(point: Any) -> Any:
        weights, state, x = point
        return oracle.run(oracle.of(cell, weights, masks), x, state, return_sequences=True)

    masks = cell.dropout_masks(KEY, jnp.asarray(x[:, 0]))
    point = weights, state, x
    gradients, result = jax.jit(jax.grad(loss, has_aux=True))(point)
    oracle.assert_close(result, expected(point))
    differences = oracle.central_differences(lambda p: oracle.weighted_sum(1, *expected(p)), point)
    oracle.assert_close(gradients, differences, 1e-6)


@pytest.mark.usefixtures("x64")
def test_layers_and_directions_fold_their_index_into_the_key() -> None:
    cells = (LSTMCell(D, dropout=0.5), GRUCell(D, dropout=0.5, recurrent_dropout=0.5))
    stack = StackedRNNCells(cells)
    rng = np.random.default_rng(0)
    weights = tuple(jax.tree.map(jnp.asarray, oracle.random_weights(stack, D, rng)) for _ in range(2))
    x = rng.normal(size=(B, T, D))
    run = jax.jit(
        lambda x: bidirectional((stack, stack), weights, x, dropout_key=KEY, return_state=True, merge_mode=None)
    )
    outputs, states = run(x)
    for direction, backwards in enumerate((False, True)):
        key = jax.random.fold_in(KEY, direction)
        masks = [c.dropout_masks(jax.random.fold_in(key, k), jnp.asarray(x[:, 0])) for k, c in enumerate(cells)]
        oracle.assert_close(stack.dropout_masks(key, jnp.asarray(x[:, 0])), masks)
        expected = oracle.run(oracle.of(stack, weights[direction], masks), x, go_backwards=backwards)
        oracle.assert_close((outputs[direction], states[direction]), expected)


def test_layers_of_a_stack_drop_independently() -> None:
    stack = StackedRNNCells((LSTMCell(50, dropout=0.5), LSTMCell(50, dropout=0.5)))
    below, above = stack.dropout_masks(KEY, jnp.ones((40, 50)))
    assert_independent([below.inputs[0], above.inputs[0]])


def test_masks_are_constant_over_time_and_differ_between_samples() -> None:
    # This layer hands its inputs on unchanged, so its outputs show the mask.
    cell = SimpleRNNCell(50, "linear", use_bias=False, dropout=0.5)
    weights = {"kernel": jnp.eye(50), "recurrent_kernel": jnp.zeros((50, 50))}
    run = jax.jit(lambda key: rnn(cell, weights, jnp.ones((40, 5, 50)), dropout_key=key, return_sequences=True))
    outputs = np.asarray(run(KEY))
    assert set(np.unique(outputs)) == {0.0, 2.0}
    np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[:, :1], outputs.shape))
    assert_independent([outputs[:20, 0], outputs[20:, 0]])
    np.testing.assert_array_equal(run(None), np.ones((40, 5, 50)))


def test_recurrent_masks_are_constant_over_time() -> None:
    # This layer adds 1 to what it keeps of its state: what is dropped stays at 1, the rest is 1, 3, 7, 15 at rate 0.5.
    cell = SimpleRNNCell(30, "linear", recurrent_dropout=0.5)
    weights = {"kernel": jnp.zeros((1, 30)), "recurrent_kernel": jnp.eye(30), "bias": jnp.ones(30)}
    outputs = np.asarray(rnn(cell, weights, jnp.ones((20, 4, 1)), dropout_key=KEY, return_sequences=True))
    patterns = {tuple(series) for series in outputs.swapaxes(1, 2).reshape(-1, 4)}
    assert patterns == {(1, 1, 1, 1), (1, 3, 7, 15)}


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", CELLS)
def test_the_key_decides(name: str) -> None:
    cls, _ = CELLS[name]
    weights = cls(8).init_params(jax.random.key(0), D)
    x = jax.random.normal(jax.random.key(1), (B, T, D))

    def run(dropout: float, recurrent_dropout: float, *keys: Any) -> list[np.ndarray]:
        cell = cls(8, dropout=dropout, recurrent_dropout=recurrent_dropout)
        layer = jax.jit(lambda key: rnn(cell, weights, x, dropout_key=key))
        return [np.asarray(layer(key)) for key in keys]

    (plain,) = run(0.0, 0.0, None)
    np.testing.assert_array_equal(run(0.0, 0.0, KEY)[0], plain)
    without_key, both, again, other = run(0.5, 0.5, None, KEY, KEY, jax.random.key(12))
    np.testing.assert_array_equal(without_key, plain)
    np.testing.assert_array_equal(again, both)
    results = [plain, both, other, *run(0.5, 0.0, KEY), *run(0.0, 0.5, KEY)]
    for i, first in enumerate(results):
        for second in results[i + 1 :]:
            assert not np.allclose(first, second, atol=1e-4)


def test_dropout_keeps_the_dtype_of_the_computation() -> None:
    cell = LSTMCell(H, dropout=0.5, recurrent_dropout=0.5, dtype=jnp.bfloat16)
    weights = cell.init_params(jax.random.key(0), D)
    run = jax.eval_shape(lambda x: rnn(cell, weights, x, dropout_key=KEY, return_state=True), jnp.ones((B, T, D)))
    assert [leaf.dtype for leaf in jax.tree.leaves(run)] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
