"""The gates and states of all steps, to be looked at.

No equation stands here: a cell that gives what it names for its output is run as any cell is.
"""

import dataclasses
from collections.abc import Hashable
from typing import Any

from jax.typing import ArrayLike

from flax_rnn.cells.protocol import (
    Affine,
    Carry,
    Cell,
    Params,
    Projected,
    Values,
    Weights,
    affine,
    check_cell,
    names_values,
)
from flax_rnn.cells.stacked import StackedRNNCells
from flax_rnn.layers.rnn import rnn


def gates(
    cell: Cell,
    params: Params,
    inputs: ArrayLike,
    *,
    initial_state: Carry = None,
    mask: ArrayLike | None = None,
    **arguments: Any,
) -> Values:
    """The values of the gates and states at every step of ``rnn(cell, params, inputs, ...)``, by their names.

    Gates are given behind their activations, and in float32 at least; states as the carry has them behind the step.
    ``gates(LSTMCell(8), params, x).f`` is what the forget gate was.

    At a masked step all of them are those of the step before it that counted, and zeros where there was none, as it is
    with outputs; with ``zero_output_for_mask`` they are zeros.

    Of a layer of ``flax_rnn.nnx`` they are those of ``layer.cell.core`` with ``layer.cell.weights()``. For one of
    ``flax_rnn.linen``, a cell of the core with equal arguments takes ``variables["params"]["cell"]``. The layer's
    options, such as ``go_backwards``, are given here.

    Args:
      cell: one that names its values, as all of this library do, or a stack of them; see ``Cell.explain``.
      params, inputs, initial_state, mask: as in ``rnn``.
      **arguments: further ones of ``rnn``, but for ``return_sequences`` and ``return_state``. No implementation but
        ``"fused"`` and ``"scan"`` can show what is within a step.

    Returns:
      ``LSTMValues(i, f, g, o, c, h)`` for an LSTM, also of convolutions, ``GRUValues(z, r, n, h)``, or
      ``SimpleRNNValues(h)``, of arrays ``(B, T, H)``, or ``(T, B, H)`` where ``time_major``; for a stack a tuple with
      those of each cell.

    Raises:
      TypeError: for a cell that does not name its values, for ``return_sequences`` and ``return_state``, and as
        ``rnn``.
      ValueError: as ``rnn``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import flax_rnn.linen
      >>> import flax_rnn.nnx
      >>> x = jnp.ones((2, 5, 3))
      >>> layer = flax_rnn.nnx.LSTM(3, 4, rngs=nnx.Rngs(0))
      >>> values = flax_rnn.gates(layer.cell.core, layer.cell.weights(), x)
      >>> values.f.shape
      (2, 5, 4)
      >>> layer = flax_rnn.linen.GRU(4)
      >>> params = layer.init(jax.random.key(0), x)["params"]["cell"]
      >>> flax_rnn.gates(flax_rnn.GRUCell(4), params, x).z.shape
      (2, 5, 4)
    """
    check_cell("cell", cell)
    if silent := [one for one in _cells(cell) if not names_values(one)]:
        raise TypeError(f"cell: expected one that names its values by `explain`, got {silent[0]}")
    if given := sorted({"return_sequences", "return_state"} & {*arguments}):
        raise TypeError(f"{', '.join(given)}: not expected, since gates and states of all steps are returned")
    explained: Any = _Explained(cell) if all(isinstance(one, Hashable) for one in _cells(cell)) else _NotHashable(cell)
    return rnn(explained, params, inputs, initial_state=initial_state, mask=mask, return_sequences=True, **arguments)


def _cells(cell: Cell) -> list[Cell]:
    """``cell``, or those of a stack."""
    return [one for part in cell.cells for one in _cells(part)] if isinstance(cell, StackedRNNCells) else [cell]


@dataclasses.dataclass(frozen=True)
class _Explained:
    """``cell`` with its values for output; whatever else a cell has is that of ``cell``."""

    cell: Any

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "cell":  # as while one is copied, ahead of its attribute
            raise AttributeError(name)
        return getattr(self.cell, name)

    def step(
        self, weights: Weights, carry: Carry, projected: Projected, affine: Affine = affine
    ) -> tuple[Carry, Values]:
        """That of ``cell``."""
        new, _, values = self.cell.explain(weights, carry, projected, affine)
        return new, values


class _NotHashable(_Explained):
    """For a cell that cannot be hashed, so that nobody tries to."""

    __hash__ = None  # pyright: ignore (as Python has it)
