"""The layers as ``flax.nnx`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
from flax import nnx
from jax.typing import ArrayLike

from flax_rnn import cells
from flax_rnn.cells import conv_lstm as conv
from flax_rnn.cells import cudnn
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.rnn import rnn
from flax_rnn.layers.stateful import LayerOptions, keep, reset
from flax_rnn.nnx.base import BaseModule, RngSource
from flax_rnn.nnx.cells import (
    ConvLSTM1DCell,
    ConvLSTM2DCell,
    ConvLSTM3DCell,
    CuDNNGRUCell,
    CuDNNLSTMCell,
    DenseCellModule,
    GRUCell,
    InFeatures,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    arguments,
)
from flax_rnn.nnx.foreign import check_cell, view


class RecurrentState(nnx.Variable):
    """The carry that a stateful layer keeps for its next call; ``None`` until there is one."""


class Layer(BaseModule, LayerOptions):
    """Base of the layers: a cell, and how to run it over time. The layer's ``deterministic`` holds for its cell."""

    cell: Any

    def reset_state(self, rows: ArrayLike | None = None) -> None:
        """Forgets the carry that a stateful layer keeps; see ``reset_state`` for whole models."""
        reset_state(self, rows)

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, and new weights."""
        raise NotImplementedError

    def _dropout_key(self, training: bool | None, rngs: RngSource | None) -> jax.Array | None:
        """The key for one call; ``None`` where dropout is not active."""
        return view(self.cell)._dropout_key(self._is_training(training), rngs)

    def _remember(self) -> None:
        """Makes room for the carry, if the layer is stateful."""
        if self.stateful:
            self.state = RecurrentState(None)

    def _kept(self, inputs: jax.Array) -> Carry:
        """The carry to start from, where there is no other one."""
        return self.check_kept(self.state.get_value(), inputs) if self.stateful else None

    def _keep(self, carry: Carry) -> None:
        if self.stateful:
            self.state.set_value(keep(carry))

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        constants: Any = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """Runs the cell over ``inputs`` ``(B, T, D)``.

        Args:
          inputs, initial_state, mask, seq_lengths, resets, constants: as in ``flax_rnn.rnn``, and so is what returns.
          training: whether dropout is active; ``None`` for ``not deterministic``.
          rngs: where to take the dropout key from, in place of the cell's own stream.
        """
        cell = view(self.cell)
        outputs, carry = rnn(
            cell.core,
            cell.params,
            inputs,
            initial_state=self._kept(inputs) if initial_state is None else initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            constants=constants,
            dropout_key=self._dropout_key(training, rngs),
            **self.options_with_state,
        )
        self._keep(carry)
        return (outputs, carry) if self.return_state else outputs


class RNN(Layer):
    """A layer that runs any cell, or a list of them as a ``StackedRNNCells``.

    A cell may also be one of others, as ``flax.nnx.RNN`` takes it: a module with ``initialize_carry``,
    ``num_feature_axes`` and ``__call__(carry, inputs) -> (carry, output)``. Output and carry may have any shapes, and
    the call may have an argument ``constants``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.LayerOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    def __init__(self, cell: nnx.Module | Sequence[nnx.Module], *, deterministic: bool | None = None, **options: Any):
        LayerOptions.__init__(self, **options)
        if isinstance(cell, list | tuple):
            cell = StackedRNNCells(cell)
        check_cell("cell", cell)
        self.cell: Any = cell
        self.deterministic = view(cell).deterministic if deterministic is None else deterministic
        self._remember()

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        options = arguments(self, LayerOptions) | {"deterministic": self.deterministic} | changes
        return type(self)(view(self.cell)._fresh(rngs), **options)


@dataclasses.dataclass(eq=False, repr=False)
class DenseLayer(Layer):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[DenseCellModule]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.cell = self.cell_type(**arguments(self, self.cell_type), rngs=rngs)
        self._remember()

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        return type(self)(**arguments(self) | changes, rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(DenseLayer, cells.SimpleRNNCell, InFeatures):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(DenseLayer, cells.LSTMCell, InFeatures):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(DenseLayer, cells.GRUCell, InFeatures):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMCell, InFeatures):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUCell, InFeatures):
    """``CuDNNGRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = CuDNNGRUCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1D(DenseLayer, conv.ConvLSTM1DCell, InFeatures):
    """``ConvLSTM1DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = ConvLSTM1DCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2D(DenseLayer, conv.ConvLSTM2DCell, InFeatures):
    """``ConvLSTM2DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = ConvLSTM2DCell


@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3D(DenseLayer, conv.ConvLSTM3DCell, InFeatures):
    """``ConvLSTM3DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type = ConvLSTM3DCell


def reset_state(model: nnx.Module, rows: ArrayLike | None = None) -> None:
    """Resets what the stateful layers of ``model`` keep from call to call.

    Args:
      model: a layer, or a model that contains layers.
      rows: booleans ``(B,)``: the sequences to start anew, from zeros; ``None`` to forget everything, so that the next
        call may have any number of sequences.
    """
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, RecurrentState) and variable.get_value() is not None:
            variable.set_value(None if rows is None else reset(variable.get_value(), rows))
