"""What stateful layers keep from call to call."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn.layers.stateful import reset

COLLECTION = "carry"
"""The collection in which stateful layers keep their carries."""


def reset_state(
    variables: Mapping[str, Any],
    rows: ArrayLike | None = None,
    *,
    model: nn.Module | None = None,
    inputs: Any = None,
) -> dict[str, Any]:
    """``variables`` with what stateful layers keep from call to call reset.

    Args:
      variables: those of a model, by collection.
      rows: booleans ``(B,)``: the sequences to start anew, from zeros; ``None`` to forget everything, so that the next
        call may have any number of sequences.
      model: in place of ``rows`` the model itself, for states of zeros that are there at once, as ``nn.scan`` needs
        them, and a checkpoint to be restored.
      inputs: what ``model`` will be called with, or shapes of it; a tuple for several arguments.

    Raises:
      ValueError: for ``rows`` where nothing is kept, and for a ``model`` that keeps nothing.
    """
    others = {name: values for name, values in variables.items() if name != COLLECTION}
    if model is not None:
        if rows is not None:
            raise ValueError("rows, model: expected at most one of them, got both")
        arguments = inputs if isinstance(inputs, tuple) else (inputs,)
        shapes = jax.eval_shape(lambda *given: model.apply(others, *given, mutable=[COLLECTION])[1], *arguments)
        if COLLECTION not in shapes:
            raise ValueError(f"model: expected stateful layers (stateful=True), got none in {type(model).__name__}")
        return others | {COLLECTION: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[COLLECTION])}
    if rows is None:
        return others
    if COLLECTION not in variables:
        raise ValueError(
            f"variables: expected a collection {COLLECTION!r}, which stateful layers leave where it is mutable, got "
            f"{', '.join(variables) or 'none'}"
        )
    return others | {COLLECTION: reset(variables[COLLECTION], rows)}
