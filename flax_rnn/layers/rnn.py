"""A cell over time: one place for checks, axes, stacks, states to start from and dropout."""

import dataclasses
import math
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn.cells.dropout import Dropout
from flax_rnn.cells.evaluate import bind_constants
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params, check_cell
from flax_rnn.cells.stacked import StackedRNNCells
from flax_rnn.cells.weights import check_masks, check_params
from flax_rnn.implementations.choice import pick_both, request_for
from flax_rnn.implementations.loop import Arrays, Loop
from flax_rnn.implementations.options import SequenceOptions
from flax_rnn.implementations.partitioned import varying_alike
from flax_rnn.implementations.protocol import Implementation
from flax_rnn.layers.chunks import run_in_chunks
from flax_rnn.layers.steps import Steps, steps_of


@overload
def rnn(
    cell: Cell, params: Params, inputs: ArrayLike, *, return_state: Literal[True], **arguments: Any
) -> tuple[Any, Carry]: ...


@overload
def rnn(
    cell: Cell, params: Params, inputs: ArrayLike, *, return_state: Literal[False] = False, **arguments: Any
) -> jax.Array: ...


@overload
def rnn(cell: Cell, params: Params, inputs: ArrayLike, *, return_state: bool, **arguments: Any) -> Any: ...


def rnn(
    cell: Cell,
    params: Params,
    inputs: ArrayLike,
    *,
    initial_state: Carry = None,
    mask: ArrayLike | None = None,
    seq_lengths: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    constants: Any = None,
    dropout_key: jax.Array | None = None,
    dropout_masks: Masks = None,
    **options: Any,
) -> Any:
    """Runs ``cell`` over the time axis of ``inputs``.

    At a masked step the carry stays as it is, and nothing of the input counts, not even a NaN in it. A sequence without
    any step left returns its initial carry.

    There may be any number of batch axes, ``(*batch, T, D)``, also none; ``B`` stands for all of them.

    Args:
      cell: what to run; a ``StackedRNNCells`` is run layer by layer.
      params: the weights of ``cell``.
      inputs: ``(B, T, D)``, or ``(T, B, D)`` where ``time_major``.
      initial_state: the carry to start from, in the structure that ``return_state`` returns; ``None`` for zeros.
      mask: booleans ``(B, T)``, or ``(T, B)`` where ``time_major``: which steps count. Any pattern will do.
      seq_lengths: integers ``(B,)``: how many steps at the start count; in place of ``mask``.
      resets: booleans ``(B, T)``, or ``(T, B)`` where ``time_major``: the steps ahead of which the carry is set to
        zero, for rows in which several sequences follow each other.
      constants: arrays that all steps use besides the weights, for cells that take them; see ``Cell``. In a stack each
        cell that takes them gets them.
      dropout_key: the key of the dropout masks when training; ``None`` for no dropout.
      dropout_masks: the masks themselves, as ``cell.dropout_masks`` draws them; in place of ``dropout_key``.
      **options: the fields of ``SequenceOptions``: ``return_sequences``, ``return_state``, ``go_backwards``,
        ``keep_order``, ``unroll``, ``zero_output_for_mask``, ``time_major``, ``checkpoint_every``, ``implementation``.

    Returns:
      ``outputs``, ``(B, T, H)`` or ``(B, H)`` in the compute dtype, or ``(outputs, carry)`` where ``return_state``.

    Raises:
      ValueError: for weights, inputs, masks, lengths or states of the wrong shape or structure, and for sequences
        without steps.
      TypeError: for those of the wrong dtype, and for unknown options.
    """
    chosen = SequenceOptions(**options)
    check_cell("cell", cell)
    steps = steps_of(cell, inputs, mask, seq_lengths, resets, chosen.time_major)
    if dropout_key is not None and dropout_masks is not None:
        raise ValueError("dropout_key, dropout_masks: expected at most one of them, got both")
    loop = Loop(cell, chosen, steps.mask is not None, initial_state is None)
    weights = bind_constants(cell, params, constants)
    done, carry = _run(loop, weights, steps, initial_state, Dropout(dropout_key, dropout_masks), "")
    outputs: Any = done.x
    if chosen.return_sequences:
        done = done.turned(chosen.time_major)
        outputs = done.x
        if chosen.go_backwards and not chosen.keep_order:
            outputs = jax.tree.map(lambda leaf: jnp.flip(leaf, done.time_axis), outputs)
    return (outputs, carry) if chosen.return_state else outputs


