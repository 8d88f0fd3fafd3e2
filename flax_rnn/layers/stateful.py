"""Layers that start each call from the carry of the call before: what both faces of ``stateful`` share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn.cells.protocol import Carry
from flax_rnn.implementations.loop import select
from flax_rnn.implementations.options import SequenceOptions


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class LayerOptions(SequenceOptions):
    """``SequenceOptions``, and what only a layer can do, since it has a memory.

    Attributes:
      stateful: whether a call without ``initial_state`` starts from the carry that the call before ended with, as where
        long sequences come in pieces. No gradient flows from one call to the one before.
    """

    stateful: bool = False

    @property
    def options_with_state(self) -> dict[str, Any]:
        """``options``, but for ``return_state``, since whoever keeps the carry needs it."""
        return self.options | {"return_state": True}

    def check_kept(self, kept: Carry, inputs: Any, feature_axes: int) -> Carry:
        """``kept`` as the initial state for ``inputs``.

        Raises:
          ValueError: if it was left by another number of sequences.
        """
        *axes, last = jnp.shape(inputs)[: jnp.ndim(inputs) - feature_axes]
        batch = (*axes[1:], last) if self.time_major else tuple(axes)
        for leaf in jax.tree.leaves(kept):
            if leaf.shape[: len(batch)] != batch:
                expected, got = (
                    shape[0] if len(batch) == 1 and shape else shape for shape in (leaf.shape[: len(batch)], batch)
                )
                raise ValueError(
                    f"inputs: expected {expected} sequences, as in the call whose state was kept (reset_state "
                    f"forgets it), got {got}"
                )
        return kept


def keep(carry: Carry) -> Carry:
    """What is kept of ``carry``: its values, through which no gradient flows."""
    return jax.tree.map(jax.lax.stop_gradient, carry)


def reset(carry: Carry, rows: ArrayLike | None = None) -> Carry:
    """``carry`` with zeros in the rows where ``rows`` ``(*batch,)`` is true, or in all.

    Raises:
      ValueError: if ``rows`` has not one entry for each row.
      TypeError: if they are not booleans.
    """
    if rows is None:
        return jax.tree.map(jnp.zeros_like, carry)
    rows = _checks.booleans("rows", rows)

    def clear(leaf: jax.Array) -> jax.Array:
        if rows.ndim == 0 or rows.shape != leaf.shape[: rows.ndim]:
            raise ValueError(f"rows: expected shape (B,) = {leaf.shape[: rows.ndim or 1]}, got {rows.shape}")
        return select(rows, jnp.zeros_like(leaf), leaf)

    return jax.tree.map(clear, carry)
