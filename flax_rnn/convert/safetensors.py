"""Trees of parameters as ``.safetensors`` files, with the dtypes they have.

The names on the way to an array are joined by dots, ``lstm.cell.kernel``; entries of tuples and lists are numbered.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError, as_array, check_shape, require


def save_safetensors(path: str | os.PathLike[str], tree: Any) -> None:
    """Writes the arrays of ``tree``, a tree of dicts, tuples and lists.

    Raises:
      ConversionError: for leaves that are not floating-point arrays, for empty containers, and for names with dots.
      OSError: if it cannot be written.
    """
    arrays = {name: np.asarray(as_array(name, leaf), order="C") for name, leaf in _flat("", tree).items()}
    save_file, safetensors = require("safetensors.numpy").save_file, require("safetensors")
    try:
        save_file(arrays, os.fspath(path))
    except safetensors.SafetensorError as error:  # what the library makes of an OSError
        raise OSError(f"{os.fspath(path)}: {error}") from error


def load_safetensors(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads what ``save_safetensors`` wrote.

    Args:
      path: of the file.
      like: a tree of arrays, or of shapes of them, with the structure to return; ``None`` for that of the names, where
        entries numbered from 0 are a tuple.

    Returns:
      A tree of NumPy arrays, in the dtypes of the file.

    Raises:
      ConversionError: for files that are broken, or have other than floating-point arrays, and for names or shapes
        other than those of ``like``.
      OSError: if there is no such file.
    """
    arrays = {name: as_array(f"{os.fspath(path)}: {name}", array) for name, array in read_arrays(path).items()}
    if like is None:
        return _tuples(_nested(os.fspath(path), arrays))
    expected = _flat("", like)
    if {*expected} != {*arrays}:
        missing, unused = sorted({*expected} - {*arrays}), sorted({*arrays} - {*expected})
        raise ConversionError(f"{os.fspath(path)}: expected the names of like, got none of {missing}, and {unused}")
    for name, leaf in expected.items():
        check_shape(f"{os.fspath(path)}: {name}", arrays[name], leaf.shape)
    return _fill("", like, arrays)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a file by name."""
    with open(path, "rb"):
        pass  # an OSError for a missing file, of whatever kind that of the library is
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(os.fspath(path), "np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is not a mapping
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ConversionError(f"{os.fspath(path)}: expected an intact safetensors file, got {error}") from error


def _flat(where: str, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, Mapping | tuple | list):
        if not where:
            raise ConversionError(f"tree: expected a dict, tuple or list, got {type(tree).__name__}")
        return {where: tree}
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    arrays: dict[str, Any] = {}
    for name, node in entries:
        if "." in str(name) or not str(name):
            raise ConversionError(f"tree: {where or 'top'}: expected names without dots, got {name!r}")
        arrays |= _flat(f"{where}.{name}" if where else str(name), node)
    if not arrays:
        raise ConversionError(f"tree: {where or 'top'}: expected entries, got an empty {type(tree).__name__}")
    return arrays


def _fill(where: str, tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """``tree`` with ``arrays`` in the places of its own."""
    if isinstance(tree, Mapping):
        return {name: _fill(f"{where}.{name}", node, arrays) for name, node in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [_fill(f"{where}.{index}", node, arrays) for index, node in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return arrays[where[1:]]


def _nested(where: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        node: Any = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise ConversionError(f"{where}: expected names of which none is the beginning of another, got {name!r}")
        node[last] = array
    return tree


def _tuples(tree: Any) -> Any:
    """``tree`` with tuples for dicts whose names are numbers from 0."""
    if not isinstance(tree, dict):
        return tree
    numbers = [str(index) for index in range(len(tree))]
    if {*tree} == {*numbers}:
        return tuple(_tuples(tree[number]) for number in numbers)
    return {name: _tuples(node) for name, node in tree.items()}
