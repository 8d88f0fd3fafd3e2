"""A loop in chunks of some steps, of which only the states between them are kept for the backward pass.

On the way back the steps of a chunk are computed again, so that memory for what they leave behind does not grow with
the length of the sequence: sublinear memory, Chen et al. 2016, https://arxiv.org/abs/1604.06174. Sequences are read and
written where they lie, a chunk at a time, which jax's own derivative of a loop would not do.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn.cells.protocol import Carry, Masks, Params
from flax_rnn.implementations.derivatives import floats, merged
from flax_rnn.implementations.loop import Arrays, Loop, State, select
from flax_rnn.implementations.protocol import Implementation


class Point(NamedTuple):
    """What a chunk is differentiated by."""

    params: Params
    masks: Masks
    state: State
    x: jax.Array


def run_in_chunks(implementation: Implementation, loop: Loop, arrays: Arrays, size: int) -> tuple[Any, Carry]:
    """As ``implementation.run``, in chunks of ``size`` steps; the first one has what is left over."""
    axis = 0 if implementation.time_major else arrays.x.ndim - loop.cell.num_feature_axes - 1
    chunks = Chunks(implementation, loop, axis, arrays.x.shape[axis], min(size, arrays.x.shape[axis]))
    run = jax.custom_vjp(lambda arrays: chunks.forward(arrays)[0])
    run.defvjp(chunks.forward, chunks.backward)
    return run(arrays)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The chunks of a loop, in the order in which they are run; sequences have ``count`` steps along ``axis``."""

    implementation: Implementation
    loop: Loop
    axis: int
    count: int
    size: int

    @property
    def later(self) -> int:
        """How many chunks there are behind the first one."""
        return (self.count - 1) // self.size

    @property
    def first(self) -> int:
        """The steps of the first chunk."""
        return self.count - self.later * self.size

    def start(self, index: Any) -> Any:
        """Where chunk ``index`` begins."""
        if self.loop.options.go_backwards:
            return self.count - self.first - index * self.size
        return jnp.where(index > 0, self.first + (index - 1) * self.size, 0)

    def cut(self, sequences: Any, index: Any, steps: int) -> Any:
        """The steps of a chunk."""
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, self.start(index), steps, self.axis), sequences
        )

    def put(self, sequences: Any, index: Any, chunk: Any) -> Any:
        """``sequences`` with the steps of a chunk in their place."""
        return jax.tree.map(
            lambda leaf, part: jax.lax.dynamic_update_slice_in_dim(leaf, part, self.start(index), self.axis),
            sequences,
            chunk,
        )

    def empty(self, chunk: Any) -> Any:
        """Zeros for sequences of which this is a chunk."""
        return jax.tree.map(
            lambda leaf: jnp.zeros((*leaf.shape[: self.axis], self.count, *leaf.shape[self.axis + 1 :]), leaf.dtype),
            chunk,
        )

    def run(self, point: Point, marks: tuple[Any, Any], is_first: bool) -> tuple[State, Any]:
        """A chunk: the state behind it, and its outputs if those of all steps are asked for."""
        loop = self.loop if is_first else dataclasses.replace(self.loop, from_zeros=False)
        outputs, carry = self.implementation.run(
            loop, Arrays(point.params, point.masks, point.state.carry, point.x, *marks)
        )
        if loop.masked and loop.holds and not is_first:
            outputs = self.held(marks, point.state.output, outputs)
        if not loop.options.return_sequences:
            return State(carry, outputs), None
        end = 0 if loop.options.go_backwards else -1
        last = jax.tree.map(lambda leaf: jax.lax.index_in_dim(leaf, end, self.axis, keepdims=False), outputs)
        return State(carry, last if loop.holds else None), outputs

    def held(self, marks: tuple[Any, Any], before: Any, outputs: Any) -> Any:
        """``outputs`` with the one ``before`` where no step of this chunk has counted yet."""
        mask, resets = marks
        touched = mask if resets is None else mask | resets
        if not self.loop.options.return_sequences:
            return jax.tree.map(lambda new, old: select(touched.any(self.axis), new, old), outputs, before)
        touched = jax.lax.cummax(touched.astype(jnp.int32), self.axis, self.loop.options.go_backwards) > 0
        return jax.tree.map(lambda new, old: select(touched, new, jnp.expand_dims(old, self.axis)), outputs, before)

    def forward(self, arrays: Arrays) -> tuple[tuple[Any, Carry], Any]:
        """The result of all, and for the way back the state ahead of each chunk but the first."""
        start = Point(arrays.params, arrays.masks, State(arrays.carry, None), self.cut(arrays.x, 0, self.first))
        state, chunk = self.run(start, self.cut(arrays[-2:], 0, self.first), True)
        outputs = self.put(self.empty(chunk), 0, chunk)

        def step(carry: tuple[State, Any], index: jax.Array) -> tuple[tuple[State, Any], State]:
            state, outputs = carry
            x, *marks = self.cut(arrays[-3:], index, self.size)
            after, chunk = self.run(Point(arrays.params, arrays.masks, state, x), (marks[0], marks[1]), False)
            return (after, self.put(outputs, index, chunk)), state

        (state, outputs), states = jax.lax.scan(step, (state, outputs), jnp.arange(1, self.later + 1))
        result = outputs if self.loop.options.return_sequences else state.output
        return (result, state.carry), (arrays, states)

    def backward(self, kept: Any, cotangents: Any) -> tuple[Arrays]:
        """The gradients of ``arrays``."""
        arrays, states = kept
        d_outputs, d_carry = cotangents
        d_last = None
        if not self.loop.options.return_sequences:
            d_last, d_outputs = d_outputs, None
        elif self.loop.holds:
            d_last = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), states.output)

        def pull(index: Any, steps: int, state: State, d_state: Any) -> Point:
            x, *marks = self.cut(arrays[-3:], index, steps)
            point = Point(arrays.params, arrays.masks, state, x)
            is_first = state is first
            _, back = jax.vjp(
                lambda some: floats(self.run(merged(point, some), (marks[0], marks[1]), is_first)), floats(point)
            )
            return back((d_state, floats(self.cut(d_outputs, index, steps))))[0]

        def step(carry: Any, at: tuple[jax.Array, State]) -> tuple[Any, None]:
            d_state, d_weights, d_x = carry
            d_point = pull(at[0], self.size, at[1], d_state)
            d_weights = jax.tree.map(jnp.add, d_weights, (d_point.params, d_point.masks))
            return (d_point.state, d_weights, self.put(d_x, at[0], d_point.x)), None

        first = State(arrays.carry, None)
        zeros = jax.tree.map(jnp.zeros_like, floats(((arrays.params, arrays.masks), arrays.x)))
        carry = floats(State(d_carry, d_last)), *zeros
        (d_state, d_weights, d_x), _ = jax.lax.scan(step, carry, (jnp.arange(1, self.later + 1), states), reverse=True)
        d_point = pull(0, self.first, first, d_state)
        d_params, d_masks = jax.tree.map(jnp.add, d_weights, (d_point.params, d_point.masks))
        return (Arrays(d_params, d_masks, d_point.state.carry, self.put(d_x, 0, d_point.x), None, None),)
