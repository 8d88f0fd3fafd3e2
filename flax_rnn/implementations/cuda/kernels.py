"""The calls of the kernels: which one, in which arrays. ``src`` has the kernels.

Arrays of whole sequences are ``(T, B, ...)`` here, the gates one after the other in the last axis, and ``H`` is the
number of units of the tile. Weights, inputs, outputs and values are in bfloat16 or float32, states in float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.implementations.cuda import cache, library
from flax_rnn.implementations.cuda.tiles import Tile
from flax_rnn.implementations.native.kernels import ACTIVATIONS
from flax_rnn.implementations.partitioned import Rows, by_rows


class Kernel(NamedTuple):
    """What is fixed about both passes of a layer; hashable.

    Attributes:
      cell: ``"lstm"``, ``"gru"`` or ``"simple_rnn"``.
      dtype: ``"bfloat16"`` or ``"float32"``.
      tile: how it is divided.
      activation, recurrent_activation: among ``native.kernels.ACTIVATIONS``.
      reverse: whether to start at the last step.
    """

    cell: str
    dtype: str
    tile: Tile
    activation: str
    recurrent_activation: str
    reverse: bool

    @property
    def gates(self) -> int:
        """Of the weights."""
        return {"lstm": 4, "gru": 3, "simple_rnn": 1}[self.cell]

    @property
    def sums(self) -> int:
        """How many enter the gates of a unit: one more in a GRU, where the state's part of n is apart."""
        return self.gates + (self.cell == "gru")

    @property
    def values(self) -> int:
        """How many are kept of a unit for the backward pass; as many as there are sums, or none."""
        return 0 if self.cell == "simple_rnn" else self.sums


class Operands(NamedTuple):
    """What goes into the forward pass, and in part into the backward pass.

    Attributes:
      x: inputs times ``kernel``, with the bias, ``(T, B, G H)``.
      recurrent: ``recurrent_kernel`` ``(H, G H)``.
      bias: of a GRU, the state's part of that of n ``(H,)``; ``None`` elsewhere.
      dropped: dropout masks of the state ``(G, B, H)``, or ``None``.
      h, c: the state to start from ``(B, H)``; ``c`` is ``None`` but for an LSTM.
      mask, resets: booleans ``(T, B)``, or ``None``.
    """

    x: jax.Array
    recurrent: jax.Array
    bias: jax.Array | None
    dropped: jax.Array | None
    h: jax.Array
    c: jax.Array | None
    mask: jax.Array | None
    resets: jax.Array | None


class Saved(NamedTuple):
    """What the forward pass leaves behind.

    Attributes:
      outputs: ``h`` of all steps ``(T, B, H)``, the state also at masked steps.
      values: i, f, g, o of an LSTM; z, r, n of a GRU, and the state's part of n ``(T, B, V H)``.
      cells: ``c`` of an LSTM ``(T, B, H)``.
    """

    outputs: jax.Array
    values: jax.Array
    cells: jax.Array


_MASKED, _RESETS, _REVERSE, _KEEP_OUTPUTS, _KEEP_VALUES = 1, 2, 4, 8, 16


def forward(
    kernel: Kernel, operands: Operands, sequences: bool, keep: bool
) -> tuple[Saved, jax.Array, jax.Array | None]:
    """``(saved, last h, last c)``, where what is not asked for is empty.

    Args:
      kernel: which one.
      operands: what goes in.
      sequences: whether to return ``saved.outputs``.
      keep: whether to return all that the backward pass needs.
    """
    steps, rows, _ = operands.x.shape
    units, lstm = kernel.tile.units, kernel.cell == "lstm"
    sizes = (sequences or keep) * units, keep * kernel.values * units, keep * lstm * units
    dtypes = kernel.dtype, kernel.dtype, "float32"
    sequence_types = [_type((steps, rows, size), dtype) for size, dtype in zip(sizes, dtypes, strict=True)]
    types = [*sequence_types, _type((rows, units)), _type((rows, lstm * units))]
    flags = _flags(kernel, operands) | _KEEP_OUTPUTS * (sequences or keep) | _KEEP_VALUES * keep
    arguments = (
        operands.x, *_steps(operands), operands.recurrent, _or_empty(operands.bias, 1),
        _or_empty(operands.dropped, 3), operands.h, _or_empty(operands.c, 2),
    )  # fmt: skip
    call = _Call(kernel, False, operands.dropped is not None, flags, steps)
    *saved, h, c = by_rows(
        call, Rows(_axes((1, 1, 1, None, None, 1, 0, 0), arguments), (1, 1, 1, 0, 0)), types, *arguments
    )
    return Saved(*saved), h, c if lstm else None


