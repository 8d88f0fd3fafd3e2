"""What a cell is: pure functions for one step of a recurrent layer, with the input projection apart.

A cell holds hyper-parameters only. Weights, carries and dropout masks are values that go in and come out, so a cell can
be scanned, jitted, differentiated and shared between Flax's APIs unchanged.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks

Params = Any
"""The weights of a cell: a dict of arrays, or a tuple of them for a stack."""

Carry = Any
"""The state that is handed from step to step: an array, or a (named) tuple of arrays."""

Projected = Any
"""What ``project`` makes of the inputs: a pytree whose leading axes are those of the inputs."""

Masks = Any
"""A ``DropoutMasks``, or a tuple of them for a stack; ``None`` where nothing is dropped."""

Weights = Any
"""What ``prepare`` makes of the weights: a pytree of arrays that a step uses as they are."""


class Affine(Protocol):
    """``(operand (B, N), kernel (N, M), addend) -> operand @ kernel + addend``, summed in the dtype of ``addend``.

    Where ``addend`` is a tuple of ``n`` arrays, ``kernel`` is ``(N, n M)``, and the result is a tuple, too: the blocks
    of columns, each with its addend. That is faster than ``n`` products.

    A step calls the one it is given for its products with the carry. The loop thereby sees them: it keeps their
    results for the backward pass, and hands them back in place of computing them again.
    """

    def __call__(
        self, operand: jax.Array, kernel: jax.Array, addend: Any, precision: jax.lax.PrecisionLike = None
    ) -> Any:
        """See above."""
        ...


def affine(operand: jax.Array, kernel: jax.Array, addend: Any, precision: jax.lax.PrecisionLike = None) -> Any:
    """The plain ``Affine``."""
    addends = addend if isinstance(addend, tuple) else (addend,)
    product = jnp.dot(operand, kernel, precision=precision, preferred_element_type=addends[0].dtype)
    blocks = jnp.split(product, len(addends), -1)
    if len(blocks) > 1:
        # On CPUs, XLA does not vectorize what reads columns of an array in place.
        blocks = jax.lax.platform_dependent(blocks, cpu=jax.lax.optimization_barrier, default=lambda same: same)
    results = tuple(block + one for block, one in zip(blocks, addends, strict=True))
    return results if isinstance(addend, tuple) else results[0]


class Dot(Protocol):
    """``(x (..., D), kernel (D, n M), n) -> x @ kernel``, as a tuple of ``n`` blocks of columns ``(..., M)``.

    What a projection takes its products from. Which one it is given depends, as with ``Affine``, on how the loop is
    evaluated.
    """

    def __call__(
        self, x: jax.Array, kernel: jax.Array, blocks: int, precision: jax.lax.PrecisionLike = None
    ) -> tuple[jax.Array, ...]:
        """See above."""
        ...


def dot(x: jax.Array, kernel: jax.Array, blocks: int, precision: jax.lax.PrecisionLike = None) -> tuple[jax.Array, ...]:
    """The plain ``Dot``: a product for each block, since over a whole sequence one more copy is dearer than that."""
    return tuple(jnp.dot(x, block, precision=precision) for block in jnp.split(kernel, blocks, -1))


class Cell(Protocol):
    """The protocol that ``rnn`` runs over time. Any object with these members will do; shapes are those of one step.

    Attributes:
      num_feature_axes: how many trailing axes of the inputs are not batch or time; 1 for dense cells.
      has_dropout: whether training needs a key.

    A cell whose steps use more than its weights, such as the memory that an attention reads, sets ``takes_constants``
    and has a method ``with_constants(params, constants) -> params``; see ``bind_constants``.
    """

    @property
    def num_feature_axes(self) -> int:
        """See above."""
        ...

    @property
    def has_dropout(self) -> bool:
        """See above."""
        ...

    def init_params(self, key: jax.Array, in_features: int) -> Params:
        """Fresh weights for inputs of ``in_features`` features."""
        ...

    def output_size(self, in_features: int) -> int:
        """The size of the last axis of the output for such inputs."""
        ...

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> Masks:
        """The masks for one whole sequence whose steps are shaped like ``inputs`` ``(B, D)``."""
        ...

    def project(self, params: Params, inputs: jax.Array, masks: Masks = None, dot: Dot = dot) -> Projected:
        """The part of the step that does not depend on the carry, for inputs ``(..., B, D)`` of any number of steps."""
        ...

    def initial_carry(self, params: Params, projected: Projected) -> Carry:
        """The zero carry for one step of projected inputs, with their batch axes, dtype and sharding."""
        ...

    def prepare(self, params: Params, projected: Projected, masks: Masks = None) -> Weights:
        """Whatever a step needs and does not change from step to step, such as casts and splits of the weights.

        ``projected`` is an example of a step's projected inputs.
        """
        ...

    def step(
        self, weights: Weights, carry: Carry, projected: Projected, affine: Affine = affine
    ) -> tuple[Carry, jax.Array]:
        """One step, ``(prepared weights, carry, projected inputs) -> (new carry of the same dtypes, output)``."""
        ...


def apply_cell(
    cell: Cell, params: Params, carry: Carry, inputs: ArrayLike, masks: Masks = None
) -> tuple[Carry, jax.Array]:
    """One step: ``(carry, inputs (B, D)) -> (new carry, output (B, H))``.

    Raises:
      ValueError: if ``inputs`` or ``carry`` do not have the shapes that ``cell`` needs.
    """
    projected = cell.project(params, jnp.asarray(inputs), masks)
    carry = _checks.carry_like("carry", cell.initial_carry(params, projected), carry)
    return cell.step(cell.prepare(params, projected, masks), carry, projected)


def zero_carry(cell: Cell, input_shape: tuple[int, ...], dtype: Any = jnp.float32) -> Carry:
    """The zero carry for inputs of ``input_shape`` ``(..., D)`` and ``dtype``, where there are none at hand yet."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _abstract_step(cell, input_shape, dtype)[0])


