"""The layers as ``flax.nnx`` modules."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
from flax import nnx
from jax.typing import ArrayLike

from flax_rnn._docstrings import describe, describe_call
from flax_rnn.cells import conv_lstm, cudnn, gru, lstm
from flax_rnn.cells.arguments import DenseArguments
from flax_rnn.cells.protocol import Carry
from flax_rnn.layers.faces import arguments, overrides
from flax_rnn.layers.rnn import rnn
from flax_rnn.layers.stateful import LayerOptions, keep
from flax_rnn.nnx import cells
from flax_rnn.nnx.base import BaseModule, RngSource, made_anew
from flax_rnn.nnx.cells import DenseCellModule, InFeatures
from flax_rnn.nnx.foreign import check_cell, view
from flax_rnn.nnx.stacked import module_of
from flax_rnn.nnx.state import RecurrentState, reset_state


class Layer(BaseModule, LayerOptions):
    """Base of the layers: a cell, and how to run it over time. The layer's ``deterministic`` holds for its cell."""

    cell: Any
    # Whether a subclass has a call of its own, which is more than a cell and options.
    _runs_itself: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if overrides(cls, "__call__"):
            cls._runs_itself = True

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> Carry:
        """The carry to start from, for one step of inputs of ``input_shape`` ``(*batch, D)``.

        It is that of the cell: zeros, or what ``carry_init`` makes of a key from ``rngs``, a shape and a dtype.
        """
        given = {} if carry_init is None else {"carry_init": carry_init}
        return view(self.cell).initialize_carry(input_shape, rngs, **given)

    def reset_state(self, rows: ArrayLike | None = None, *, batch: int | tuple[int, ...] | None = None) -> None:
        """Forgets the carry that a stateful layer keeps; see ``reset_state`` for whole models."""
        reset_state(self, rows, batch=batch)

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
        if not self.stateful:
            return None
        return self.check_kept(self.state.get_value(), inputs, view(self.cell).num_feature_axes)

    def _keep(self, carry: Carry) -> None:
        if self.stateful:
            self.state.set_value(keep(carry))

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
        rngs: RngSource | None = None,
    ) -> Any:
        """Runs the cell over the time axis of ``inputs``, as ``flax_rnn.rnn`` does.

        Args:
          training: whether dropout is active; ``None`` for ``not deterministic``.
          rngs (RngSource | None): where to take the dropout key from, in place of the cell's own stream.
        """
        cell = view(self.cell)
        outputs, carry = rnn(
            cell.core,
            cell.weights(),
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


@describe
class RNN(Layer):
    """A layer that runs any cell, or a list of them as a ``StackedRNNCells``.

    A cell may be a module of ``flax_rnn.nnx``; a cell of the core, such as one of your own, whose weights are then made
    here; or one of others, as ``flax.nnx.RNN`` takes it: a module with ``initialize_carry``, ``num_feature_axes`` and
    ``__call__(carry, inputs) -> (carry, output)``. Carry and output of the latter may be trees of any shapes and
    dtypes, and the call may have an argument ``constants``.

    Args:
      cell (Module | Cell | Sequence): what to run: a cell, or cells from the bottom up.
      deterministic: whether dropout is off; ``None`` for what ``cell`` says.
      in_features: number D of features of the inputs; for the weights of cells of the core only.
      rngs: for those weights, and for their dropout.

    Raises:
      TypeError: for what is no cell, and for one of the core without ``in_features`` and ``rngs``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import flax_rnn
      >>> from flax_rnn.nnx import RNN, GRUCell, LSTMCell
      >>> rngs = nnx.Rngs(0)
      >>> cells = [LSTMCell(3, 4, rngs=rngs), GRUCell(4, 6, rngs=rngs)]
      >>> layer = RNN(cells, return_sequences=True, return_state=True)
      >>> x = jnp.ones((2, 5, 3))  # 2 sequences of 5 steps
      >>> outputs, carry = layer(x)
      >>> outputs.shape
      (2, 5, 6)
      >>> jax.tree.map(jnp.shape, carry)
      (LSTMCarry(h=(2, 4), c=(2, 4)), (2, 6))
      >>> cell = flax_rnn.SimpleRNNCell(4)  # of the core, or one of your own
      >>> RNN(cell, in_features=3, rngs=rngs)(x).shape
      (2, 4)

    Source: ``keras.layers.RNN``.
    """

    def __init__(
        self,
        cell: Any,
        *,
        deterministic: bool | None = None,
        in_features: int | None = None,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ):
        LayerOptions.__init__(self, **options)
        cell = module_of(cell, in_features, rngs)
        check_cell("cell", cell)
        self.cell: Any = cell
        self.deterministic = view(cell).deterministic if deterministic is None else deterministic
        self._remember()

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        options: dict[str, Any] = {**arguments(self, LayerOptions), "deterministic": self.deterministic, **changes}
        return made_anew(type(self), view(self.cell)._fresh(rngs), **options)


@dataclasses.dataclass(eq=False, repr=False)
class DenseLayer(Layer):
    """Base of the layers that are one cell over time, with the arguments of both.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_rnn.nnx import {name}
      >>> rngs = nnx.Rngs(0)
      >>> layer = {name}(3, {H}, return_sequences=True, rngs=rngs)
      >>> x = jnp.ones({x})  # 2 sequences of 5 steps
      >>> lengths = jnp.array([5, 3])  # of which 3 count in the second one
      >>> layer(x, seq_lengths=lengths).shape
      {y}
      >>> sorted(layer.cell.weights())
      ['bias', 'kernel', 'recurrent_kernel']
    """

    cell_type: ClassVar[type[DenseCellModule]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.check_options()
        self._validate()
        self.cell = self.cell_type(**arguments(self, self.cell_type), rngs=rngs)
        self._remember()

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        return made_anew(type(self), **arguments(self) | changes, rngs=rngs)


@describe
@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(DenseLayer, DenseArguments, InFeatures):
    """Elman's fully connected recurrent network: a ``SimpleRNNCell`` at every step of a sequence."""

    cell_type = cells.SimpleRNNCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class LSTM(DenseLayer, lstm.LSTMArguments, InFeatures):
    """Long short-term memory: an ``LSTMCell`` at every step of a sequence."""

    cell_type = cells.LSTMCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class GRU(DenseLayer, gru.GRUArguments, InFeatures):
    """Gated recurrent units: a ``GRUCell`` at every step of a sequence."""

    cell_type = cells.GRUCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTM(DenseLayer, cudnn.CuDNNLSTMArguments, InFeatures):
    """The ``CuDNNLSTM`` of Keras 2, wherever jax runs: a ``CuDNNLSTMCell`` at every step of a sequence."""

    cell_type = cells.CuDNNLSTMCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRU(DenseLayer, cudnn.CuDNNGRUArguments, InFeatures):
    """The ``CuDNNGRU`` of Keras 2, wherever jax runs: a ``CuDNNGRUCell`` at every step of a sequence."""

    cell_type = cells.CuDNNGRUCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM1D(DenseLayer, conv_lstm.ConvLSTM1DArguments, InFeatures):
    """An LSTM with convolutions over one spatial axis: a ``ConvLSTM1DCell`` at every step."""

    cell_type = cells.ConvLSTM1DCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM2D(DenseLayer, conv_lstm.ConvLSTM2DArguments, InFeatures):
    """An LSTM with convolutions over two spatial axes: a ``ConvLSTM2DCell`` at every step."""

    cell_type = cells.ConvLSTM2DCell


@describe
@dataclasses.dataclass(eq=False, repr=False)
class ConvLSTM3D(DenseLayer, conv_lstm.ConvLSTM3DArguments, InFeatures):
    """An LSTM with convolutions over three spatial axes: a ``ConvLSTM3DCell`` at every step."""

    cell_type = cells.ConvLSTM3DCell
