"""The layers as ``flax.linen`` modules."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn import cells
from flax_rnn.cells import conv_lstm as conv
from flax_rnn.cells import cudnn
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.rnn import rnn
from flax_rnn.layers.stateful import LayerOptions, keep, reset
from flax_rnn.linen.cells import (
    ConvLSTM1DCell,
    ConvLSTM2DCell,
    ConvLSTM3DCell,
    CuDNNGRUCell,
    CuDNNLSTMCell,
    DenseCellModule,
    GRUCell,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
)
from flax_rnn.linen.foreign import check_cell, view

COLLECTION = "carry"
"""The collection in which stateful layers keep their carries."""


class Layer(nn.Module, LayerOptions, kw_only=True):
    """Base of the layers: a cell, and how to run it over time."""

    deterministic: bool | None = True

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, that belongs to no module yet."""
        return self.clone(parent=None, name=None, **changes)

    def dropout_key(self, training: bool | None) -> jax.Array | None:
        """The key for one call; ``None`` where dropout is not active."""
        return view(self.cell).dropout_key(not self.deterministic if training is None else training)

    def first(self, inputs: jax.Array) -> jax.Array:
        """An example of one step of ``inputs``, whatever their number of axes, which the core checks."""
        shape = jnp.shape(inputs)
        return jnp.zeros(shape[1:] if self.time_major else (*shape[:1], *shape[2:]))

    def kept(self, inputs: jax.Array) -> Carry:
        """The carry to start from, where there is no other one."""
        if not self.stateful or not self.has_variable(COLLECTION, "state"):
            return None
        return self.check_kept(self.get_variable(COLLECTION, "state"), inputs)

    def keep(self, carry: Carry) -> None:
        """Leaves ``carry`` for the next call, if the layer is stateful."""
        # Inputs for `init` are examples, often of another batch size.
        if self.stateful and not self.is_initializing():
            self.put_variable(COLLECTION, "state", keep(carry))

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
    ) -> Any:
        """Runs the cell over ``inputs`` ``(B, T, D)``.

        Args:
          inputs, initial_state, mask, seq_lengths, resets, constants: as in ``flax_rnn.rnn``, and so is what returns.
          training: whether dropout is active; ``None`` for ``not deterministic``.
        """
        cell = view(self.cell)
        outputs, carry = rnn(
            cell.core,
            cell.weights(self.first(inputs), constants),
            inputs,
            initial_state=self.kept(inputs) if initial_state is None else initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            resets=resets,
            constants=constants,
            dropout_key=self.dropout_key(training),
            **self.options_with_state,
        )
        self.keep(carry)
        return (outputs, carry) if self.return_state else outputs


class RNN(Layer):
    """A layer that runs any cell, or a list of them as a ``StackedRNNCells``.

    A cell may also be one of others, as ``flax.linen.RNN`` takes it: a module with ``initialize_carry``,
    ``num_feature_axes`` and ``__call__(carry, inputs) -> (carry, output)``. Output and carry may have any shapes, and
    the call may have an argument ``constants``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.LayerOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    cell: nn.Module | Sequence[nn.Module]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.cell, list | tuple):
            self.cell = StackedRNNCells(cells=tuple(self.cell), parent=None)
        check_cell("cell", self.cell)
        if self.deterministic is None:
            self.deterministic = view(self.cell).deterministic
        super().__post_init__()

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """As for every layer."""
        return super().fresh(cell=view(self.cell).fresh(), **changes)


class DenseLayer(Layer):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[DenseCellModule]]

    def __post_init__(self) -> None:
        self.cell_type.core_type.of(self)  # which validates
        super().__post_init__()

    def setup(self) -> None:
        """Makes the cell from the layer's own arguments."""
        names = [field.name for field in dataclasses.fields(self.cell_type) if field.name not in ("parent", "name")]
        self.cell = self.cell_type(**{name: getattr(self, name) for name in names})


class SimpleRNN(DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = SimpleRNNCell


class LSTM(DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = LSTMCell


class GRU(DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = GRUCell


class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMCell):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = CuDNNLSTMCell


class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUCell):
    """``CuDNNGRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = CuDNNGRUCell


class ConvLSTM1D(DenseLayer, conv.ConvLSTM1DCell):
    """``ConvLSTM1DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = ConvLSTM1DCell


class ConvLSTM2D(DenseLayer, conv.ConvLSTM2DCell):
    """``ConvLSTM2DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = ConvLSTM2DCell


class ConvLSTM3D(DenseLayer, conv.ConvLSTM3DCell):
    """``ConvLSTM3DCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.LayerOptions``."""

    cell_type: ClassVar[type[DenseCellModule]] = ConvLSTM3DCell


def reset_state(variables: Mapping[str, Any], rows: ArrayLike | None = None) -> dict[str, Any]:
    """``variables`` with what stateful layers keep from call to call reset.

    Args:
      variables: those of a model, by collection.
      rows: booleans ``(B,)``: the sequences to start anew, from zeros; ``None`` to forget everything, so that the next
        call may have any number of sequences.
    """
    others = {name: values for name, values in variables.items() if name != COLLECTION}
    if rows is None or COLLECTION not in variables:
        return others
    return others | {COLLECTION: reset(variables[COLLECTION], rows)}
