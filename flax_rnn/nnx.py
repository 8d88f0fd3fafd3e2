"""The cells and layers as ``flax.nnx`` modules.

Classes take Keras' arguments, after the number of input features and with ``rngs``, as NNX has it:
``LSTM(64, 128, return_sequences=True, rngs=nnx.Rngs(0))``. Weights are ``nnx.Param`` under Keras' names. There is no
mathematics here: a module holds weights and a stream of keys, and hands both to the core.

As with ``nnx.Dropout``, dropout is active until ``model.eval()``, ``deterministic=True`` or ``training=False`` says
otherwise, and its keys come from the ``dropout`` stream (or the default one) of the ``rngs`` at construction.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from flax_rnn import cells, dense, stacked
from flax_rnn.bidirectional import bidirectional, check_directions, check_merge_mode
from flax_rnn.cell import Carry, Cell, Params, apply_cell, zero_carry
from flax_rnn.sequence import SequenceOptions, rnn

RngSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a dropout key may come from: ``Rngs`` with a ``dropout`` or default stream, a stream, or a key itself."""


class _Cell(nnx.Module):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.nnx.RNN`` calls it."""

    deterministic: bool

    # Modules are equal to themselves only, while the hyper-parameters they inherit compare by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def core(self) -> Cell:
        """This module as the core sees it."""
        return self  # pyright: ignore[reportReturnType]

    def weights(self) -> Params:
        """The weights as the core takes them."""
        raise NotImplementedError

    def fresh(self, rngs: nnx.Rngs) -> Self:
        """A cell with the same arguments and new weights."""
        raise NotImplementedError

    def dropout_stream(self) -> nnx.RngStream | None:
        """The stream of dropout keys, or ``None`` for a cell without dropout."""
        raise NotImplementedError

    def dropout_key(self, training: bool | None = None, rngs: RngSource | None = None) -> jax.Array | None:
        """A key from ``rngs``, or else from the cell's own stream; ``None`` where dropout is not active."""
        stream = self.dropout_stream()
        if stream is None or not (not self.deterministic if training is None else training):
            return None
        source = stream if rngs is None else rngs
        source = source.dropout if isinstance(source, nnx.Rngs) else source
        return source() if isinstance(source, nnx.RngStream) else source

    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        key = self.dropout_key()
        masks = None if key is None else self.core.dropout_masks(key, inputs)
        return apply_cell(self.core, self.weights(), carry, inputs, masks)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> Carry:
        """The carry for inputs of ``input_shape`` ``(..., D)``: zeros, or ``carry_init`` with keys from ``rngs``."""
        carry = zero_carry(self.core, input_shape, jnp.result_type(*jax.tree.leaves(self.weights())))
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError("rngs: expected nnx.Rngs or a stream, since carry_init is given; got None")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)


@dataclasses.dataclass(eq=False, repr=False)
class _InFeatures:
    """The first argument of whatever owns weights; a class of its own so that it comes before the inherited ones."""

    in_features: int


