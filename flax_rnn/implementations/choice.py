"""The rule that selects an implementation of the loop, which can be asked what it selects and why."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Cell
from flax_rnn.implementations import native

IMPLEMENTATIONS = ("auto", "scan", "fused", "native")


class Choice(NamedTuple):
    """An implementation, and the reason for it in words."""

    implementation: str
    reason: str


def choose(
    cell: Cell, implementation: str = "auto", *, dtype: Any = jnp.float32, resets: bool = False, sharded: bool = False
) -> Choice:
    """What ``rnn(cell, ..., implementation=implementation)`` runs.

    * ``"scan"`` is ``jax.lax.scan``, which jax differentiates.
    * ``"fused"`` is the same loop with a backward pass of its own; see ``flax_rnn.fused.adjoint``.
    * ``"native"`` is a compiled kernel for whole sequences, on CPUs; see ``flax_rnn.implementations.native.layer``.
    * ``"auto"`` is the last of these that can be had.

    The choice is made while jax traces, for the default backend. What is to leave the process, as with ``jax.export``,
    has to ask for ``"fused"``, since kernels do not travel. Batches that are sharded without a mesh in sight are
    gathered for a native kernel.

    Args:
      cell: the cell; of a stack, each cell is asked for by itself.
      implementation: one of the above.
      dtype: the compute dtype.
      resets: whether there are ``resets``.
      sharded: whether the inputs are sharded over a mesh.

    Raises:
      ValueError: for an unknown name, or where what is asked for cannot be had.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation: expected one of {IMPLEMENTATIONS}, got {implementation!r}")
    if implementation == "scan":
        return Choice("scan", "asked for")
    if implementation in ("auto", "native"):
        obstacle = _obstacle(cell, jnp.dtype(dtype), resets, sharded)
        if obstacle is None:
            return Choice("native", "asked for" if implementation == "native" else "it is the fastest on a CPU")
        if implementation == "native":
            raise ValueError(f"implementation: 'native' cannot be had: {obstacle}")
    if not isinstance(cell, Hashable):
        if implementation == "fused":
            raise ValueError(f"implementation: 'fused' needs a cell that can be hashed, got {cell!r}")
        return Choice("scan", "the cell cannot be hashed, which 'fused' needs")
    if implementation == "fused":
        return Choice("fused", "asked for")
    if not getattr(cell, "records_products", True):
        return Choice("scan", "the cell does not show its products, and 'fused' would gain nothing")
    return Choice("fused", f"it is exact for every cell and option, while {obstacle}")


def _obstacle(cell: Cell, dtype: Any, resets: bool, sharded: bool) -> str | None:
    """What keeps the native kernels from running ``cell``, in words."""
    if jax.default_backend() != "cpu":
        return f"the native kernels are for CPUs, and the default backend is {jax.default_backend()!r}"
    if dtype != jnp.float32:
        return f"the native kernels compute in float32, not {dtype}"
    if resets:
        return "the native kernels have no resets"
    if sharded:
        return "the native kernels do not know about meshes"
    return native.unsupported(cell)