def backward(
    kernel: Kernel, operands: Operands, saved: Saved, d_outputs: jax.Array | None, d_h: jax.Array, d_c: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The gradients of all sums ``(T, B, S H)``, and those of the initial state.

    The sums are those of the gates; of a GRU they are those of z and r, the inputs' part of n, and the state's part.
    """
    steps, rows, _ = saved.outputs.shape
    units, lstm = kernel.tile.units, kernel.cell == "lstm"
    types = [_type((steps, rows, kernel.sums * units), kernel.dtype), _type((rows, units)), _type((rows, lstm * units))]
    flags = _flags(kernel, operands) | _KEEP_OUTPUTS * (d_outputs is not None)
    arguments = (
        saved.values, saved.cells, saved.outputs, operands.recurrent, *_steps(operands),
        _or_empty(operands.dropped, 3), operands.h, _or_empty(operands.c, 2), _or_empty(d_outputs, 3), d_h,
        _or_empty(d_c, 2),
    )  # fmt: skip
    call = _Call(kernel, True, operands.dropped is not None, flags, steps)
    axes = _axes((1, 1, 1, None, 1, 1, 1, 0, 0, 1, 0, 0), arguments)
    d_sums, d_h, d_c = by_rows(call, Rows(axes, (1, 0, 0)), types, *arguments)
    return d_sums, d_h, d_c if lstm else None


def macros(kernel: Kernel, backward: bool, dropped: bool) -> dict[str, str | int]:
    """What ``kernel.cu`` is compiled with for one of the passes.

    Args:
      kernel: which one; in what order it goes over the steps is told when it is launched.
      backward: whether it is the backward pass.
      dropped: whether there are dropout masks of the state.
    """
    return {
        "CELL": {"lstm": "Lstm", "gru": "Gru", "simple_rnn": "SimpleRnn"}[kernel.cell],
        "ELEMENT": "u16" if kernel.dtype == "bfloat16" else "float",
        "UNITS": kernel.tile.units, "CLUSTER": kernel.tile.cluster, "SPLIT": kernel.tile.split, "DROPPED": int(dropped),
        "ACTIVATION": ACTIVATIONS.index(kernel.activation),
        "RECURRENT_ACTIVATION": ACTIVATIONS.index(kernel.recurrent_activation),
        "BACKWARD": int(backward), "BYTES": _shared_bytes(kernel, backward, dropped),
    }  # fmt: skip


def _shared_bytes(kernel: Kernel, backward: bool, dropped: bool) -> int:
    return kernel.tile.shared_bytes(kernel.gates, dropped, backward, 2 if kernel.dtype == "bfloat16" else 1)


@dataclasses.dataclass(frozen=True)
class _Call:
    """See ``partitioned.Call``."""

    kernel: Kernel
    backward: bool
    dropped: bool
    flags: int
    steps: int

    def __call__(self, results: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., Any]:
        kernel, tile, rows = self.kernel, self.kernel.tile, results[-1].shape[0]
        # Gradients of sums take the place of values, where these are as many.
        in_place = {0: 0} if self.backward and kernel.values else {}
        call: Any = jax.ffi.ffi_call(library.TARGET, results, vmap_method="sequential", input_output_aliases=in_place)
        attributes = library.attributes(
            cache.cubin(library.here(), tuple(macros(kernel, self.backward, self.dropped).items())),
            f"flax_rnn_{'backward' if self.backward else 'forward'}",
            grid=tile.blocks(rows), block=tile.threads, cluster=tile.cluster,
            shared=_shared_bytes(kernel, self.backward, self.dropped), scalars=(self.steps, rows, self.flags),
        )  # fmt: skip
        return functools.partial(call, **attributes)


def _flags(kernel: Kernel, operands: Operands) -> int:
    return _MASKED * (operands.mask is not None) | _RESETS * (operands.resets is not None) | _REVERSE * kernel.reverse


def _steps(operands: Operands) -> tuple[jax.Array, jax.Array]:
    return _or_empty(operands.mask, 2, bool), _or_empty(operands.resets, 2, bool)


def _axes(axes: Sequence[int | None], arguments: Sequence[jax.Array]) -> tuple[int | None, ...]:
    """Which axis of each is the batch; what is not there has none."""
    found = zip(axes, arguments, strict=True)
    return tuple(None if axis is None or not array.shape[axis] else axis for axis, array in found)


def _type(shape: tuple[int, ...], dtype: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def _or_empty(array: jax.Array | None, axes: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.zeros((0,) * axes, dtype) if array is None else array
