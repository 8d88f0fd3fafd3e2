"""The steps of a sequence: inputs, which of them count and which start anew, and where their time axis is."""

from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn.cells.protocol import Cell


class Steps(NamedTuple):
    """All steps of some sequences.

    Attributes:
      x: inputs or outputs ``(*batch, T, ...)``, or ``(T, *batch, ...)`` where ``time_major``; a tree of them at most.
      mask: booleans ``(*batch, T)`` or ``(T, *batch)``: which steps count; or ``None``.
      resets: the same for the steps ahead of which the carry is set to zero.
      time_major: whether the time axis is the first one.
      batch_axes: how many batch axes there are.
    """

    x: Any
    mask: jax.Array | None
    resets: jax.Array | None
    time_major: bool
    batch_axes: int

    @property
    def time_axis(self) -> int:
        """Where the time axis is."""
        return 0 if self.time_major else self.batch_axes

    def first(self) -> jax.Array:
        """One of the steps ``(*batch, ...)``."""
        return jax.lax.index_in_dim(self.x, 0, self.time_axis, keepdims=False)

    def turned(self, time_major: bool) -> Self:
        """The same with the time axis first, or behind the batch axes."""
        if time_major == self.time_major:
            return self
        turned = self._replace(time_major=time_major)
        x, mask, resets = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, self.time_axis, turned.time_axis), self[:3])
        return turned._replace(x=x, mask=mask, resets=resets)


def steps_of(cell: Cell, inputs: ArrayLike, mask: Any, seq_lengths: Any, resets: Any, time_major: bool) -> Steps:
    """The arguments of ``rnn``, checked.

    Raises:
      ValueError: for wrong shapes, and for sequences without steps.
      TypeError: for masks and resets that are not booleans, and lengths that are not integers.
    """
    x, features = jnp.asarray(inputs), cell.num_feature_axes
    axes = "(T, *batch, ...)" if time_major else "(*batch, T, ...)"
    if x.ndim <= features:
        axes = axes.replace("...", "D") if features == 1 else axes
        raise ValueError(f"inputs: expected at least {1 + features} axes {axes}, got shape {x.shape} of {x.ndim} axes")
    steps = Steps(x, None, None, time_major, x.ndim - features - 1)
    count = x.shape[steps.time_axis]
    if count == 0:
        raise ValueError(f"inputs: expected at least one time step, got shape {x.shape} with axes {axes}")
    shape = x.shape[: steps.batch_axes + 1]
    return steps._replace(
        mask=_mask(mask, seq_lengths, shape, steps), resets=_booleans("resets", resets, shape, time_major)
    )


def _mask(mask: Any, seq_lengths: Any, shape: tuple[int, ...], steps: Steps) -> jax.Array | None:
    """The mask that ``mask`` or ``seq_lengths`` stand for, or ``None``."""
    if seq_lengths is None:
        return _booleans("mask", mask, shape, steps.time_major)
    if mask is not None:
        raise ValueError("mask, seq_lengths: expected at most one of them, got both")
    time_axis = steps.time_axis
    count = shape[time_axis]
    try:
        lengths = jnp.asarray(jax.tree.map(lambda leaf: _clipped(leaf, count), seq_lengths))
    except (TypeError, ValueError) as error:
        raise TypeError(f"seq_lengths: expected integers, got {seq_lengths!r}") from error
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"seq_lengths: expected integers, got dtype {lengths.dtype}")
    expected = shape[:time_axis] + shape[time_axis + 1 :]
    if lengths.shape != expected:
        axes = "(B,)" if len(expected) == 1 else "(*batch,)"
        raise ValueError(f"seq_lengths: expected shape {axes} = {expected}, got {lengths.shape}")
    places = jax.lax.broadcasted_iota(jnp.int32, shape, time_axis)
    return places < jnp.expand_dims(lengths.astype(jnp.int32), time_axis)


def _clipped(length: Any, count: int) -> Any:
    """An integer or an array of them within ``0 ... count``, ahead of jax, which cuts integers of 64 bits in half."""
    if not hasattr(length, "dtype"):
        return min(max(length, 0), count) if type(length) is int else length
    if not jnp.issubdtype(length.dtype, jnp.integer):
        return length
    limit = jnp.iinfo(length.dtype).max
    # A symbolic count is compared when it is known; the lengths that are then above it say the same as it does.
    return length.clip(0, min(count, limit) if isinstance(count, int) else limit)


def _booleans(argument: str, value: Any, shape: tuple[int, ...], time_major: bool) -> jax.Array | None:
    """``value`` as booleans of this shape."""
    if value is None:
        return None
    value = _checks.booleans(argument, value)
    if value.shape != shape:
        batch = "B" if len(shape) == 2 else "*batch"
        axes = f"(T, {batch})" if time_major else f"({batch}, T)"
        raise ValueError(f"{argument}: expected shape {axes} = {shape}, got {value.shape}")
    return value