@dataclasses.dataclass(eq=False, repr=False)
class _DenseCell(_Cell, dense.DenseCell, _InFeatures):
    """Base of the cells that own their weights."""

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.validate()
        for name, value in self.init_params(rngs.params(), self.in_features).items():
            setattr(self, name, nnx.Param(value))
        self.stream = rngs.dropout.fork() if self.has_dropout else None

    def weights(self) -> Params:
        return {name: getattr(self, name)[...] for name in self.param_specs(self.in_features)}

    def fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)(**_arguments(self), rngs=rngs)

    def dropout_stream(self) -> nnx.RngStream | None:
        return self.stream


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(_DenseCell, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""


@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(_DenseCell, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(_DenseCell, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""


class StackedRNNCells(_Cell, stacked.StackedRNNCells):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    cells: nnx.List[_Cell]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, cells: Sequence[_Cell], *, deterministic: bool = False):
        self.cells = nnx.List(cells)
        self.deterministic = deterministic
        self.validate()

    def weights(self) -> Params:
        """As for every cell: a tuple of theirs."""
        return tuple(cell.weights() for cell in self.cells)

    def fresh(self, rngs: nnx.Rngs) -> Self:
        """As for every cell."""
        return type(self)([cell.fresh(rngs) for cell in self.cells], deterministic=self.deterministic)

    def dropout_stream(self) -> nnx.RngStream | None:
        """That of the first cell that has one; each cell of the stack gets a key of its own from the one drawn."""
        streams = (cell.dropout_stream() for cell in self.cells)
        return next((stream for stream in streams if stream is not None), None)


class _Layer(nnx.Module, SequenceOptions):
    """Base of the layers: a cell, and how to run it over time."""

    deterministic: bool
    cell: _Cell

    __eq__ = object.__eq__  # pyright: ignore[reportAssignmentType]
    __hash__ = object.__hash__

    def fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        """A layer with the same arguments, but for ``changes``, and new weights."""
        raise NotImplementedError

    def is_training(self, training: bool | None) -> bool:
        """Whether dropout is active in a call."""
        return not self.deterministic if training is None else training

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: jax.Array | None = None,
        training: bool | None = None,
        *,
        seq_lengths: jax.Array | None = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """Runs the cell over ``inputs`` ``(B, T, D)``.

        Args:
          inputs, initial_state, mask, seq_lengths: as in ``flax_rnn.rnn``, and so is what returns.
          training: whether dropout is active; ``None`` for ``not deterministic``.
          rngs: where to take the dropout key from, in place of the cell's own stream.
        """
        return rnn(
            self.cell.core,
            self.cell.weights(),
            inputs,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            dropout_key=self.cell.dropout_key(self.is_training(training), rngs),
            **self.options(),
        )


class RNN(_Layer):
    """A layer that runs any cell of this module, or a list of them as a ``StackedRNNCells``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.SequenceOptions``, and ``deterministic``.

    Source: ``keras.layers.RNN``.
    """

    def __init__(self, cell: _Cell | Sequence[_Cell], *, deterministic: bool = False, **options: Any):
        SequenceOptions.__init__(self, **options)
        if isinstance(cell, list | tuple):
            cell = StackedRNNCells(cell, deterministic=deterministic)
        if not isinstance(cell, _Cell):
            raise TypeError(f"cell: expected a cell of flax_rnn.nnx, or a list of them, got {type(cell).__name__}")
        self.cell = cell
        self.deterministic = deterministic

    def fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        """As for every layer."""
        options = self.options() | {"deterministic": self.deterministic} | changes
        return type(self)(self.cell.fresh(rngs), **options)


@dataclasses.dataclass(eq=False, repr=False)
class _DenseLayer(_Layer, dense.DenseCell, _InFeatures):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type = _DenseCell

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        arguments = {name: getattr(self, name) for name in _argument_names(self.cell_type)}
        self.cell = self.cell_type(**arguments, rngs=rngs)

    def fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        return type(self)(**_arguments(self) | changes, rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(_DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of ``flax_rnn.SequenceOptions`` and of the cell."""

    cell_type = SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(_DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of ``flax_rnn.SequenceOptions`` and of the cell."""

    cell_type = LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(_DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of ``flax_rnn.SequenceOptions`` and of the cell."""

    cell_type = GRUCell


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
        layer: _Layer,
        merge_mode: str | None = "concat",
        backward_layer: _Layer | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        check_merge_mode(merge_mode)
        if backward_layer is None:
            if rngs is None:
                raise ValueError("rngs: expected nnx.Rngs for the weights of the backward layer, got None")
            backward_layer = layer.fresh(rngs, go_backwards=not layer.go_backwards)
        check_directions(layer, backward_layer)
        self.forward_layer = layer
        self.backward_layer = backward_layer
        self.merge_mode = merge_mode

    def __call__(
        self,
        inputs: jax.Array,
        initial_state: Carry = None,
        mask: jax.Array | None = None,
        training: bool | None = None,
        *,
        seq_lengths: jax.Array | None = None,
        rngs: RngSource | None = None,
    ) -> Any:
        """As the layers' call; states are pairs ``(forward carry, backward carry)``."""
        layers = self.forward_layer, self.backward_layer
        keys = (layer.cell.dropout_key(layer.is_training(training), rngs) for layer in layers)
        dropout_key = next((key for key in keys if key is not None), None)
        return bidirectional(
            (layers[0].cell.core, layers[1].cell.core),
            (layers[0].cell.weights(), layers[1].cell.weights()),
            inputs,
            merge_mode=self.merge_mode,
            initial_state=initial_state,
            mask=mask,
            seq_lengths=seq_lengths,
            dropout_key=dropout_key,
            **self.forward_layer.options(),
        )


def _argument_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _arguments(module: Any) -> dict[str, Any]:
    """What ``module`` was constructed with, besides ``rngs``."""
    return {name: getattr(module, name) for name in _argument_names(type(module))}
