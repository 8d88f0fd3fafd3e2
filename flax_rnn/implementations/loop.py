"""The loop over time: what is fixed about it, what comes in, and what one iteration does."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Affine, Carry, Cell, Dot, Masks, Params, Projected, Weights, affine
from flax_rnn.implementations.options import SequenceOptions


@dataclasses.dataclass(frozen=True)
class Loop:
    """What is fixed about a loop; hashable if the cell is, so that jax can take it as a static argument.

    Attributes:
      cell: the cell.
      options: how to run it.
      masked: whether there is a mask.
      from_zeros: whether the carry to start from is known to be zeros.
    """

    cell: Cell
    options: SequenceOptions
    masked: bool
    from_zeros: bool

    @property
    def holds(self) -> bool:
        """Whether the last output is handed from step to step."""
        return not self.options.return_sequences or (self.masked and not self.options.zero_output_for_mask)

    @property
    def lasting(self) -> bool:
        """Whether what is traced for it may be kept: an equal loop can come again."""
        return isinstance(self.cell, Hashable) and not getattr(self.cell, "transient", False)


class Arrays(NamedTuple):
    """What comes in. The implementation says where it wants the time axis; the features ``D`` are one or more axes.

    Attributes:
      params: the weights.
      masks: of dropout.
      carry: to start from.
      x: inputs ``(*batch, T, D)``, or ``(T, *batch, D)``.
      mask: booleans ``(*batch, T)`` or ``(T, *batch)``: which steps count; or ``None``.
      resets: the same for the steps ahead of which the carry is set to zero.
    """

    params: Params
    masks: Masks
    carry: Carry
    x: jax.Array
    mask: jax.Array | None
    resets: jax.Array | None


class State(NamedTuple):
    """What goes from step to step: the cell's carry, and the last output if the loop ``holds`` it."""

    carry: Carry
    output: Any


class Inputs(NamedTuple):
    """What comes in at each step: projected inputs, and booleans ``(*batch,)``, which rows count and which start anew.

    Those of all steps have the time axis first.
    """

    projected: Projected
    mask: jax.Array | None
    resets: jax.Array | None


def advance(
    loop: Loop, weights: Weights, state: State, inputs: Inputs, affine: Affine = affine
) -> tuple[State, jax.Array | None]:
    """One iteration: the cell's step, and what resets and the mask make of it."""
    if inputs.resets is not None:
        state = jax.tree.map(lambda leaf: select(inputs.resets, jnp.zeros_like(leaf), leaf), state)
    carry, output = loop.cell.step(weights, state.carry, inputs.projected, affine)
    if inputs.mask is not None:
        carry = jax.tree.map(lambda new, old: select(inputs.mask, new, old), carry, state.carry)
        masked: Any = state.output if loop.holds else jax.tree.map(jnp.zeros_like, output)
        output = jax.tree.map(lambda new, old: select(inputs.mask, new, old), output, masked)
    return State(carry, output if loop.holds else None), output if loop.options.return_sequences else None


Evaluate = Callable[[Loop, Weights, State, Inputs], tuple[State, Any]]
"""All iterations: ``(final state, outputs (T, *batch, ...))``, the outputs in the order of the inputs."""


def run(evaluate: Evaluate, dot: Dot, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
    """``(outputs of all steps or of the last, last carry)`` of a loop in XLA, for arrays with the time axis first."""
    cell, (params, masks, carry, x, mask, resets) = loop.cell, arrays
    inputs = Inputs(cell.project(params, used(x, mask), masks, dot), mask, resets)
    first = jax.tree.map(lambda leaf: leaf[0], inputs.projected)
    weights = cell.prepare(params, first, masks)
    held = None
    if loop.holds:
        # Only shape, dtype and sharding of this output are used, so XLA drops its computation.
        held = jax.tree.map(jnp.zeros_like, cell.step(weights, carry, first)[1])
    state, outputs = evaluate(loop, weights, State(carry, held), inputs)
    return (outputs if loop.options.return_sequences else state.output), state.carry


def used(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """``x`` with zeros where it is masked: a NaN there would reach gradients even through a `where` on the carry."""
    return x if mask is None else select(mask, x, jnp.zeros_like(x))


def select(mask: Any, this: jax.Array, other: Any) -> jax.Array:
    """``this`` where ``mask`` ``(*batch,)`` is true, else ``other``, both ``(*batch, ...)``.

    Raises:
      ValueError: if they have not the axes of the mask, as a counter in the carry of a cell of others.
    """
    if this.shape[: mask.ndim] != mask.shape:
        raise ValueError(
            f"mask, resets: expected carry and output whose leaves begin with the batch axes {mask.shape}, got one of "
            f"shape {this.shape}"
        )
    return jnp.where(mask.reshape(mask.shape + (1,) * (this.ndim - mask.ndim)), this, other)
