"""Long short-term memory."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flax_rnn import activations, initializers
from flax_rnn._docstrings import describe
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.dense import DenseCell, RecurrentWeights, accumulation_dtype
from flax_rnn.cells.protocol import Affine, Params, affine


class LSTMCarry(NamedTuple):
    """State of an LSTM, in Keras' order. Flax's own LSTM cells have ``(c, h)``.

    ``h`` ``(B, H)`` has the compute dtype; ``c`` ``(B, H)`` has float32 at least.
    """

    h: jax.Array
    c: jax.Array


# So that functions whose arguments or results are states can be serialized.
jax.export.register_namedtuple_serialization(LSTMCarry, serialized_name="flax_rnn.LSTMCarry")


class LSTMValues(NamedTuple):
    """What a step of an LSTM computes, each ``(B, H)``: the gates behind their activations, and the new states."""

    i: jax.Array
    f: jax.Array
    g: jax.Array
    o: jax.Array
    c: jax.Array
    h: jax.Array


@dataclasses.dataclass(unsafe_hash=True, kw_only=True)
class LSTMGates:
    """What an LSTM has beside the arguments of every cell.

    Attributes:
      recurrent_activation: of the gates i, f, o; a name, a callable or ``None``.
      unit_forget_bias: whether the bias of the forget gate, ``b_f``, starts at 1.
    """

    recurrent_activation: activations.Activation = "sigmoid"
    unit_forget_bias: bool = True


@dataclasses.dataclass(unsafe_hash=True)
class LSTMArguments(LSTMGates, DenseArguments):
    """The arguments of an ``LSTMCell``."""


class LSTMEquations(DenseCell):
    """The step of ``LSTMCell``, whatever its products are."""

    recurrent_activation: activations.Activation
    unit_forget_bias: bool

    num_gates: ClassVar[int] = 4

    def initial_carry(self, params: Params, projected: tuple[jax.Array, ...]) -> LSTMCarry:
        """Zeros: ``h`` ``(B, H)`` of the compute dtype, ``c`` ``(B, H)`` of float32 at least."""
        del params
        h = jnp.zeros_like(projected[0])
        return LSTMCarry(h, h.astype(accumulation_dtype(h.dtype)))

    def explain(
        self, weights: RecurrentWeights, carry: LSTMCarry, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[LSTMCarry, jax.Array, LSTMValues]:
        """The equations of ``LSTMCell``: ``(LSTMCarry(h, c), projected) -> (LSTMCarry(h', c'), h', values)``."""
        activation, gate = activations.get(self.activation), activations.get(self.recurrent_activation)
        i, f, g, o = self.recur(weights, 0, carry.h, projected, affine)
        i, f, g, o = gate(i), gate(f), activation(g), gate(o)
        c = f * carry.c.astype(f.dtype) + i * g
        h = o * activation(c)
        new = LSTMCarry(h.astype(carry.h.dtype), c.astype(carry.c.dtype))
        return new, h.astype(projected[0].dtype), LSTMValues(i, f, g, o, new.c, new.h)

    def _bias_initializer(self) -> initializers.Initializer:
        bias = initializers.get(self.bias_initializer)
        return initializers.unit_forget_bias(bias, self.units, self.units) if self.unit_forget_bias else bias


@describe
@dataclasses.dataclass(unsafe_hash=True)
class LSTMCell(LSTMEquations, LSTMArguments):
    """One step of long short-term memory: gates decide what a memory ``c`` takes up, keeps and shows.

    The carry is ``LSTMCarry(h, c)``: the output ``h`` ``(B, H)`` in the compute dtype, and ``c`` ``(B, H)`` in float32
    at least. With ``K`` for ``kernel``, ``R`` for ``recurrent_kernel``, ``b`` for ``bias``, and their columns in the
    order i, f, g, o::

        i = recurrent_activation(x @ K_i + h @ R_i + b_i)
        f = recurrent_activation(x @ K_f + h @ R_f + b_f)
        g = activation(x @ K_g + h @ R_g + b_g)
        o = recurrent_activation(x @ K_o + h @ R_o + b_o)
        c' = f * c + i * g
        h' = o * activation(c')

    Weights:
      kernel: ``(D, 4 H)``
      recurrent_kernel: ``(H, 4 H)``
      bias: ``(4 H,)``, where ``use_bias``

    Source: Hochreiter & Schmidhuber 1997, "Long Short-Term Memory", with the forget gate of Gers et al. 2000;
    ``keras.layers.LSTM`` and ``LSTMCell``.
    """
