"""The cells as ``flax.nnx`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from flax import nnx

from flax_rnn import cells
from flax_rnn.cells import conv_lstm as conv
from flax_rnn.cells import cudnn, dense, stacked
from flax_rnn.cells.protocol import Cell, Params
from flax_rnn.nnx.base import CellModule
from flax_rnn.nnx.foreign import check_cell, view


@dataclasses.dataclass(eq=False, repr=False)
class InFeatures:
    """The first argument of whatever owns weights; a class of its own so that it comes before the inherited ones."""

    in_features: int


@dataclasses.dataclass(eq=False, repr=False)
class DenseCellModule(CellModule):
    """Base of the cells that own their weights."""

    core_type: ClassVar[type[dense.DenseCell]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self: Any, rngs: nnx.Rngs) -> None:
        core = self.core
        for name, value in core.init_params(rngs.params(), self.in_features).items():
            setattr(self, name, nnx.Param(value))
        self.dropout_stream = rngs.dropout.fork() if core.has_dropout else None

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)

    @property
    def params(self: Any) -> Params:
        """As for every cell: a dict of ``kernel``, ``recurrent_kernel`` and ``bias``."""
        return {name: getattr(self, name)[...] for name in self.core.param_specs(self.in_features)}

    @property
    def _stream(self) -> nnx.RngStream | None:
        return self.dropout_stream

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)(**arguments(self), rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(DenseCellModule, cells.SimpleRNNCell, InFeatures):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(DenseCellModule, cells.LSTMCell, InFeatures):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(DenseCellModule, cells.GRUCell, InFeatures):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMCell, InFeatures):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUCell, InFeatures):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNGRUCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1DCell(DenseCellModule, conv.ConvLSTM1DCell, InFeatures):
    """``flax_rnn.ConvLSTM1DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = conv.ConvLSTM1DCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2DCell(DenseCellModule, conv.ConvLSTM2DCell, InFeatures):
    """``flax_rnn.ConvLSTM2DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = conv.ConvLSTM2DCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3DCell(DenseCellModule, conv.ConvLSTM3DCell, InFeatures):
    """``flax_rnn.ConvLSTM3DCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = conv.ConvLSTM3DCell


class StackedRNNCells(CellModule):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    ``cells`` may be cells of others, too, as in ``RNN``. Its own ``deterministic`` holds for all of them that are of
    this module; it starts as theirs.
    """

    def __init__(self, cells: Sequence[nnx.Module], *, deterministic: bool | None = None):
        for index, cell in enumerate(cells):
            check_cell(f"cells[{index}]", cell)
        self.cells = nnx.List(cells)
        views = self._views
        self.deterministic = all(cell.deterministic for cell in views) if deterministic is None else deterministic
        stacked.StackedRNNCells(tuple(cell.core for cell in views))

    @property
    def _views(self) -> list[Any]:
        return [view(cell) for cell in self.cells]

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Cell:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self._views))

    @property
    def params(self) -> Params:
        """As for every cell: a tuple of theirs."""
        return tuple(cell.params for cell in self._views)

    @property
    def _stream(self) -> nnx.RngStream | None:
        streams = (cell._stream for cell in self._views)
        return next((stream for stream in streams if stream is not None), None)

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)([cell._fresh(rngs) for cell in self._views], deterministic=self.deterministic)


def arguments(module: Any, cls: type | None = None) -> dict[str, Any]:
    """The attributes of ``module`` that are arguments of ``cls`` (its own class by default), but for ``rngs``."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(cls or type(module)) if field.init}
