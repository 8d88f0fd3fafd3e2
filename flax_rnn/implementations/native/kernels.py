"""What the kernels take: which cells and options, and in which arrays.

Arrays of whole sequences are ``(B, T, ...)`` here, as users have them, so that nothing is transposed on the way.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations
from flax_rnn.cells.cudnn import CuDNNGRUCell, CuDNNLSTMCell
from flax_rnn.cells.gru import GRUCell
from flax_rnn.cells.lstm import LSTMCell
from flax_rnn.cells.simple_rnn import SimpleRNNCell
from flax_rnn.implementations.native import library

# The order of both is that of the enumerations in ``src``.
CELLS = ("lstm", "gru", "gru_reset_before", "simple_rnn")
ACTIVATIONS = ("linear", "tanh", "sigmoid", "relu", "hard_sigmoid", "hard_sigmoid_keras2", "softsign")

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


def kind(cell: Any) -> str | None:
    """The kernel of ``cell``; ``None`` if there is none. A subclass may do something else, and has none."""
    if type(cell) in (LSTMCell, CuDNNLSTMCell):
        return "lstm"
    if type(cell) in (GRUCell, CuDNNGRUCell):
        return "gru" if cell.reset_after else "gru_reset_before"
    return "simple_rnn" if type(cell) is SimpleRNNCell else None


def unsupported(cell: Any) -> str | None:
    """Why the kernels cannot run ``cell``, in words; ``None`` if they can."""
    if kind(cell) is None:
        return f"there is no native kernel for {type(cell).__name__}"
    for name in ("activation", "recurrent_activation"):
        if _index(getattr(cell, name, None)) is None:
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
    batch, steps, _ = x.shape
    h0, c0 = _parts(cell, carry)
    gates = {"lstm": 4, "gru": 4, "gru_reset_before": 3}.get(kind(cell) or "", 0)
    extra = 1 if kind(cell) in ("lstm", "gru_reset_before") else 0
    saved = [(batch, steps, size * cell.units) for size in (sequences or keep, keep * gates, keep * extra)]
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
    h0, c0 = _parts(cell, carry)
    gates = saved.gates.shape[-1] > 0
    d_sums_shape = (saved.gates if gates else saved.outputs).shape
    d_sums, d_h0, d_c0 = _call(
        library.BACKWARD, cell, [d_sums_shape, h0.shape, c0.shape],
        *saved, recurrent_kernel, h0, c0, _or_empty(mask, 2, bool), _stacked(masks and masks.recurrent),
        *_parts(cell, d_carry), _or_empty(d_outputs, 3), aliases={1: 0} if gates else None, **_options(cell, reverse),
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
    columns = cell.num_gates * cell.units
    return _call(
        library.WEIGHTS_GRADIENT, cell, [(x.shape[-1], columns), (cell.units, columns), d_sums.shape[-1:]],
        d_sums, x, saved.outputs, saved.extra, _parts(cell, carry)[0], _or_empty(mask, 2, bool),
        *map(_stacked, masks or (None, None)),
        reverse=reverse,
    )  # fmt: skip


def _call(
    target: str, cell: Any, results: list[tuple[int, ...]], *arguments: jax.Array,
    aliases: dict[int, int] | None = None, **attributes: Any,
) -> Any:  # fmt: skip
    """The results of a kernel, of these shapes."""
    call: Any = jax.ffi.ffi_call(
        target,
        [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results],
        vmap_method="sequential",
        input_output_aliases=aliases,
    )
    return call(*arguments, cell=CELLS.index(kind(cell) or ""), **attributes)


def _options(cell: Any, reverse: bool) -> dict[str, Any]:
    recurrent = getattr(cell, "recurrent_activation", None)
    return {
        "activation": _index(cell.activation) or 0,
        "recurrent_activation": _index(recurrent) or 0,
        "reverse": reverse,
    }


def _parts(cell: Any, carry: Any) -> tuple[jax.Array, jax.Array]:
    """``h`` and ``c`` of a carry."""
    return carry if kind(cell) == "lstm" else (carry, _empty(2))


def _whole(carry: Any, h: jax.Array, c: jax.Array) -> Any:
    """A carry like ``carry``."""
    tree = jax.tree.structure(carry)
    return jax.tree.unflatten(tree, [h, c][: tree.num_leaves])


def _index(activation: activations.Activation) -> int | None:
    function = activations.get(activation)
    return next((i for i, name in enumerate(ACTIVATIONS) if activations.get(name) is function), None)


def _empty(axes: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.zeros((0,) * axes, dtype)


def _or_empty(array: jax.Array | None, axes: int, dtype: Any = jnp.float32) -> jax.Array:
    return _empty(axes, dtype) if array is None else array


def _stacked(masks: Any) -> jax.Array:
    return _empty(3) if masks is None else jnp.stack(masks).astype(jnp.float32)
