"""The weights of Keras 2's ``CuDNNLSTM`` and ``CuDNNGRU``: to those of ``LSTM`` and ``GRU``, and back.

Gates are in the same order, but a ``CuDNN`` layer holds each gate's block as the library takes it, row by row of the
transpose: of ``kernel`` a matrix ``(H, D)`` under the shape ``(D, H)``, of ``recurrent_kernel`` the transpose. It has
two biases in one array: ``(8 H,)`` for an LSTM, ``(6 H,)`` for a GRU, those of the inputs first.

Source: ``_convert_rnn_weights`` of Keras 2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError, cell_arrays, check_reset_after, check_shape, count_gates


def is_cudnn(params: Mapping[str, Any]) -> bool:
    """Whether the weights of a cell are those of a ``CuDNN`` layer; only the shape of the bias tells."""
    shape = np.shape(params["bias"]) if "bias" in params else ()
    return len(shape) == 1 and shape[0] == 2 * np.shape(params["kernel"])[1]


def from_cudnn(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of an ``LSTM``, or of a ``GRU`` with ``reset_after``, from those of the ``CuDNN`` layer.

    Args:
      params: ``kernel`` ``(D, g H)``, ``recurrent_kernel`` ``(H, g H)``, ``bias`` ``(2 g H,)`` with 3 or 4 gates.

    Returns:
      The same with ``bias`` ``(4 H,)``, the sum of both, or ``(2, 3 H)``.

    Raises:
      ConversionError: for other shapes.
    """
    arrays = cell_arrays("params", params)
    gates = _gates(arrays)
    columns = arrays["kernel"].shape[1]
    if "bias" not in arrays:
        raise ConversionError(f"params: bias: expected shape {(2 * columns,)}, got no bias")
    check_shape("params: bias", arrays["bias"], (2 * columns,))
    biases = arrays["bias"].reshape(2, columns)
    return {
        "kernel": np.concatenate([_unpack(block) for block in np.split(arrays["kernel"], gates, 1)], 1),
        "recurrent_kernel": _transpose(arrays["recurrent_kernel"], gates),
        "bias": biases if gates == 3 else biases[0] + biases[1],
    }


def to_cudnn(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of ``from_cudnn``; each bias of an LSTM gets half of the sum, as in Keras.

    Raises:
      ConversionError: for other shapes, and for a GRU with ``reset_after=False``, which cuDNN does not have.
    """
    arrays = cell_arrays("params", params)
    gates = _gates(arrays)
    columns = arrays["kernel"].shape[1]
    expected = (2, columns) if gates == 3 else (columns,)
    check_reset_after("params", arrays, "CuDNNGRU")
    if "bias" not in arrays:
        raise ConversionError(f"params: bias: expected shape {expected}, got no bias")
    bias = arrays["bias"]
    check_shape("params: bias", bias, expected)
    return {
        "kernel": np.concatenate([_pack(block) for block in np.split(arrays["kernel"], gates, 1)], 1),
        "recurrent_kernel": _transpose(arrays["recurrent_kernel"], gates),
        "bias": bias.reshape(-1) if gates == 3 else np.tile(bias / np.asarray(2, bias.dtype), 2),
    }


def _gates(arrays: Mapping[str, np.ndarray]) -> int:
    gates = count_gates("params", arrays)
    if gates == 1:
        raise ConversionError("params: expected the weights of an LSTM or a GRU, got those of a SimpleRNN")
    return gates


def _unpack(block: np.ndarray) -> np.ndarray:
    """The matrix ``(D, H)`` whose transpose lies in the memory of ``block`` ``(D, H)``."""
    features, units = block.shape
    return block.reshape(units, features).T


def _pack(block: np.ndarray) -> np.ndarray:
    """The inverse of ``_unpack``."""
    return block.T.reshape(block.shape)


def _transpose(recurrent_kernel: np.ndarray, gates: int) -> np.ndarray:
    return np.concatenate([block.T for block in np.split(recurrent_kernel, gates, 1)], 1)
