"""The cells as ``flax.nnx`` modules."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
from flax import nnx

from flax_rnn._docstrings import describe
from flax_rnn.cells import conv_lstm, cudnn, gru, lstm, simple_rnn
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.dense import DenseCell
from flax_rnn.cells.protocol import Cell, check_cell
from flax_rnn.layers.faces import arguments, without_initializers
from flax_rnn.nnx.base import CellModule, made_anew


class WeightedCell(CellModule):
    """Base of the cells that own their weights."""

    in_features: int

    def _draw_weights(self, core: Cell, rngs: nnx.Rngs) -> None:
        """Makes a parameter of each of the cell's weights, and a stream if it drops."""
        params = core.init_params(rngs.params(), self.in_features)
        if not isinstance(params, dict):
            raise TypeError(f"cell: expected init_params to return a dict of arrays, got {type(params).__name__}")
        for name, value in params.items():
            if hasattr(self, name):
                raise ValueError(f"cell: expected weights whose names are no attributes of a module, got {name!r}")
            setattr(self, name, nnx.Param(value))
        self.weight_names = tuple(params)
        self.dropout_stream = rngs.dropout.fork() if core.has_dropout else None

    def weights(self) -> dict[str, jax.Array]:
        """As for every cell: a dict, of ``kernel``, ``recurrent_kernel`` and ``bias`` in those that are built in."""
        return {name: getattr(self, name)[...] for name in self.weight_names}

    @property
    def _stream(self) -> nnx.RngStream | None:
        return self.dropout_stream


@dataclasses.dataclass(frozen=True)
class _Held:
    """A cell of the core, as it is; for graph definitions its initializers do not count."""

    cell: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and without_initializers(self.cell) == without_initializers(other.cell)

    def __hash__(self) -> int:
        return hash(without_initializers(self.cell))


@describe
class CoreCell(WeightedCell):
    """Any cell of the core as a module; ``RNN`` makes one of what it is given.

    Its weights are those that the cell's ``init_params`` returns, an ``nnx.Param`` each.

    Args:
      cell: the cell; one that can be hashed.
      in_features: number D of features of the inputs.

    Raises:
      TypeError: for what is no cell, and for weights that are no dict.
      ValueError: for weights whose names are attributes of a module.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_rnn import LSTMCell
      >>> from flax_rnn.nnx import CoreCell
      >>> cell = CoreCell(LSTMCell(4), 3, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((2, 3))  # one step of 2 sequences
      >>> carry, output = cell(cell.initialize_carry(x.shape), x)
      >>> output.shape
      (2, 4)
    """

    def __init__(self, cell: Cell, in_features: int, *, rngs: nnx.Rngs, deterministic: bool = False):
        check_cell("cell", cell)
        self.in_features = in_features
        self.deterministic = deterministic
        self.held = _Held(cell)
        self._draw_weights(cell, rngs)

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.held.cell

    @property
    def num_feature_axes(self) -> int:
        """That of the core's cell."""
        return self.core.num_feature_axes

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)(self.core, self.in_features, rngs=rngs, deterministic=self.deterministic)


@dataclasses.dataclass(eq=False, repr=False)
class InFeatures:
    """The first argument of whatever owns weights; a class of its own so that it comes before the inherited ones.

    Attributes:
      in_features: number D of features of the inputs, or C of their channels.
    """

    in_features: int


@dataclasses.dataclass(eq=False, repr=False)
class DenseCellModule(WeightedCell):
    """Base of the built-in cells.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_rnn.nnx import {name}
      >>> cell = {name}(3, {H}, rngs=nnx.Rngs(0))
      >>> x = jnp.ones({step})  # one step of 2 sequences
      >>> carry, output = cell(cell.initialize_carry(x.shape), x)
      >>> output.shape
      {out}
      >>> sorted(cell.weights())
      ['bias', 'kernel', 'recurrent_kernel']
    """

    core_type: ClassVar[type[DenseCell]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:
        self._validate()
        self._draw_weights(self.core, rngs)

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)

    @property
    def num_feature_axes(self) -> int:
        """That of the core's cell."""
        return self.core.num_feature_axes

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return made_anew(type(self), **arguments(self), rngs=rngs)


@describe
@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(DenseCellModule, DenseArguments, InFeatures):
    """One step of Elman's fully connected recurrent network: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = simple_rnn.SimpleRNNCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(DenseCellModule, lstm.LSTMArguments, InFeatures):
    """One step of long short-term memory: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = lstm.LSTMCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(DenseCellModule, gru.GRUArguments, InFeatures):
    """One step of a gated recurrent unit: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = gru.GRUCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMArguments, InFeatures):
    """One step of the ``CuDNNLSTM`` of Keras 2: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNLSTMCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUArguments, InFeatures):
    """One step of the ``CuDNNGRU`` of Keras 2: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNGRUCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1DCell(DenseCellModule, conv_lstm.ConvLSTM1DArguments, InFeatures):
    """One step of an LSTM with convolutions over one spatial axis."""

    core_type = conv_lstm.ConvLSTM1DCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2DCell(DenseCellModule, conv_lstm.ConvLSTM2DArguments, InFeatures):
    """One step of an LSTM with convolutions over two spatial axes."""

    core_type = conv_lstm.ConvLSTM2DCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3DCell(DenseCellModule, conv_lstm.ConvLSTM3DArguments, InFeatures):
    """One step of an LSTM with convolutions over three spatial axes."""

    core_type = conv_lstm.ConvLSTM3DCell
