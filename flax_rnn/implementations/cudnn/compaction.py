"""Any mask as lengths of sequences: the steps that count are brought to the front of each row, and back.

cuDNN takes lengths only. Of a row the steps that count come first, in the order in which they are run, and the others
behind them. An order and its inverse are all there is to it: what one does, and the gradient of what the other does,
is to gather by the same indices. jax would scatter for the gradient, which takes a GPU longer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.implementations.loop import select


class Compaction(NamedTuple):
    """How to bring steps to the front, and back.

    Attributes:
      there: of ``(B, T, N)``, the steps in the order in which they are run, those that count first.
      back: its inverse.
      counts: int32 ``(B,)``, how many there are that count; ``None`` for all.
    """

    there: Callable[[jax.Array], jax.Array]
    back: Callable[[jax.Array], jax.Array]
    counts: jax.Array | None


def compaction(mask: jax.Array | None, backwards: bool) -> Compaction:
    """For a mask ``(B, T)`` or none, and steps that are run from the first or from the last."""
    if mask is None:
        turn = (lambda array: jnp.flip(array, 1)) if backwards else (lambda array: array)
        return Compaction(turn, turn, None)
    order = jnp.argsort(~(jnp.flip(mask, 1) if backwards else mask), axis=1, stable=True)
    if backwards:
        order = mask.shape[1] - 1 - order
    inverse = jnp.argsort(order, axis=1)
    return Compaction(
        lambda array: _permuted(array, order, inverse),
        lambda array: _permuted(array, inverse, order),
        mask.sum(1, dtype=jnp.int32),
    )


def held(outputs: jax.Array, mask: jax.Array, backwards: bool) -> jax.Array:
    """``outputs`` ``(B, T, N)`` with the one before, in the order of running, where a step does not count.

    Ahead of the first that counts they are zeros. In ``log2(T)`` rounds, without a gather, so that the gradient has no
    scatter.
    """

    def later(before: tuple[jax.Array, jax.Array], here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return before[0] | here[0], select(here[0], here[1], before[1])

    found = (mask, select(mask, outputs, jnp.zeros_like(outputs)))
    return jax.lax.associative_scan(later, found, reverse=backwards, axis=1)[1]


@jax.custom_vjp
def _permuted(array: jax.Array, order: jax.Array, inverse: jax.Array) -> jax.Array:
    """The rows of ``array`` ``(B, T, N)`` in an order ``(B, T)``, whose inverse is given, too."""
    del inverse
    return jnp.take_along_axis(array, order[..., None], axis=1)


def _forward(array: jax.Array, order: jax.Array, inverse: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _permuted(array, order, inverse), (order, inverse)


def _backward(residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    order, inverse = residuals
    return _permuted(cotangent, inverse, order), None, None


_permuted.defvjp(_forward, _backward)
