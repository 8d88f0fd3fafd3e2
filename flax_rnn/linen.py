"""The cells and layers as ``flax.linen`` modules.

Classes take Keras' arguments: ``LSTM(128, return_sequences=True)``. Parameters have Keras' names; those of a layer are
under ``cell``. There is no mathematics here: a module declares weights and draws keys, and hands both to the core.

Dropout is active where the call says ``training=True``, or the module ``deterministic=False``, and draws its key from
the ``dropout`` collection.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from flax_rnn import cells, cudnn, dense, stacked
from flax_rnn.bidirectional import bidirectional, check_directions, check_merge_mode
from flax_rnn.cell import Carry, Cell, Params, apply_cell, zero_carry
from flax_rnn.sequence import SequenceOptions, rnn


class _Cell(nn.RNNCellBase, kw_only=True):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.linen.RNN`` calls it."""

    deterministic: bool | None = True

    @property
    def core(self) -> Cell:
        """The cell of the core that this module declares weights for."""
        raise NotImplementedError

    @property
    def weight_dtype(self) -> Any:
        """Dtype of the weights, and of the carry before there are inputs."""
        raise NotImplementedError

    def weights(self, in_features: int) -> Params:
        """The weights as the core takes them, declared for inputs of ``in_features`` features."""
        raise NotImplementedError

    @nn.nowrap
    def fresh(self) -> Self:
        """A cell with the same arguments that belongs to no module yet."""
        return self.clone(parent=None, name=None)

    def dropout_key(self, training: bool | None = None) -> jax.Array | None:
        """A key from the ``dropout`` collection; ``None`` where dropout is not active."""
        active = not self.deterministic if training is None else training
        return self.make_rng("dropout") if active and self.core.has_dropout else None

    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        core, weights, key = self.core, self.weights(inputs.shape[-1]), self.dropout_key()
        masks = None if key is None else core.dropout_masks(key, inputs)
        return apply_cell(core, weights, carry, inputs, masks)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """The zero carry for inputs of ``input_shape`` ``(..., D)``."""
        del rng
        return zero_carry(self.core, input_shape, self.weight_dtype)


class _DenseCell(_Cell, dense.DenseCell):
    """Base of the cells that own their weights."""

    core_type: ClassVar[type[dense.DenseCell]]

    def __post_init__(self) -> None:
        self.validate()
        super().__post_init__()

    @property
    def num_feature_axes(self) -> int:
        return self.core.num_feature_axes

    @property
    def core(self) -> Any:
        return self.core_type.of(self)

    @property
    def weight_dtype(self) -> Any:
        return self.param_dtype

    @nn.compact
    def weights(self, in_features: int) -> Params:
        if self.has_variable("params", "kernel"):
            # Inputs that do not fit are left to the core, whose error says so.
            in_features = nn.unbox(self.get_variable("params", "kernel")).shape[0]
        specs = self.core.param_specs(in_features).items()
        return {name: self.param(name, initialize, shape, self.param_dtype) for name, (initialize, shape) in specs}


class SimpleRNNCell(_DenseCell, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.SimpleRNNCell


class LSTMCell(_DenseCell, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.LSTMCell


class GRUCell(_DenseCell, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.GRUCell


class CuDNNLSTMCell(_DenseCell, cudnn.CuDNNLSTMCell):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNLSTMCell


class CuDNNGRUCell(_DenseCell, cudnn.CuDNNGRUCell):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNGRUCell


class StackedRNNCells(_Cell):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    Its own ``deterministic`` holds for all of ``cells``; by default it is theirs.
    """

    cells: Sequence[_Cell]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for index, cell in enumerate(self.cells):
            _check_cell(f"cells[{index}]", cell)
        if self.deterministic is None:
            self.deterministic = all(cell.deterministic for cell in self.cells)
        stacked.StackedRNNCells(tuple(cell.core for cell in self.cells))
        super().__post_init__()

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Any:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self.cells))

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return jnp.result_type(*(cell.weight_dtype for cell in self.cells))

    def weights(self, in_features: int) -> Params:
        """As for every cell: a tuple of theirs."""
        sizes = self.core.input_sizes(in_features)
        return tuple(cell.weights(size) for cell, size in zip(self.cells, sizes, strict=True))

    @nn.nowrap
    def fresh(self) -> Self:
        """As for every cell."""
        return self.clone(parent=None, name=None, cells=tuple(cell.fresh() for cell in self.cells))


class _Layer(nn.Module, SequenceOptions, kw_only=True):
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


class RNN(_Layer):
    """A layer that runs any cell of this module, or a list of them as a ``StackedRNNCells``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.SequenceOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    cell: _Cell | Sequence[_Cell]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.cell, list | tuple):
            self.cell = StackedRNNCells(cells=tuple(self.cell), parent=None)
        _check_cell("cell", self.cell)
        assert isinstance(self.cell, _Cell)
        if self.deterministic is None:
            self.deterministic = self.cell.deterministic
        super().__post_init__()

    @nn.nowrap
    def fresh(self, **changes: Any) -> Self:
        """As for every layer."""
        assert isinstance(self.cell, _Cell)
        return super().fresh(cell=self.cell.fresh(), **changes)


class _DenseLayer(_Layer, dense.DenseCell):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[_DenseCell]]

    def __post_init__(self) -> None:
        self.validate()
        super().__post_init__()

    def setup(self) -> None:
        names = [field.name for field in dataclasses.fields(self.cell_type) if field.name not in ("parent", "name")]
        self.cell = self.cell_type(**{name: getattr(self, name) for name in names})


class SimpleRNN(_DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[_DenseCell]] = SimpleRNNCell


class LSTM(_DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[_DenseCell]] = LSTMCell


class GRU(_DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[_DenseCell]] = GRUCell


class CuDNNLSTM(_DenseLayer, cudnn.CuDNNLSTMCell):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[_DenseCell]] = CuDNNLSTMCell


class CuDNNGRU(_DenseLayer, cudnn.CuDNNGRUCell):
    """``CuDNNGRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type: ClassVar[type[_DenseCell]] = CuDNNGRUCell


class Bidirectional(nn.Module):
    """A layer and its counterpart in the other direction, with their outputs merged.

    Attributes:
      layer: the forward layer; its parameters are under ``forward_layer``.
      merge_mode: ``"concat"``, ``"sum"``, ``"ave"``, ``"mul"``, or ``None`` for a pair of outputs.
      backward_layer: the other one; ``None`` for a layer with the arguments of ``layer``. Its parameters are under
        ``backward_layer``.

    Source: ``keras.layers.Bidirectional``.
    """

    layer: _Layer
    merge_mode: str | None = "concat"
    backward_layer: _Layer | None = None

    def __post_init__(self) -> None:
        check_merge_mode(self.merge_mode)
        for name, value in (("layer", self.layer), ("backward_layer", self.backward_layer or self.layer)):
            if not isinstance(value, _Layer):
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


def _check_cell(argument: str, value: Any) -> None:
    if not isinstance(value, _Cell):
        raise TypeError(f"{argument}: expected a cell of flax_rnn.linen, or a list of them, got {type(value).__name__}")
