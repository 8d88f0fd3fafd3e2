"""The cells as ``flax.linen`` modules."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_rnn._docstrings import describe
from flax_rnn.cells import conv_lstm, cudnn, gru, lstm, simple_rnn
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.dense import DenseCell
from flax_rnn.cells.protocol import check_cell
from flax_rnn.linen.base import CellModule


class WeightedCell(CellModule):
    """Base of the cells that own their weights."""

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return getattr(self.core, "param_dtype", jnp.float32)

    @nn.compact
    def weights(self, inputs: jax.Array, constants: Any = None) -> dict[str, jax.Array]:
        """As for every cell."""
        in_features = inputs.shape[-1]
        if self.has_variable("params", "kernel"):
            # Inputs that do not fit are left to the core, whose error says so.
            in_features = nn.unbox(self.get_variable("params", "kernel")).shape[-2]
        specs = self.core.param_specs(in_features).items()
        return {name: self.param(name, initialize, shape, self.weight_dtype) for name, (initialize, shape) in specs}


@describe
class CoreCell(WeightedCell):
    """Any cell of the core as a module; ``RNN`` makes one of what it is given.

    Its parameters are those that the cell's ``param_specs`` describes.

    Attributes:
      cell (Cell): the cell; one that has ``param_specs``.

    Raises:
      TypeError: for what is no cell, and for one that does not tell its weights.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn import LSTMCell
      >>> from flax_rnn.linen import CoreCell
      >>> cell = CoreCell(LSTMCell(4))
      >>> x = jnp.ones((2, 3))  # one step of 2 sequences
      >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
      >>> variables = cell.init(jax.random.key(0), carry, x)
      >>> carry, output = cell.apply(variables, carry, x)
      >>> output.shape
      (2, 4)
    """

    cell: Any

    def __post_init__(self) -> None:
        check_cell("cell", self.cell)
        if not hasattr(self.cell, "param_specs"):
            raise TypeError(f"cell: expected a cell that tells its weights, got {self.cell!r} without param_specs")
        super().__post_init__()

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.cell


class DenseCellModule(WeightedCell):
    """Base of the built-in cells.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn.linen import {name}
      >>> cell = {name}({H})
      >>> x = jnp.ones({step})  # one step of 2 sequences
      >>> carry = cell.initialize_carry(jax.random.key(0), x.shape)
      >>> variables = cell.init(jax.random.key(0), carry, x)
      >>> carry, output = cell.apply(variables, carry, x)
      >>> output.shape
      {out}
      >>> sorted(variables["params"])
      ['bias', 'kernel', 'recurrent_kernel']
    """

    core_type: ClassVar[type[DenseCell]]

    def __post_init__(self: Any) -> None:
        self.validate()
        super().__post_init__()

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)


@describe
class SimpleRNNCell(DenseCellModule, DenseArguments):
    """One step of Elman's fully connected recurrent network: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = simple_rnn.SimpleRNNCell


@describe
class LSTMCell(DenseCellModule, lstm.LSTMArguments):
    """One step of long short-term memory: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = lstm.LSTMCell


@describe
class GRUCell(DenseCellModule, gru.GRUArguments):
    """One step of a gated recurrent unit: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = gru.GRUCell


@describe
class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMArguments):
    """One step of the ``CuDNNLSTM`` of Keras 2: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = cudnn.CuDNNLSTMCell


@describe
class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUArguments):
    """One step of the ``CuDNNGRU`` of Keras 2: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = cudnn.CuDNNGRUCell


@describe
class ConvLSTM1DCell(DenseCellModule, conv_lstm.ConvLSTM1DArguments):
    """One step of an LSTM with convolutions over one spatial axis."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM1DCell


@describe
class ConvLSTM2DCell(DenseCellModule, conv_lstm.ConvLSTM2DArguments):
    """One step of an LSTM with convolutions over two spatial axes."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM2DCell


@describe
class ConvLSTM3DCell(DenseCellModule, conv_lstm.ConvLSTM3DArguments):
    """One step of an LSTM with convolutions over three spatial axes."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM3DCell
