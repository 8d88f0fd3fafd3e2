"""Rows that hold several sequences, and dropout masks that are given rather than drawn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn

B, T, D, H = 3, 7, 4, 5
CELLS: dict[str, Any] = {
    "SimpleRNN": flax_rnn.SimpleRNNCell(H),
    "LSTM": flax_rnn.LSTMCell(H),
    "GRU": flax_rnn.GRUCell(H),
    "stack": flax_rnn.StackedRNNCells((flax_rnn.LSTMCell(4), flax_rnn.GRUCell(H))),
}
RESETS = np.zeros((B, T), bool)
RESETS[0, [0, 3]] = RESETS[1, 5] = True


def in_pieces(layer: Any, x: np.ndarray, state: Any, backwards: bool) -> tuple[np.ndarray, Any]:
    """The oracle row by row, begun anew at each reset."""
    outputs, finals = np.zeros((B, T, H)), []
    for row in range(B):
        carry = jax.tree.map(lambda leaf: leaf[row : row + 1], state)  # noqa: B023
        for t in reversed(range(T)) if backwards else range(T):
            carry = None if RESETS[row, t] else carry
            output, carry = oracle.run(layer, x[row : row + 1, t : t + 1], carry)
            outputs[row, t] = output[0]
        finals.append(carry)
    return outputs, jax.tree.map(lambda *rows: np.concatenate(rows), *finals)


@pytest.mark.each(1)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_reset_begins_a_new_sequence(name: str, backwards: bool) -> None:
    with jax.enable_x64():
        cell, rng = CELLS[name], np.random.default_rng(0)
        given, x = oracle.random_weights(cell, D, rng), rng.normal(size=(B, T, D))
        state = oracle.random_state(cell, B, rng)
        expected = in_pieces(oracle.of(cell, given), x, state, backwards)
        run = jax.jit(
            lambda given, x, state: flax_rnn.rnn(
                cell, given, x, initial_state=state, resets=RESETS, return_sequences=True, return_state=True,
                go_backwards=backwards, keep_order=True,
            )
        )  # fmt: skip
        oracle.assert_close(run(given, x, state), expected)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_no_gradient_passes_a_reset(name: str) -> None:
    with jax.enable_x64():
        cell, rng = CELLS[name], np.random.default_rng(1)
        given, x = oracle.random_weights(cell, D, rng), rng.normal(size=(B, T, D))

        def last(x: jax.Array, implementation: str) -> jax.Array:
            outputs = flax_rnn.rnn(cell, given, x, resets=RESETS, implementation=implementation)
            return oracle.weighted_sum(2, outputs)

        gradients = [jax.jit(jax.grad(last), static_argnums=1)(x, name) for name in ("scan", "fused")]
        oracle.assert_close(*gradients)
        touched = np.abs(gradients[0]).sum(-1) > 0
        np.testing.assert_array_equal(touched, np.arange(T) >= np.array([[3], [5], [0]]))


def test_a_masked_step_may_reset() -> None:
    cell = CELLS["GRU"]
    params = cell.init_params(jax.random.key(0), D)
    x = jax.random.normal(jax.random.key(1), (1, T, D))
    mask = jnp.arange(T)[None] < 4
    _, carry = flax_rnn.rnn(cell, params, x, mask=mask, resets=jnp.arange(T)[None] == 5, return_state=True)
    np.testing.assert_array_equal(carry, np.zeros((1, H)))


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (np.zeros((B, T)), TypeError, r"^resets: expected booleans, got dtype float"),
        (np.zeros((T, B), bool), ValueError, r"^resets: expected shape \(B, T\) = \(3, 7\), got \(7, 3\)"),
    ],
)
def test_bad_resets(resets: Any, error: Any, message: str) -> None:
    cell = CELLS["GRU"]
    with pytest.raises(error, match=message):
        flax_rnn.rnn(cell, cell.init_params(jax.random.key(0), D), jnp.ones((B, T, D)), resets=resets)


def test_masks_may_be_given_in_place_of_a_key() -> None:
    cell = flax_rnn.StackedRNNCells((flax_rnn.LSTMCell(4, dropout=0.3), flax_rnn.GRUCell(H, recurrent_dropout=0.4)))
    params = cell.init_params(jax.random.key(0), D)
    x, key = jax.random.normal(jax.random.key(1), (B, T, D)), jax.random.key(2)
    masks = cell.dropout_masks(key, x[:, 0])
    expected = flax_rnn.rnn(cell, params, x, dropout_key=key)
    np.testing.assert_allclose(flax_rnn.rnn(cell, params, x, dropout_masks=masks), expected, rtol=1e-6)
    assert not np.allclose(flax_rnn.rnn(cell, params, x), expected)
    with pytest.raises(ValueError, match=r"^dropout_key, dropout_masks: expected at most one"):
        flax_rnn.rnn(cell, params, x, dropout_key=key, dropout_masks=masks)


def test_both_directions_take_masks_of_their_own() -> None:
    cell = flax_rnn.GRUCell(H, dropout=0.3)
    params = [cell.init_params(jax.random.key(i), D) for i in range(2)]
    x = jax.random.normal(jax.random.key(2), (B, T, D))
    masks = [cell.dropout_masks(jax.random.key(i), x[:, 0]) for i in (3, 4)]
    merged = flax_rnn.bidirectional((cell, cell), (params[0], params[1]), x, dropout_masks=masks)
    expected = [flax_rnn.rnn(cell, params[i], x, dropout_masks=masks[i], go_backwards=i == 1) for i in range(2)]
    np.testing.assert_allclose(merged, np.concatenate(expected, -1), rtol=1e-6)
