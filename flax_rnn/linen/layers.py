"""The layers as ``flax.linen`` modules."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn._docstrings import describe, describe_call
from flax_rnn.cells import conv_lstm, cudnn, gru, lstm
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.faces import arguments, overrides
from flax_rnn.layers.rnn import rnn
from flax_rnn.layers.stateful import LayerOptions, keep
from flax_rnn.linen import cells
from flax_rnn.linen.cells import DenseCellModule
from flax_rnn.linen.foreign import check_cell, view
from flax_rnn.linen.stacked import module_of
from flax_rnn.linen.state import COLLECTION


class Layer(nn.Module, LayerOptions, kw_only=True):
    """Base of the layers: a cell, and how to run it over time.

    Attributes:
      deterministic: whether dropout is off; without, ``rngs={"dropout": key}`` has to be given to ``apply``.
    """

    # Whether a subclass has a call of its own, which is more than a cell and options.
    runs_itself: ClassVar[bool] = False

    deterministic: bool | None = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if overrides(cls, "__call__"):
            cls.runs_itself = True

    def __post_init__(self) -> None:
        self.check_options()
        super().__post_init__()

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """The carry to start from, zeros as of the cell, for one step of inputs of ``input_shape`` ``(*batch, D)``."""
        raise NotImplementedError

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, that belongs to no module yet."""
        return self.clone(parent=None, name=None, **changes)

    def dropout_key(self, training: bool | None) -> jax.Array | None:
        """The key for one call; ``None`` where dropout is not active."""
        return view(self.cell).dropout_key(not self.deterministic if training is None else training)

    def first(self, inputs: jax.Array) -> jax.Array:
        """An example of one step of ``inputs``, whatever their number of axes, which the core checks."""
        axes, features = [*jnp.shape(inputs)], view(self.cell).num_feature_axes
        if len(axes) <= features:
            return jnp.zeros((1,) * features)
        del axes[0 if self.time_major else len(axes) - features - 1]
        return jnp.zeros(axes)

    def kept(self, inputs: jax.Array) -> Carry:
        """The carry to start from, where there is no other one."""
        if not self.stateful or not self.has_variable(COLLECTION, "state"):
            return None
        kept = self.get_variable(COLLECTION, "state")
        return self.check_kept(kept, inputs, view(self.cell).num_feature_axes)

    def keep(self, carry: Carry) -> None:
        """Leaves ``carry`` for the next call, if the layer is stateful."""
        # Inputs for `init` are examples, often of another batch size.
        if self.stateful and not self.is_initializing():
            self.put_variable(COLLECTION, "state", keep(carry))

    @describe_call(rnn)
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
        """Runs the cell over the time axis of ``inputs``, as ``flax_rnn.rnn`` does.

        Args:
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


@describe
class RNN(Layer):
    """A layer that runs any cell, or a list of them as a ``StackedRNNCells``.

    A cell may be a module of ``flax_rnn.linen``; a cell of the core, such as one of your own, whose weights are then
    declared here; or one of others, as ``flax.linen.RNN`` takes it: a module with ``initialize_carry``,
    ``num_feature_axes`` and ``__call__(carry, inputs) -> (carry, output)``. Carry and output of the latter may be trees
    of any shapes and dtypes, and the call may have an argument ``constants``.

    Attributes:
      cell (Module | Cell | Sequence): what to run: a cell, or cells from the bottom up.
      deterministic: whether dropout is off; ``None`` for what ``cell`` says.

    Raises:
      TypeError: for what is no cell.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import flax_rnn
      >>> from flax_rnn.linen import RNN, GRUCell, LSTMCell
      >>> cells = [LSTMCell(4), GRUCell(6)]
      >>> layer = RNN(cells, return_sequences=True, return_state=True)
      >>> x = jnp.ones((2, 5, 3))  # 2 sequences of 5 steps
      >>> variables = layer.init(jax.random.key(0), x)
      >>> outputs, carry = layer.apply(variables, x)
      >>> outputs.shape
      (2, 5, 6)
      >>> jax.tree.map(jnp.shape, carry)
      (LSTMCarry(h=(2, 4), c=(2, 4)), (2, 6))
      >>> layer = RNN(flax_rnn.SimpleRNNCell(4))  # of the core, or your own
      >>> layer.init_with_output(jax.random.key(0), x)[0].shape
      (2, 4)

    Source: ``keras.layers.RNN``.
    """

    cell: Any
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.cell = module_of(self.cell)
        check_cell("cell", self.cell)
        if self.deterministic is None:
            self.deterministic = view(self.cell).deterministic
        super().__post_init__()

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """The carry to start from, for one step of inputs of ``input_shape`` ``(*batch, D)``."""
        return self.cell.initialize_carry(rng, input_shape)

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """As for every layer."""
        return super().fresh(cell=view(self.cell).fresh(), **changes)


class DenseLayer(Layer):
    """Base of the layers that are one cell over time, with the arguments of both.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn.linen import {name}
      >>> layer = {name}({H}, return_sequences=True)
      >>> x = jnp.ones({x})  # 2 sequences of 5 steps
      >>> variables = layer.init(jax.random.key(0), x)
      >>> lengths = jnp.array([5, 3])  # of which 3 count in the second one
      >>> layer.apply(variables, x, seq_lengths=lengths).shape
      {y}
      >>> sorted(variables["params"]["cell"])
      ['bias', 'kernel', 'recurrent_kernel']
    """

    cell_type: ClassVar[type[DenseCellModule]]

    def __post_init__(self: Any) -> None:
        self.validate()
        super().__post_init__()

    @nn.nowrap
    def make_cell(self, **where: Any) -> DenseCellModule:
        """The cell with the layer's own arguments."""
        own = arguments(self, self.cell_type)
        return self.cell_type(**{name: value for name, value in own.items() if name not in ("parent", "name")}, **where)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """The carry to start from, for one step of inputs of ``input_shape`` ``(*batch, D)``."""
        return self.make_cell(parent=None).initialize_carry(rng, input_shape)

    def setup(self) -> None:
        """Makes the cell."""
        self.cell = self.make_cell()


