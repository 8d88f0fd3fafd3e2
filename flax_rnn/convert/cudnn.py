"""The weights of Keras 2's ``CuDNNLSTM`` and ``CuDNNGRU``: to those of ``LSTM`` and ``GRU``, and back.

``flax_rnn.cudnn`` says how they differ. A Keras 3 has only the latter layers.

Source: ``_convert_rnn_weights`` of Keras 2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from flax_rnn.cells.cudnn import CuDNNGRUCell, CuDNNLSTMCell
from flax_rnn.convert.errors import ConversionError, cell_arrays, check_reset_after, check_shape, count_gates


def is_cudnn(params: Mapping[str, Any]) -> bool:
    """Whether the weights of a cell are those of a ``CuDNN`` layer; only the shape of the bias tells."""
    columns = np.shape(params["kernel"])[-1:]
    return "bias" in params and columns != () and np.shape(params["bias"]) == (2 * columns[0],)


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
    gates, (units, columns) = _gates(arrays), arrays["recurrent_kernel"].shape
    _check_bias(arrays, (2 * columns,))
    cell = CuDNNGRUCell(units) if gates == 3 else CuDNNLSTMCell(units)
    with jax.enable_x64(True):  # without which jax would round what is in 64 bits
        return {name: np.asarray(array) for name, array in cell.plain(arrays).items()}


def to_cudnn(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of ``from_cudnn``; each bias of an LSTM gets half of the sum, as in Keras.

    Raises:
      ConversionError: for other shapes, and for a GRU with ``reset_after=False``, which cuDNN does not have.
    """
    arrays = cell_arrays("params", params)
    gates = _gates(arrays)
    check_reset_after("params", arrays, "CuDNNGRU")
    columns = arrays["kernel"].shape[1]
    _check_bias(arrays, (2, columns) if gates == 3 else (columns,))
    kernel, recurrent_kernel = (np.split(arrays[name], gates, 1) for name in ("kernel", "recurrent_kernel"))
    bias = arrays["bias"]
    return {
        "kernel": np.concatenate([block.T.reshape(block.shape) for block in kernel], 1),
        "recurrent_kernel": np.concatenate([block.T for block in recurrent_kernel], 1),
        "bias": bias.reshape(-1) if gates == 3 else np.tile(bias / np.asarray(2, bias.dtype), 2),
    }


def _gates(arrays: Mapping[str, np.ndarray]) -> int:
    gates = count_gates("params", arrays)
    if gates == 1:
        raise ConversionError("params: expected the weights of an LSTM or a GRU, got those of a SimpleRNN")
    return gates


def _check_bias(arrays: Mapping[str, np.ndarray], expected: tuple[int, ...]) -> None:
    if "bias" not in arrays:
        raise ConversionError(f"params: bias: expected shape {expected}, got no bias")
    check_shape("params: bias", arrays["bias"], expected)
