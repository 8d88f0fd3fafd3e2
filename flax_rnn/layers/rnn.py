"""A cell over time: one place for checks, axes, stacks, states to start from and dropout."""

import dataclasses
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn._docstrings import describe_call
from flax_rnn.cells.dropout import Dropout
from flax_rnn.cells.evaluate import bind_constants
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params, check_cell
from flax_rnn.cells.stacked import StackedRNNCells
from flax_rnn.implementations.loop import Loop
from flax_rnn.implementations.options import SequenceOptions
from flax_rnn.layers.calls import Call, evaluate, evaluate_both, prepare
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


@describe_call()
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

    A sequence without any step left by its mask returns its initial carry.

    Args:
      cell: what to run; a ``StackedRNNCells`` is run layer by layer.
      params: the weights of ``cell``.
      inputs (ArrayLike): ``(B, T, D)``, or ``(T, B, D)`` where ``time_major``, for ``T`` steps of ``D`` features; in
        place of ``D`` stands ``(*S, C)`` for cells with spatial axes. ``B`` are any number of batch axes, also none.
      initial_state (Carry | None): the carry to start from, in the structure that ``return_state`` returns; ``None``
        for zeros.
      mask (ArrayLike | None): booleans ``(B, T)``, or ``(T, B)`` where ``time_major``: which steps count. Any pattern
        will do. At a masked step the carry stays as it is, and nothing of the input counts, not even a NaN in it.
      seq_lengths (ArrayLike | None): integers ``(B,)``: how many steps at the start count; in place of ``mask``.
      resets (ArrayLike | None): booleans ``(B, T)``, or ``(T, B)`` where ``time_major``: the steps ahead of which the
        carry is set to zero, for rows in which several sequences follow each other.
      constants (Any): arrays that all steps use besides the weights, for cells that take them; see ``Cell``. In a stack
        each cell that takes them gets them.
      dropout_key: the key of the dropout masks when training; ``None`` for no dropout.
      dropout_masks: the masks themselves, as ``cell.dropout_masks`` draws them; in place of ``dropout_key``.
      **options (Any): the fields of ``SequenceOptions``: ``return_sequences``, ``return_state``, ``go_backwards``,
        ``keep_order``, ``unroll``, ``zero_output_for_mask``, ``time_major``, ``checkpoint_every``, ``implementation``.

    Returns:
      ``outputs`` in the compute dtype. By default that of the last step, ``(B, H)``; with ``return_sequences`` those of
      all steps, ``(B, T, H)``, or ``(T, B, H)`` where ``time_major``. With ``return_state`` it is ``(outputs, carry)``,
      and the carry is that behind the last step. For cells with spatial axes ``(*S', F)`` stands in place of ``H``.

    Raises:
      ValueError: for weights, inputs, masks, lengths or states of the wrong shape or structure, and for sequences
        without steps.
      TypeError: for weights, inputs, masks, lengths or states of the wrong dtype, and for unknown options.
    """
    call = begin(
        cell, params, inputs, initial_state=initial_state, mask=mask, seq_lengths=seq_lengths, resets=resets,
        constants=constants, dropout_key=dropout_key, dropout_masks=dropout_masks, **options,
    )  # fmt: skip
    return finish(call, *run(call))


def begin(
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
) -> Call:
    """The arguments of ``rnn``, of which those that do not depend on single cells are checked."""
    chosen = SequenceOptions(**options)
    check_cell("cell", cell)
    steps = steps_of(cell, inputs, mask, seq_lengths, resets, chosen.time_major)
    if dropout_key is not None and dropout_masks is not None:
        raise ValueError("dropout_key, dropout_masks: expected at most one of them, got both")
    loop = Loop(cell, chosen, steps.mask is not None, initial_state is None)
    weights = bind_constants(cell, params, constants)
    return Call(loop, weights, steps, initial_state, Dropout(dropout_key, dropout_masks))


def run(call: Call, where: str = "") -> tuple[Steps, Carry]:
    """The outputs in place of the inputs, and the last carry; ``where`` the cell is in a stack, for errors."""
    if isinstance(call.loop.cell, StackedRNNCells):
        return _run_stack(call, call.loop.cell, where)
    return evaluate(prepare(call, where))


def run_both(calls: tuple[Call, Call]) -> list[tuple[Steps, Carry]]:
    """``run`` for each of two directions over the same steps."""
    if any(isinstance(call.loop.cell, StackedRNNCells) for call in calls):
        return [run(call) for call in calls]
    return evaluate_both((prepare(calls[0], ""), prepare(calls[1], "")))


def finish(call: Call, done: Steps, carry: Carry) -> Any:
    """What ``rnn`` returns."""
    outputs, options = done.x, call.loop.options
    if options.return_sequences:
        done = done.turned(options.time_major)
        outputs = done.x
        if options.go_backwards and not options.keep_order:
            outputs = jax.tree.map(lambda leaf: jnp.flip(leaf, done.time_axis), outputs)
    return (outputs, carry) if options.return_state else outputs


def _run_stack(call: Call, stack: StackedRNNCells, where: str) -> tuple[Steps, Carry]:
    """``run`` layer by layer: a cell needs of those below it their outputs only."""
    count = len(stack.cells)
    states = [None] * count if call.initial_state is None else call.initial_state
    masks = [None] * count if call.dropout.masks is None else call.dropout.masks
    for name, what, values in (
        ("params", "entry", call.params), ("initial_state", "state", states), ("dropout_masks", "entry", masks)
    ):  # fmt: skip
        if not isinstance(values, tuple | list) or len(values) != count:
            got = _checks.describe(jax.tree.map(jnp.asarray, values))
            raise ValueError(f"{name}{where}: expected one {what} for each of {count} cells, got {got}")
    loop, steps = call.loop, call.steps
    # Below the top, outputs of masked steps are not seen, and zeros are the cheapest.
    below = dataclasses.replace(loop.options, return_sequences=True, zero_output_for_mask=True)
    carries = []
    for index, cell in enumerate(stack.cells):
        options = below if index < count - 1 else loop.options
        layer = dataclasses.replace(loop, cell=cell, options=options)
        own = call.dropout.of_layer(index)
        steps, carry = run(Call(layer, call.params[index], steps, states[index], own), f"{where}[{index}]")
        carries.append(carry)
    return steps, tuple(carries)
