"""What the kernels take, made of a cell's prepared weights and inputs, and what becomes of what they return.

All of it is plain jax code that jax differentiates: several batch axes become one, dtypes those of the kernels, blocks
of weights one matrix, and units that the tile has and the layer has not are zeros.
"""

from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn.cells.dense import RecurrentWeights
from flax_rnn.implementations.cuda.kernels import Kernel, Operands
from flax_rnn.implementations.loop import Inputs, Loop, State, select

Layer = tuple[RecurrentWeights, State, Inputs]
"""What the loop takes."""


def operands_of(kernel: Kernel, layer: Layer) -> Operands:
    """What the kernels take; with zeros for units that the tile has and the layer has not."""
    weights, state, inputs = layer
    units, gates = kernel.tile.units, kernel.gates
    _, *batch, _ = inputs.projected.shape
    leaves = jax.tree.leaves(state.carry)

    def rows(array: jax.Array, axes: int) -> jax.Array:
        """With one batch axis behind so many others."""
        return array.reshape(*array.shape[:axes], -1, *array.shape[axes + len(batch) :])

    x = rows(inputs.projected, 1)
    x = _filled(x.reshape(*x.shape[:2], gates, -1), units).reshape(*x.shape[:2], gates * units)
    dtype = x.dtype
    recurrent = _blocks(weights.kernels, gates)
    filled = jnp.pad(_filled(recurrent, units), ((0, units - recurrent.shape[0]), (0, 0), (0, 0)))
    masks = None if weights.masks is None else jnp.concatenate([_stacked(mask, len(batch)) for mask in weights.masks])
    bias = None
    if kernel.cell == "gru":
        bias = jnp.zeros(units) if weights.bias is None else _filled(weights.bias, units)
    return Operands(
        x, filled.reshape(units, gates * units).astype(dtype), None if bias is None else bias.astype(jnp.float32),
        None if masks is None else _filled(rows(masks, 1), units).astype(dtype),
        *(_filled(rows(leaf, 0), units).astype(jnp.float32) for leaf in leaves), *(None,) * (2 - len(leaves)),
        *(None if steps_of is None else rows(steps_of, 1) for steps_of in (inputs.mask, inputs.resets)),
    )  # fmt: skip


def _blocks(recurrent: tuple[jax.Array, ...], gates: int) -> jax.Array:
    """``(H, G, H)`` of the arrays that ``DenseCell.prepare`` makes: ``(H, n H)``, or ``(n, H, H)``."""
    parts = [
        part.swapaxes(0, 1) if part.ndim == 3 else part.reshape(part.shape[0], -1, part.shape[0]) for part in recurrent
    ]
    found = jnp.concatenate(parts, 1)
    assert found.shape[1] == gates
    return found


def _stacked(mask: jax.Array, batch_axes: int) -> jax.Array:
    """``(n, *batch, H)`` of a mask of one gate or several."""
    return mask if mask.ndim == batch_axes + 2 else mask[None]


def _filled(array: jax.Array, units: int) -> jax.Array:
    """With zeros at the end of the last axis."""
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, units - array.shape[-1])])


def results_of(
    loop: Loop, layer: Layer, states: jax.Array, h: jax.Array, c: jax.Array | None
) -> tuple[State, jax.Array | None]:
    """``(final state, outputs)`` from ``h`` of all steps and the last states; see ``loop.advance``."""
    _, state, inputs = layer
    cell: Any = loop.cell
    mask, options, dtype = inputs.mask, loop.options, inputs.projected.dtype
    batch, units = inputs.projected.shape[1:-1], cell.units
    leaves, tree = jax.tree.flatten(state.carry)
    new = [one[:, :units].reshape(*batch, units) for one in (h, c) if one is not None]
    carry = jax.tree.unflatten(tree, [one.astype(leaf.dtype) for one, leaf in zip(new, leaves, strict=True)])
    output = None
    if loop.holds:
        last = new[0].astype(dtype)
        output = last if mask is None else select(mask.any(0), last, jnp.zeros_like(last))
    if not options.return_sequences:
        return State(carry, output), None
    outputs = states[..., :units].reshape(states.shape[0], *batch, units)
    if mask is not None:
        if not options.zero_output_for_mask:
            # The last output, which is the state except ahead of the first step that counts.
            mask = jax.lax.cummax(mask.astype(jnp.int32), axis=0, reverse=options.go_backwards) > 0
        outputs = select(mask, outputs, jnp.zeros_like(outputs))
    return State(carry, output), outputs
