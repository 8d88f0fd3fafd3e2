"""The rule that selects an implementation of the loop, which can be asked what it selects and why."""

from collections.abc import Hashable
from typing import NamedTuple

from flax_rnn.cell import Cell

IMPLEMENTATIONS = ("auto", "scan", "fused")


class Choice(NamedTuple):
    """An implementation, and the reason for it in words."""

    implementation: str
    reason: str


def choose(cell: Cell, implementation: str = "auto") -> Choice:
    """What ``rnn(cell, ..., implementation=implementation)`` runs.

    ``"scan"`` is ``jax.lax.scan``, which jax differentiates; ``"fused"`` the same loop with a backward pass of its own
    (see ``flax_rnn.fused.adjoint``); ``"auto"`` selects.

    Raises:
      ValueError: for an unknown name, or where what is asked for cannot be had.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation: expected one of {IMPLEMENTATIONS}, got {implementation!r}")
    if implementation == "scan":
        return Choice("scan", "asked for")
    if not isinstance(cell, Hashable):
        if implementation == "fused":
            raise ValueError(f"implementation: 'fused' needs a cell that can be hashed, got {cell!r}")
        return Choice("scan", "the cell cannot be hashed, which 'fused' needs")
    if implementation == "fused":
        return Choice("fused", "asked for")
    if not getattr(cell, "records_products", True):
        return Choice("scan", "the cell does not show its products, and 'fused' would gain nothing")
    return Choice("fused", "it is exact for every cell and option")
