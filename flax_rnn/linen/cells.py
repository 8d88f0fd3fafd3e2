"""The cells as ``flax.linen`` modules."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

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


class CoreCell(WeightedCell):
    """Any cell of the core as a module; ``RNN`` makes one of what it is given.

    Attributes:
      cell: the cell; one that has ``param_specs``.
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
    """Base of the built-in cells."""

    core_type: ClassVar[type[DenseCell]]

    def __post_init__(self: Any) -> None:
        self.validate()
        super().__post_init__()

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)


class SimpleRNNCell(DenseCellModule, DenseArguments):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = simple_rnn.SimpleRNNCell


class LSTMCell(DenseCellModule, lstm.LSTMArguments):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = lstm.LSTMCell


class GRUCell(DenseCellModule, gru.GRUArguments):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = gru.GRUCell


class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMArguments):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = cudnn.CuDNNLSTMCell


class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUArguments):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = cudnn.CuDNNGRUCell


class ConvLSTM1DCell(DenseCellModule, conv_lstm.ConvLSTM1DArguments):
    """``flax_rnn.ConvLSTM1DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM1DCell


class ConvLSTM2DCell(DenseCellModule, conv_lstm.ConvLSTM2DArguments):
    """``flax_rnn.ConvLSTM2DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM2DCell


class ConvLSTM3DCell(DenseCellModule, conv_lstm.ConvLSTM3DArguments):
    """``flax_rnn.ConvLSTM3DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[DenseCell]] = conv_lstm.ConvLSTM3DCell
