"""Several cells as one, as an ``flax.nnx`` module."""

from collections.abc import Sequence
from typing import Any, Self

from flax import nnx

from flax_rnn._docstrings import describe
from flax_rnn.cells import stacked
from flax_rnn.cells.protocol import Cell, Params
from flax_rnn.layers.faces import is_core_cell
from flax_rnn.nnx.base import CellModule
from flax_rnn.nnx.cells import CoreCell
from flax_rnn.nnx.foreign import check_cell, view


@describe
class StackedRNNCells(CellModule):
    """Cells on top of each other, as one cell: within a step the output of each is the input of the next.

    Carry and weights are tuples with one entry per cell, from the bottom up.

    Args:
      cells (Sequence[Module]): the cells, from the bottom up; they may be cells of others, too, as in ``RNN``.
      deterministic: whether dropout is off, in all of the cells that are of this library; ``None`` for what they say.

    Raises:
      ValueError: for no cells.
      TypeError: for what is no cell.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from flax_rnn.nnx import GRUCell, LSTMCell, StackedRNNCells
      >>> rngs = nnx.Rngs(0)
      >>> cells = [LSTMCell(3, 4, rngs=rngs), GRUCell(4, 6, rngs=rngs)]
      >>> stack = StackedRNNCells(cells)
      >>> x = jnp.ones((2, 3))  # one step of 2 sequences
      >>> carry, output = stack(stack.initialize_carry(x.shape), x)
      >>> output.shape
      (2, 6)
      >>> jax.tree.map(jnp.shape, carry)
      (LSTMCarry(h=(2, 4), c=(2, 4)), (2, 6))

    Source: ``keras.layers.StackedRNNCells``.
    """

    def __init__(self, cells: Sequence[nnx.Module], *, deterministic: bool | None = None):
        for index, cell in enumerate(cells):
            check_cell(f"cells[{index}]", cell)
        self.cells = nnx.List(cells)
        views = self._views
        self.deterministic = all(cell.deterministic for cell in views) if deterministic is None else deterministic
        stacked.StackedRNNCells(tuple(cell.core for cell in views))

    @property
    def _views(self) -> list[Any]:
        return [view(cell) for cell in self.cells]

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.core.num_feature_axes

    @property
    def in_features(self) -> int:
        """That of the cell at the bottom."""
        return self._views[0].in_features

    @property
    def core(self) -> Cell:
        """As for every cell."""
        return stacked.StackedRNNCells(tuple(cell.core for cell in self._views))

    def weights(self) -> Params:
        """As for every cell: a tuple of theirs."""
        return tuple(cell.weights() for cell in self._views)

    @property
    def _stream(self) -> nnx.RngStream | None:
        streams = (cell._stream for cell in self._views)
        return next((stream for stream in streams if stream is not None), None)

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        return type(self)([cell._fresh(rngs) for cell in self._views], deterministic=self.deterministic)


def module_of(cell: Any, in_features: int | None, rngs: nnx.Rngs | None) -> Any:
    """The module for what ``RNN`` takes: modules as they are, cells of the core with new weights, lists as stacks.

    Raises:
      TypeError: for a cell of the core without ``in_features`` and ``rngs``.
    """
    if isinstance(cell, stacked.StackedRNNCells):
        cell = cell.cells
    if isinstance(cell, list | tuple):
        modules = []
        for index, one in enumerate(cell):
            modules.append(module_of(one, in_features, rngs))
            check_cell(f"cells[{index}]", modules[-1])
            if in_features is not None:
                in_features = view(modules[-1]).core.output_size(in_features)
        return StackedRNNCells(modules)
    if isinstance(cell, nnx.Module) or not is_core_cell(cell):
        return cell
    if in_features is None or rngs is None:
        raise TypeError(
            "cell: expected a cell of flax_rnn.nnx, or in_features and rngs for the weights of one of the core, got "
            f"in_features={in_features!r}, rngs={rngs!r}"
        )
    return CoreCell(cell, in_features, rngs=rngs)
