"""The cells of CuDNNLSTM and CuDNNGRU: the equations of LSTM and GRU, with weights as cuDNN's layers kept them.

They differ from ``LSTMCell`` and ``GRUCell`` in their weights alone:

* ``bias`` is ``(8 H,)`` for the LSTM and ``(6 H,)`` for the GRU: the biases of the inputs, gate by gate, then those of
  the state;
* each gate's block of ``kernel`` ``(D, H)`` holds the numbers of a row-major ``(H, D)`` matrix, its transpose, and each
  block of ``recurrent_kernel`` ``(H, H)`` is the transpose of the plain one.

Activations are tanh and sigmoid, there is always a bias and no dropout, and the GRU resets after the product. Unlike
the originals they take masks, and run wherever jax does.

Source: ``CuDNNLSTM`` and ``CuDNNGRU`` of Keras 2, and how it loads their weights into LSTM and GRU.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flax_rnn import initializers
from flax_rnn._docstrings import describe
from flax_rnn.cells.arguments import CellArguments
from flax_rnn.cells.dense import DenseCell
from flax_rnn.cells.gru import GRUArguments, GRUCell
from flax_rnn.cells.lstm import LSTMArguments, LSTMCell
from flax_rnn.cells.protocol import Params


class _Fixed(CellArguments):
    """Arguments most of which have one value only."""

    fixed: ClassVar[dict[str, Any]] = {
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "use_bias": True,
        "dropout": 0.0,
        "recurrent_dropout": 0.0,
    }

    def validate(self) -> None:
        """As for every cell, and that nothing is asked for that these layers do not have."""
        super().validate()
        for name, value in self.fixed.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}: {type(self).__name__} has {value!r}, got {getattr(self, name)!r}")


class CuDNNLSTMArguments(_Fixed, LSTMArguments):
    """The arguments of a ``CuDNNLSTMCell``."""


class CuDNNGRUArguments(_Fixed, GRUArguments):
    """The arguments of a ``CuDNNGRUCell``."""

    fixed: ClassVar[dict[str, Any]] = {**_Fixed.fixed, "reset_after": True}


class _CuDNNWeights(DenseCell):
    """Turns the weights into plain ones wherever a cell uses them."""

    def bias_shape(self) -> tuple[int, ...]:
        """``(2 g H,)``: the biases of the inputs, then those of the state."""
        return (2 * self.num_gates * self.units,)

    def plain(self, params: Params) -> dict[str, jax.Array]:
        """The weights of the plain cell with the same outputs."""
        kernel = [block.reshape(block.shape[::-1]).T for block in self.split_gates(jnp.asarray(params["kernel"]))]
        recurrent = [block.T for block in self.split_gates(jnp.asarray(params["recurrent_kernel"]))]
        bias = jnp.asarray(params["bias"]).reshape(2, -1)
        return {
            "kernel": jnp.concatenate(kernel, axis=1),
            "recurrent_kernel": jnp.concatenate(recurrent, axis=1),
            "bias": self._plain_bias(bias),
        }

    def _plain_bias(self, bias: jax.Array) -> jax.Array:
        """The plain cell's bias from that of the inputs and that of the state ``(2, g H)``."""
        return bias


@describe
@dataclasses.dataclass(unsafe_hash=True)
class CuDNNLSTMCell(_CuDNNWeights, CuDNNLSTMArguments, LSTMCell):
    """``LSTMCell`` with weights as the ``CuDNNLSTM`` of Keras 2 kept them; runs wherever jax does.

    Each gate's block of ``kernel`` ``(D, H)`` holds the numbers of a row-major ``(H, D)`` matrix, the transpose of the
    plain one, and each block of ``recurrent_kernel`` ``(H, H)`` is transposed, too. ``bias`` has the biases of the
    inputs, then those of the state, which are added; with ``unit_forget_bias`` it is that of the state that starts at
    1. Otherwise it is an ``LSTMCell``.

    Weights:
      kernel: ``(D, 4 H)``
      recurrent_kernel: ``(H, 4 H)``
      bias: ``(8 H,)``

    Source: ``CuDNNLSTM`` of Keras 2.
    """

    def _plain_bias(self, bias: jax.Array) -> jax.Array:
        return bias[0] + bias[1]

    def _bias_initializer(self) -> initializers.Initializer:
        bias = initializers.get(self.bias_initializer)
        return initializers.unit_forget_bias(bias, 5 * self.units, self.units) if self.unit_forget_bias else bias


@describe
@dataclasses.dataclass(unsafe_hash=True)
class CuDNNGRUCell(_CuDNNWeights, CuDNNGRUArguments, GRUCell):
    """``GRUCell`` with weights as the ``CuDNNGRU`` of Keras 2 kept them; runs wherever jax does.

    Each gate's block of ``kernel`` ``(D, H)`` holds the numbers of a row-major ``(H, D)`` matrix, the transpose of the
    plain one, and each block of ``recurrent_kernel`` ``(H, H)`` is transposed, too. ``bias`` has the biases of the
    inputs, then those of the state. Otherwise it is a ``GRUCell`` that resets after the product.

    Weights:
      kernel: ``(D, 3 H)``
      recurrent_kernel: ``(H, 3 H)``
      bias: ``(6 H,)``

    Source: ``CuDNNGRU`` of Keras 2.
    """
