"""The layout of ``.weights.h5`` of Keras 3, for writing: the counterpart of ``layouts``."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError, as_array, count_gates, require
from flax_rnn.convert.layouts import keys_of
from flax_rnn.convert.lists import numbered, ordered

_CELLS = {1: "SimpleRNNCell", 3: "GRUCell", 4: "LSTMCell"}


def arrays_of_layer(group: str, trees: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The parameters of a layer by their paths in a file: one tree that ``nodes_in`` knows, or those of its cells."""
    if len(trees) > 1:
        return _arrays(f"{group}/cell", dict(zip(map(str, range(len(trees))), trees, strict=True)))
    (tree,) = trees
    return _arrays(f"{group}/cell" if "recurrent_kernel" in tree else group, tree)


def _arrays(group: str, tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if {*tree} == {"cells"}:
        return _arrays(group, tree["cells"])
    if names := numbered(tree):
        keys = keys_of(_cell_class(f"{group}/{name}", tree[name]) for name in names)
        parts = [_arrays(f"{group}/cells/{key}", tree[name]) for key, name in zip(keys, names, strict=True)]
    elif any(isinstance(node, Mapping) for node in tree.values()):
        parts = [_arrays(f"{group}/{name}", node) for name, node in tree.items()]
    else:
        return {f"{group}/vars/{i}": as_array(f"{group}/{n}", tree[n]) for i, n in enumerate(ordered(tree))}
    return {path: array for part in parts for path, array in part.items()}


def write_keras3(names: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A file with ``arrays`` by path, and the names of the layers whose groups are the keys of ``names``."""
    stream = io.BytesIO()
    with require("h5py").File(stream, "w") as file:
        file.create_group("vars")
        for group, name in names.items():
            file.create_group(f"{group}/vars").attrs["name"] = name
        for path, array in arrays.items():
            dataset = file.create_dataset(path, data=array)
            if array.dtype.name == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"
    return stream.getvalue()


def _cell_class(where: str, cell: Mapping[str, Any]) -> str:
    if "recurrent_kernel" not in cell:
        raise ConversionError(f"{where}: expected the weights of a cell in a stack, got entries {sorted(cell)}")
    return _CELLS[count_gates(where, cell)]