@describe
class SimpleRNN(DenseLayer, DenseArguments):
    """Elman's fully connected recurrent network: a ``SimpleRNNCell`` at every step of a sequence."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.SimpleRNNCell


@describe
class LSTM(DenseLayer, lstm.LSTMArguments):
    """Long short-term memory: an ``LSTMCell`` at every step of a sequence."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.LSTMCell


@describe
class GRU(DenseLayer, gru.GRUArguments):
    """Gated recurrent units: a ``GRUCell`` at every step of a sequence."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.GRUCell


@describe
class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMArguments):
    """The ``CuDNNLSTM`` of Keras 2, wherever jax runs: a ``CuDNNLSTMCell`` at every step of a sequence."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.CuDNNLSTMCell


@describe
class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUArguments):
    """The ``CuDNNGRU`` of Keras 2, wherever jax runs: a ``CuDNNGRUCell`` at every step of a sequence."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.CuDNNGRUCell


@describe
class ConvLSTM1D(DenseLayer, conv_lstm.ConvLSTM1DArguments):
    """An LSTM with convolutions over one spatial axis: a ``ConvLSTM1DCell`` at every step."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.ConvLSTM1DCell


@describe
class ConvLSTM2D(DenseLayer, conv_lstm.ConvLSTM2DArguments):
    """An LSTM with convolutions over two spatial axes: a ``ConvLSTM2DCell`` at every step."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.ConvLSTM2DCell


@describe
class ConvLSTM3D(DenseLayer, conv_lstm.ConvLSTM3DArguments):
    """An LSTM with convolutions over three spatial axes: a ``ConvLSTM3DCell`` at every step."""

    cell_type: ClassVar[type[DenseCellModule]] = cells.ConvLSTM3DCell
