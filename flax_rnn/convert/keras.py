"""Whole models from the files of Keras, and into them."""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_rnn.convert import files
from flax_rnn.convert.errors import ConversionError, as_array
from flax_rnn.convert.hdf5 import MAX_BYTES, parse_json
from flax_rnn.convert.layouts import keys_of
from flax_rnn.convert.lists import assign, nodes_in
from flax_rnn.convert.targets import Path, Target
from flax_rnn.convert.writing import arrays_of_layer, write_keras3

Names = Mapping[str, str | Sequence[str]]
"""Where the parameters of a layer are, by its name: one path, or for a stack of cells the path of each."""


def load(
    path: str | os.PathLike[str],
    target: Any,
    names: Names | None = None,
    *,
    strict: bool = True,
    cudnn: bool = False,
    config: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Reads the weights of a saved Keras model into a Flax model.

    Layers may be recurrent, also ``Bidirectional`` and stacks, or ``Dense``, ``Conv``, ``Embedding``,
    ``LayerNormalization`` and such. Only weights are read: options, such as activations, the mask of an embedding or
    the ``epsilon`` of a normalization, are for the Flax model to have.

    Args:
      path: of a ``.keras``, ``.weights.h5`` or legacy ``.h5`` file; see ``read``.
      target: the ``params`` of a linen model, arrays or shapes of them; or an ``nnx.Module``, which is changed.
      names: where the parameters of a layer are in the model, as ``{"dense_1": "head/output"}``, with slashes between
        names and for entries of lists their numbers. A name of a nested model stands for those of all its layers.
        Where the cells of a stack are in several places, as those that linen names itself, it is a list of them, from
        the bottom up. What is not listed has the same name in both.
      strict: whether every layer with weights has to be used, and every parameter of ``target`` to be filled.
      cudnn: whether to convert the layers that are a ``CuDNNLSTM`` or ``CuDNNGRU`` in the file.
      config, max_bytes: as in ``read``.

    Returns:
      New ``params``, as plain dicts, or the changed ``target``; in the dtypes that were there.

    Raises:
      ConversionError: where names, numbers or shapes of arrays do not fit, and as in ``read``. An ``nnx.Module`` is
        then as it was.
    """
    layers = files.read(path, config=config, max_bytes=max_bytes)
    model = Target(target)
    places = _places(layers, names or {})
    found: dict[Path, np.ndarray] = {}
    unused = []
    for name, layer in layers.items():
        found_at = [(place, model.find(place)) for place in places[name]]
        if absent := ["/".join(place) for place, tree in found_at if tree is None]:
            unused.append(f"{name} (at {', '.join(absent)})")
            continue
        where = f"{os.fspath(path)}: layer {name!r}"
        nodes = {
            (*place, *inner): node
            for place, tree in found_at
            for inner, node in nodes_in(f"target: {'/'.join(place)}", tree or {})
        }
        arrays = [as_array(where, array) for array in layer.arrays]
        for at, part in zip(nodes, assign(where, arrays, [*nodes.values()], cudnn), strict=True):
            for key, array in part.items():
                if (*at, key) in found:
                    raise ConversionError(f"{where}: expected a place of its own, got {'/'.join(at)} again")
                found[(*at, key)] = array
    missing = ["/".join(key) for key in model.arrays if key not in found]
    if unused and (strict or not found):
        raise ConversionError(
            f"{os.fspath(path)}: expected a place in target for every layer, found none for {unused}; parameters not "
            f"filled: {missing}. See names"
        )
    if missing and strict:
        raise ConversionError(f"{os.fspath(path)}: expected a layer for every parameter, found none for {missing}")
    return model.replaced(found)


def save(
    path: str | os.PathLike[str],
    source: Any,
    layers: Mapping[str, str],
    names: Names | None = None,
    *,
    config: str | None = None,
) -> None:
    """Writes the weights of a Flax model for a Keras model, a Sequential or functional one, without nested ones.

    Args:
      path: ``.weights.h5``, for ``model.load_weights``; or ``.keras``, for ``keras.models.load_model``.
      source: as the ``target`` of ``load``.
      layers: name and class of each layer with weights, in the order of the Keras model, as
        ``{"embedding": "Embedding", "lstm": "LSTM", "both": "Bidirectional"}``.
      names: as in ``load``.
      config: for ``.keras``: what ``model.to_json()`` returned.

    Raises:
      ConversionError: where a layer has no parameters in ``source``, or a parameter belongs to no layer.
    """
    file = os.fspath(path)
    if not file.endswith((".weights.h5", ".keras")):
        raise ConversionError(f"path: expected it to end with .weights.h5 or .keras, got {file}")
    if file.endswith(".keras") != (config is not None):
        raise ConversionError(f"config: expected it for .keras, and only there, got {type(config).__name__} for {file}")
    model = Target(source)
    places = _places(layers, names or {})
    groups: dict[str, str] = {}
    arrays: dict[str, np.ndarray] = {}
    used: list[Path] = []
    for (name, class_name), key in zip(layers.items(), keys_of(layers.values()), strict=True):
        trees = []
        for place in places[name]:
            tree = model.find(place)
            if tree is None:
                raise ConversionError(f"source: expected parameters of layer {name!r} at {'/'.join(place)}, found none")
            nodes = nodes_in(f"source: {'/'.join(place)}", tree)
            used += [(*place, *inner, leaf) for inner, part in nodes for leaf in part]
            trees.append(tree)
        groups[f"layers/{key}"] = name
        inner = "/layer" if class_name == "TimeDistributed" else ""
        arrays |= arrays_of_layer(f"layers/{key}{inner}", trees)
    if unused := ["/".join(key) for key in model.arrays if used.count(key) != 1]:
        raise ConversionError(f"source: expected one layer for every parameter, found none or several for {unused}")
    weights = write_keras3(groups, arrays)
    if config is None:
        with open(file, "wb") as stream:
            stream.write(weights)
        return
    parse_json("config", config)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(files.METADATA, json.dumps({"keras_version": "3.15.1"}))
        archive.writestr(files.CONFIG, config)
        archive.writestr(files.WEIGHTS, weights)


def _places(layers: Mapping[str, Any], names: Names) -> dict[str, list[Path]]:
    """The paths in the model of each layer: its own, but for the longest beginning that ``names`` has."""
    used = set()
    places: dict[str, list[Path]] = {}
    for layer in layers:
        parts = layer.split("/")
        heads = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        head = next((head for head in heads if head in names), None)
        used.add(head)
        tail = parts if head is None else layer.removeprefix(head).split("/")[1:]
        listed = "" if head is None else names[head]
        starts = [listed] if isinstance(listed, str) else [*listed]
        places[layer] = [tuple([*filter(None, start.split("/")), *tail]) for start in starts]
    if unknown := sorted({*names} - used):
        raise ConversionError(f"names: expected names of layers with weights, {[*layers]}, got {unknown}")
    return places
