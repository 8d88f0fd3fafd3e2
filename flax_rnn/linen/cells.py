"""The cells as ``flax.linen`` modules."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_rnn import cells, cudnn, dense, stacked
from flax_rnn.cell import Carry, Cell, Params, apply_cell, zero_carry


class CellModule(nn.RNNCellBase, kw_only=True):
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


class DenseCellModule(CellModule, dense.DenseCell):
    """Base of the cells that own their weights."""

    core_type: ClassVar[type[dense.DenseCell]]

    def __post_init__(self) -> None:
        self.validate()
        super().__post_init__()

    @property
    def num_feature_axes(self) -> int:
        """That of the core's cell."""
        return self.core.num_feature_axes

    @property
    def core(self) -> Any:
        """As for every cell."""
        return self.core_type.of(self)

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return self.param_dtype

    @nn.compact
    def weights(self, in_features: int) -> Params:
        """As for every cell."""
        if self.has_variable("params", "kernel"):
            # Inputs that do not fit are left to the core, whose error says so.
            in_features = nn.unbox(self.get_variable("params", "kernel")).shape[0]
        specs = self.core.param_specs(in_features).items()
        return {name: self.param(name, initialize, shape, self.param_dtype) for name, (initialize, shape) in specs}


class SimpleRNNCell(DenseCellModule, cells.SimpleRNNCell):
    """``flax_rnn.SimpleRNNCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.SimpleRNNCell


class LSTMCell(DenseCellModule, cells.LSTMCell):
    """``flax_rnn.LSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.LSTMCell


class GRUCell(DenseCellModule, cells.GRUCell):
    """``flax_rnn.GRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cells.GRUCell


class CuDNNLSTMCell(DenseCellModule, cudnn.CuDNNLSTMCell):
    """``flax_rnn.CuDNNLSTMCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNLSTMCell


class CuDNNGRUCell(DenseCellModule, cudnn.CuDNNGRUCell):
    """``flax_rnn.CuDNNGRUCell`` as a module: ``cell(carry, inputs) -> (carry, output)``."""

    core_type: ClassVar[type[dense.DenseCell]] = cudnn.CuDNNGRUCell


class StackedRNNCells(CellModule):
    """``flax_rnn.StackedRNNCells`` as a module: ``cell(carry, inputs) -> (carry, output)``.

    Its own ``deterministic`` holds for all of ``cells``; by default it is theirs.
    """

    cells: Sequence[CellModule]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for index, cell in enumerate(self.cells):
            check_cell(f"cells[{index}]", cell)
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


def check_cell(argument: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is one of these cells."""
    if not isinstance(value, CellModule):
        raise TypeError(f"{argument}: expected a cell of flax_rnn.linen, or a list of them, got {type(value).__name__}")
