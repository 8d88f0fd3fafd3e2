"""The layouts of the HDF5 files of Keras, for writing: the counterpart of ``layouts``."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError, as_array, count_gates, require
from flax_rnn.convert.layouts import keys_of
from flax_rnn.convert.lists import numbered, ordered

KERAS_VERSION = "3.15.1"

Parts = dict[str, dict[str, np.ndarray]]
"""The weights of a layer: by the path of what holds them in it, ``"forward_layer/cell"``, by name in Keras' order."""

_CELLS = {1: "SimpleRNNCell", 3: "GRUCell", 4: "LSTMCell"}
_STATISTICS = ("mean", "var")
_MAX_ATTRIBUTE = 64512  # Keras' own limit, a little below that of HDF5


def parts_of_layer(where: str, trees: Sequence[Mapping[str, Any]]) -> Parts:
    """The parameters of a layer as Keras has them: from one tree that ``nodes_in`` knows, or those of its cells."""
    if len(trees) > 1:
        return _parts(where, ("cell",), {str(index): tree for index, tree in enumerate(trees)})
    (tree,) = trees
    return _parts(where, ("cell",) if "recurrent_kernel" in tree else (), tree)


def _parts(where: str, path: tuple[str, ...], tree: Mapping[str, Any]) -> Parts:
    if {*tree} == {"cells"}:
        return _parts(where, path, tree["cells"])
    if names := numbered(tree):
        keys = keys_of(_cell_class(f"{where}: {name}", tree[name]) for name in names)
        inner = {(*path, "cells", key): tree[name] for key, name in zip(keys, names, strict=True)}
    elif any(isinstance(node, Mapping) for node in tree.values()):
        inner = {(*path, name): tree[name] for name in sorted(tree, reverse=True)}  # forward ahead of backward
    else:
        return {"/".join(path): {name: as_array(f"{where}: {name}", tree[name]) for name in ordered(tree)}}
    return {at: part for place, node in inner.items() for at, part in _parts(where, place, node).items()}


def _cell_class(where: str, cell: Mapping[str, Any]) -> str:
    if "recurrent_kernel" not in cell:
        raise ConversionError(f"{where}: expected the weights of a cell in a stack, got entries {sorted(cell)}")
    return "ConvLSTMCell" if cell["recurrent_kernel"].ndim > 2 else _CELLS[count_gates(where, cell)]


def groups_of_layers(layers: Mapping[str, str], model: str = "", container: str = "layers") -> dict[str, str]:
    """Where in a ``.weights.h5`` each layer is, by name: ``layers`` has the classes, those of a ``model`` in order."""
    inner = [name for name in layers if name.rpartition("/")[0] == model]
    groups: dict[str, str] = {}
    for name, key in zip(inner, keys_of(layers[name] for name in inner), strict=True):
        groups[name] = f"{container}/{key}"
        groups |= groups_of_layers(layers, name, f"{_content(groups[name], layers[name])}/layers")
    return groups


def write_keras3(layers: Mapping[str, str], weights: Mapping[str, Parts]) -> bytes:
    """A ``.weights.h5``.

    Args:
      layers: the class of each layer and nested model by name, as in ``save``.
      weights: those of each layer.
    """
    stream = io.BytesIO()
    with require("h5py").File(stream, "w") as file:
        file.create_group("vars")
        for name, group in groups_of_layers(layers).items():
            file.create_group(f"{group}/vars").attrs["name"] = name.rpartition("/")[2]
            content = _content(group, layers[name])
            file.require_group(f"{content}/vars")
            for path, arrays in weights.get(name, {}).items():
                place = f"{content}/{path}/vars"
                for index, array in enumerate(arrays.values()):
                    _write(file, f"{place}/{index}", array)
    return stream.getvalue()


def write_legacy(layers: Mapping[str, str], weights: Mapping[str, Parts]) -> bytes:
    """A legacy ``.h5`` of weights alone; arguments as for ``write_keras3``.

    It has one list per layer of the outermost model, in which what training does not change comes last.
    """
    stream = io.BytesIO()
    outermost = [name for name in layers if "/" not in name]
    with require("h5py").File(stream, "w") as file:
        file.attrs["keras_version"] = KERAS_VERSION.encode()
        _write_names(file, "layer_names", outermost)
        for top in outermost:
            arrays = [
                (f"{name}/{path}/{leaf}:0" if path else f"{name}/{leaf}:0", array)
                for name, parts in weights.items()
                if name.partition("/")[0] == top
                for path, part in parts.items()
                for leaf, array in part.items()
            ]
            arrays.sort(key=lambda entry: entry[0].endswith(tuple(f"/{leaf}:0" for leaf in _STATISTICS)))
            group = file.create_group(top)
            _write_names(group, "weight_names", [name for name, _ in arrays])
            for name, array in arrays:
                _write(group, name, array)
    return stream.getvalue()


def _content(group: str, class_name: str) -> str:
    """Where the weights of a layer are within its group."""
    return f"{group}/layer" if class_name == "TimeDistributed" else group


def _write(group: Any, path: str, array: np.ndarray) -> None:
    dataset = group.create_dataset(path, data=array)
    if array.dtype.name == "bfloat16":
        dataset.attrs["dtype"] = "bfloat16"


def _write_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """A list of strings, in pieces if it is long."""
    encoded = np.array([name.encode() for name in names], dtype="S" if names else "S1")
    count = max(1, -(-encoded.nbytes // _MAX_ATTRIBUTE))
    if count == 1:
        group.attrs[attribute] = encoded
        return
    for index, piece in enumerate(np.array_split(encoded, count)):
        group.attrs[f"{attribute}{index}"] = piece
