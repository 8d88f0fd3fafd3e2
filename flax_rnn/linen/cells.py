"""The cells as ``flax.linen`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_rnn import cells
from flax_rnn.cells import conv_lstm as conv
from flax_rnn.cells import cudnn, dense, stacked
from flax_rnn.cells.protocol import Params, output_like
from flax_rnn.linen.base import CellModule
from flax_rnn.linen.foreign import check_cell, view


class DenseCellModule(CellModule):
    """Base of the cells that own their weights."""

    core_type: ClassVar[type[dense.DenseCell]]

    def __post_init__(self) -> None:
        self.core_type.of(self)  # which validates
        super().__post_init__()

    @property
    def num_feature_axes(self) -> int:
        """That of the core's cell."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return self.core.param_dtype

    @nn.compact
    def weights(self, inputs: jax.Array, constants: Any = None) -> Params:
        """As for every cell."""
        in_features = inputs.shape[-1]
        if self.has_variable("params", "kernel"):
            # Inputs that do not fit are left to the core, whose error says so.
            in_features = nn.unbox(self.get_variable("params", "kernel")).shape[-2]
        specs = self.core.param_specs(in_features).items()
        return {name: self.param(name, initialize, shape, self.weight_dtype) for name, (initialize, shape) in specs}


class SimpleRNNCell(DenseCellModule, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.SimpleRNNCell


class LSTMCell(DenseCellModule, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.LSTMCell


class GRUCell(DenseCellModule, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.GRUCell


class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMCell):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNLSTMCell


class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUCell):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNGRUCell


class ConvLSTM1DCell(DenseCellModule, conv.ConvLSTM1DCell):
    """``flax_rnn.ConvLSTM1DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = conv.ConvLSTM1DCell


class ConvLSTM2DCell(DenseCellModule, conv.ConvLSTM2DCell):
    """``flax_rnn.ConvLSTM2DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = conv.ConvLSTM2DCell


class ConvLSTM3DCell(DenseCellModule, conv.ConvLSTM3DCell):
    """``flax_rnn.ConvLSTM3DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = conv.ConvLSTM3DCell


class StackedRNNCells(CellModule):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    ``cells`` may be cells of others, too, as in ``RNN``. Its own ``deterministic`` holds for all of them that are of
    this module; by default it is theirs.
    """

    cells: Sequence[nn.Module]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for index, cell in enumerate(self.cells):
            check_cell(f"cells[{index}]", cell)
        if self.deterministic is None:
            self.deterministic = all(cell.deterministic for cell in self.views)
        stacked.StackedRNNCells(tuple(cell.core for cell in self.views))
        super().__post_init__()

    @property
    def views(self) -> list[Any]:
        """The cells, each with what a ``CellModule`` has."""
        return [view(cell) for cell in self.cells]

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Any:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self.views))

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return jnp.result_type(*(cell.weight_dtype for cell in self.views))

    def weights(self, inputs: jax.Array, constants: Any = None) -> Params:
        """As for every cell: a tuple of theirs."""
        params = []
        below: Any = None
        for cell in self.views:
            if below is not None:
                inputs = output_like(below.core, params[-1], inputs, constants)
            params.append(cell.weights(inputs, constants))
            below = cell
        return tuple(params)

    @nn.nowrap
    def fresh(self) -> Self:
        """As for every cell."""
        return self.clone(parent=None, name=None, cells=tuple(cell.fresh() for cell in self.views))