def output_shape(cell: Cell, input_shape: tuple[int, ...], dtype: Any = jnp.float32) -> tuple[int, ...]:
    """The shape of the output of one step, for inputs of ``input_shape`` ``(..., D)``."""
    return _abstract_step(cell, input_shape, dtype)[1].shape


def output_like(cell: Cell, params: Params, inputs: jax.Array, constants: Any = None) -> jax.Array:
    """Zeros like the output of one step with ``inputs`` ``(..., D)``."""

    def output(params: Params, inputs: jax.Array, constants: Any) -> jax.Array:
        return _first_step(cell, bind_constants(cell, params, constants if takes_constants(cell) else None), inputs)[1]

    shape = jax.eval_shape(output, params, inputs, constants)
    return jnp.zeros(shape.shape, shape.dtype)


def bind_constants(cell: Cell, params: Params, constants: Any) -> Params:
    """The weights of ``cell`` together with ``constants``, any tree of arrays that all steps of a sequence share.

    Raises:
      ValueError: if there are ``constants`` and the cell takes none.
    """
    if constants is None:
        return params
    if not takes_constants(cell):
        raise ValueError(f"constants: expected None for a cell that takes none, {cell}, got {type(constants).__name__}")
    with_constants: Any = cell
    return with_constants.with_constants(params, constants)


def takes_constants(cell: Cell) -> bool:
    """Whether ``cell`` has a use for constants."""
    return getattr(cell, "takes_constants", False)


def _abstract_step(cell: Cell, input_shape: tuple[int, ...], dtype: Any) -> tuple[Carry, Any]:
    """Shapes and dtypes of zero carry and output."""

    def build(key: jax.Array, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        return _first_step(cell, cell.init_params(key, input_shape[-1]), inputs)

    return jax.eval_shape(build, jax.random.key(0), jax.ShapeDtypeStruct(tuple(input_shape), dtype))


def _first_step(cell: Cell, params: Params, inputs: jax.Array) -> tuple[Carry, jax.Array]:
    """The carry to start from, and the output of a step from there."""
    projected = cell.project(params, inputs)
    carry = cell.initial_carry(params, projected)
    return carry, cell.step(cell.prepare(params, projected), carry, projected)[1]
