"""The cells as ``flax.nnx`` modules, and the bases of all modules."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from flax_rnn import cells, cudnn, dense, stacked
from flax_rnn.cell import Carry, Cell, Params, apply_cell, zero_carry

RngSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a dropout key may come from: ``Rngs`` with a ``dropout`` or default stream, a stream, or a key itself."""

# What a call needs is in properties and private methods: nnx.tabulate takes public methods to be traceable.


class BaseModule(nnx.Module):
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


class CellModule(BaseModule):
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
class InFeatures:
    """The first argument of whatever owns weights; a class of its own so that it comes before the inherited ones."""

    in_features: int


@dataclasses.dataclass(eq=False, repr=False)
class DenseCellModule(CellModule, dense.DenseCell, InFeatures):
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
        """As for every cell."""
        return self.core_type.of(self)

    @property
    def params(self) -> Params:
        """As for every cell: a dict of ``kernel``, ``recurrent_kernel`` and ``bias``."""
        return {name: getattr(self, name)[...] for name in self.core.param_specs(self.in_features)}

    @property
    def _stream(self) -> nnx.RngStream | None:
        return self.dropout_stream

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)(**arguments(self), rngs=rngs)


@dataclasses.dataclass(eq=False, repr=False)
class SimpleRNNCell(DenseCellModule, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.SimpleRNNCell


@dataclasses.dataclass(eq=False, repr=False)
class LSTMCell(DenseCellModule, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.LSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class GRUCell(DenseCellModule, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cells.GRUCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMCell):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNLSTMCell


@dataclasses.dataclass(eq=False, repr=False)
class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUCell):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type = cudnn.CuDNNGRUCell


class StackedRNNCells(CellModule):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    Its own ``deterministic`` holds for all of ``cells``; it starts as theirs.
    """

    def __init__(self, cells: Sequence[CellModule], *, deterministic: bool | None = None):
        for index, cell in enumerate(cells):
            check_cell(f"cells[{index}]", cell)
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


def check_cell(argument: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is one of these cells."""
    if not isinstance(value, CellModule):
        raise TypeError(f"{argument}: expected a cell of flax_rnn.nnx, or a list of them, got {type(value).__name__}")


def arguments(module: Any, cls: type | None = None) -> dict[str, Any]:
    """The attributes of ``module`` that are arguments of ``cls`` (its own class by default), but for ``rngs``."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(cls or type(module)) if field.init}
