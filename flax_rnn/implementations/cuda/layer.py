"""A layer that the kernels run: all steps are one kernel forwards and one backwards.

Products of inputs are ahead of the steps, and those of gradients behind them, all of them XLA's. They are of all gates
at once, since each of several small ones takes as long to launch as to run. ``operands_of`` makes what the kernels take
of a cell's prepared weights and projected inputs, and ``results_of`` makes outputs and states of what they return; both
are plain jax code, which jax differentiates.

The kernels themselves cannot be differentiated, so a second derivative is that of ``fused``, which has the same values.
"""

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.protocol import Carry
from flax_rnn.implementations import fused, partitioned
from flax_rnn.implementations.cuda import kernels, library
from flax_rnn.implementations.cuda.kernels import Kernel, Operands, Saved
from flax_rnn.implementations.cuda.operands import Layer, operands_of, results_of
from flax_rnn.implementations.cuda.tiles import Tile, tile
from flax_rnn.implementations.derivatives import differentiable, floats, merged
from flax_rnn.implementations.loop import Arrays, Inputs, Loop, State, select, used
from flax_rnn.implementations.native.kernels import activation_name, kind
from flax_rnn.implementations.precision import allows_tf32
from flax_rnn.implementations.products import kernel_gradient
from flax_rnn.implementations.protocol import Request


class Cuda:
    """See ``Implementation``."""

    name: ClassVar[str] = "cuda"
    time_major: ClassVar[bool] = True

    def obstacle(self, request: Request) -> str | None:
        """Whatever the kernels are not made for, or cannot be reached from."""
        if request.portable:
            return "the kernels are compiled for this machine's GPU"
        if request.platform != "gpu":
            return f"the kernels are for NVIDIA's GPUs, and the default backend is {request.platform!r}"
        if request.shape is not None and 0 in request.shape:
            return "the kernels need a row and a step"
        if request.sharded and (reason := _unshardable()):
            return reason
        return unsupported(request.cell, request.dtype) or library.absent() or _too_large(request)

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""
        cell: Any = loop.cell
        params, masks, carry, x, mask, resets = arrays
        projected = _projected(cell, params, used(x, mask), masks)
        weights = cell.prepare(params, (projected,), masks)
        held = jnp.zeros_like(projected[0, ..., : cell.units]) if loop.holds else None
        state, outputs = _layer(loop, (weights, State(carry, held), Inputs(projected, mask, resets)))
        return (outputs if loop.options.return_sequences else state.output), state.carry


def unsupported(cell: Any, dtype: Any) -> str | None:
    """Why there is no kernel for ``cell``, in words; ``None`` if there is one."""
    if kind(cell) not in ("lstm", "gru", "simple_rnn"):
        before = ", which resets before the product" if kind(cell) else ""
        return f"there is no CUDA kernel for {type(cell).__name__}{before}"
    for name in ("activation", "recurrent_activation"):
        if activation_name(getattr(cell, name, None)) is None:
            return f"the CUDA kernels have no {name} {getattr(cell, name)!r}"
    if dtype == jnp.float32 and not allows_tf32(cell.precision):
        config: Any = jax.config
        asked = cell.precision or config.jax_default_matmul_precision
        return f"the CUDA kernels compute in TF32 where arrays are float32, not with precision {asked!r}"
    if dtype not in (jnp.float32, jnp.bfloat16):
        return f"the CUDA kernels take bfloat16 and float32, not {dtype}"
    if (
        kind(cell) == "simple_rnn"
        and dtype == jnp.bfloat16
        and str(activation_name(cell.activation)).startswith("hard")
    ):
        return f"the gradient of {cell.activation!r} does not follow from outputs that are rounded to bfloat16"
    return None


def _unshardable() -> str | None:
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return "on a mesh with axes of type Explicit the CUDA kernels run within jax.shard_map over all of them"
    return partitioned.obstacle()


def _too_large(request: Request) -> str | None:
    if not library.here():
        return f"there are no CUDA kernels for {request.device or 'this GPU'}"
    found = _tile(request.cell, request.dtype, request.shape[0] if request.shape else 1)
    return found if isinstance(found, str) else None


def _tile(cell: Any, dtype: Any, rows: int) -> Tile | str:
    return tile(jnp.dtype(dtype).name, cell.units, rows, library.has_clusters())


def _projected(cell: Any, params: Any, x: jax.Array, masks: DropoutMasks | None) -> jax.Array:
    """What ``DenseCell.project`` returns, as one array ``(T, *batch, G H)``."""
    plain, dropped = cell.plain(params), (masks and masks.inputs) or ()
    dtype = cell.dtype or jnp.result_type(x.dtype, params["kernel"].dtype)
    x, kernel = x.astype(dtype), plain["kernel"].astype(dtype)
    kernels = cell.split_gates(kernel) if len(dropped) > 1 else [kernel]
    inputs = [x * mask.astype(dtype) for mask in dropped] or [x]
    products: list[Any] = [_product(cell.precision, one, part) for one, part in zip(inputs, kernels, strict=True)]
    projected = jnp.concatenate(products, -1) if len(products) > 1 else products[0]
    return projected + cell.projected_bias(plain["bias"]).astype(dtype) if cell.use_bias else projected


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(precision: Any, x: jax.Array, kernel: jax.Array) -> Any:
    return jnp.dot(x, kernel, precision=precision)


