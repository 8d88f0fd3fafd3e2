"""The time loop: one place for masks and lengths, direction, unrolling, initial states and dropout."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn import _checks
from flax_rnn.cells.dropout import Dropout
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params, Projected, bind_constants, dot
from flax_rnn.cells.stacked import StackedRNNCells
from flax_rnn.implementations import fused as adjoint
from flax_rnn.implementations import native, products
from flax_rnn.implementations.choice import choose
from flax_rnn.implementations.loop import Inputs, Loop, run, scan, used

# Of each implementation in XLA its loop, and the products of its projection.
_EVALUATE = {"scan": (scan, dot), "fused": (adjoint.scan, products.dot)}


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class SequenceOptions:
    """How a layer runs its cell over time: the options of ``rnn`` that are fixed when a layer is built.

    Attributes:
      return_sequences: whether to return the outputs of all steps ``(B, T, H)`` or that of the last ``(B, H)``.
      return_state: whether to return ``(outputs, carry)`` in place of ``outputs``.
      go_backwards: whether to start at the last step. Outputs then come in the order of processing, as in Keras,
      keep_order: unless this is set: in the order of the inputs.
      unroll: ``False`` for a loop, ``True`` for none, or how many steps to put into one iteration of it.
      zero_output_for_mask: whether the outputs of masked steps are zeros, or those of the last step that was not masked
        (zeros where there was none). The last output ``(B, H)`` is always that of the last step that was not masked.
      time_major: whether inputs, outputs and mask have the time axis first: ``(T, B, D)``.
      implementation: how to evaluate the loop; see ``flax_rnn.choose``. Forward-mode derivatives need ``"scan"``.
    """

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    keep_order: bool = False
    unroll: bool | int = False
    zero_output_for_mask: bool = False
    time_major: bool = False
    implementation: str = "auto"

    @property
    def options(self) -> dict[str, Any]:
        """These fields as keyword arguments of ``rnn``."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(SequenceOptions)}


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
    return_sequences: bool = False,
    return_state: bool = False,
    go_backwards: bool = False,
    keep_order: bool = False,
    unroll: bool | int = False,
    zero_output_for_mask: bool = False,
    time_major: bool = False,
    implementation: str = "auto",
) -> Any:
    """Runs ``cell`` over the time axis of ``inputs``; the options are those of ``SequenceOptions``.

    At a masked step the carry stays as it is, and nothing of the input counts, not even a NaN in it. A sequence without
    any step left returns its initial carry.

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

    Returns:
      ``outputs``, ``(B, T, H)`` or ``(B, H)`` in the compute dtype, or ``(outputs, carry)`` where ``return_state``.

    Raises:
      ValueError: for inputs, masks, lengths or states of the wrong shape or structure, and for sequences without steps.
      TypeError: for those of the wrong dtype.
    """
    params = bind_constants(cell, params, constants)
    inputs = jnp.asarray(inputs)
    time_axis = 0 if time_major else 1
    _check_inputs(cell, inputs, time_major)
    _check_unroll(unroll)
    if dropout_key is not None and dropout_masks is not None:
        raise ValueError("dropout_key, dropout_masks: expected at most one of them, got both")
    x = inputs if time_major else inputs.swapaxes(0, 1)
    steps_used = _steps_used(mask, seq_lengths, x.shape[0], x.shape[1], time_major)
    starts = None if resets is None else _booleans("resets", resets, x.shape[0], x.shape[1], time_major)
    loop = Loop(
        cell, return_sequences, go_backwards, unroll, zero_output_for_mask, steps_used is not None, implementation
    )
    outputs, carry = _run(
        loop, params, Inputs(x, steps_used, starts), initial_state, Dropout(dropout_key, dropout_masks)
    )
    if return_sequences:
        if go_backwards and not keep_order:
            outputs = jnp.flip(outputs, 0)
        outputs = outputs.swapaxes(0, time_axis)
    return (outputs, carry) if return_state else outputs


