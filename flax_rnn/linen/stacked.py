"""Several cells as one, as a ``flax.linen`` module."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_rnn._docstrings import describe
from flax_rnn.cells import stacked
from flax_rnn.cells.evaluate import output_like
from flax_rnn.cells.protocol import Params
from flax_rnn.layers.faces import is_core_cell
from flax_rnn.linen.base import CellModule
from flax_rnn.linen.cells import CoreCell
from flax_rnn.linen.foreign import check_cell, view


@describe
class StackedRNNCells(CellModule):
    """Cells on top of each other, as one cell: within a step the output of each is the input of the next.

    The carry is a tuple with one entry per cell, from the bottom up; parameters are under ``cells_0``, ``cells_1``, ...

    Attributes:
      cells (Sequence[Module | Cell]): the cells, from the bottom up; they may be cells of the core and of others, too,
        as in ``RNN``.
      deterministic: whether dropout is off, in all of the cells that are of this library; ``None`` for what they say.

    Raises:
      ValueError: for no cells.
      TypeError: for what is no cell.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn.linen import GRUCell, LSTMCell, StackedRNNCells
      >>> stack = StackedRNNCells([LSTMCell(4), GRUCell(6)])
      >>> x = jnp.ones((2, 3))  # one step of 2 sequences
      >>> carry = stack.initialize_carry(jax.random.key(0), x.shape)
      >>> variables = stack.init(jax.random.key(0), carry, x)
      >>> carry, output = stack.apply(variables, carry, x)
      >>> output.shape
      (2, 6)
      >>> jax.tree.map(jnp.shape, carry)
      (LSTMCarry(h=(2, 4), c=(2, 4)), (2, 6))

    Source: ``keras.layers.StackedRNNCells``.
    """

    cells: Sequence[Any]
    deterministic: bool | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.cells = tuple(module_of(cell) for cell in self.cells)
        for index, cell in enumerate(self.cells):
            check_cell(f"cells[{index}]", cell)
        if self.deterministic is None:
            self.deterministic = all(cell.deterministic for cell in self.views)
        stacked.StackedRNNCells(tuple(cell.core for cell in self.views))
        super().__post_init__()

    @property
    def views(self) -> list[Any]:
        """The cells, each with what a ``CellModule`` has."""
        return [view(cell) for cell in self.cells]

    @property
    def core(self) -> Any:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self.views))

    @property
    def weight_dtype(self) -> Any:
        """As for every cell."""
        return jnp.result_type(*(cell.weight_dtype for cell in self.views))

    def weights(self, inputs: jax.Array, constants: Any = None) -> Params:
        """As for every cell: a tuple of theirs."""
        params = []
        below: Any = None
        for cell in self.views:
            if below is not None:
                inputs = output_like(below.core, params[-1], inputs, constants)
            params.append(cell.weights(inputs, constants))
            below = cell
        return tuple(params)

    @nn.nowrap
    def fresh(self) -> Self:
        """As for every cell."""
        return self.clone(parent=None, name=None, cells=tuple(cell.fresh() for cell in self.views))


def module_of(cell: Any) -> Any:
    """The module for what ``RNN`` takes: modules as they are, cells of the core, lists as stacks."""
    if isinstance(cell, stacked.StackedRNNCells):
        cell = cell.cells
    if isinstance(cell, list | tuple):
        return StackedRNNCells(cells=tuple(cell), parent=None)
    return cell if isinstance(cell, nn.Module) or not is_core_cell(cell) else CoreCell(cell=cell, parent=None)
