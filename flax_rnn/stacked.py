"""Several cells as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn.cell import Cell, Params, Step


@dataclasses.dataclass(unsafe_hash=True)
class StackedRNNCells:
    """Cells on top of each other, as one cell: within a step the output of each is the input of the next.

    Weights, carries and dropout masks are tuples with one entry per cell, from the bottom up. ``rnn`` runs a stack
    layer by layer, which gives the same numbers and lets every cell project its inputs ahead of its loop.

    Attributes:
      cells: the cells, from the bottom up.

    Source: ``keras.layers.StackedRNNCells``.
    """

    cells: Sequence[Cell]

    def __post_init__(self) -> None:
        self.cells = tuple(self.cells)
        self.validate()

    def validate(self) -> None:
        """Raises ``ValueError`` if there are no cells, ``TypeError`` if one of them is not a cell."""
        if len(self.cells) == 0:
            raise ValueError("cells: expected at least one cell, got none")
        for index, cell in enumerate(self.cells):
            if not hasattr(cell, "recurrence"):
                raise TypeError(f"cells[{index}]: expected a recurrent cell, got {cell!r}")

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.cells[0].num_feature_axes

    @property
    def output_size(self) -> int:
        """That of the cell at the top."""
        return self.cells[-1].output_size

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a key."""
        return any(cell.has_dropout for cell in self.cells)

    def input_sizes(self, in_features: int) -> list[int]:
        """How many features each cell receives."""
        return [in_features, *(cell.output_size for cell in self.cells[:-1])]

    def init_params(self, key: jax.Array, in_features: int) -> tuple[Params, ...]:
        """Fresh weights of every cell."""
        keys = jax.random.split(key, len(self.cells))
        sizes = self.input_sizes(in_features)
        return tuple(cell.init_params(k, n) for cell, k, n in zip(self.cells, keys, sizes, strict=True))

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> tuple[Any, ...]:
        """Masks of every cell, from a key of its own each."""
        masks = []
        for index, (cell, size) in enumerate(zip(self.cells, self.input_sizes(inputs.shape[-1]), strict=True)):
            like = inputs if index == 0 else jnp.broadcast_to(inputs[..., :1], (*inputs.shape[:-1], size))
            masks.append(cell.dropout_masks(layer_key(key, index), like))
        return tuple(masks)

    def project(self, params: Params, inputs: jax.Array, masks: Any = None) -> Any:
        """The projection of the cell at the bottom; the others' inputs exist only within the step."""
        return self.cells[0].project(params[0], inputs, masks and masks[0])

    def initial_carry(self, params: Params, projected: Any) -> tuple[Any, ...]:
        """The zero carries of every cell."""
        return self._start(params, projected, None)[0]

    def recurrence(self, params: Params, projected: Any, masks: Any = None) -> Step:
        """The steps of all cells, one after the other, as a function ``(carries, projected) -> (carries, output)``."""
        steps = self._start(params, projected, masks)[1]

        def step(carries: tuple[Any, ...], projected: Any) -> tuple[tuple[Any, ...], jax.Array]:
            new = []
            output: Any = None
            for index, (cell, one_step) in enumerate(zip(self.cells, steps, strict=True)):
                if index > 0:
                    projected = cell.project(params[index], output, masks and masks[index])
                carry, output = one_step(carries[index], projected)
                new.append(carry)
            return tuple(new), output

        return step

    def _start(self, params: Params, projected: Any, masks: Any) -> tuple[tuple[Any, ...], tuple[Step, ...]]:
        """Zero carries and steps of every cell; each needs an example of its inputs, which is the output below."""
        carries, steps = [], []
        for index, cell in enumerate(self.cells):
            if index > 0:
                output = steps[-1](carries[-1], projected)[1]
                projected = cell.project(params[index], output, masks and masks[index])
            carries.append(cell.initial_carry(params[index], projected))
            steps.append(cell.recurrence(params[index], projected, masks and masks[index]))
        return tuple(carries), tuple(steps)


def layer_key(key: jax.Array, index: int) -> jax.Array:
    """The dropout key of the cell at ``index`` of a stack."""
    return jax.random.fold_in(key, index)
