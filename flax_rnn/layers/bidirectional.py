"""Two cells over one sequence, in both directions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flax_rnn._docstrings import describe_call
from flax_rnn.cells.protocol import Carry, Cell, Masks, Params
from flax_rnn.implementations.options import SequenceOptions
from flax_rnn.layers.rnn import begin, finish, rnn, run_both
from flax_rnn.layers.stateful import LayerOptions

# What the layers of both directions have in common.
_SHARED = (
    "return_sequences", "return_state", "time_major", "stateful", "unroll", "zero_output_for_mask", "checkpoint_every",
    "implementation",
)  # fmt: skip
MERGE_MODES = ("concat", "sum", "ave", "mul", None)


def check_merge_mode(merge_mode: str | None) -> None:
    """Raises ``ValueError`` unless ``merge_mode`` is one of ``MERGE_MODES``."""
    if merge_mode not in MERGE_MODES:
        raise ValueError(f"merge_mode: expected one of {MERGE_MODES}, got {merge_mode!r}")


def check_directions(forward: LayerOptions, backward: LayerOptions) -> None:
    """Raises ``ValueError`` unless the two layers can be merged: equal options, opposite directions."""
    for name in _SHARED:
        ours, theirs = getattr(forward, name), getattr(backward, name)
        if ours != theirs:
            raise ValueError(f"backward_layer: expected {name}={ours!r} as in the forward layer, got {theirs!r}")
    if forward.go_backwards == backward.go_backwards:
        raise ValueError(
            f"backward_layer: expected go_backwards={not forward.go_backwards!r}, opposite to the forward layer, "
            f"got {backward.go_backwards!r}"
        )


def check_runs(argument: str, layer: Any, runs_itself: bool) -> None:
    """Raises ``TypeError`` for a layer with a call of its own, since both directions run cells, not layers."""
    if runs_itself:
        raise TypeError(
            f"{argument}: expected a layer whose call is that of flax_rnn, got a {type(layer).__name__} with its own, "
            "which would not be called"
        )


def merge(forward: jax.Array, backward: jax.Array, merge_mode: str | None) -> Any:
    """The outputs of both directions as one: ``(..., H)`` each to ``(..., 2 H)``, ``(..., H)`` or a pair.

    ``concat`` puts them side by side, forward first; ``sum``, ``ave`` and ``mul`` add, average and multiply them; with
    ``None`` they stay a tuple.
    """
    check_merge_mode(merge_mode)
    if merge_mode in ("sum", "ave", "mul") and forward.shape != backward.shape:
        raise ValueError(
            f"merge_mode: expected 'concat' or None for outputs of different shapes, {forward.shape} and "
            f"{backward.shape}, got {merge_mode!r}"
        )
    match merge_mode:
        case "concat":
            return jnp.concatenate([forward, backward], axis=-1)
        case "sum":
            return forward + backward
        case "ave":
            return (forward + backward) / 2
        case "mul":
            return forward * backward
        case _:
            return forward, backward


@describe_call(rnn, SequenceOptions)
def bidirectional(
    cells: tuple[Cell, Cell],
    params: tuple[Params, Params],
    inputs: ArrayLike,
    *,
    merge_mode: str | None = "concat",
    initial_state: Carry = None,
    dropout_key: Any = None,
    dropout_masks: Masks = None,
    return_sequences: bool = False,
    return_state: bool = False,
    go_backwards: bool = False,
    **options: Any,
) -> Any:
    """Runs ``cells[0]`` forwards and ``cells[1]`` backwards over ``inputs`` and merges their outputs.

    Sequences of outputs are in the order of the inputs in both directions, and zero at masked steps. Without
    ``return_sequences`` the backward output is the one after the first step of the inputs.

    Args:
      cells, params: the forward and the backward one.
      merge_mode: see ``merge``.
      initial_state (tuple[Carry, Carry] | None): ``(forward carry, backward carry)``; ``None`` for zeros.
      dropout_key: as in ``rnn``, or a pair of them; each direction gets a key of its own, even from the same one.
      dropout_masks: in place of it a pair of masks, each as in ``rnn``.
      go_backwards: whether ``cells[0]`` runs backwards and ``cells[1]`` forwards instead.
      **options (Any): the others of ``rnn``.

    Returns:
      ``outputs`` in the compute dtype, which ``merge_mode`` makes of those of both directions. These are ``(B, H)``, or
      ``(B, T, H)`` with ``return_sequences``; concatenated they have ``2 H`` features, and for ``None`` they are a
      pair. With ``return_state`` it is ``(outputs, (forward carry, backward carry))``.

    Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks"; ``keras.layers.Bidirectional``.
    """
    check_merge_mode(merge_mode)
    for name, pair in (("cells", cells), ("params", params)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"{name}: expected a pair, of the forward and the backward cell, got {type(pair).__name__}"
            )
    states = (None, None) if initial_state is None else initial_state
    if not isinstance(states, tuple | list) or len(states) != 2:
        raise ValueError(
            f"initial_state: expected a pair (forward carry, backward carry), got {type(states).__name__}"
            + (f" of length {len(states)}" if isinstance(states, tuple | list) else "")
        )
    keys = dropout_key if isinstance(dropout_key, tuple | list) else (dropout_key, dropout_key)
    keys = [None if key is None else jax.random.fold_in(key, direction) for direction, key in enumerate(keys)]
    options |= {"keep_order": True, "zero_output_for_mask": return_sequences}
    forward, backward = (
        begin(
            cells[direction], params[direction], inputs, initial_state=states[direction], dropout_key=keys[direction],
            dropout_masks=None if dropout_masks is None else dropout_masks[direction],
            return_sequences=return_sequences, return_state=True, go_backwards=go_backwards != (direction == 1),
            **options,
        )
        for direction in (0, 1)
    )  # fmt: skip
    results = zip((forward, backward), run_both((forward, backward)), strict=True)
    outputs, carries = zip(*(finish(call, *result) for call, result in results), strict=True)
    merged = merge(outputs[0], outputs[1], merge_mode)
    return (merged, carries) if return_state else merged