def _product_forward(precision: Any, x: jax.Array, kernel: jax.Array) -> tuple[Any, Any]:
    return _product(precision, x, kernel), (x, kernel)


def _product_backward(precision: Any, residuals: Any, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    return jnp.dot(d, kernel.T, precision=precision), kernel_gradient(kernel, x, d, precision)


_product.defvjp(_product_forward, _product_backward)


def _kernel(loop: Loop, inputs: Inputs) -> Kernel:
    cell: Any = loop.cell
    like = inputs.projected
    found = _tile(cell, like.dtype, math.prod(like.shape[1:-1]))
    names = (activation_name(getattr(cell, name, None)) for name in ("activation", "recurrent_activation"))
    activation, recurrent = names
    name = kind(cell)
    assert isinstance(found, Tile) and name and activation and recurrent, "see `obstacle`"
    return Kernel(name, like.dtype.name, found, activation, recurrent, loop.options.go_backwards)


def _forward(loop: Loop, layer: Layer, keep: bool) -> tuple[tuple[State, Any], Saved]:
    """``((final state, outputs), saved)``."""
    kernel = _kernel(loop, layer[2])
    saved, h, c = kernels.forward(kernel, operands_of(kernel, layer), loop.options.return_sequences, keep)
    return results_of(loop, layer, saved.outputs, h, c), saved


def _backward(loop: Loop, layer: Layer, saved: Saved, cotangents: Any) -> Any:
    """The gradients of what is differentiable in ``layer``."""
    kernel = _kernel(loop, layer[2])

    def split(some: Any) -> tuple[Operands, tuple[Any, Any]]:
        operands = operands_of(kernel, merged(layer, some))
        return operands._replace(mask=None, resets=None), (operands.mask, operands.resets)

    operands, pull, (mask, resets) = jax.vjp(split, floats(layer), has_aux=True)
    whole = operands._replace(mask=mask, resets=resets)
    last = jnp.zeros_like(saved.outputs[0], jnp.float32)
    c = None if whole.c is None else last
    _, pull_results = jax.vjp(lambda outputs, h, c: results_of(loop, layer, outputs, h, c), saved.outputs, last, c)
    d_outputs, d_h, d_c = pull_results(cotangents)
    sequences = d_outputs if loop.options.return_sequences else None
    d_sums, d_h0, d_c0 = kernels.backward(kernel, whole, saved, sequences, d_h, d_c)
    return pull(_gradients(loop, kernel, whole, operands, saved, d_sums, d_h0, d_c0))[0]


def _gradients(
    loop: Loop, kernel: Kernel, operands: Operands, like: Operands, saved: Saved, d_sums: jax.Array, d_h: jax.Array,
    d_c: jax.Array | None,
) -> Operands:  # fmt: skip
    """The gradients of the operands, from those of all sums at once."""
    cell: Any = loop.cell
    units, gru = kernel.tile.units, kernel.cell == "gru"
    before = _before(kernel, operands, saved.outputs)
    of_gates = jnp.concatenate([d_sums[..., : 2 * units], d_sums[..., 3 * units :]], -1) if gru else d_sums
    d_bias = d_sums[..., 3 * units :].astype(jnp.float32).sum((0, 1)) if gru else None
    if operands.dropped is None:
        d_recurrent, d_dropped = kernel_gradient(operands.recurrent, before, of_gates, cell.precision), None
    else:
        blocks = of_gates.reshape(*of_gates.shape[:-1], kernel.gates, units)
        columns = operands.recurrent.reshape(units, kernel.gates, units)
        left = before * operands.dropped[:, None]
        d_recurrent = jnp.einsum("gtbh,tbgk->hgk", left, blocks, precision=cell.precision).reshape(units, -1)
        # For which hardly anybody asks; otherwise XLA drops it.
        d_left = jnp.einsum("tbgk,hgk->gtbh", blocks, columns, precision=cell.precision)
        d_dropped = (before * d_left).sum(1)
    found = Operands(d_sums[..., : kernel.gates * units], d_recurrent, d_bias, d_dropped, d_h, d_c, None, None)
    return jax.tree.map(lambda gradient, array: gradient.astype(array.dtype), found, like)


def _before(kernel: Kernel, operands: Operands, outputs: jax.Array) -> jax.Array:
    """The state ahead of each step, from those behind them."""
    first = operands.h.astype(outputs.dtype)[None]
    parts = [outputs[1:], first] if kernel.reverse else [first, outputs[:-1]]
    before = jnp.concatenate(parts)
    return before if operands.resets is None else select(~operands.resets, before, jnp.zeros_like(before))


def _by_xla(loop: Loop, layer: Layer) -> tuple[State, jax.Array | None]:
    """The same, for second derivatives."""
    weights, state, inputs = layer
    cell: Any = loop.cell
    return fused.scan(loop, weights, state, inputs._replace(projected=tuple(cell.split_gates(inputs.projected))))


_layer = differentiable(_forward, _backward, _by_xla)
