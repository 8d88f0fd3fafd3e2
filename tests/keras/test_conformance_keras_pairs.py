"""Pairs of layers of their own in live ``keras.layers.Bidirectional``; ``test_conformance_keras`` has pairs of one."""

from typing import Any

import jax
import jax.numpy as jnp
import oracle
import pytest
from live_keras import CELLS, MASK, H, call, evaluate, keras, keras_of, problem

from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional

BOTH = (False, True)
MERGES = [(mode, return_sequences) for mode in ("concat", "sum", "ave", "mul", None) for return_sequences in BOTH]


def run_pair(cells: Any, merge_mode: str | None, return_sequences: bool, go_backwards: bool) -> tuple[Any, Any]:
    """A forward and a separate backward layer: our gradients and results, and those of Keras."""
    options: dict[str, Any] = {"return_sequences": return_sequences, "return_state": True}
    layers = [
        keras_of(cell, "", go_backwards=backwards, **options)
        for cell, backwards in zip(cells, (go_backwards, not go_backwards), strict=True)
    ]
    layer = keras.layers.Bidirectional(layers[0], merge_mode, backward_layer=layers[1])
    weights, x, _ = problem(cells, "bidirectional")
    options |= {"merge_mode": merge_mode, "go_backwards": go_backwards}

    def theirs(weights: Any, x: Any, state: Any) -> Any:
        result = call(layer, weights, x, state, MASK)
        outputs = 2 if merge_mode is None else 1
        if go_backwards and return_sequences:
            result[:outputs] = [jnp.flip(leaf, 1) for leaf in result[:outputs]]
        return result

    with jax.disable_jit():
        ours = evaluate(lambda w, x, _: bidirectional(cells, w, x, mask=MASK, **options), (weights, x, None))
        return ours, evaluate(theirs, (weights, x, None))


@pytest.mark.each(1, at_most=1, full=1)
@pytest.mark.parametrize(("merge_mode", "return_sequences"), MERGES)
def test_pairs_of_different_cells(merge_mode: str | None, return_sequences: bool) -> None:
    cells = LSTMCell(H), GRUCell(3 if merge_mode in ("concat", None) else H)
    oracle.assert_close(*run_pair(cells, merge_mode, return_sequences, False), 2e-5)


@pytest.mark.each(1, at_most=1, full=1)
@pytest.mark.parametrize(("merge_mode", "return_sequences"), MERGES)
def test_pairs_that_start_at_the_end_keep_the_order_unlike_in_keras(
    merge_mode: str | None, return_sequences: bool
) -> None:
    # Keras returns the sequences of such a pair reversed, ours are in the order of the inputs: compared flipped.
    cells = SimpleRNNCell(H), GRUCell(H, reset_after=False)
    oracle.assert_close(*run_pair(cells, merge_mode, return_sequences, True), 2e-5)


def test_pairs_of_different_cells_take_initial_states_unlike_in_keras() -> None:
    # Keras cuts the flat list of states in the middle: of (h, c) and (h,) the forward LSTM gets h alone.
    cells = LSTMCell(H), GRUCell(H)
    weights, x, states = problem(cells, "bidirectional")
    layers = [
        keras_of(cell, "", go_backwards=backwards, return_state=True)
        for cell, backwards in zip(cells, BOTH, strict=True)
    ]
    layer = keras.layers.Bidirectional(layers[0], backward_layer=layers[1])
    with pytest.raises(IndexError):
        call(layer, weights, x, [*states[0], *states[1]], None)
    expected = [call(*args, None)[0] for args in zip(layers, weights, (x, x), states, strict=True)]
    result = bidirectional(cells, weights, x, initial_state=states)
    oracle.assert_close(result, jnp.concatenate(expected, -1), 2e-6)


@pytest.mark.full
def test_pairs_of_stacks() -> None:
    cells = CELLS["LSTM"]
    stack = StackedRNNCells(cells)
    (forward, x, first), (backward, _, second) = (problem(cells, "stack", seed=seed) for seed in (0, 1))
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    layer = keras.layers.Bidirectional(keras.layers.RNN([keras_of(cell, "Cell") for cell in cells], **options))
    weights, state = (forward, backward), (first, second)

    def ours(weights: Any, x: Any, state: Any) -> Any:
        return bidirectional((stack, stack), weights, x, initial_state=state, mask=MASK, **options)

    with jax.disable_jit():
        expected = evaluate(lambda w, x, s: call(layer, w, x, [*s[0], *s[1]], MASK), (weights, x, state))
        oracle.assert_close(evaluate(ours, (weights, x, state)), expected, 2e-5)
