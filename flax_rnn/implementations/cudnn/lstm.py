"""An LSTM over rows of steps of which the first ones count, in one direction or both, with two derivatives.

cuDNN has it with its first derivative. The second is that of the implementation ``fused``, which has the same values.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.lstm import LSTMCarry, LSTMCell
from flax_rnn.implementations.cudnn import call
from flax_rnn.implementations.cudnn.call import Operands, Weights
from flax_rnn.implementations.derivatives import differentiable
from flax_rnn.implementations.fused import Fused
from flax_rnn.implementations.loop import Arrays, Loop, select
from flax_rnn.implementations.options import SequenceOptions

Result = tuple[jax.Array, jax.Array, jax.Array]
"""Outputs ``(B, T, N H)``, zeros at steps that do not count, and the last states ``(N, B, H)``, for ``N`` directions.

The states of a row without steps are not to be used.
"""


class Rows(NamedTuple):
    """What goes in, all float32 but the counts.

    Attributes:
      weights: those of each of the ``N`` directions, the one from the first step on ahead of the other.
      x: inputs ``(B, T, D)``, finite also where they do not count.
      h, c: the states to start from ``(N, B, H)``.
      counts: int32 ``(B,)``, 0 to ``T``: how many steps count, which come first; ``None`` for all.
    """

    weights: tuple[Weights, ...]
    x: jax.Array
    h: jax.Array
    c: jax.Array
    counts: jax.Array | None


def _forward(precision: jax.lax.Precision, rows: Rows, keep: bool) -> tuple[Result, Any]:
    """``(result, saved)``."""
    (y, h, c), saved = call.forward(_operands(rows), precision, keep)
    return (_counting(rows, y), h, c), saved


def _backward(precision: jax.lax.Precision, rows: Rows, saved: Any, cotangents: Result) -> Rows:
    """The gradients of ``rows``."""
    d_y, d_h, d_c = cotangents
    operands = _operands(rows)
    d_x, d_h, d_c, d_weights = call.backward(operands, precision, saved, (_counting(rows, d_y), d_h, d_c))
    (d_parts,) = jax.vjp(call.flat, rows.weights)[1](d_weights)
    return Rows(d_parts, _counting(rows, d_x), d_h, d_c, None)


def _by_xla(precision: jax.lax.Precision, rows: Rows) -> Result:
    """The same, for second derivatives."""
    mask, units = _mask(rows), rows.h.shape[-1]
    outputs: list[jax.Array] = []
    carries: list[LSTMCarry] = []
    for direction, weights in enumerate(rows.weights):
        cell = LSTMCell(units, use_bias="bias" in weights, precision=precision)
        options = SequenceOptions(return_sequences=True, zero_output_for_mask=True, go_backwards=direction == 1)
        arrays = Arrays(
            weights, None, LSTMCarry(rows.h[direction], rows.c[direction]), rows.x.swapaxes(0, 1),
            None if mask is None else mask.T, None,
        )  # fmt: skip
        y, carry = Fused().run(Loop(cell, options, mask is not None, False), arrays)
        outputs.append(y.swapaxes(0, 1))
        carries.append(carry)
    h, c = (jnp.stack(states) for states in zip(*carries, strict=True))
    return jnp.concatenate(outputs, -1), h, c


def _operands(rows: Rows) -> Operands:
    batch, steps, _ = rows.x.shape
    # cuDNN takes no row without steps; what it makes of one is not used.
    lengths = jnp.full(batch, steps, jnp.int32) if rows.counts is None else jnp.maximum(rows.counts, 1)
    return Operands(rows.x, rows.h, rows.c, call.flat(rows.weights), lengths)


def _mask(rows: Rows) -> jax.Array | None:
    """Which steps count ``(B, T)``; ``None`` if all do."""
    return None if rows.counts is None else jnp.arange(rows.x.shape[1]) < rows.counts[:, None]


def _counting(rows: Rows, sequences: jax.Array) -> jax.Array:
    """``sequences`` ``(B, T, ...)`` with zeros at steps that do not count, whatever cuDNN has left there."""
    mask = _mask(rows)
    return sequences if mask is None else select(mask, sequences, jnp.zeros_like(sequences))


lstm = differentiable(_forward, _backward, _by_xla)
"""``(precision, rows) -> result``; the precision is ``HIGHEST`` for float32, or ``HIGH`` for TF32."""
