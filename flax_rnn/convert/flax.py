"""The parameters of Flax's own recurrent cells, ``flax.linen``'s and ``flax.nnx``'s.

Where Flax has a module per gate, its name ends with that of the gate: ``ii``, ``hi`` and so on; ``nnx.LSTMCell`` says
``if_`` for ``if``. Fused weights are under ``dense_i`` and ``dense_h``. An LSTM's gates are in Keras' order,
i, f, g, o; those of ``nnx.GRUCell`` are r, z, n.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

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

FlaxCell = Literal[
    "linen.SimpleCell", "linen.LSTMCell", "linen.OptimizedLSTMCell", "linen.GRUCell",
    "nnx.SimpleCell", "nnx.LSTMCell", "nnx.OptimizedLSTMCell", "nnx.GRUCell",
]  # fmt: skip
"""The cells of Flax that have an equal here."""

_LSTM, _GRU = "ifgo", "zrn"
_GATES = {"SimpleCell": 1, "GRUCell": 3, "LSTMCell": 4, "OptimizedLSTMCell": 4}


def from_flax(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of ``SimpleRNNCell``, ``LSTMCell`` or ``GRUCell`` from those of one of Flax's ``FlaxCell``.

    Args:
      params: the ``params`` of a linen cell, or ``nnx.to_pure_dict(nnx.state(cell, nnx.Param))``.

    Returns:
      ``{"kernel", "recurrent_kernel", "bias"}``. A GRU's bias is ``(2, 3 H)``; of its recurrent half Flax has that of n
      only, and ``nnx.GRUCell`` none. Carries are not converted: an LSTM's is ``(h, c)`` here and ``(c, h)`` in Flax.

    Raises:
      ConversionError: for the parameters of another module.
    """
    rest = {str(name): dict(entry) if isinstance(entry, Mapping) else entry for name, entry in params.items()}
    cell = _from(rest)
    if unused := [f"{module}/{name}" for module, entry in rest.items() for name in entry]:
        raise ConversionError(f"params: expected no more entries than a cell of Flax has, got {unused}")
    check_bias("params", cell)
    return cell


def to_flax(params: Mapping[str, Any], cell: FlaxCell) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of ``from_flax``, for the named cell. Weights without a bias get one of zeros.

    A GRU without a bias is taken for one with ``reset_after``: its weights do not tell. An LSTM's carry is ``(h, c)``
    here, and ``(c, h)`` in Flax's cells.

    Raises:
      ConversionError: for weights of another kind of cell; for a GRU with ``reset_after=False``, which Flax does not
        have; and for ``nnx.GRUCell`` where n has a recurrent bias, for which it has no place.
    """
    if cell not in get_args(FlaxCell):
        raise ConversionError(f"cell: expected one of {get_args(FlaxCell)}, got {cell!r}")
    arrays = cell_arrays("params", params)
    gates = count_gates("params", arrays)
    api, _, name = cell.partition(".")
    if gates != _GATES[name]:
        raise ConversionError(f"params: expected the {_GATES[name]} gates of {cell}, got {gates}")
    check_bias("params", arrays)
    check_reset_after("params", arrays, cell)
    columns = arrays["kernel"].shape[1]
    bias = arrays.get("bias", np.zeros((2, columns) if gates == 3 else columns, arrays["kernel"].dtype))
    kernel, recurrent = ([*np.split(arrays[n], gates, 1)] for n in ("kernel", "recurrent_kernel"))
    if gates == 3:
        return _to_gru(kernel, recurrent, bias, cell)
    if cell == "linen.SimpleCell":
        return {"i": {"kernel": kernel[0], "bias": bias}, "h": {"kernel": recurrent[0]}}
    if cell == "nnx.SimpleCell":
        return {"dense_i": {"kernel": kernel[0], "bias": bias}, "dense_h": {"kernel": recurrent[0]}}
    if cell == "nnx.OptimizedLSTMCell":
        return {
            "dense_i": {"kernel": arrays["kernel"]},
            "dense_h": {"kernel": arrays["recurrent_kernel"], "bias": bias},
        }
    parts = zip(_LSTM, kernel, recurrent, np.split(bias, 4), strict=True)
    tree: dict[str, dict[str, np.ndarray]] = {}
    for gate, k, r, b in parts:
        tree["if_" if gate == "f" and api == "nnx" else "i" + gate] = {"kernel": k}
        tree["h" + gate] = {"kernel": r, "bias": b}
    return tree


def _from(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``from_flax``, taking what it uses out of ``params``."""
    names = {*params}
    if names == {"i", "h"}:
        return _joined(params, ["i"], ["h"]) | {"bias": _leaf(params, "i", "bias")}
    if names == {"dense_i", "dense_h"}:
        return _from_fused(params)
    outer = ["h" + gate for gate in _LSTM]
    for forget in ("if", "if_"):
        inner = ["ii", forget, "ig", "io"]
        if names == {*inner, *outer}:
            return _joined(params, inner, outer) | {"bias": np.concatenate([_leaf(params, n, "bias") for n in outer])}
    if names == {a + b for a in "ih" for b in _GRU}:
        cell = _joined(params, ["i" + gate for gate in _GRU], ["h" + gate for gate in _GRU])
        bias = np.concatenate([_leaf(params, "i" + gate, "bias") for gate in _GRU])
        recurrent = _leaf(params, "hn", "bias")
        outer_bias = np.concatenate([np.zeros(2 * recurrent.size, recurrent.dtype), recurrent])
        check_shape("params: hn/bias", outer_bias, bias.shape)
        return cell | {"bias": np.stack([bias, outer_bias])}
    raise ConversionError(f"params: expected those of one of {get_args(FlaxCell)}, got entries {sorted(names)}")


