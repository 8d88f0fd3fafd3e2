"""What stateful layers keep from call to call."""

from typing import Any

from flax import nnx
from jax.typing import ArrayLike

from flax_rnn.layers.stateful import reset


class RecurrentState(nnx.Variable[Any]):
    """The carry that a stateful layer keeps for its next call; ``None`` until there is one."""


def reset_state(
    model: nnx.Module, rows: ArrayLike | None = None, *, batch: int | tuple[int, ...] | None = None
) -> None:
    """Resets what the stateful layers of ``model`` keep from call to call.

    Args:
      model: a layer, or a model that contains layers.
      rows: booleans ``(B,)``: the sequences to start anew, from zeros; ``None`` to forget everything, so that the next
        call may have any number of sequences.
      batch: in place of ``rows`` the number of sequences to come, or their batch axes. The state is there at once then,
        as ``nnx.scan`` needs it, which lets no variable change its structure, and a checkpoint to be restored.

    Raises:
      ValueError: where no layer is stateful; for ``rows`` together with ``batch``; and for ``batch`` where a cell does
        not tell how many features its inputs have, or has spatial axes.
    """
    if rows is not None and batch is not None:
        raise ValueError("rows, batch: expected at most one of them, got both")
    layers = [layer for _, layer in nnx.iter_graph(model) if isinstance(getattr(layer, "state", None), RecurrentState)]
    if not layers:
        raise ValueError(f"model: expected stateful layers (stateful=True), got none in {type(model).__name__}")
    for layer in layers:
        kept = layer.state.get_value()
        if batch is not None:
            layer.state.set_value(_zeros(layer, (batch,) if isinstance(batch, int) else tuple(batch)))
        elif kept is not None:
            layer.state.set_value(None if rows is None else reset(kept, rows))


def _zeros(layer: Any, batch: tuple[int, ...]) -> Any:
    """The state to start from for so many sequences."""
    cell = layer.cell
    features, axes = getattr(cell, "in_features", None), cell.num_feature_axes
    if features is None or axes != 1:
        raise ValueError(
            f"batch: expected a model whose cells have in_features and no spatial axes, got a {type(cell).__name__} "
            f"with in_features={features} and {axes - 1} spatial axes"
        )
    return layer.initialize_carry((*batch, features))
