"""The dropout masks that Keras draws on JAX, bit for bit.

A cell of Keras has a state ``[seed, n]``, two unsigned 32-bit integers, in ``cell.seed_generator.state``. Its ``n``
starts at 0, and each mask is drawn with the state as its key and adds 1 to ``n``. A call of a layer draws, for each of
its cells from the bottom up, the masks of the inputs, then those of the state, gate by gate in the order of the
weights; inference does so too, and ignores them. Cells of the same seed, such as those of a ``Bidirectional``, have the
same masks. All this holds under the same configuration of jax: with 64-bit floats on, both draw other bits.

Source: ``keras.layers.LSTM`` and the like, with ``keras.random.SeedGenerator``, of Keras 3.15.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn.cells.dense import DenseCell
from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.protocol import Cell, Masks
from flax_rnn.cells.stacked import StackedRNNCells


def keras_masks(cell: Cell, seed: Any, inputs: jax.Array, count: Any = 0) -> tuple[Masks, Any]:
    """The masks of a call of a Keras layer, as ``cell.dropout_masks`` would return them.

    Args:
      cell: one of the built-in cells, with the rates of the Keras layer, or a stack of them.
      seed: the ``seed`` of the Keras cell; for a stack one per cell.
      inputs: an example of a step of the inputs, ``(B, D)``, or ``(B, *S, C)`` for a convolutional cell.
      count: how many masks that cell has drawn before, which is what the previous call returned; for a stack one per
        cell, or 0. May be traced.

    Returns:
      ``(masks, count)``; the count is for the next call.

    Raises:
      TypeError: for other cells.
      ValueError: for a seed that Keras does not take, and unless a stack has one seed and one count per cell.
    """
    stacked = isinstance(cell, StackedRNNCells)
    for index, own in enumerate(cell.cells if stacked else (cell,)):
        if not isinstance(own, DenseCell):
            name = f"cell.cells[{index}]" if stacked else "cell"
            raise TypeError(f"{name}: expected a built-in cell of flax_rnn, got {type(own).__name__}")
    # Which masks there are, their shapes and their sharding are up to the cell; only the numbers are Keras'.
    like: Any = cell.dropout_masks(jax.random.key(0), inputs)
    if not stacked:
        return _draw(cell, seed, count, like, inputs.dtype)
    counts: Any = (0,) * len(cell.cells) if isinstance(count, int) and count == 0 else count
    for name, values in (("seed", seed), ("count", counts)):
        if not isinstance(values, Sequence) or len(values) != len(cell.cells):
            raise ValueError(f"{name}: expected one for each of {len(cell.cells)} cells, got {values!r}")
    drawn = [_draw(*own, inputs.dtype) for own in zip(cell.cells, seed, counts, like, strict=True)]
    return tuple(masks for masks, _ in drawn), tuple(number for _, number in drawn)


def _draw(
    cell: Any, seed: Any, count: Any, like: DropoutMasks | None, input_dtype: Any
) -> tuple[DropoutMasks | None, Any]:
    """``keras_masks`` of a single cell, in the shapes of ``like``."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"seed: expected an integer in [0, 2^32), got {seed!r}")
    if like is None:
        return None, count
    dtype = cell.dtype or jnp.result_type(input_dtype, cell.param_dtype)

    def one(rate: float, number: Any, like: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(jnp.array([seed, number], jnp.uint32), impl="threefry2x32")
        keep = jax.random.bernoulli(key, 1.0 - rate, like.shape)
        return jnp.where(keep, jnp.ones((), dtype) / (1.0 - rate), jnp.zeros_like(like, dtype))

    inputs, recurrent = like.inputs or (), like.recurrent or ()
    middle = count + len(inputs)
    masks = DropoutMasks(
        tuple(one(cell.dropout, count + k, mask) for k, mask in enumerate(inputs)) or None,
        tuple(one(cell.recurrent_dropout, middle + k, mask) for k, mask in enumerate(recurrent)) or None,
    )
    return masks, middle + len(recurrent)
