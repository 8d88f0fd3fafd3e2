"""An LSTM that cuDNN runs, in one direction or both at once, under our options.

``lstm`` knows of weights, states and how many steps of a row count. Whatever else there is, is plain jax code around
it, which jax differentiates: several batch axes become one, masked steps are brought to the back, dropout masks
multiply the inputs.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flax_rnn import activations
from flax_rnn.cells.cudnn import CuDNNLSTMCell
from flax_rnn.cells.lstm import LSTMCarry, LSTMCell
from flax_rnn.cells.protocol import Carry, Params
from flax_rnn.implementations.batch import one_batch_axis
from flax_rnn.implementations.cudnn import call
from flax_rnn.implementations.cudnn.compaction import compaction, held
from flax_rnn.implementations.cudnn.lstm import Rows, lstm
from flax_rnn.implementations.loop import Arrays, Loop, select, used
from flax_rnn.implementations.partitioned import within_shard_map
from flax_rnn.implementations.precision import allows_tf32
from flax_rnn.implementations.protocol import Request


class CuDNN:
    """See ``Implementation`` and ``BothDirections``."""

    name: ClassVar[str] = "cudnn"
    time_major: ClassVar[bool] = False

    def obstacle(self, request: Request) -> str | None:
        """Whatever cuDNN, or jax's call of it, is not made for, or cannot be reached from."""
        if request.portable:
            return "cuDNN is bound to this machine"
        if request.platform != "gpu":
            return f"cuDNN is for NVIDIA's GPUs, and the default backend is {request.platform!r}"
        if request.dtype != jnp.float32:
            return f"jax calls cuDNN in float32, not {request.dtype}"
        if request.resets:
            return "cuDNN has no resets"
        if request.recurrent_dropout:
            return "cuDNN has no dropout masks of the state, and none of the inputs for each gate"
        if request.shape is not None and 0 in request.shape:
            return "cuDNN needs a row"
        if request.sharded and not within_shard_map():
            return "cuDNN runs on one device; on a mesh, within jax.shard_map over all of its axes"
        return _unsupported(request.cell) or call.absent()

    def run(self, loop: Loop, arrays: Arrays) -> tuple[Any, Carry]:
        """As for every implementation."""
        return _run([loop], [arrays])[0]

    def joins(self, loops: tuple[Loop, Loop], arrays: tuple[Arrays, Arrays]) -> bool:
        """As for all of ``BothDirections``: equal units and precisions, and what is dropped of the inputs is the same.

        Masks are the same where they are the same arrays.
        """
        first, second = (loop.cell for loop in loops)
        masks, others = (jax.tree.leaves(each.masks) for each in arrays)
        return (
            _kind(first) == _kind(second)
            and loops[0].options.go_backwards != loops[1].options.go_backwards
            and len(masks) == len(others)
            and all(one is other for one, other in zip(masks, others, strict=True))
        )

    def run_both(
        self, loops: tuple[Loop, Loop], arrays: tuple[Arrays, Arrays]
    ) -> tuple[tuple[Any, Carry], tuple[Any, Carry]]:
        """As for all of ``BothDirections``; cuDNN has the one that goes forwards first."""
        step = -1 if loops[0].options.go_backwards else 1
        first, second = _run(loops[::step], arrays[::step])[::step]
        return first, second


def _kind(cell: Any) -> tuple[int, bool | None]:
    """What two cells have to have in common for one call."""
    return cell.units, allows_tf32(cell.precision)


def _unsupported(cell: Any) -> str | None:
    """Why cuDNN cannot run ``cell``, in words; ``None`` if it can."""
    if type(cell) not in (LSTMCell, CuDNNLSTMCell):
        return f"of cuDNN, jax calls the LSTM only, which is no {type(cell).__name__}"
    for name, only in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if activations.get(getattr(cell, name)) is not activations.get(only):
            return f"cuDNN's {name} is {only!r}, not {getattr(cell, name)!r}"
    if allows_tf32(cell.precision) is None:
        return f"cuDNN's LSTM computes in float32 or TF32, not with precision {cell.precision!r}"
    return None


def _run(loops: Sequence[Loop], arrays: Sequence[Arrays]) -> list[tuple[Any, Carry]]:
    """``run`` for one cell, or for two over the same steps, of which the first goes forwards."""
    *batch, steps, _ = arrays[0].x.shape
    cells: list[Any] = [loop.cell for loop in loops]
    rows = [one_batch_axis(each, len(batch)) for each in arrays]
    mask, dropped = rows[0].mask, rows[0].masks
    x = used(jnp.float32(rows[0].x), mask)
    if dropped is not None and dropped.inputs:
        x *= jnp.float32(dropped.inputs[0])[:, None]
    there, back, counts = compaction(mask, len(loops) == 1 and loops[0].options.go_backwards)
    weights = tuple(_plain(cell, each.params) for cell, each in zip(cells, rows, strict=True))
    h, c = (jnp.stack(states) for states in zip(*(each.carry for each in rows), strict=True))
    precision = jax.lax.Precision.HIGH if allows_tf32(cells[0].precision) else jax.lax.Precision.HIGHEST
    y, h, c = lstm(precision, Rows(weights, there(x), h, c, counts))
    results: list[tuple[Any, Carry]] = []
    for loop, each, *new in zip(loops, rows, jnp.split(back(y), len(loops), -1), h, c, strict=True):
        outputs, last = _masked(loop, mask, each.carry, new[0], LSTMCarry(*new[1:]))
        shape = (*batch, steps) if loop.options.return_sequences else (*batch,)
        last = LSTMCarry(*(leaf.reshape(*batch, -1) for leaf in last))
        results.append((outputs.reshape(*shape, -1), last))
    return results


def _plain(cell: Any, params: Params) -> dict[str, jax.Array]:
    """The weights as the equations have them."""
    return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in cell.plain(params).items()}


def _masked(
    loop: Loop, mask: jax.Array | None, first: LSTMCarry, outputs: jax.Array, last: LSTMCarry
) -> tuple[jax.Array, LSTMCarry]:
    """The outputs that the loop returns, and the last carry, for outputs of all steps that are zeros at masked ones."""
    options = loop.options
    if mask is None:
        return outputs if options.return_sequences else last.h, last
    some = mask.any(1)
    last = LSTMCarry(*(select(some, new, old) for new, old in zip(last, first, strict=True)))
    if not options.return_sequences:
        return select(some, last.h, jnp.zeros_like(last.h)), last
    return outputs if options.zero_output_for_mask else held(outputs, mask, options.go_backwards), last
