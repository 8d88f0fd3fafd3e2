"""The rule that selects an implementation of the loop, which can be asked what it selects and why."""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Cell
from flax_rnn.implementations.fused import Fused
from flax_rnn.implementations.native import Native
from flax_rnn.implementations.protocol import Implementation, Request
from flax_rnn.implementations.scan import Scan

IMPLEMENTATIONS: list[Implementation] = [Native(), Fused(), Scan()]
"""All there are. ``"auto"`` takes the first that can run what is asked for, unless it is known to be slower."""

# jax traces anew where it differs, so what was compiled outside is not taken for it.
_portable = jax.make_user_context(default_value=False)


class Choice(NamedTuple):
    """An implementation, and the reason for it in words."""

    implementation: str
    reason: str


def portable() -> contextlib.AbstractContextManager[Any]:
    """A context in which nothing is chosen that is bound to this machine, so that what is traced in it can travel.

    ``with flax_rnn.portable(): exported = jax.export.export(jax.jit(model), platforms=["cpu", "cuda"])(x)``
    """
    return _portable(True)


def slower(implementation: Implementation, request: Request) -> str | None:
    """Why ``"auto"`` passes over what could run ``request``, in words; ``None`` if it does not.

    The place for what benchmarks have shown.
    """
    if implementation.name == "fused" and not getattr(request.cell, "records_products", True):
        return "the cell does not show its products, and 'fused' would gain nothing"
    return None


def choose(
    cell: Cell, implementation: str = "auto", *, dtype: Any = jnp.float32, resets: bool = False, sharded: bool = False
) -> Choice:
    """What ``rnn(cell, ..., implementation=implementation)`` runs.

    * ``"native"`` is a compiled kernel for whole sequences, on CPUs; on a mesh, each device runs it for its own rows.
      See ``flax_rnn.implementations.native``.
    * ``"fused"`` is a loop in XLA with a backward pass of its own; see ``flax_rnn.implementations.fused``.
    * ``"scan"`` is ``jax.lax.scan``, which jax differentiates.
    * ``"auto"`` is the first of these, in this order, that can be had.

    The choice is made while jax traces, for the default backend. Kernels do not travel: within ``flax_rnn.portable()``,
    as for ``jax.export``, none is chosen.

    Args:
      cell: the cell; of a stack, each cell is asked for by itself.
      implementation: one of the above.
      dtype: the compute dtype.
      resets: whether there are ``resets``.
      sharded: whether the inputs are, or may be, sharded over a mesh.

    Raises:
      ValueError: for an unknown name, or where what is asked for cannot be had.
    """
    chosen, reason = pick(implementation, request_for(cell, dtype, resets, sharded))
    return Choice(chosen.name, reason)


def request_for(cell: Cell, dtype: Any, resets: bool, sharded: bool) -> Request:
    """The request of these, here and now."""
    return Request(cell, jnp.dtype(dtype), resets, sharded, jax.default_backend(), bool(_portable.value))


def pick(implementation: str, request: Request) -> tuple[Implementation, str]:
    """The implementation that this name, or ``"auto"``, stands for, and the reason; see ``choose``."""
    if implementation != "auto":
        chosen = next((one for one in IMPLEMENTATIONS if one.name == implementation), None)
        if chosen is None:
            names = ("auto", *(one.name for one in IMPLEMENTATIONS))
            raise ValueError(f"implementation: expected one of {names}, got {implementation!r}")
        if obstacle := chosen.obstacle(request):
            raise ValueError(f"implementation: {implementation!r} cannot be had: {obstacle}")
        return chosen, "asked for"
    passed: list[str] = []
    for one in IMPLEMENTATIONS:
        reason = one.obstacle(request) or slower(one, request)
        if reason is None:
            order = ", ".join(other.name for other in IMPLEMENTATIONS)
            return one, f"it is the first that can be had of {order}" + "".join(f"; {words}" for words in passed)
        passed.append(f"not {one.name}, since {reason}")
    raise ValueError(f"implementation: 'auto' finds none: {'; '.join(passed)}")
