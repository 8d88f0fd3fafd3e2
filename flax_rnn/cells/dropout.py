"""Dropout masks of recurrent layers: drawn once per sequence, constant over time, independent per sample.

Masks live outside the time loop: a layer draws them with one key and hands them to its cell. Each cell of a stack, each
direction and each gate has a key of its own.

Source: Gal & Ghahramani 2016, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks"; which
gates share a mask is decided as in Keras.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class DropoutMasks(NamedTuple):
    """Multiplicative masks, ``0`` or ``1 / (1 - rate)``; ``None`` where nothing is dropped.

    Attributes:
      inputs: one mask ``(B, D)`` shared by all gates, or one per gate.
      recurrent: one mask ``(B, H)`` per gate.
    """

    inputs: tuple[jax.Array, ...] | None = None
    recurrent: tuple[jax.Array, ...] | None = None

    @property
    def by_gate(self) -> bool:
        """Whether they are more than one mask of the inputs, which could be multiplied by it ahead of everything."""
        return self.recurrent is not None or len(self.inputs or ()) > 1


class Dropout(NamedTuple):
    """What a layer drops: a key to draw masks with, or the masks; neither for nothing."""

    key: jax.Array | None = None
    masks: Any = None

    def of_layer(self, index: int) -> "Dropout":
        """That of the cell at ``index`` of a stack."""
        key = None if self.key is None else layer_key(self.key, index)
        return Dropout(key, None if self.masks is None else self.masks[index])


def layer_key(key: jax.Array, index: int) -> jax.Array:
    """The key of the cell at ``index`` of a stack."""
    return jax.random.fold_in(key, index)


def draw_masks(key: jax.Array, rate: float, inputs: jax.Array, features: int, count: int) -> tuple[jax.Array, ...]:
    """``count`` independent inverted-dropout masks ``(B, features)`` for ``inputs`` of shape ``(B, D)``."""
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    # Built from the inputs, since a fresh random array would not have their sharding.
    zeros = jnp.zeros_like(jnp.broadcast_to(inputs[..., :1], (*inputs.shape[:-1], features)), dtype=dtype)

    def one(key: jax.Array) -> jax.Array:
        keep = jax.random.bernoulli(key, 1.0 - rate, zeros.shape)
        return jnp.where(keep, jnp.asarray(1.0 / (1.0 - rate), dtype), zeros)

    return tuple(one(k) for k in jax.random.split(key, count))
