"""The one error of the conversions, and the checks that raise it."""

import importlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


class ConversionError(ValueError):
    """Weights that cannot be converted, or a file that cannot be read: says where, what was expected and what came."""


def require(module: str) -> Any:
    """The module of an optional dependency.

    Raises:
      ImportError: naming the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module}: expected to be installed; pip install 'flax_rnn[convert]'") from error


def as_array(where: str, value: Any) -> np.ndarray:
    """``value`` as a NumPy array of floating-point numbers, whatever library it comes from."""
    try:
        array = _of_torch(value) if hasattr(value, "detach") else np.asarray(value)
    except Exception as error:  # whatever the library of `value` raises
        raise ConversionError(f"{where}: expected an array that NumPy can read, got {type(value)}: {error}") from error
    # bfloat16 comes from outside NumPy, and has the kind of opaque data.
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ConversionError(f"{where}: expected floating-point numbers, got dtype {array.dtype}")
    return array


def _of_torch(tensor: Any) -> np.ndarray:
    """A tensor, also one that requires gradients, lies on a GPU, or is of bfloat16, which torch hands to nobody."""
    tensor = tensor.detach().cpu()
    return tensor.float().numpy().astype(jnp.bfloat16) if str(tensor.dtype) == "torch.bfloat16" else tensor.numpy()


def check_shape(where: str, array: Any, expected: tuple[int, ...]) -> None:
    """Raises ``ConversionError`` unless ``array`` has the shape ``expected``."""
    if tuple(array.shape) != tuple(expected):
        raise ConversionError(f"{where}: expected shape {tuple(expected)}, got {tuple(array.shape)}")


def cell_arrays(where: str, params: Any, is_dense: bool = True) -> dict[str, np.ndarray]:
    """The weights of one cell as NumPy arrays, in Keras' order: ``kernel``, ``recurrent_kernel`` and maybe ``bias``.

    Unless it has to be dense, the cell may be convolutional, with the axes ``*K`` of a window ahead of its kernels'.
    """
    names = ("kernel", "recurrent_kernel", "bias")
    if not isinstance(params, Mapping) or not {*names[:2]} <= {*params} <= {*names}:
        got = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ConversionError(f"{where}: expected a cell's kernel, recurrent_kernel and maybe bias, got {got}")
    arrays = {name: as_array(f"{where}: {name}", params[name]) for name in names if name in params}
    kernel, recurrent = arrays["kernel"], arrays["recurrent_kernel"]
    is_fitting = kernel.ndim == recurrent.ndim >= 2 and (kernel.ndim == 2 or not is_dense)
    if not is_fitting or (*kernel.shape[:-2], kernel.shape[-1]) != (*recurrent.shape[:-2], recurrent.shape[-1]):
        window = "" if is_dense else "*K, "
        raise ConversionError(
            f"{where}: expected kernel ({window}D, g H) and recurrent_kernel ({window}H, g H), got {kernel.shape} and "
            f"{recurrent.shape}"
        )
    return arrays


def count_gates(where: str, params: Mapping[str, Any]) -> int:
    """How many gates the weights are of: 1 for a SimpleRNN, 3 for a GRU, 4 for an LSTM."""
    *_, units, columns = params["recurrent_kernel"].shape
    if units == 0 or columns not in (units, 3 * units, 4 * units):
        raise ConversionError(
            f"{where}: recurrent_kernel: expected shape (H, H), (H, 3 H) or (H, 4 H), got {(units, columns)}"
        )
    return columns // units


def check_bias(where: str, params: Mapping[str, Any]) -> None:
    """Raises ``ConversionError`` unless ``bias``, where there is one, is ``(g H,)``, or ``(2, 3 H)`` of a GRU."""
    if "bias" not in params:
        return
    columns = params["kernel"].shape[-1]
    expected = [(columns,)] + ([(2, columns)] if count_gates(where, params) == 3 else [])
    if params["bias"].shape not in expected:
        raise ConversionError(
            f"{where}: bias: expected shape {' or '.join(map(str, expected))}, got {params['bias'].shape}"
        )


def check_reset_after(where: str, params: Mapping[str, Any], other: str) -> None:
    """Raises ``ConversionError`` for the weights of a GRU that resets before the product, which ``other`` does not."""
    if count_gates(where, params) == 3 and "bias" in params and params["bias"].ndim == 1:
        columns = params["kernel"].shape[1]
        raise ConversionError(
            f"{where}: bias: expected shape {(2, columns)}, of a GRU with reset_after=True as {other} is one, "
            f"got {(columns,)}, of reset_after=False"
        )