def _run(
    loop: Loop, params: Params, inputs: Inputs, initial_state: Carry, dropout: Dropout, where: str = "initial_state"
) -> tuple[jax.Array, Carry]:
    """``rnn`` on time-major inputs, not projected yet; outputs are in the order of the inputs."""
    cell, x = loop.cell, inputs.projected
    if isinstance(cell, StackedRNNCells):
        return _run_stack(loop, cell, params, inputs, initial_state, dropout, where)
    masks = dropout.masks if dropout.key is None else cell.dropout_masks(dropout.key, x[0])

    def start(projected: Projected) -> Carry:
        carry = cell.initial_carry(params, jax.tree.map(lambda leaf: leaf[0], projected))
        if initial_state is None:
            return carry
        given = _checks.carry_like(where, carry, initial_state)
        return jax.tree.map(lambda zeros, leaf: jnp.asarray(leaf, zeros.dtype), carry, given)

    one = jax.eval_shape(lambda: cell.project(params, x[:1], masks))
    choice = choose(
        cell, loop.implementation, dtype=jax.tree.leaves(one)[0].dtype, resets=inputs.resets is not None,
        sharded=_sharded(x),
    )  # fmt: skip
    if choice.implementation == "native":
        carry = start(cell.project(params, x[:1], masks))
        return native.evaluate(loop, params, masks, carry, x, inputs.mask, from_zeros=initial_state is None)
    evaluate, product = _EVALUATE[choice.implementation]
    projected = cell.project(params, used(x, inputs.mask), masks, product)
    return run(evaluate, loop, params, masks, start(projected), inputs._replace(projected=projected))


def _sharded(x: jax.Array) -> bool:
    """Whether ``x`` is, or may be, laid out over a mesh."""
    return not (jax.typeof(x).sharding.mesh.empty and jax.sharding.get_abstract_mesh().empty)


def _run_stack(
    loop: Loop,
    stack: StackedRNNCells,
    params: Params,
    inputs: Inputs,
    initial_state: Carry,
    dropout: Dropout,
    where: str,
) -> tuple[jax.Array, Carry]:
    """``_run`` layer by layer: a cell needs of those below it their outputs only."""
    count = len(stack.cells)
    states = [None] * count if initial_state is None else initial_state
    if not isinstance(states, tuple | list) or len(states) != count:
        raise ValueError(f"{where}: expected one state for each of {count} cells, got {_checks.describe(states)}")
    carries = []
    outputs: Any = None
    for index, cell in enumerate(stack.cells):
        # Below the top, outputs of masked steps are not seen, and zeros are the cheapest.
        below = {"return_sequences": True, "zero": True} if index < count - 1 else {}
        layer = dataclasses.replace(loop, cell=cell, **below)
        own = dropout.of_layer(index)
        outputs, carry = _run(layer, params[index], inputs, states[index], own, f"{where}[{index}]")
        inputs = inputs._replace(projected=outputs)
        carries.append(carry)
    return outputs, tuple(carries)


def _check_inputs(cell: Cell, inputs: jax.Array, time_major: bool) -> None:
    axes = "(T, B, ...)" if time_major else "(B, T, ...)"
    if inputs.ndim != 2 + cell.num_feature_axes:
        expected = axes.replace("...", "D") if cell.num_feature_axes == 1 else axes
        raise ValueError(
            f"inputs: expected {2 + cell.num_feature_axes} axes {expected}, got shape {inputs.shape} "
            f"of {inputs.ndim} axes"
        )
    if inputs.shape[0 if time_major else 1] == 0:
        raise ValueError(f"inputs: expected at least one time step, got shape {inputs.shape} with axes {axes}")


def _check_unroll(unroll: bool | int) -> None:
    if not isinstance(unroll, bool):
        _checks.positive_int("unroll", unroll)


def _steps_used(mask: Any, seq_lengths: Any, steps: int, batch: int, time_major: bool) -> jax.Array | None:
    """The mask ``(T, B)`` that ``mask`` or ``seq_lengths`` stand for, or ``None``."""
    if mask is not None and seq_lengths is not None:
        raise ValueError("mask, seq_lengths: expected at most one of them, got both")
    if mask is not None:
        return _booleans("mask", mask, steps, batch, time_major)
    if seq_lengths is not None:
        seq_lengths = jnp.asarray(seq_lengths)
        if not jnp.issubdtype(seq_lengths.dtype, jnp.integer):
            raise TypeError(f"seq_lengths: expected integers, got dtype {seq_lengths.dtype}")
        if seq_lengths.shape != (batch,):
            raise ValueError(f"seq_lengths: expected shape (B,) = {(batch,)}, got {seq_lengths.shape}")
        return jnp.arange(steps)[:, None] < seq_lengths.astype(jnp.int32)
    return None


def _booleans(argument: str, value: Any, steps: int, batch: int, time_major: bool) -> jax.Array:
    """``value`` as booleans ``(T, B)``."""
    value = _checks.booleans(argument, value)
    expected = (steps, batch) if time_major else (batch, steps)
    if value.shape != expected:
        axes = "(T, B)" if time_major else "(B, T)"
        raise ValueError(f"{argument}: expected shape {axes} = {expected}, got {value.shape}")
    return value if time_major else value.swapaxes(0, 1)
