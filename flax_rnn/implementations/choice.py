"""The rule that selects an implementation of the loop, which can be asked what it selects and why."""

import dataclasses
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from flax_rnn import target
from flax_rnn.cells.protocol import Cell
from flax_rnn.implementations import measured
from flax_rnn.implementations.cuda import Cuda
from flax_rnn.implementations.cudnn import CuDNN
from flax_rnn.implementations.either import Either
from flax_rnn.implementations.fused import Fused
from flax_rnn.implementations.native import Native
from flax_rnn.implementations.protocol import Implementation, Request
from flax_rnn.implementations.scan import Scan

IMPLEMENTATIONS: list[Implementation] = [Native(), Fused(), Scan(), CuDNN(), Cuda()]
"""All there are. ``"auto"`` takes the first that can run what is asked for, unless it is known to be slower."""

ONLY_MEASURED = frozenset({"cudnn", "cuda"})
"""What ``"auto"`` passes over, but where a measurement says that it is the fastest; see ``measured``."""


class Choice(NamedTuple):
    """An implementation, and the reason for it in words."""

    implementation: str
    reason: str


def slower(implementation: Implementation, request: Request) -> str | None:
    """Why ``"auto"`` passes over what could run ``request``, in words; ``None`` if it does not.

    The place for what benchmarks have shown on CPUs. What it costs to follow this is the table "What is taken by
    itself" of ``python -m benchmarks.layers``.
    """
    if implementation.name == "fused" and not getattr(request.cell, "records_products", True):
        return "the cell does not show its products, and 'fused' would gain nothing"
    if request.shape is None or not request.training or request.shape[1] != 1:
        return None
    # XLA makes no loop of a single step, and its products are no smaller than those of a kernel.
    rows, gates = request.shape[0], getattr(request.cell, "num_gates", 1)
    if implementation.name == "native" and (rows < 64 or gates == 1):
        return "the gradients of a single step take less time without it"
    if implementation.name == "fused" and rows < 16 and gates > 1:
        return "there are no products of many steps to be joined"
    return None


def choose(
    cell: Cell,
    implementation: str = "auto",
    *,
    dtype: Any = jnp.float32,
    resets: bool = False,
    sharded: bool = False,
    shape: tuple[int, int] | None = None,
    training: bool = False,
) -> Choice:
    """What ``rnn(cell, ..., implementation=implementation)`` runs.

    * ``"native"`` is a compiled kernel for whole sequences, on CPUs; on a mesh, each device runs it for its own rows.
      See ``flax_rnn.implementations.native``.
    * ``"fused"`` is a loop in XLA with a backward pass of its own; see ``flax_rnn.implementations.fused``.
    * ``"scan"`` is ``jax.lax.scan``, which jax differentiates.
    * ``"cudnn"`` is NVIDIA's LSTM, through ``jax.experimental.rnn``: in float32, with tanh and sigmoid, any mask and
      dropout of inputs, on one GPU.
    * ``"cuda"`` is a compiled kernel for whole sequences, on NVIDIA's GPUs: LSTM, SimpleRNN and GRU that resets after
      the product, in bfloat16 or TF32, of 512 units at most. See ``flax_rnn.implementations.cuda``.
    * ``"auto"`` is the first of these, in this order, that can be had and is not known to be slower for this shape. On
      a GPU it is what was the fastest where it was measured, for this device and about this shape; ``"cudnn"`` and
      ``"cuda"`` are taken there only. See ``flax_rnn.implementations.measured``.

    The choice is made while jax traces, for the default backend or the platform that ``flax_rnn.portable`` names.
    Kernels do not travel: within ``flax_rnn.portable()``, as for ``jax.export``, none is chosen.

    Args:
      cell: the cell; of a stack, each cell is asked for by itself.
      implementation: one of the above.
      dtype: the compute dtype.
      resets: whether there are ``resets``.
      sharded: whether the inputs are, or may be, sharded over a mesh.
      shape: rows of the batch and steps ``(B, T)``; ``None`` for many of both.
      training: whether the layer is differentiated, and drops what its ``recurrent_dropout`` says.

    Raises:
      ValueError: for an unknown name, or where what is asked for cannot be had.
    """
    dropped = training and getattr(cell, "recurrent_dropout", 0) > 0
    request = request_for(cell, dtype, resets, sharded, shape, dropped)
    chosen, reason = pick(implementation, dataclasses.replace(request, training=training))
    return Choice(chosen.name, reason)


def request_for(
    cell: Cell,
    dtype: Any,
    resets: bool,
    sharded: bool,
    shape: tuple[int, int] | None = None,
    recurrent_dropout: bool = False,
) -> Request:
    """The request of these, here and now."""
    platform, portable = target.platform(), target.is_portable()
    # Elsewhere there may be another one.
    device = jax.devices()[0].device_kind if platform == "gpu" and not portable else ""
    return Request(
        cell, jnp.dtype(dtype), resets, sharded, platform, portable, shape,
        recurrent_dropout=recurrent_dropout, device=device,
    )  # fmt: skip


def pick_both(implementation: str, request: Request) -> Implementation:
    """What ``pick`` takes, for the outputs and for the gradients, as one."""
    plain, _ = pick(implementation, request)
    training, _ = pick(implementation, dataclasses.replace(request, training=True))
    return plain if training is plain else cast(Implementation, Either(plain, training))


def pick(implementation: str, request: Request) -> tuple[Implementation, str]:
    """The implementation that this name, or ``"auto"``, stands for, and the reason; see ``choose``."""
    if implementation == "auto":
        return _pick_measured(request) or _pick_first(request)
    chosen = _by_name(implementation)
    if chosen is None:
        names = ("auto", *(one.name for one in IMPLEMENTATIONS))
        raise ValueError(f"implementation: expected one of {names}, got {implementation!r}")
    if obstacle := chosen.obstacle(request):
        raise ValueError(f"implementation: {implementation!r} cannot be had: {obstacle}")
    return chosen, "asked for"


def _by_name(name: str) -> Implementation | None:
    return next((one for one in IMPLEMENTATIONS if one.name == name), None)


def _pick_measured(request: Request) -> tuple[Implementation, str] | None:
    """The fastest that can be had of those that were measured for this; ``None`` if nothing was."""
    passed: list[str] = []
    entry = measured.entry_for(request)
    for name in entry.fastest_first if entry else ():
        one = _by_name(name)
        if one is None:
            continue
        obstacle = one.obstacle(request)
        if obstacle is None:
            return one, "; ".join((f"it is the fastest of those measured: {entry}", *passed))
        passed.append(f"not {name}, since {obstacle}")
    return None


def _pick_first(request: Request) -> tuple[Implementation, str]:
    """The first in the list that can be had and is not known to be slower."""
    passed: list[str] = []
    in_order = [one for one in IMPLEMENTATIONS if one.name not in ONLY_MEASURED]
    for one in in_order:
        reason = one.obstacle(request) or slower(one, request)
        if reason is None:
            order = ", ".join(other.name for other in in_order)
            return one, "; ".join((f"it is the first to be taken of {order}", *passed))
        passed.append(f"not {one.name}, since {reason}")
    raise ValueError(f"implementation: 'auto' finds none: {'; '.join(passed)}")
