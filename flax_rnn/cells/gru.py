"""Gated recurrent units."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations
from flax_rnn._docstrings import describe
from flax_rnn.cells.arguments import DenseArguments, Dtype
from flax_rnn.cells.dense import DenseCell, RecurrentWeights, accumulation_dtype
from flax_rnn.cells.protocol import Affine, Params, affine


class GRUValues(NamedTuple):
    """What a step of a GRU computes, each ``(B, H)``: the gates behind their activations, and the new state."""

    z: jax.Array
    r: jax.Array
    n: jax.Array
    h: jax.Array


@dataclasses.dataclass(unsafe_hash=True)
class GRUArguments(DenseArguments):
    """The arguments of a ``GRUCell``.

    Attributes:
      recurrent_activation: of the gates z, r; a name, a callable or ``None``.
      reset_after: whether the reset gate is applied after the recurrent product (as in cuDNN) or before it.
    """

    _: dataclasses.KW_ONLY
    recurrent_activation: activations.Activation = "sigmoid"
    reset_after: bool = True


@describe
@dataclasses.dataclass(unsafe_hash=True)
class GRUCell(DenseCell, GRUArguments):
    """One step of a gated recurrent unit: a gate decides how much of the old output to keep.

    The carry is the output ``h`` ``(B, H)``, kept in float32 at least. With ``K`` for ``kernel``, ``R`` for
    ``recurrent_kernel``, and their columns in the order z, r, n::

        z = recurrent_activation(x @ K_z + h @ R_z + b_z)
        r = recurrent_activation(x @ K_r + h @ R_r + b_r)
        n = activation(x @ K_n + b_n + r * (h @ R_n + d_n))     where reset_after
        n = activation(x @ K_n + b_n + (r * h) @ R_n)           otherwise
        h' = z * h + (1 - z) * n

    ``bias`` has the input biases ``b`` above the recurrent ones ``d`` where ``reset_after``; ``d_z`` and ``d_r`` are
    added to ``b_z`` and ``b_r``.

    Weights:
      kernel: ``(D, 3 H)``
      recurrent_kernel: ``(H, 3 H)``
      bias: ``(2, 3 H)``, where ``use_bias``; ``(3 H,)`` without ``reset_after``

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder" (version 3, and version 1 with
    the reset after); ``keras.layers.GRU`` and
    ``GRUCell``.
    """

    num_gates: ClassVar[int] = 3

    def bias_shape(self) -> tuple[int, ...]:
        """``(2, 3 H)`` where ``reset_after``, else ``(3 H,)``."""
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    @property
    def product_groups(self) -> tuple[int, ...]:
        """All gates, or z and r before n, which needs r."""
        return (3,) if self.reset_after else (2, 1)

    def initial_carry(self, params: Params, projected: tuple[jax.Array, ...]) -> jax.Array:
        """Zeros ``(B, H)`` of float32 at least."""
        del params
        return jnp.zeros_like(projected[0], dtype=accumulation_dtype(projected[0].dtype))

    def explain(
        self, weights: RecurrentWeights, carry: jax.Array, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[jax.Array, jax.Array, GRUValues]:
        """The equations above: ``(h, projected) -> (h', h', values)``."""
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)
        x_z, x_r, x_n = projected
        h = carry.astype(accumulation_dtype(x_z.dtype))
        if self.reset_after:
            bias = jnp.zeros((), h.dtype) if weights.bias is None else weights.bias
            z, r, recurrent = self.recur(weights, 0, h, (x_z, x_r, bias), affine)
            z, r = gate(z), gate(r)
            n = activation(x_n.astype(h.dtype) + r * recurrent)
        else:
            z, r = map(gate, self.recur(weights, 0, h, (x_z, x_r), affine))
            (n,) = map(activation, self.recur(weights, 1, r * h, (x_n,), affine))
        h = z * h + (1 - z) * n
        new = h.astype(carry.dtype)
        return new, h.astype(x_z.dtype), GRUValues(z, r, n, new)

    def projected_bias(self, bias: jax.Array) -> jax.Array:
        """All but the recurrent bias of n where ``reset_after``."""
        if not self.reset_after:
            return bias
        # Only the recurrent bias of n stays in the loop, behind the reset gate.
        return bias[0] + jnp.asarray(bias[1]).at[2 * self.units :].set(0)

    def recurrent_bias(self, params: Params, dtype: Dtype) -> jax.Array | None:
        """That of n where ``reset_after``."""
        if not (self.use_bias and self.reset_after):
            return None
        return self.split_gates(params["bias"][1].astype(dtype))[2]
