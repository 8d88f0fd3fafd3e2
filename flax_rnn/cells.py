"""The built-in cells: SimpleRNN, LSTM and GRU, one step each.

Shapes: inputs ``x`` ``(B, D)``, output ``h`` ``(B, H)``. Gates are blocks of columns of the fused weights, in Keras'
order. ``*`` is the elementwise product, ``@`` the matrix product.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations, initializers
from flax_rnn.cell import Affine, Params, affine
from flax_rnn.dense import DenseCell, Dtype, RecurrentWeights, accumulation_dtype


class LSTMCarry(NamedTuple):
    """State of an LSTM, in Keras' order. Flax's own LSTM cells have ``(c, h)``.

    ``h`` ``(B, H)`` has the compute dtype; ``c`` ``(B, H)`` has float32 at least.
    """

    h: jax.Array
    c: jax.Array


@dataclasses.dataclass(unsafe_hash=True)
class SimpleRNNCell(DenseCell):
    """Elman's fully connected cell; the carry is the output ``h``.

    ``h' = activation(x @ K + h @ R + b)``

    Source: Elman 1990, "Finding Structure in Time"; ``keras.layers.SimpleRNNCell``.
    """

    def initial_carry(self, params: Params, projected: tuple[jax.Array, ...]) -> jax.Array:
        """Zeros ``(B, H)`` of the compute dtype."""
        del params
        return jnp.zeros_like(projected[0])

    def step(
        self, weights: RecurrentWeights, carry: jax.Array, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[jax.Array, jax.Array]:
        """The equation above: ``(h, projected) -> (h', h')``."""
        (z,) = self.recur(weights, 0, carry, projected, affine)
        h = activations.get(self.activation)(z)
        return h.astype(carry.dtype), h.astype(projected[0].dtype)


@dataclasses.dataclass(unsafe_hash=True)
class LSTMCell(DenseCell):
    """Long short-term memory; the carry is ``LSTMCarry(h, c)``.

    With the columns of ``K``, ``R`` and ``b`` in the order i, f, g, o::

        i = recurrent_activation(x @ K_i + h @ R_i + b_i)
        f = recurrent_activation(x @ K_f + h @ R_f + b_f)
        g = activation(x @ K_g + h @ R_g + b_g)
        o = recurrent_activation(x @ K_o + h @ R_o + b_o)
        c' = f * c + i * g
        h' = o * activation(c')

    Attributes:
      recurrent_activation: of the gates i, f, o.
      unit_forget_bias: whether ``b_f`` starts at 1.

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000;
    ``keras.layers.LSTMCell``.
    """

    num_gates: ClassVar[int] = 4

    _: dataclasses.KW_ONLY
    recurrent_activation: activations.Activation = "sigmoid"
    unit_forget_bias: bool = True

    def validate(self) -> None:
        """As ``DenseCell.validate``, and ``recurrent_activation``."""
        super().validate()
        activations.get(self.recurrent_activation, "recurrent_activation")

    def initial_carry(self, params: Params, projected: tuple[jax.Array, ...]) -> LSTMCarry:
        """Zeros: ``h`` ``(B, H)`` of the compute dtype, ``c`` ``(B, H)`` of float32 at least."""
        del params
        h = jnp.zeros_like(projected[0])
        return LSTMCarry(h, h.astype(accumulation_dtype(h.dtype)))

    def step(
        self, weights: RecurrentWeights, carry: LSTMCarry, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[LSTMCarry, jax.Array]:
        """The equations above: ``(LSTMCarry(h, c), projected) -> (LSTMCarry(h', c'), h')``."""
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)
        i, f, g, o = self.recur(weights, 0, carry.h, projected, affine)
        c = gate(f) * carry.c.astype(f.dtype) + gate(i) * activation(g)
        h = gate(o) * activation(c)
        return LSTMCarry(h.astype(carry.h.dtype), c.astype(carry.c.dtype)), h.astype(projected[0].dtype)

    def _bias_initializer(self) -> initializers.Initializer:
        bias = initializers.get(self.bias_initializer)
        return initializers.unit_forget_bias(bias, self.units, self.units) if self.unit_forget_bias else bias


@dataclasses.dataclass(unsafe_hash=True)
class GRUCell(DenseCell):
    """Gated recurrent unit; the carry is the output ``h``, kept in float32 at least.

    With the columns of ``K`` and ``R`` in the order z, r, n::

        z = recurrent_activation(x @ K_z + h @ R_z + b_z)
        r = recurrent_activation(x @ K_r + h @ R_r + b_r)
        n = activation(x @ K_n + b_n + r * (h @ R_n + d_n))     where reset_after
        n = activation(x @ K_n + b_n + (r * h) @ R_n)           otherwise
        h' = z * h + (1 - z) * n

    ``bias`` is ``(2, 3 H)`` where ``reset_after``, the input biases ``b`` above the recurrent ones ``d`` (``d_z`` and
    ``d_r`` are added to ``b_z`` and ``b_r``), and ``(3 H,)`` otherwise.

    Attributes:
      recurrent_activation: of the gates z, r.
      reset_after: whether the reset gate is applied after the recurrent product (as in cuDNN) or before it.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder" (version 3, and version 1 with
    the reset after); ``keras.layers.GRUCell``.
    """

    num_gates: ClassVar[int] = 3

    _: dataclasses.KW_ONLY
    recurrent_activation: activations.Activation = "sigmoid"
    reset_after: bool = True

    def validate(self) -> None:
        """As ``DenseCell.validate``, and ``recurrent_activation``."""
        super().validate()
        activations.get(self.recurrent_activation, "recurrent_activation")

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

    def step(
        self, weights: RecurrentWeights, carry: jax.Array, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[jax.Array, jax.Array]:
        """The equations above: ``(h, projected) -> (h', h')``."""
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
        return h.astype(carry.dtype), h.astype(x_z.dtype)

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
