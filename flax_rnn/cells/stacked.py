"""Several cells as one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn._docstrings import describe
from flax_rnn.cells.dropout import layer_key
from flax_rnn.cells.evaluate import bind_constants, output_shape, takes_constants
from flax_rnn.cells.protocol import Affine, Cell, Dot, Params, affine, check_cell, dot, explain


@describe
@dataclasses.dataclass(unsafe_hash=True)
class StackedRNNCells(Cell):
    """Cells on top of each other, as one cell: within a step the output of each is the input of the next.

    Weights, carries and dropout masks are tuples with one entry per cell, from the bottom up. ``rnn`` runs a stack
    layer by layer, which gives the same numbers and lets every cell project its inputs ahead of its loop.

    Attributes:
      cells (Sequence[Cell]): the cells, from the bottom up.

    Raises:
      ValueError: for no cells.
      TypeError: for what is no cell.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn import GRUCell, LSTMCell, StackedRNNCells, rnn
      >>> stack = StackedRNNCells([LSTMCell(4), GRUCell(6)])
      >>> params = stack.init_params(jax.random.key(0), 3)  # for 3 features
      >>> x = jnp.ones((2, 5, 3))  # 2 sequences of 5 steps
      >>> outputs, carry = rnn(stack, params, x, return_state=True)
      >>> outputs.shape
      (2, 6)
      >>> jax.tree.map(jnp.shape, carry)
      (LSTMCarry(h=(2, 4), c=(2, 4)), (2, 6))

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
            check_cell(f"cells[{index}]", cell)

    @property
    def num_feature_axes(self) -> int:
        """That of the cell at the bottom."""
        return self.cells[0].num_feature_axes

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a key."""
        return any(cell.has_dropout for cell in self.cells)

    @property
    def records_products(self) -> bool:
        """Whether one of the cells does."""
        return any(getattr(cell, "records_products", True) for cell in self.cells)

    @property
    def takes_constants(self) -> bool:
        """Whether one of the cells does."""
        return any(takes_constants(cell) for cell in self.cells)

    def with_constants(self, params: Params, constants: Any) -> tuple[Params, ...]:
        """The weights of every cell, with ``constants`` for each that takes them."""
        return tuple(
            bind_constants(cell, own, constants if takes_constants(cell) else None)
            for cell, own in zip(self.cells, params, strict=True)
        )

    def input_sizes(self, in_features: int) -> list[int]:
        """How many features each cell receives."""
        sizes = [in_features]
        for cell in self.cells[:-1]:
            sizes.append(cell.output_size(sizes[-1]))
        return sizes

    def output_size(self, in_features: int) -> int:
        """That of the cell at the top."""
        return self.cells[-1].output_size(self.input_sizes(in_features)[-1])

    def param_specs(self, in_features: int) -> tuple[Any, ...]:
        """Those of every cell; ``None`` for one that does not say."""
        pairs = zip(self.cells, self.input_sizes(in_features), strict=True)
        return tuple(getattr(cell, "param_specs", lambda size: None)(size) for cell, size in pairs)

    def init_params(self, key: jax.Array, in_features: int) -> tuple[Params, ...]:
        """Fresh weights of every cell."""
        keys = jax.random.split(key, len(self.cells))
        sizes = self.input_sizes(in_features)
        return tuple(cell.init_params(k, n) for cell, k, n in zip(self.cells, keys, sizes, strict=True))

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> tuple[Any, ...]:
        """Masks of every cell, from a key of its own each."""
        masks = []
        for index, cell in enumerate(self.cells):
            masks.append(cell.dropout_masks(layer_key(key, index), inputs))
            # The inputs of the next cell, for their shape and sharding; the values do not matter.
            corner = inputs[(..., *(slice(1),) * cell.num_feature_axes)]
            inputs = jnp.broadcast_to(corner, output_shape(cell, inputs.shape, inputs.dtype))
        return tuple(masks)

    def project(self, params: Params, inputs: jax.Array, masks: Any = None, dot: Dot = dot) -> Any:
        """The projection of the cell at the bottom; the others' inputs exist only within the step."""
        return self.cells[0].project(params[0], inputs, masks and masks[0], dot)

    def initial_carry(self, params: Params, projected: Any) -> tuple[Any, ...]:
        """The zero carries of every cell."""
        return self._start(params, projected, None)[0]

    def prepare(self, params: Params, projected: Any, masks: Any = None) -> tuple[Any, ...]:
        """For each cell its own prepared weights, and what its projection needs."""
        return self._start(params, projected, masks)[1]

    def step(
        self, weights: Any, carry: tuple[Any, ...], projected: Any, affine: Affine = affine
    ) -> tuple[tuple[Any, ...], jax.Array]:
        """The steps of all cells, one after the other."""
        return self.explain(weights, carry, projected, affine)[:2]

    def explain(
        self, weights: Any, carry: tuple[Any, ...], projected: Any, affine: Affine = affine
    ) -> tuple[tuple[Any, ...], jax.Array, tuple[Any, ...]]:
        """The same, and what each of the cells names."""
        carries, values = [], []
        output: Any = None
        for index, (cell, (params, masks, prepared)) in enumerate(zip(self.cells, weights, strict=True)):
            if index > 0:
                projected = cell.project(params, output, masks)
            new, output, own = explain(cell, prepared, carry[index], projected, affine)
            carries.append(new)
            values.append(own)
        return tuple(carries), output, tuple(values)

    def _start(self, params: Params, projected: Any, masks: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Zero carries and weights of every cell; each needs an example of its inputs, which is the output below."""
        carries, weights = [], []
        output: Any = None
        for index, cell in enumerate(self.cells):
            own_masks = masks and masks[index]
            if index > 0:
                projected = cell.project(params[index], output, own_masks)
            carries.append(cell.initial_carry(params[index], projected))
            prepared = cell.prepare(params[index], projected, own_masks)
            weights.append((params[index], own_masks, prepared))
            output = cell.step(prepared, carries[-1], projected)[1]
        return tuple(carries), tuple(weights)
