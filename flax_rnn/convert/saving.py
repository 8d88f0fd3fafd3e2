"""Whole models into the files of Keras."""

import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

from flax_rnn.convert import files
from flax_rnn.convert.cudnn import from_cudnn, is_cudnn
from flax_rnn.convert.errors import ConversionError
from flax_rnn.convert.hdf5 import parse_json
from flax_rnn.convert.lists import nodes_in
from flax_rnn.convert.targets import Names, Path, Target, places_of
from flax_rnn.convert.writing import KERAS_VERSION, Parts, parts_of_layer, write_keras3, write_legacy

_MODELS = ("Sequential", "Functional", "Model")


def save(
    path: str | os.PathLike[str],
    source: Any,
    layers: Mapping[str, str],
    names: Names | None = None,
    *,
    cudnn: bool = False,
    config: str | None = None,
) -> None:
    """Writes the weights of a Flax model for a Keras model, a Sequential or functional one.

    Args:
      path: ``.weights.h5`` or, also for Keras 2, ``.h5``, for ``model.load_weights``; or ``.keras``, for
        ``keras.models.load_model``.
      source: as the ``target`` of ``load``.
      layers: name and class of each layer with weights, in the order of the Keras model, as
        ``{"embedding": "Embedding", "lstm": "LSTM", "both": "Bidirectional"}``. A model in it is listed like a layer,
        and its layers as in ``load``: ``{"encoder": "Sequential", "encoder/lstm": "LSTM"}``.
      names: as in ``load``.
      cudnn: whether to write a ``CuDNNLSTM`` or ``CuDNNGRU`` as an LSTM or a GRU, which is what Keras 3 has.
      config: for ``.keras``: what ``model.to_json()`` returned.

    Raises:
      ConversionError: where a layer has no parameters in ``source``, or a parameter belongs to no layer; and where a
        model is not listed whose layers are.
    """
    file = os.fspath(path)
    if not file.endswith((".h5", ".keras")):
        raise ConversionError(f"path: expected it to end with .weights.h5, .h5 or .keras, got {file}")
    if file.endswith(".keras") != (config is not None):
        raise ConversionError(f"config: expected it for .keras, and only there, got {type(config).__name__} for {file}")
    weights = _weights(Target(source), layers, names or {}, cudnn)
    is_legacy = file.endswith(".h5") and not file.endswith(".weights.h5")
    content = write_legacy(layers, weights) if is_legacy else write_keras3(layers, weights)
    if config is None:
        with open(file, "wb") as stream:
            stream.write(content)
        return
    parse_json("config", config)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(files.METADATA, json.dumps({"keras_version": KERAS_VERSION}))
        archive.writestr(files.CONFIG, config)
        archive.writestr(files.WEIGHTS, content)


def _weights(model: Target, layers: Mapping[str, str], names: Names, cudnn: bool) -> dict[str, Parts]:
    """Those of each layer, nested models aside."""
    outer = {name.rpartition("/")[0] for name in layers}
    if unlisted := sorted(outer - {"", *layers}):
        raise ConversionError(f"layers: expected the class of every model that has layers, got none of {unlisted}")
    listed = [name for name, class_name in layers.items() if name not in outer and class_name not in _MODELS]
    weights: dict[str, Parts] = {}
    used: list[Path] = []
    for name, places in places_of(listed, names).items():
        trees = []
        for place in places:
            tree = model.find(place)
            if tree is None:
                raise ConversionError(f"source: expected parameters of layer {name!r} at {'/'.join(place)}, found none")
            nodes = nodes_in(f"source: {'/'.join(place)}", tree)
            used += [(*place, *inner, leaf) for inner, part in nodes for leaf in part]
            trees.append(tree)
        parts = parts_of_layer(f"source: layer {name!r}", trees)
        is_converted = {at: cudnn and "recurrent_kernel" in part and is_cudnn(part) for at, part in parts.items()}
        weights[name] = {at: from_cudnn(part) if is_converted[at] else part for at, part in parts.items()}
    if unused := ["/".join(key) for key in model.arrays if used.count(key) != 1]:
        raise ConversionError(f"source: expected one layer for every parameter, found none or several for {unused}")
    return weights
