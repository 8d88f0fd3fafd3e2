"""The layers as ``flax.nnx`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
from flax import nnx
from jax.typing import ArrayLike

from flax_rnn import cells, cudnn, dense
from flax_rnn.bidirectional import bidirectional, check_directions, check_merge_mode
from flax_rnn.cell import Carry
from flax_rnn.nnx.cells import (
    BaseModule,
    CellModule,
    CuDNNGRUCell,
    CuDNNLSTMCell,
    DenseCellModule,
    GRUCell,
    InFeatures,
    LSTMCell,
    RngSource,
    SimpleRNNCell,
    StackedRNNCells,
    arguments,
    check_cell,
)
from flax_rnn.sequence import SequenceOptions, rnn


class Layer(BaseModule, SequenceOptions):
    """Base of the layers: a cell, and how to run it over time. The layer's ``deterministic`` holds for its cell."""

    cell: CellModule

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, and new weights."""
        raise NotImplementedError

    def _dropout_key(self, training: bool | None, rngs: RngSource | None) -> jax.Array | None:
        """The key for one call; ``None`` where dropout is not active."""
        return self.cell._dropout_key(self._is_training(training), rngs)

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """Runs the cell over ``inputs`` ``(B, T, D)``.

        Args:
          inputs, initial_state, mask, seq_lengths, resets: as in ``flax_rnn.rnn``, and so is what returns.
          training: whether dropout is active; ``None`` for ``not deterministic``.
          rngs: where to take the dropout key from, in place of the cell's own stream.
        """
        return rnn(
            self.cell.core,
            self.cell.params,
            inputs,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            dropout_key=self._dropout_key(training, rngs),
            **self.options,
        )


class RNN(Layer):
    """A layer that runs any cell of this module, or a list of them as a ``StackedRNNCells``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.SequenceOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    def __init__(self, cell: CellModule | Sequence[CellModule], *, deterministic: bool | None = None, **options: Any):
        SequenceOptions.__init__(self, **options)
        if isinstance(cell, list | tuple):
            cell = StackedRNNCells(cell)
        check_cell("cell", cell)
        self.cell: Any = cell
        self.deterministic = self.cell.deterministic if deterministic is None else deterministic

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        options = self.options | {"deterministic": self.deterministic} | changes
        return type(self)(self.cell._fresh(rngs), **options)


@dataclasses.dataclass(eq=False, repr=False)
class DenseLayer(Layer, dense.DenseCell, InFeatures):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[DenseCellModule]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.cell = self.cell_type(**arguments(self, self.cell_type), rngs=rngs)

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        return type(self)(**arguments(self) | changes, rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMCell):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUCell):
    """``CuDNNGRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = CuDNNGRUCell


class Bidirectional(nnx.Module):
    """A layer and its counterpart in the other direction, with their outputs merged.

    Args:
      layer: the forward layer.
      merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or ``None`` for a pair of outputs.
      backward_layer: the other one; ``None`` for a layer with the arguments of ``layer`` and weights of its own.
      rngs: for the weights of that layer.

    Source: ``keras.layers.Bidirectional``.
    """

    def __init__(
        self,
        layer: Layer,
        merge_mode: str | None = "concat",
        backward_layer: Layer | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        check_merge_mode(merge_mode)
        for name, value in (("layer", layer), ("backward_layer", backward_layer or layer)):
            if not isinstance(value, Layer):
                raise TypeError(f"{name}: expected a layer of flax_rnn.nnx, got {type(value).__name__}")
        if backward_layer is None:
            if rngs is None:
                raise ValueError("rngs: expected nnx.Rngs for the weights of the backward layer, got None")
            backward_layer = layer._fresh(rngs, go_backwards=not layer.go_backwards)
        check_directions(layer, backward_layer)
        self.forward_layer = layer
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """As the layers' call; states are pairs ``(forward carry, backward carry)``."""
        forward, backward = self.forward_layer, self.backward_layer
        key = forward._dropout_key(training, rngs)
        return bidirectional(
            (forward.cell.core, backward.cell.core),
            (forward.cell.params, backward.cell.params),
            inputs,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            dropout_key=backward._dropout_key(training, rngs) if key is None else key,
            **forward.options,
        )
