"""The loop over time: what one iteration does, and its plain evaluation."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Affine, Carry, Cell, Masks, Params, Projected, Weights, affine


@dataclasses.dataclass(frozen=True)
class Loop:
    """What is fixed about a loop; hashable, so that jax can take it as a static argument.

    Attributes:
      cell: the cell.
      return_sequences: whether to return the outputs of all steps.
      reverse: whether to start at the last step.
      unroll: how many steps one iteration has, or ``True`` for all.
      zero: whether masked steps output zeros rather than the last output that was not masked.
      masked: whether there is a mask.
      implementation: which evaluation was asked for.
    """

    cell: Cell
    return_sequences: bool
    reverse: bool
    unroll: bool | int
    zero: bool
    masked: bool
    implementation: str

    @property
    def holds(self) -> bool:
        """Whether the last output is handed from step to step."""
        return not self.return_sequences or (self.masked and not self.zero)


class State(NamedTuple):
    """What goes from step to step: the cell's carry, and the last output if the loop ``holds`` it."""

    carry: Carry
    output: jax.Array | None


class Inputs(NamedTuple):
    """What comes in at each step: projected inputs, and ``(B,)`` booleans, which rows count and which start anew."""

    projected: Projected
    mask: jax.Array | None
    resets: jax.Array | None


def start(loop: Loop, weights: Weights, carry: Carry, first: Projected) -> State:
    """The state to start from; ``first`` is an example of a step's projected inputs."""
    # Only shape, dtype and sharding of this output are used, so XLA drops its computation.
    return State(carry, jnp.zeros_like(loop.cell.step(weights, carry, first)[1]) if loop.holds else None)


def advance(
    loop: Loop, weights: Weights, state: State, inputs: Inputs, affine: Affine = affine
) -> tuple[State, jax.Array | None]:
    """One iteration: the cell's step, and what resets and the mask make of it."""
    if inputs.resets is not None:
        state = jax.tree.map(lambda leaf: jnp.where(expand(inputs.resets, leaf), jnp.zeros_like(leaf), leaf), state)
    carry, output = loop.cell.step(weights, state.carry, inputs.projected, affine)
    if inputs.mask is not None:
        carry = jax.tree.map(lambda new, old: jnp.where(expand(inputs.mask, new), new, old), carry, state.carry)
        masked: Any = state.output if loop.holds else jnp.zeros_like(output)
        output = jnp.where(expand(inputs.mask, output), output, masked)
    return State(carry, output if loop.holds else None), output if loop.return_sequences else None


def scan(loop: Loop, weights: Weights, state: State, inputs: Inputs) -> tuple[State, jax.Array | None]:
    """All iterations: ``(final state, outputs (T, B, ...))``, the outputs in the order of the inputs."""
    return jax.lax.scan(
        lambda state, inputs: advance(loop, weights, state, inputs),
        state,
        inputs,
        reverse=loop.reverse,
        unroll=loop.unroll or 1,
    )


def run(
    evaluate: Callable[..., Any], loop: Loop, params: Params, masks: Masks, carry: Carry, inputs: Inputs
) -> tuple[jax.Array, Carry]:
    """``(outputs of all steps or of the last, last carry)``, by ``scan`` or another evaluation of the loop."""
    first = jax.tree.map(lambda leaf: leaf[0], inputs.projected)
    weights = loop.cell.prepare(params, first, masks)
    state, outputs = evaluate(loop, weights, start(loop, weights, carry, first), inputs)
    return (state.output if outputs is None else outputs), state.carry


def used(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """``x`` with zeros where it is masked: a NaN there would reach gradients even through a `where` on the carry."""
    return x if mask is None else jnp.where(expand(mask, x), x, jnp.zeros_like(x))


def expand(mask: Any, like: jax.Array) -> jax.Array:
    """``mask`` with trailing axes of size 1, to select rows of ``like``."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))
