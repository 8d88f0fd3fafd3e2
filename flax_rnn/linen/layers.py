"""The layers as ``flax.linen`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn import cells, cudnn, dense
from flax_rnn.bidirectional import bidirectional, check_directions, check_merge_mode
from flax_rnn.cell import Carry
from flax_rnn.linen.cells import (
    CellModule,
    CuDNNGRUCell,
    CuDNNLSTMCell,
    DenseCellModule,
    GRUCell,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    check_cell,
)
from flax_rnn.sequence import SequenceOptions, rnn


class Layer(nn.Module, SequenceOptions, kw_only=True):
    """Base of the layers: a cell, and how to run it over time."""

    deterministic: bool | None = True

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, that belongs to no module yet."""
        return self.clone(parent=None, name=None, **changes)

    def dropout_key(self, training: bool | None) -> jax.Array | None:
        """The key for one call; ``None`` where dropout is not active."""
        return self.cell.dropout_key(not self.deterministic if training is None else training)

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """Runs the cell over ``inputs`` ``(B, T, D)``.

        Args:
          inputs, initial_state, mask, seq_lengths, resets: as in ``flax_rnn.rnn``, and so is what returns.
          training: whether dropout is active; ``None`` for ``not deterministic``.
        """
        return rnn(
            self.cell.core,
            self.cell.weights(inputs.shape[-1]),
            inputs,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            dropout_key=self.dropout_key(training),
            **self.options,
        )


class RNN(Layer):
    """A layer that runs any cell of this module, or a list of them as a ``StackedRNNCells``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.SequenceOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    cell: CellModule | Sequence[CellModule]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.cell, list | tuple):
            self.cell = StackedRNNCells(cells=tuple(self.cell), parent=None)
        check_cell("cell", self.cell)
        assert isinstance(self.cell, CellModule)
        if self.deterministic is None:
            self.deterministic = self.cell.deterministic
        super().__post_init__()

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """As for every layer."""
        assert isinstance(self.cell, CellModule)
        return super().fresh(cell=self.cell.fresh(), **changes)


class DenseLayer(Layer, dense.DenseCell):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[DenseCellModule]]

    def __post_init__(self) -> None:
        self.validate()
        super().__post_init__()

    def setup(self) -> None:
        """Makes the cell from the layer's own arguments."""
        names = [field.name for field in dataclasses.fields(self.cell_type) if field.name not in ("parent", "name")]
        self.cell = self.cell_type(**{name: getattr(self, name) for name in names})


class SimpleRNN(DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = SimpleRNNCell


class LSTM(DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = LSTMCell


class GRU(DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = GRUCell


class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMCell):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = CuDNNLSTMCell


class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUCell):
    """``CuDNNGRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = CuDNNGRUCell


class Bidirectional(nn.Module):
    """A layer and its counterpart in the other direction, with their outputs merged.

    Attributes:
      layer: the forward layer; its parameters are under ``forward_layer``.
      merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or ``None`` for a pair of outputs.
      backward_layer: the other one; ``None`` for a layer with the arguments of ``layer``. Its parameters are under
        ``backward_layer``.

    Source: ``keras.layers.Bidirectional``.
    """

    layer: Layer
    merge_mode: str | None = "concat"
    backward_layer: Layer | None = None

    def __post_init__(self) -> None:
        check_merge_mode(self.merge_mode)
        for name, value in (("layer", self.layer), ("backward_layer", self.backward_layer or self.layer)):
            if not isinstance(value, Layer):
                raise TypeError(f"{name}: expected a layer of flax_rnn.linen, got {type(value).__name__}")
        if self.backward_layer is None:
            self.backward_layer = self.layer.fresh(go_backwards=not self.layer.go_backwards)
        else:
            self.backward_layer = self.backward_layer.fresh()
        check_directions(self.layer, self.backward_layer)
        super().__post_init__()

    def setup(self) -> None:
        """Names the forward parameters after their direction, not after the argument."""
        self.forward_layer = self.layer.fresh()

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: ArrayLike | None = None,
        training: bool | None = None,
        *,
        seq_lengths: ArrayLike | None = None,
        resets: ArrayLike | None = None,
    ) -> Any:
        """As the layers' call; states are pairs ``(forward carry, backward carry)``."""
        forward, backward = self.forward_layer, self.backward_layer
        assert backward is not None  # __post_init__ made one
        key = forward.dropout_key(training)
        return bidirectional(
            (forward.cell.core, backward.cell.core),
            (forward.cell.weights(inputs.shape[-1]), backward.cell.weights(inputs.shape[-1])),
            inputs,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            dropout_key=backward.dropout_key(training) if key is None else key,
            **forward.options,
        )
