"""Elman's fully connected cell."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations
from flax_rnn._docstrings import describe
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.dense import DenseCell, RecurrentWeights
from flax_rnn.cells.protocol import Affine, Params, affine


class SimpleRNNValues(NamedTuple):
    """What a step computes: the new state ``(B, H)``."""

    h: jax.Array


@describe
@dataclasses.dataclass(unsafe_hash=True)
class SimpleRNNCell(DenseCell, DenseArguments):
    """One step of Elman's fully connected recurrent network.

    The carry is the output ``h`` ``(B, H)``, in the compute dtype. With ``K`` for ``kernel``, ``R`` for
    ``recurrent_kernel`` and ``b`` for ``bias``::

        h' = activation(x @ K + h @ R + b)

    Weights:
      kernel: ``(D, H)``
      recurrent_kernel: ``(H, H)``
      bias: ``(H,)``, where ``use_bias``

    Source: Elman 1990, "Finding Structure in Time"; ``keras.layers.SimpleRNN`` and ``SimpleRNNCell``.
    """

    def initial_carry(self, params: Params, projected: tuple[jax.Array, ...]) -> jax.Array:
        """Zeros ``(B, H)`` of the compute dtype."""
        del params
        return jnp.zeros_like(projected[0])

    def explain(
        self, weights: RecurrentWeights, carry: jax.Array, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[jax.Array, jax.Array, SimpleRNNValues]:
        """The equation above: ``(h, projected) -> (h', h', values)``."""
        (z,) = self.recur(weights, 0, carry, projected, affine)
        h = activations.get(self.activation)(z)
        new = h.astype(carry.dtype)
        return new, h.astype(projected[0].dtype), SimpleRNNValues(new)
