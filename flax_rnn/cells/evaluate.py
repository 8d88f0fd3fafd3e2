"""A cell by itself: one step, the carry to start from, and what comes out of it."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params
from flax_rnn.cells.weights import check_params


def apply_cell(
    cell: Cell, params: Params, carry: Carry, inputs: ArrayLike, masks: Masks = None
) -> tuple[Carry, jax.Array]:
    """One step: ``(carry, inputs (B, D)) -> (new carry, output (B, H))``.

    Args:
      cell: what to compute.
      params: the weights of ``cell``.
      carry (Carry): the state to start from.
      inputs (ArrayLike): those of one step, ``(B, D)``, or ``(B, *S, C)`` for cells with spatial axes; ``B`` are any
        number of batch axes, also none.
      masks: the dropout masks, as ``cell.dropout_masks`` draws them; ``None`` for no dropout.

    Returns:
      ``(carry, output)``, the new state and the output ``(B, H)``. The new carry has the containers of the given one,
      such as a list for ``[h, c]``.

    Raises:
      ValueError: for weights, inputs or states of the wrong shape or structure.
      TypeError: for weights, inputs or states of the wrong dtype.
    """
    x = jnp.asarray(inputs)
    check_params("params", cell, params, x)
    projected = cell.project(params, x, masks)
    start = _checks.carry_like("carry", cell.initial_carry(params, projected), carry)
    new, output = cell.step(cell.prepare(params, projected, masks), start, projected)
    return jax.tree.unflatten(jax.tree.structure(carry), jax.tree.leaves(new)), output


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
    return cell.with_constants(params, constants)


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
