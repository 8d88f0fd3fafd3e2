"""A layer that the kernels run: forward pass, backward pass, and derivatives of the latter.

The forward pass keeps ``h`` of all steps, the values of the gates, and ``c`` of an LSTM. The backward pass goes over
the steps for the gradients of the sums that enter the gates, which take the place of the gates' values; those of
weights and inputs follow from all steps at once.

The kernels themselves cannot be differentiated, so a second derivative is that of ``flax_rnn.fused``, which has the
same values.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.protocol import Carry, Masks, Params
from flax_rnn.implementations import fused as adjoint
from flax_rnn.implementations import products
from flax_rnn.implementations.loop import Inputs, Loop, expand, run, used
from flax_rnn.implementations.native import kernels
from flax_rnn.implementations.native.kernels import Saved


class Setting(NamedTuple):
    """What is fixed: the loop, and whether its initial carry is known to be zeros."""

    loop: Loop
    from_zeros: bool


class Arrays(NamedTuple):
    """What comes in: ``x`` is ``(B, T, D)``, ``mask`` ``(B, T)`` or ``None``."""

    params: Params
    masks: Masks
    carry: Carry
    x: jax.Array
    mask: jax.Array | None


def evaluate(
    loop: Loop, params: Params, masks: Masks, carry: Carry, x: jax.Array, mask: jax.Array | None, from_zeros: bool
) -> tuple[jax.Array, Carry]:
    """``(outputs of all steps or of the last, last carry)``, for inputs ``(T, B, D)`` and a mask ``(T, B)``.

    ``from_zeros`` says that ``carry`` is zeros.
    """
    cell: Any = loop.cell
    batch, features = x.shape[1:]
    if masks is not None:
        masks = DropoutMasks(
            _wide("inputs", masks.inputs, cell.num_gates, (batch, features)),
            _wide("recurrent", masks.recurrent, cell.num_gates, (batch, cell.units)),
        )
    # Batch first, so that this and the transposition of whoever has such inputs are none.
    arrays = Arrays(params, masks, carry, x.swapaxes(0, 1), None if mask is None else mask.T)
    result: Any = _layer(Setting(loop, from_zeros), arrays)
    outputs, last = result
    return (outputs.swapaxes(0, 1) if loop.return_sequences else outputs), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(setting: Setting, arrays: Arrays) -> tuple[jax.Array, Carry]:
    last, saved = _kernel(setting.loop, arrays, keep=False)
    return _outputs(setting, last, saved.outputs, arrays.mask), last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keeping_layer(setting: Setting, arrays: Arrays) -> tuple[Any, Saved]:
    """As ``_layer``, and what its backward pass needs, which is used for nothing else."""
    last, saved = _kernel(setting.loop, arrays, keep=True)
    return (_outputs(setting, last, saved.outputs, arrays.mask), last), saved


def _forward(setting: Setting, arrays: Arrays) -> tuple[Any, Any]:
    kept: Any = _keeping_layer(setting, arrays)
    result, saved = kept
    return result, (arrays, saved)


def _backward(setting: Setting, residuals: Any, cotangents: Any) -> tuple[Any]:
    return (_gradients(setting, *residuals, cotangents),)


def _keeping_forward(setting: Setting, arrays: Arrays) -> tuple[Any, Any]:
    kept: Any = _keeping_layer(setting, arrays)
    result, saved = kept
    return (result, saved), (arrays, saved)


def _keeping_backward(setting: Setting, residuals: Any, cotangents: Any) -> tuple[Any]:
    return _backward(setting, residuals, cotangents[0])


# Forward rules call what has a rule itself, since whoever differentiates twice differentiates them.
_layer.defvjp(_forward, _backward)
_keeping_layer.defvjp(_keeping_forward, _keeping_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)  # which drops what nobody asks for
def _gradients(setting: Setting, arrays: Arrays, saved: Saved, cotangents: Any) -> Arrays:
    """Those of ``arrays``."""
    loop, cell, x = setting.loop, setting.loop.cell, arrays.x.astype(jnp.float32)
    d_outputs, d_last = cotangents
    _, pull = jax.vjp(lambda last, states: _outputs(setting, last, states, arrays.mask), d_last, saved.outputs)
    d_last_too, d_states = pull(d_outputs)
    weights, pull = jax.vjp(lambda params: _plain(cell, params), arrays.params)
    d_sums, d_carry = kernels.backward(
        cell, weights["recurrent_kernel"], arrays.masks, arrays.carry, saved, arrays.mask, loop.reverse,
        jax.tree.map(jnp.add, d_last, d_last_too), d_states if loop.return_sequences else None,
    )  # fmt: skip
    d_x = kernels.inputs_gradient(cell, d_sums, weights["kernel"], arrays.masks)
    d_kernel, d_recurrent, d_bias = kernels.weights_gradient(
        cell, d_sums, x, saved, arrays.carry, arrays.mask, arrays.masks, loop.reverse
    )
    (d_params,) = pull({"kernel": d_kernel, "recurrent_kernel": d_recurrent, "bias": d_bias})
    d_masks = None if arrays.masks is None else _masks_gradients(loop, weights, arrays, saved, d_sums)
    return Arrays(d_params, d_masks, d_carry, d_x.astype(arrays.x.dtype), None)


def _masks_gradients(loop: Loop, weights: Any, arrays: Arrays, saved: Saved, d_sums: jax.Array) -> DropoutMasks:
    """Those of dropout masks, for which hardly anybody asks; otherwise XLA drops all of this."""
    cell: Any = loop.cell
    inputs = [used(arrays.x, arrays.mask)] * cell.num_gates
    h0 = jax.tree.leaves(arrays.carry)[0][:, None]
    states = [saved.outputs[:, 1:], h0] if loop.reverse else [h0, saved.outputs[:, :-1]]
    before = [jnp.concatenate(states, 1)] * cell.num_gates
    if kernels.kind(cell) == "gru_reset_before":
        before[-1] = used(saved.extra, arrays.mask)
    blocks = jnp.split(d_sums, d_sums.shape[-1] // cell.units, -1)

    def gradients(masks: Any, operands: Any, kernel: jax.Array, blocks: Any) -> Any:
        if masks is None:
            return None
        parts = zip(operands, blocks, cell.split_gates(kernel), strict=True)
        each = [jnp.sum(operand * (block @ part.T), 1).astype(masks[0].dtype) for operand, block, part in parts]
        return tuple(each) if len(masks) > 1 else (sum(each[1:], start=each[0]),)

    return DropoutMasks(
        gradients(
            arrays.masks.inputs, inputs, weights["kernel"], blocks[: cell.num_gates]
        ),
        gradients(
            arrays.masks.recurrent, before, weights["recurrent_kernel"], [*blocks[: cell.num_gates - 1], blocks[-1]]
        ),
    )  # fmt: skip


def _gradients_forward(setting: Setting, arrays: Arrays, saved: Saved, cotangents: Any) -> tuple[Any, Any]:
    return _gradients(setting, arrays, saved, cotangents), (arrays, saved, cotangents)


def _gradients_backward(setting: Setting, residuals: Any, cotangents: Arrays) -> Any:
    arrays, saved, d_results = residuals

    def again(differentiable: Arrays, d_results: Any) -> Any:
        def layer(differentiable: Arrays) -> Any:
            return _by_xla(setting.loop, differentiable._replace(mask=arrays.mask))

        return jax.vjp(layer, differentiable)[1](d_results)[0]

    _, pull = jax.vjp(again, arrays._replace(mask=None), d_results)
    d_arrays, d_d_results = pull(cotangents._replace(mask=None))
    return d_arrays, jax.tree.map(jnp.zeros_like, saved), d_d_results


_gradients.defvjp(_gradients_forward, _gradients_backward)


def _by_xla(loop: Loop, arrays: Arrays) -> tuple[jax.Array, Carry]:
    """As ``_layer``."""
    dot: Any = products.dot
    projected = loop.cell.project(arrays.params, used(arrays.x, arrays.mask).swapaxes(0, 1), arrays.masks, dot)
    inputs = Inputs(projected, None if arrays.mask is None else arrays.mask.T, None)
    outputs, last = run(adjoint.scan, loop, arrays.params, arrays.masks, arrays.carry, inputs)
    return (outputs.swapaxes(0, 1) if loop.return_sequences else outputs), last


def _kernel(loop: Loop, arrays: Arrays, keep: bool) -> tuple[Carry, Saved]:
    weights, x = _plain(loop.cell, arrays.params), arrays.x.astype(jnp.float32)
    return kernels.forward(
        loop.cell, weights, arrays.masks, arrays.carry, x, arrays.mask, loop.reverse, loop.return_sequences, keep
    )


def _wide(name: str, masks: Any, gates: int, shape: tuple[int, int]) -> Any:
    """Dropout masks of this shape, from what may be broadcast to it; one, or one for each gate."""
    if not masks:
        return None
    if len(masks) not in (1, gates):
        raise ValueError(f"dropout_masks: expected 1 or {gates} masks in {name}, got {len(masks)}")
    return tuple(jnp.broadcast_to(mask, shape) for mask in masks)


def _plain(cell: Any, params: Params) -> dict[str, jax.Array]:
    """The weights as the kernels take them: in float32, and ``bias`` in the order of the sums."""
    plain = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in cell.plain(params).items()}
    bias = cell.projected_bias(plain["bias"]) if cell.use_bias else jnp.zeros(cell.num_gates * cell.units, jnp.float32)
    if kernels.kind(cell) == "gru":
        recurrent = cell.recurrent_bias(plain, jnp.float32)
        bias = jnp.concatenate([bias, jnp.zeros(cell.units, jnp.float32) if recurrent is None else recurrent])
    columns = cell.num_gates * cell.units
    shapes = {"kernel": (plain["kernel"].shape[0], columns), "recurrent_kernel": (cell.units, columns)}
    for name, expected in shapes.items():  # the kernels rely on it
        if plain[name].shape != expected:
            raise ValueError(f"params: expected {name} of shape {expected}, got {plain[name].shape}")
    return plain | {"bias": bias}


def _outputs(setting: Setting, last: Carry, states: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The outputs that the loop returns, from the states ``h`` of all steps and the last carry."""
    loop, h = setting.loop, jax.tree.leaves(last)[0]
    if mask is None or (setting.from_zeros and (not loop.zero or not loop.return_sequences)):
        return states if loop.return_sequences else h
    if not loop.return_sequences:
        return jnp.where(expand(mask.any(1), h), h, 0)
    if not loop.zero:
        # The last output, which is the state except ahead of the first step that counts.
        mask = jax.lax.cummax(mask.astype(jnp.int32), axis=1, reverse=loop.reverse) > 0
    return jnp.where(expand(mask, states), states, 0)
