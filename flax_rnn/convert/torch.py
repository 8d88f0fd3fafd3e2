"""State dicts of ``torch.nn.RNN``, ``LSTM`` and ``GRU``, without a need for torch.

torch holds the transposes, ``weight_ih_l0`` ``(g H, D)`` and ``weight_hh_l0`` ``(g H, H)``, each with a bias ``(g H,)``
of its own; a GRU's gates are in the order r, z, n. The activation of a ``torch.nn.RNN`` is not in its state.

Source: the documentation of ``torch.nn.LSTM`` and its siblings.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import (
    ConversionError,
    as_array,
    cell_arrays,
    check_bias,
    check_reset_after,
    check_shape,
    count_gates,
)
from flax_rnn.convert.torch_files import check_prefix
from flax_rnn.convert.torch_layers import layers_in


def from_torch(state: Mapping[str, Any], prefix: str = "") -> tuple[Any, ...]:
    """The weights of each layer of a torch module, from the bottom up.

    Args:
      state: its ``state_dict()``, of tensors or of anything that NumPy can read; that of a cell will do, too.
      prefix: which entries of a larger state to take, such as ``"encoder.rnn."``.

    Returns:
      For each layer ``{"kernel", "recurrent_kernel"[, "bias"]}``, or a pair of them, forward and backward, where the
      module is bidirectional. In one direction, the tuple is what a ``StackedRNNCells`` takes. Biases are added up,
      but for a GRU, which has ``(2, 3 H)``. These are weights for ``rnn``; ``load_torch`` puts them into a Flax model
      or layer.

    Raises:
      ConversionError: for missing, unknown or ill-shaped entries, and for ``proj_size``, which no cell has.
    """
    if not isinstance(state, Mapping):
        raise ConversionError(f"state: expected a state dict, got {type(state).__name__}")
    check_prefix("state", state, prefix)
    rest = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if "weight_ih" in rest:  # a cell, whose names are those of a layer without its number
        rest = {f"{name}_l0": value for name, value in rest.items()}
    if projection := [name for name in rest if name.startswith("weight_hr_l")]:
        raise ConversionError(f"state: expected a module without proj_size, got {prefix + projection[0]!r}")
    layers = []
    while not layers or f"weight_ih_l{len(layers)}" in rest:
        layer = f"l{len(layers)}"
        cell = _take(rest, layer, prefix)
        both = f"weight_ih_{layer}_reverse" in rest
        layers.append((cell, _take(rest, f"{layer}_reverse", prefix)) if both else cell)
    if rest:
        raise ConversionError(f"state: expected no more entries than those of {len(layers)} layers, got {sorted(rest)}")
    return tuple(layers)


def to_torch(layers: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The state dict of a torch module; for ``load_state_dict`` make tensors of its arrays with ``torch.from_numpy``.

    Args:
      layers: what ``from_torch`` returns; the weights of one cell; or a layer of either face, also a ``Bidirectional``
        or one of a stack, and tuples of them: the ``params`` of linen, or an ``nnx.Module``.
      prefix: of the names.

    Raises:
      ConversionError: for other trees and shapes, and for a GRU with ``reset_after=False``, which torch does not have.
    """
    state: dict[str, np.ndarray] = {}
    for index, pair in enumerate(layers_in("layers", layers)):
        for cell, direction in zip(pair, ("", "_reverse"), strict=False):
            state |= _put(f"layers[{index}]", cell, f"l{index}{direction}", prefix)
    return state


def _take(rest: dict[str, Any], layer: str, prefix: str) -> dict[str, np.ndarray]:
    """Takes the entries of one direction of one layer out of ``rest``."""

    def take(name: str) -> np.ndarray:
        try:
            return as_array(f"state[{prefix + name!r}]", rest.pop(name))
        except KeyError:
            raise ConversionError(f"state: expected an entry {prefix + name!r}, got {sorted(rest)}") from None

    transposed = {"kernel": take(f"weight_ih_{layer}"), "recurrent_kernel": take(f"weight_hh_{layer}")}
    where = f"state: {prefix}*_{layer}"
    cell = cell_arrays(where, {name: array.T for name, array in transposed.items()})
    gates, columns = count_gates(where, cell), cell["kernel"].shape[1]
    if f"bias_ih_{layer}" in rest or f"bias_hh_{layer}" in rest:
        biases = [take(f"bias_ih_{layer}"), take(f"bias_hh_{layer}")]
        for bias in biases:
            check_shape(f"{where}: bias", bias, (columns,))
        cell["bias"] = np.stack(biases) if gates == 3 else biases[0] + biases[1]
    return _swap_gates(cell, gates)


def _put(where: str, params: Any, layer: str, prefix: str) -> dict[str, np.ndarray]:
    cell = cell_arrays(where, params)
    check_bias(where, cell)
    check_reset_after(where, cell, "torch's")
    cell = _swap_gates(cell, count_gates(where, cell))
    state = {"weight_ih": cell["kernel"].T, "weight_hh": cell["recurrent_kernel"].T}
    if "bias" in cell:
        bias = cell["bias"]
        rows = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        state |= {"bias_ih": rows[0], "bias_hh": rows[1]}
    # torch.from_numpy knows no bfloat16, and load_state_dict casts.
    arrays = {
        name: array.astype(np.float32) if array.dtype.name == "bfloat16" else array for name, array in state.items()
    }
    return {f"{prefix}{name}_{layer}": np.ascontiguousarray(array) for name, array in arrays.items()}


def _swap_gates(cell: dict[str, np.ndarray], gates: int) -> dict[str, np.ndarray]:
    """A GRU's z, r, n as r, z, n, or back; others as they are."""
    if gates != 3:
        return cell
    blocks = {name: np.split(array, 3, -1) for name, array in cell.items()}
    return {name: np.concatenate([second, first, third], -1) for name, (first, second, third) in blocks.items()}
