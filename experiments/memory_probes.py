"""Looks into a trained layer: how far back the last answer can be changed, and what the gates do meanwhile."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from experiments.memory_training import Cell, Weights


def gradients(cell: Cell, weights: Weights, inputs: jax.Array) -> list[np.ndarray]:
    """Gradients of the last answer with respect to the state some steps ago, each ``(T, B, H)``.

    One is with respect to ``h``, and for an LSTM one with respect to ``c``. Row ``k`` belongs to the state ahead of the
    last ``k + 1`` steps.
    """
    # In float64, since squares of what has all but vanished would be nothing in float32.
    return [np.asarray(leaf, np.float64)[::-1] for leaf in jax.tree.leaves(_gradients(cell, weights, inputs))]


@functools.partial(jax.jit, static_argnums=0)
def _gradients(cell: Cell, weights: Weights, inputs: jax.Array) -> Any:
    """The same from the first state to the last, as one carry ``(T, B, H)``."""
    start = flax_rnn.zero_carry(cell, inputs[:, 0].shape)

    def answers(nudges: Any) -> jax.Array:
        def step(carry: Any, now: tuple[jax.Array, Any]) -> tuple[Any, jax.Array]:
            x, nudge = now
            return flax_rnn.apply_cell(cell, weights.layer, jax.tree.map(jnp.add, carry, nudge), x)

        _, outputs = jax.lax.scan(step, start, (jnp.swapaxes(inputs, 0, 1), nudges))
        return jnp.sum(outputs[-1] @ weights.kernel + weights.bias)

    # A gradient with respect to what is added to each state, zeros here, is one with respect to the states.
    return jax.grad(answers)(jax.tree.map(lambda leaf: jnp.zeros((inputs.shape[1], *leaf.shape)), start))


def slopes(cell: Cell, weights: Weights, inputs: jax.Array) -> np.ndarray:
    """The norms of these gradients ``(T, B)``; for an LSTM of ``h`` and ``c`` together.

    They are what backpropagation through time hands from step to step: where they are next to nothing, nothing of that
    time can be learned from this answer.
    """
    return np.sqrt(sum(np.sum(np.square(part), axis=-1) for part in gradients(cell, weights, inputs)))


def carrier(cell: Cell, weights: Weights, inputs: jax.Array) -> int:
    """The unit on whose ``c``, or ``h`` where there is no ``c``, half a sequence ago the last answer depends most."""
    memory = gradients(cell, weights, inputs)[-1]
    return int(np.argmax(np.mean(np.abs(memory[inputs.shape[1] // 2 - 1]), axis=0)))


class Gates(NamedTuple):
    """How much of its old state a unit keeps at a step, and how much of what is new it takes; each ``(B, T, H)``.

    From 0 to 1: ``f`` and ``i`` of an LSTM, ``z`` and ``1 - z`` of a GRU.
    """

    keep: jax.Array
    write: jax.Array


def gates(cell: flax_rnn.GRUCell | flax_rnn.LSTMCell, weights: Weights, inputs: jax.Array) -> Gates:
    """The gates at each step of ``inputs (B, T, features)``."""
    values: Any = flax_rnn.gates(cell, weights.layer, inputs)
    return Gates(values.f, values.i) if isinstance(cell, flax_rnn.LSTMCell) else Gates(values.z, 1 - values.z)


def around_marks(values: np.ndarray, marks: np.ndarray, reach: int) -> np.ndarray:
    """Means over all marks ``(B, T)`` of ``values (B, T, H)`` from ``reach`` steps ahead of a mark to ``reach`` after.

    Returns ``(2 reach + 1, H)``. Steps beyond the ends of a sequence do not count.
    """
    rows, places = np.nonzero(marks)
    means = []
    for offset in range(-reach, reach + 1):
        steps = places + offset
        inside = (steps >= 0) & (steps < marks.shape[1])
        means.append(np.mean(values[rows[inside], steps[inside]], axis=0))
    return np.stack(means)