def _run(
    loop: Loop, params: Params, steps: Steps, initial_state: Carry, dropout: Dropout, where: str
) -> tuple[Steps, Carry]:
    """``rnn``, with the outputs in place of the inputs; ``where`` the cell is in a stack, for errors."""
    cell = loop.cell
    if isinstance(cell, StackedRNNCells):
        return _run_stack(loop, cell, params, steps, initial_state, dropout, where)
    first = steps.first()
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
    request = request_for(cell, dtype.dtype, steps.resets is not None, _sharded(steps.x), shape)
    implementation = pick_both(loop.options.implementation, request)
    x, mask, resets, *_ = steps = steps.turned(implementation.time_major)
    evaluate = _lasting_evaluate if lasting else _evaluate
    try:
        outputs, carry = evaluate(implementation, loop, Arrays(params, masks, carry, x, mask, resets))
    except TypeError as error:
        if "forward-mode" in str(error):  # jax's message names neither the layer nor a way out
            size = loop.options.checkpoint_every
            name, expected = ("implementation", '"scan"') if size is None else ("checkpoint_every", "None")
            got = implementation.name if size is None else size
            error.add_note(f"{name}: expected {expected} for forward-mode derivatives, got {got!r}")
        raise
    return steps._replace(x=outputs), carry


def _run_stack(
    loop: Loop,
    stack: StackedRNNCells,
    params: Params,
    steps: Steps,
    initial_state: Carry,
    dropout: Dropout,
    where: str,
) -> tuple[Steps, Carry]:
    """``_run`` layer by layer: a cell needs of those below it their outputs only."""
    count = len(stack.cells)
    states = [None] * count if initial_state is None else initial_state
    masks = [None] * count if dropout.masks is None else dropout.masks
    for name, what, values in (
        ("params", "entry", params), ("initial_state", "state", states), ("dropout_masks", "entry", masks)
    ):  # fmt: skip
        if not isinstance(values, tuple | list) or len(values) != count:
            got = _checks.describe(jax.tree.map(jnp.asarray, values))
            raise ValueError(f"{name}{where}: expected one {what} for each of {count} cells, got {got}")
    # Below the top, outputs of masked steps are not seen, and zeros are the cheapest.
    below = dataclasses.replace(loop.options, return_sequences=True, zero_output_for_mask=True)
    carries = []
    for index, cell in enumerate(stack.cells):
        options = below if index < count - 1 else loop.options
        layer = dataclasses.replace(loop, cell=cell, options=options)
        own = dropout.of_layer(index)
        steps, carry = _run(layer, params[index], steps, states[index], own, f"{where}[{index}]")
        carries.append(carry)
    return steps, tuple(carries)


def _start(cell: Cell, params: Params, first: jax.Array, masks: Masks, without_mesh: bool) -> tuple[Carry, jax.Array]:
    """The zero carry for steps like ``first``, and an array of the compute dtype."""
    # On a mesh, the product tells how the carry is laid out.
    like = getattr(cell, "projected_like", None) if without_mesh else None
    projected = like(params, first) if like else cell.project(params, first, masks)
    return cell.initial_carry(params, projected), jnp.zeros((), jax.tree.leaves(projected)[0].dtype)


def _evaluate(implementation: Implementation, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
    size, arrays = loop.options.checkpoint_every, varying_alike(arrays)
    return implementation.run(loop, arrays) if size is None else run_in_chunks(implementation, loop, arrays, size)


# What was traced for a layer is kept for equal ones, and a call outside of `jax.jit` is one computation.
_lasting_start = jax.jit(_start, static_argnums=(0, 4))
_lasting_evaluate = jax.jit(_evaluate, static_argnums=(0, 1))


def _sharded(x: jax.Array) -> bool:
    """Whether ``x`` is, or may be, laid out over a mesh."""
    if not isinstance(x, Tracer):
        return len(x.sharding.device_set) > 1
    return not (_mesh_of(x).empty and jax.sharding.get_abstract_mesh().empty)


def _mesh_of(x: jax.Array) -> Any:
    """The mesh that the type of ``x`` tells, maybe an empty one."""
    return jax.typeof(x).sharding.mesh
