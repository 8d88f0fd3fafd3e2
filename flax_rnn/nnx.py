"""The cells and layers as ``flax.nnx`` modules.

Classes take Keras' arguments, after the number of input features and with ``rngs``, as NNX has it:
``LSTM(64, 128, return_sequences=True, rngs=nnx.Rngs(0))``. Weights are ``nnx.Param`` under Keras' names. There is no
mathematics here: a module holds weights and a stream of keys, and hands both to its cell of the core.

As with ``nnx.Dropout``, dropout is active until ``model.eval()``, ``deterministic=True`` or ``training=False`` says
otherwise, and its keys come from the ``dropout`` stream (or the default one) of the ``rngs`` at construction.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from flax_rnn import cells, cudnn, dense, stacked
from flax_rnn.bidirectional import bidirectional, check_directions, check_merge_mode
from flax_rnn.cell import Carry, Cell, Params, apply_cell, zero_carry
from flax_rnn.sequence import SequenceOptions, rnn

RngSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a dropout key may come from: ``Rngs`` with a ``dropout`` or default stream, a stream, or a key itself."""

# What a call needs is in properties and private methods: nnx.tabulate takes public methods to be traceable.


class _Module(nnx.Module):
    """What cells and layers have in common."""

    deterministic: bool

    # Modules are equal to themselves only, while the hyper-parameters they inherit compare by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def set_view(self, deterministic: bool | None = None) -> None:
        """For ``nnx.view``: a view with or without dropout."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _is_training(self, training: bool | None) -> bool:
        return not self.deterministic if training is None else training


class _Cell(_Module):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.nnx.RNN`` calls it."""

    @property
    def core(self) -> Cell:
        """The cell of the core that this module holds weights for."""
        raise NotImplementedError

    @property
    def params(self) -> Params:
        """The weights as the core takes them."""
        raise NotImplementedError

    @property
    def _stream(self) -> nnx.RngStream | None:
        """Where dropout keys come from; ``None`` for a cell without dropout."""
        raise NotImplementedError

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        """A cell with the same arguments and new weights."""
        raise NotImplementedError

    def _dropout_key(self, training: bool | None = None, rngs: RngSource | None = None) -> jax.Array | None:
        """A key from ``rngs``, or else from the cell's own stream; ``None`` where dropout is not active."""
        stream = self._stream
        if stream is None or not self._is_training(training):
            return None
        source = stream if rngs is None else rngs
        source = source.dropout if isinstance(source, nnx.Rngs) else source
        return source() if isinstance(source, nnx.RngStream) else source

    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        core, key = self.core, self._dropout_key()
        masks = None if key is None else core.dropout_masks(key, inputs)
        return apply_cell(core, self.params, carry, inputs, masks)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> Carry:
        """The carry for inputs of ``input_shape`` ``(..., D)``: zeros, or ``carry_init`` with keys from ``rngs``."""
        carry = zero_carry(self.core, input_shape, jnp.result_type(*jax.tree.leaves(self.params)))
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

    core_type: ClassVar[type[dense.DenseCell]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        core = self.core
        for name, value in core.init_params(rngs.params(), self.in_features).items():
            setattr(self, name, nnx.Param(value))
        self.dropout_stream = rngs.dropout.fork() if core.has_dropout else None

    @property
    def core(self) -> Any:
        return self.core_type.of(self)

    @property
    def params(self) -> Params:
        return {name: getattr(self, name)[...] for name in self.core.param_specs(self.in_features)}

    @property
    def _stream(self) -> nnx.RngStream | None:
        return self.dropout_stream

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)(**_arguments(self), rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(_DenseCell, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(_DenseCell, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(_DenseCell, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTMCell(_DenseCell, cudnn.CuDNNLSTMCell):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRUCell(_DenseCell, cudnn.CuDNNGRUCell):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNGRUCell


class StackedRNNCells(_Cell):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    Its own ``deterministic`` holds for all of ``cells``; it starts as theirs.
    """

    def __init__(self, cells: Sequence[_Cell], *, deterministic: bool | None = None):
        for index, cell in enumerate(cells):
            _check_cell(f"cells[{index}]", cell)
        self.cells = nnx.List(cells)
        self.deterministic = all(cell.deterministic for cell in cells) if deterministic is None else deterministic
        stacked.StackedRNNCells(tuple(cell.core for cell in cells))

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Cell:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self.cells))

    @property
    def params(self) -> Params:
        """As for every cell: a tuple of theirs."""
        return tuple(cell.params for cell in self.cells)

    @property
    def _stream(self) -> nnx.RngStream | None:
        streams = (cell._stream for cell in self.cells)
        return next((stream for stream in streams if stream is not None), None)

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)([cell._fresh(rngs) for cell in self.cells], deterministic=self.deterministic)


class _Layer(_Module, SequenceOptions):
    """Base of the layers: a cell, and how to run it over time. The layer's ``deterministic`` holds for its cell."""

    cell: _Cell

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


class RNN(_Layer):
    """A layer that runs any cell of this module, or a list of them as a ``StackedRNNCells``.

    Arguments: ``cell``, then by name the options of ``flax_rnn.SequenceOptions``, and ``deterministic``, by default
    that of ``cell``.

    Source: ``keras.layers.RNN``.
    """

    def __init__(self, cell: _Cell | Sequence[_Cell], *, deterministic: bool | None = None, **options: Any):
        SequenceOptions.__init__(self, **options)
        if isinstance(cell, list | tuple):
            cell = StackedRNNCells(cell)
        _check_cell("cell", cell)
        self.cell: Any = cell
        self.deterministic = self.cell.deterministic if deterministic is None else deterministic

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        options = self.options | {"deterministic": self.deterministic} | changes
        return type(self)(self.cell._fresh(rngs), **options)


@dataclasses.dataclass(eq=False, repr=False)
class _DenseLayer(_Layer, dense.DenseCell, _InFeatures):
    """Base of the layers that are one cell over time, with the arguments of both."""

    cell_type: ClassVar[type[_DenseCell]]

    _: dataclasses.KW_ONLY
    rngs: dataclasses.InitVar[nnx.Rngs]
    deterministic: bool = False

    def __post_init__(self, rngs: nnx.Rngs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.cell = self.cell_type(**_arguments(self, self.cell_type), rngs=rngs)

    def _fresh(self, rngs: nnx.Rngs, **changes: Any) -> Self:
        return type(self)(**_arguments(self) | changes, rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNN(_DenseLayer, cells.SimpleRNNCell):
    """``SimpleRNNCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTM(_DenseLayer, cells.LSTMCell):
    """``LSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRU(_DenseLayer, cells.GRUCell):
    """``GRUCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTM(_DenseLayer, cudnn.CuDNNLSTMCell):
    """``CuDNNLSTMCell`` over time: a layer with the arguments of the cell and of ``flax_rnn.SequenceOptions``."""

    cell_type = CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRU(_DenseLayer, cudnn.CuDNNGRUCell):
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
        layer: _Layer,
        merge_mode: str | None = "concat",
        backward_layer: _Layer | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        check_merge_mode(merge_mode)
        for name, value in (("layer", layer), ("backward_layer", backward_layer or layer)):
            if not isinstance(value, _Layer):
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


def _check_cell(argument: str, value: Any) -> None:
    if not isinstance(value, _Cell):
        raise TypeError(f"{argument}: expected a cell of flax_rnn.nnx, or a list of them, got {type(value).__name__}")


def _arguments(module: Any, cls: type | None = None) -> dict[str, Any]:
    """The attributes of ``module`` that are arguments of ``cls`` (its own class by default), but for ``rngs``."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(cls or type(module)) if field.init}