def _to_gru(
    kernel: list[np.ndarray], recurrent: list[np.ndarray], bias: np.ndarray, cell: str
) -> dict[str, dict[str, np.ndarray]]:
    (b_z, b_r, b_n), (d_z, d_r, d_n) = (np.split(row, 3) for row in bias)
    biases = (b_z + d_z, b_r + d_r, b_n)
    if cell == "linen.GRUCell":
        tree = {"i" + gate: {"kernel": k, "bias": b} for gate, k, b in zip(_GRU, kernel, biases, strict=True)}
        tree |= {"h" + gate: {"kernel": r} for gate, r in zip(_GRU, recurrent, strict=True)}
        return tree | {"hn": {"kernel": recurrent[2], "bias": d_n}}
    if np.any(d_n != 0):
        raise ConversionError(
            f"params: bias: expected zeros for the recurrent bias of n, bias[1, 2 H:], since {cell} has none, "
            f"got up to {np.abs(d_n).max()} in absolute value; linen.GRUCell has one"
        )
    inner, outer, b = (np.concatenate([r, z, n], -1) for z, r, n in (kernel, recurrent, biases))
    return {"dense_i": {"kernel": inner, "bias": b}, "dense_h": {"kernel": outer}}


def _from_fused(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    cell = _joined(params, ["dense_i"], ["dense_h"])
    gates = count_gates("params", cell)
    if gates == 4:
        return cell | {"bias": _leaf(params, "dense_h", "bias")}
    bias = _leaf(params, "dense_i", "bias")
    check_shape("params: dense_i/bias", bias, cell["kernel"].shape[1:])
    cell |= {"bias": bias}
    if gates == 1:
        return cell
    blocks = {name: np.split(array, 3, -1) for name, array in cell.items()}
    cell = {name: np.concatenate([second, first, third], -1) for name, (first, second, third) in blocks.items()}
    return cell | {"bias": np.stack([cell["bias"], np.zeros_like(cell["bias"])])}


def _joined(params: Mapping[str, Any], inner: list[str], outer: list[str]) -> dict[str, np.ndarray]:
    """The kernels of several modules side by side."""
    joined = {}
    for name, modules in (("kernel", inner), ("recurrent_kernel", outer)):
        arrays = [_leaf(params, module, "kernel") for module in modules]
        for module, array in zip(modules, arrays, strict=True):
            check_shape(f"params: {module}/kernel", array, arrays[0].shape)
        joined[name] = np.concatenate(arrays, -1)
    return cell_arrays("params", joined)


def _leaf(params: Mapping[str, Any], module: str, name: str) -> np.ndarray:
    """Takes one array out of ``params``."""
    entry = params[module]
    if not isinstance(entry, dict) or name not in entry:
        raise ConversionError(f"params: expected an array at {module}/{name}, got none")
    return as_array(f"params: {module}/{name}", entry.pop(name))
