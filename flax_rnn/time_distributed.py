"""A function of single steps, over all steps of a sequence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def time_distributed(
    function: Callable[..., Any], inputs: ArrayLike, mask: ArrayLike | None = None, *, time_major: bool = False
) -> Any:
    """Applies ``function`` to every step of ``inputs``, in one call with all steps of all sequences as its batch.

    ``function`` has to treat its rows independently. It may be a module, and draw random numbers, which then differ
    from step to step; a recurrent layer will do too, for sequences of sequences.

    As in Keras a mask is for ``function`` only: outputs of masked steps are whatever it makes of them.

    Args:
      function: takes ``(B T, ...)``, and ``mask=(B T, ...)`` if there is a ``mask``; returns an array ``(B T, ...)`` or
        a tree of them.
      inputs: ``(B, T, ...)``, or ``(T, B, ...)`` where ``time_major``.
      mask: ``(B, T, ...)``, or ``(T, B, ...)`` where ``time_major``.

    Returns:
      What ``function`` returns, each array as ``(B, T, ...)``, or ``(T, B, ...)`` where ``time_major``.

    Raises:
      ValueError: for inputs or masks of the wrong shape, and if ``function`` does not return ``B T`` rows.

    Source: ``keras.layers.TimeDistributed``.
    """
    inputs = jnp.asarray(inputs)
    axes = "(T, B, ...)" if time_major else "(B, T, ...)"
    if inputs.ndim < 2:
        raise ValueError(f"inputs: expected at least 2 axes {axes}, got shape {inputs.shape}")
    steps = inputs.shape[:2]

    def merge(array: jax.Array) -> jax.Array:
        # The batch is outermost: where devices share it, a merged axis can be shared only that way.
        array = array.swapaxes(0, 1) if time_major else array
        return array.reshape(steps[0] * steps[1], *array.shape[2:])

    def split(rows: Any) -> jax.Array:
        if rows.shape[:1] != (steps[0] * steps[1],):
            raise ValueError(
                f"function: expected outputs of {steps[0] * steps[1]} rows, as its inputs, got shape {rows.shape}"
            )
        array = rows.reshape(*(steps[::-1] if time_major else steps), *rows.shape[1:])
        return array.swapaxes(0, 1) if time_major else array

    if mask is None:
        return jax.tree.map(split, function(merge(inputs)))
    mask = jnp.asarray(mask)
    if mask.shape[:2] != steps:
        raise ValueError(f"mask: expected shape {axes} that starts with {steps}, as the inputs, got {mask.shape}")
    return jax.tree.map(split, function(merge(inputs), mask=merge(mask)))
