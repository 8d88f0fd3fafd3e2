"""One cell over some steps: what is checked and chosen ahead of the loop, and the loop itself."""

import contextlib
import math
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from flax_rnn import _checks
from flax_rnn.cells.dropout import Dropout, DropoutMasks
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params
from flax_rnn.cells.weights import check_masks, check_params
from flax_rnn.implementations.choice import pick_both, request_for
from flax_rnn.implementations.loop import Arrays, Loop
from flax_rnn.implementations.partitioned import varying_alike
from flax_rnn.implementations.protocol import BothDirections, Implementation
from flax_rnn.layers.chunks import run_in_chunks
from flax_rnn.layers.steps import Steps


class Call(NamedTuple):
    """A cell, or a stack, and what it is run on: the arguments of ``rnn``."""

    loop: Loop
    params: Params
    steps: Steps
    initial_state: Carry
    dropout: Dropout


class Prepared(NamedTuple):
    """A call of one cell that is ready to run.

    Attributes:
      implementation: what runs it.
      loop, arrays: what that gets.
      steps: those of ``arrays``.
      lasting: whether what is traced may be kept.
    """

    implementation: Implementation
    loop: Loop
    arrays: Arrays
    steps: Steps
    lasting: bool


def prepare(call: Call, where: str) -> Prepared:
    """Checks the arrays of a call, makes the carry and dropout masks, and chooses; ``where`` the cell is in a stack."""
    loop, params, steps, initial_state, dropout = call
    cell, first = loop.cell, steps.first()
    check_params(f"params{where}", cell, params, first)
    masks = check_masks(f"dropout_masks{where}", cell, dropout.masks, first)
    if dropout.key is not None:
        masks = cell.dropout_masks(dropout.key, first)
    # jax.jit takes arrays of an explicit mesh within that mesh only.
    without_type, outside = _mesh_of(first).empty, jax.sharding.get_abstract_mesh().empty
    lasting = loop.lasting and (without_type or not outside)
    carry, dtype = (_lasting_start if lasting else _start)(cell, params, first, masks, without_type and outside)
    if initial_state is not None:
        given = _checks.carry_like(f"initial_state{where}", carry, initial_state)
        carry = jax.tree.map(_checks.cast_like, given, carry)
    shape = math.prod(first.shape[: steps.batch_axes]), steps.x.shape[steps.time_axis]
    by_gate = isinstance(masks, DropoutMasks) and masks.by_gate
    request = request_for(cell, dtype.dtype, steps.resets is not None, _sharded(steps.x), shape, by_gate)
    implementation = pick_both(loop.options.implementation, request)
    x, mask, resets, *_ = steps = steps.turned(implementation.time_major)
    return Prepared(implementation, loop, Arrays(params, masks, carry, x, mask, resets), steps, lasting)


def evaluate(prepared: Prepared) -> tuple[Steps, Carry]:
    """The outputs in place of the inputs, and the last carry."""
    implementation, loop, arrays, steps, lasting = prepared
    with _noting(implementation, loop):
        outputs, carry = (_lasting_evaluate if lasting else _evaluate)(implementation, loop, arrays)
    return steps._replace(x=outputs), carry


def evaluate_both(pair: tuple[Prepared, Prepared]) -> list[tuple[Steps, Carry]]:
    """``evaluate`` for each of two directions over the same steps; in one go where the implementation can."""
    (implementation, *_), (other, *_) = pair
    loops, arrays = (pair[0].loop, pair[1].loop), (pair[0].arrays, pair[1].arrays)
    if (
        not isinstance(implementation, BothDirections)
        or other is not implementation
        or loops[0].options.checkpoint_every is not None
        or not implementation.joins(loops, arrays)
    ):
        return [evaluate(one) for one in pair]
    with _noting(implementation, loops[0]):
        lasting = all(one.lasting for one in pair)
        results = (_lasting_evaluate_both if lasting else _evaluate_both)(implementation, loops, arrays)
    return [(one.steps._replace(x=outputs), carry) for one, (outputs, carry) in zip(pair, results, strict=True)]


@contextlib.contextmanager
def _noting(implementation: Implementation, loop: Loop) -> Generator[None]:
    """Adds to jax's message for forward-mode derivatives, which names neither the layer nor a way out."""
    try:
        yield
    except TypeError as error:
        if "forward-mode" in str(error):
            size = loop.options.checkpoint_every
            name, expected = ("implementation", '"scan"') if size is None else ("checkpoint_every", "None")
            got = implementation.name if size is None else size
            error.add_note(f"{name}: expected {expected} for forward-mode derivatives, got {got!r}")
        raise


def _start(cell: Cell, params: Params, first: jax.Array, masks: Masks, without_mesh: bool) -> tuple[Carry, jax.Array]:
    """The zero carry for steps like ``first``, and an array of the compute dtype."""
    # On a mesh, the product tells how the carry is laid out.
    like = getattr(cell, "projected_like", None) if without_mesh else None
    projected = like(params, first) if like else cell.project(params, first, masks)
    return cell.initial_carry(params, projected), jnp.zeros((), jax.tree.leaves(projected)[0].dtype)


def _evaluate(implementation: Implementation, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
    size, arrays = loop.options.checkpoint_every, varying_alike(arrays)
    return implementation.run(loop, arrays) if size is None else run_in_chunks(implementation, loop, arrays, size)


def _evaluate_both(
    implementation: BothDirections, loops: tuple[Loop, Loop], arrays: tuple[Arrays, Arrays]
) -> tuple[tuple[Any, Carry], tuple[Any, Carry]]:
    return implementation.run_both(loops, varying_alike(arrays))


# What was traced for a layer is kept for equal ones, and a call outside of `jax.jit` is one computation.
_lasting_start = jax.jit(_start, static_argnums=(0, 4))
_lasting_evaluate = jax.jit(_evaluate, static_argnums=(0, 1))
_lasting_evaluate_both = jax.jit(_evaluate_both, static_argnums=(0, 1))


def _sharded(x: jax.Array) -> bool:
    """Whether ``x`` is, or may be, laid out over a mesh."""
    if not isinstance(x, Tracer):
        return len(x.sharding.device_set) > 1
    return not (_mesh_of(x).empty and jax.sharding.get_abstract_mesh().empty)


def _mesh_of(x: jax.Array) -> Any:
    """The mesh that the type of ``x`` tells, maybe an empty one."""
    return jax.typeof(x).sharding.mesh
