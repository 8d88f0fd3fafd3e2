"""What the kernels take: which cells and options, and in which arrays.

Arrays of whole sequences are ``(B, T, ...)`` here, as users have them, so that nothing is transposed on the way.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations
from flax_rnn.cells.cudnn import CuDNNGRUCell, CuDNNLSTMCell
from flax_rnn.cells.gru import GRUCell
from flax_rnn.cells.lstm import LSTMCell
from flax_rnn.cells.simple_rnn import SimpleRNNCell
from flax_rnn.implementations.native import library
from flax_rnn.implementations.partitioned import Rows, by_rows


class Kernel(NamedTuple):
    """A kernel, as the struct of its name in ``src`` has it. Numbers are of blocks of ``H`` columns.

    Attributes:
      name: how ``src`` calls it.
      cells: which classes it runs; a subclass may do something else.
      gates: of the weights.
      sums: of the sums of products, and of the bias.
      saved: the gates that the backward pass needs.
      extra: one more sequence that it needs, or none.
      states: how many arrays the carry has, ``h`` or ``h, c``.
      reset_after: what that argument of a GRU has to be.
    """

    name: str
    cells: tuple[type, ...]
    gates: int
    sums: int
    saved: int
    extra: int
    states: int
    reset_after: bool | None = None


KERNELS = (
    Kernel("lstm", (LSTMCell, CuDNNLSTMCell), 4, 4, 4, 1, 2),
    Kernel("gru", (GRUCell, CuDNNGRUCell), 3, 4, 4, 0, 1, reset_after=True),
    Kernel("gru_reset_before", (GRUCell,), 3, 3, 3, 1, 1, reset_after=False),
    Kernel("simple_rnn", (SimpleRNNCell,), 1, 1, 0, 0, 1),
)
ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "softsign")

# Which axis of each array of a kernel is the batch; dropout masks have that of gates ahead of it.
_ROWS = {
    library.FORWARD: (0, None, None, None, 0, 0, 0, 1, 1),
    library.BACKWARD: (0, 0, 0, None, 0, 0, 0, 1, 0, 0, 0),
    library.INPUTS_GRADIENT: (0, None, 1),
    library.WEIGHTS_GRADIENT: (0, 0, 0, 0, 0, 0, 1, 1),
}

_EXACT = (None, "default", "high", "highest", "float32", *jax.lax.Precision)


class Saved(NamedTuple):
    """What the backward pass needs, all ``(B, T, ...)``.

    Attributes:
      outputs: ``h`` of all steps ``(B, T, H)``, the state also at masked steps.
      gates: i, f, g, o of an LSTM; z, r, n of a GRU, and the state's part of n where it resets after the product.
      extra: ``c`` of an LSTM, ``r * h`` of a GRU that resets before the product.
    """

    outputs: jax.Array
    gates: jax.Array
    extra: jax.Array


def kernel(cell: Any) -> Kernel | None:
    """The kernel of ``cell``; ``None`` if there is none."""
    for one in KERNELS:
        if type(cell) in one.cells and getattr(cell, "reset_after", None) == one.reset_after:
            return one
    return None


def kind(cell: Any) -> str | None:
    """The name of the kernel of ``cell``; ``None`` if there is none."""
    found = kernel(cell)
    return None if found is None else found.name


def unsupported(cell: Any) -> str | None:
    """Why the kernels cannot run ``cell``, in words; ``None`` if they can."""
    if kernel(cell) is None:
        return f"there is no native kernel for {type(cell).__name__}"
    for name in ("activation", "recurrent_activation"):
        if activation_name(getattr(cell, name, None)) is None:
            return f"the native kernels have no {name} {getattr(cell, name)!r}"
    if cell.precision not in _EXACT:
        return f"the native kernels compute in float32, not with precision {cell.precision!r}"
    return library.absent()


def forward(
    cell: Any, weights: dict[str, jax.Array], masks: Any, carry: Any, x: jax.Array, mask: Any, reverse: bool,
    sequences: bool, keep: bool,
) -> tuple[Any, Saved]:  # fmt: skip
    """All steps: ``(last carry, saved)``, where what is not asked for is empty.

    Args:
      cell: which kernel to run, and its activations.
      weights: plain ``kernel``, ``recurrent_kernel`` and ``bias`` in float32, the bias in the order of the sums.
      masks: ``DropoutMasks``, or ``None``.
      carry: where to start from.
      x: ``(B, T, D)``.
      mask: booleans ``(B, T)``, or ``None``.
      reverse: whether to start at the last step.
      sequences: whether to return ``saved.outputs``.
      keep: whether to return all that the backward pass needs.
    """
    of, (h0, c0) = _kernel(cell), _parts(cell, carry)
    saved = [(*x.shape[:2], size * cell.units) for size in (sequences or keep, keep * of.saved, keep * of.extra)]
    h, c, *saved = _call(
        library.FORWARD, cell, [h0.shape, c0.shape, *saved],
        x, weights["kernel"], weights["recurrent_kernel"], weights["bias"], h0, c0, _or_empty(mask, 2, bool),
        *map(_stacked, masks or (None, None)), **_options(cell, reverse),
    )  # fmt: skip
    return _whole(carry, h, c), Saved(*saved)


def backward(
    cell: Any, recurrent_kernel: jax.Array, masks: Any, carry: Any, saved: Saved, mask: Any, reverse: bool,
    d_carry: Any, d_outputs: jax.Array | None,
) -> tuple[jax.Array, Any]:  # fmt: skip
    """The gradients of all sums of products ``(B, T, g H)``, and that of the initial carry.

    The sums are those of the gates; of a GRU that resets after the product they are those of z, r, and n, and of the
    state's part of n. ``saved`` is used up: the gradients take the place of the gates.
    """
    of, (h0, c0) = _kernel(cell), _parts(cell, carry)
    d_sums_shape = (*saved.outputs.shape[:2], of.sums * cell.units)
    in_place = {1: 0} if of.saved == of.sums else None
    d_sums, d_h0, d_c0 = _call(
        library.BACKWARD, cell, [d_sums_shape, h0.shape, c0.shape],
        *saved, recurrent_kernel, h0, c0, _or_empty(mask, 2, bool), _stacked(masks and masks.recurrent),
        *_parts(cell, d_carry), _or_empty(d_outputs, 3), aliases=in_place, **_options(cell, reverse),
    )  # fmt: skip
    return d_sums, _whole(carry, d_h0, d_c0)


def inputs_gradient(cell: Any, d_sums: jax.Array, kernel: jax.Array, masks: Any) -> jax.Array:
    """The gradient of the inputs ``(B, T, D)``."""
    shape = (*d_sums.shape[:2], kernel.shape[0])
    return _call(library.INPUTS_GRADIENT, cell, [shape], d_sums, kernel, _stacked(masks and masks.inputs))[0]


def weights_gradient(
    cell: Any, d_sums: jax.Array, x: jax.Array, saved: Saved, carry: Any, mask: Any, masks: Any, reverse: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of ``kernel`` and ``recurrent_kernel``, and that of ``bias`` in the order of the sums."""
    columns = _kernel(cell).gates * cell.units
    return _call(
        library.WEIGHTS_GRADIENT, cell, [(x.shape[-1], columns), (cell.units, columns), d_sums.shape[-1:]],
        d_sums, x, saved.outputs, saved.extra, _parts(cell, carry)[0], _or_empty(mask, 2, bool),
        *map(_stacked, masks or (None, None)),
        reverse=reverse,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Call:
    """See ``partitioned.Call``."""

    target: str
    attributes: tuple[tuple[str, Any], ...]
    aliases: tuple[tuple[int, int], ...]

    def __call__(self, results: Sequence[jax.ShapeDtypeStruct]) -> Callable[..., Any]:
        call: Any = jax.ffi.ffi_call(
            self.target, results, vmap_method="sequential", input_output_aliases=dict(self.aliases)
        )
        return functools.partial(call, **dict(self.attributes))


def _call(
    target: str, cell: Any, results: list[tuple[int, ...]], *arguments: jax.Array,
    aliases: dict[int, int] | None = None, **attributes: Any,
) -> Any:  # fmt: skip
    """The results of a kernel, of these shapes."""
    call = _Call(target, tuple({"cell": _kernel(cell).name, **attributes}.items()), tuple((aliases or {}).items()))
    # What a cell does not have is without rows, too.
    given = zip(_ROWS[target], arguments, strict=True)
    operands = tuple(axis if axis is not None and array.shape[axis] else None for axis, array in given)
    summed = target == library.WEIGHTS_GRADIENT
    returned = tuple(0 if shape[0] and not summed else None for shape in results)
    types = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    return by_rows(call, Rows(operands, returned), types, *arguments)


def _kernel(cell: Any) -> Kernel:
    found = kernel(cell)
    assert found is not None, "see `unsupported`"
    return found


def _options(cell: Any, reverse: bool) -> dict[str, Any]:
    recurrent = getattr(cell, "recurrent_activation", None)
    return {
        "activation": activation_name(cell.activation),
        "recurrent_activation": activation_name(recurrent),
        "reverse": reverse,
    }


def _parts(cell: Any, carry: Any) -> tuple[jax.Array, jax.Array]:
    """``h`` and ``c`` of a carry."""
    return carry if _kernel(cell).states == 2 else (carry, _empty(2))


def _whole(carry: Any, h: jax.Array, c: jax.Array) -> Any:
    """A carry like ``carry``."""
    tree = jax.tree.structure(carry)
    return jax.tree.unflatten(tree, [h, c][: tree.num_leaves])


def activation_name(activation: activations.Activation) -> str | None:
    """The kernels' name of an activation; ``None`` if they do not have it."""
    function = activations.get(activation)
    return next((name for name in ACTIVATIONS if activations.get(name) is function), None)


def _empty(axes: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.zeros((0,) * axes, dtype)


def _or_empty(array: jax.Array | None, axes: int, dtype: Any = jnp.float32) -> jax.Array:
    return _empty(axes, dtype) if array is None else array


def _stacked(masks: Any) -> jax.Array:
    return _empty(3) if masks is None else jnp.stack(masks).astype(jnp.float32)
