"""A layer that the kernels run: forward pass, backward pass, and derivatives of the latter.

The forward pass keeps ``h`` of all steps, the values of the gates, and ``c`` of an LSTM. The backward pass goes over
the steps for the gradients of the sums that enter the gates, which take the place of the gates' values; those of
weights and inputs follow from all steps at once.

The kernels themselves cannot be differentiated, so a second derivative is that of the implementation ``fused``, which
has the same values.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.protocol import Carry, Params
from flax_rnn.implementations import partitioned
from flax_rnn.implementations.batch import one_batch_axis
from flax_rnn.implementations.derivatives import differentiable
from flax_rnn.implementations.fused import Fused
from flax_rnn.implementations.loop import Arrays, Loop, select, used
from flax_rnn.implementations.native import kernels
from flax_rnn.implementations.native.kernels import Saved
from flax_rnn.implementations.protocol import Request

# What has fewer digits than float32 is rounded when all is done.
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)


class Native:
    """See ``Implementation``."""

    name: ClassVar[str] = "native"
    time_major: ClassVar[bool] = False  # a core has the whole sequence of a row

    def obstacle(self, request: Request) -> str | None:
        """Whatever the kernels are not made for, or cannot be reached from."""
        if request.portable:
            return "the native kernels are bound to this machine"
        if request.platform != "cpu":
            return f"the native kernels are for CPUs, and the default backend is {request.platform!r}"
        if request.dtype not in _DTYPES:
            return f"the native kernels compute in float32, not {request.dtype}"
        if request.resets:
            return "the native kernels have no resets"
        return (partitioned.obstacle() if request.sharded else None) or kernels.unsupported(request.cell)

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""
        *batch, steps, _ = arrays.x.shape
        cell: Any = loop.cell
        dtype = cell.dtype or jnp.result_type(arrays.x.dtype, arrays.params["kernel"].dtype)
        rows = jax.tree.map(jnp.float32, (arrays.x, arrays.carry, arrays.masks))
        ((x, carry, masks), mask), params = partitioned.aligned((rows, arrays.mask), arrays.params)
        whole: Any = _layer(loop, one_batch_axis(Arrays(params, masks, carry, x, mask, None), len(batch)))
        sequence = (*batch, steps) if loop.options.return_sequences else batch
        outputs = whole[0].reshape(*sequence, whole[0].shape[-1]).astype(dtype)
        return outputs, jax.tree.map(lambda new, old: new.reshape(old.shape).astype(old.dtype), whole[1], arrays.carry)


def _forward(loop: Loop, arrays: Arrays, keep: bool) -> tuple[tuple[jax.Array, Carry], Saved]:
    """``((outputs, last carry), saved)``."""
    weights, x = _plain(loop.cell, arrays.params), arrays.x.astype(jnp.float32)
    options = loop.options
    last, saved = kernels.forward(
        loop.cell, weights, arrays.masks, arrays.carry, x, arrays.mask, options.go_backwards, options.return_sequences,
        keep,
    )  # fmt: skip
    return (_outputs(loop, last, saved.outputs, arrays.mask), last), saved


def _backward(loop: Loop, arrays: Arrays, saved: Saved, cotangents: Any) -> Arrays:
    """The gradients of ``arrays``."""
    cell, options, x = loop.cell, loop.options, arrays.x.astype(jnp.float32)
    d_outputs, d_last = cotangents
    _, pull = jax.vjp(lambda last, states: _outputs(loop, last, states, arrays.mask), d_last, saved.outputs)
    d_last_too, d_states = pull(d_outputs)
    weights, pull = jax.vjp(lambda params: _plain(cell, params), arrays.params)
    d_sums, d_carry = kernels.backward(
        cell, weights["recurrent_kernel"], arrays.masks, arrays.carry, saved, arrays.mask, options.go_backwards,
        jax.tree.map(jnp.add, d_last, d_last_too), d_states if options.return_sequences else None,
    )  # fmt: skip
    d_x = kernels.inputs_gradient(cell, d_sums, weights["kernel"], arrays.masks)
    d_kernel, d_recurrent, d_bias = kernels.weights_gradient(
        cell, d_sums, x, saved, arrays.carry, arrays.mask, arrays.masks, options.go_backwards
    )
    (d_params,) = pull({"kernel": d_kernel, "recurrent_kernel": d_recurrent, "bias": d_bias})
    d_masks = None if arrays.masks is None else _masks_gradients(loop, weights, arrays, saved, d_sums)
    return Arrays(d_params, d_masks, d_carry, d_x.astype(arrays.x.dtype), None, None)


def _masks_gradients(loop: Loop, weights: Any, arrays: Arrays, saved: Saved, d_sums: jax.Array) -> DropoutMasks:
    """Those of dropout masks, for which hardly anybody asks; otherwise XLA drops all of this."""
    cell: Any = loop.cell
    inputs = [used(arrays.x, arrays.mask)] * cell.num_gates
    h0 = jax.tree.leaves(arrays.carry)[0][:, None]
    states = [saved.outputs[:, 1:], h0] if loop.options.go_backwards else [h0, saved.outputs[:, :-1]]
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


def _by_xla(loop: Loop, arrays: Arrays) -> tuple[jax.Array, Carry]:
    """As ``_layer``, for its second derivatives."""
    mask = None if arrays.mask is None else arrays.mask.T
    outputs, last = Fused().run(loop, arrays._replace(x=arrays.x.swapaxes(0, 1), mask=mask))
    return (outputs.swapaxes(0, 1) if loop.options.return_sequences else outputs), last


_layer = differentiable(_forward, _backward, _by_xla)


def _plain(cell: Any, params: Params) -> dict[str, jax.Array]:
    """The weights as the kernels take them: in float32, and ``bias`` in the order of the sums."""
    plain = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in cell.plain(params).items()}
    bias = cell.projected_bias(plain["bias"]) if cell.use_bias else jnp.zeros(cell.num_gates * cell.units, jnp.float32)
    if kernels.kind(cell) == "gru":
        recurrent = cell.recurrent_bias(plain, jnp.float32)
        bias = jnp.concatenate([bias, jnp.zeros(cell.units, jnp.float32) if recurrent is None else recurrent])
    return plain | {"bias": bias}


def _outputs(loop: Loop, last: Carry, states: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The outputs that the loop returns, from the states ``h`` of all steps and the last carry."""
    options, h = loop.options, jax.tree.leaves(last)[0]
    zero = options.zero_output_for_mask
    if mask is None or (loop.from_zeros and (not zero or not options.return_sequences)):
        return states if options.return_sequences else h
    if not options.return_sequences:
        return select(mask.any(1), h, 0)
    if not zero:
        # The last output, which is the state except ahead of the first step that counts.
        mask = jax.lax.cummax(mask.astype(jnp.int32), axis=1, reverse=options.go_backwards) > 0
    return select(mask, states, 0)
