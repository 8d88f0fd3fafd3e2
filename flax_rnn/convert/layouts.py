"""How the layers of a model lie in the HDF5 files of Keras."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError
from flax_rnn.convert.hdf5 import Reader, parse_json

Config = Mapping[str, Any]
"""What Keras writes of a layer: ``{"class_name": ..., "config": {...}}``; empty where there is nothing."""

CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the second up to Keras 2.13


@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer of a saved model.

    Attributes:
      arrays: as ``get_weights()`` of the layer lists them, or as the file has them where it is older than that.
      class_name: the class of the layer; ``None`` where the file does not say.
      config: the arguments of the layer; ``None`` where the file does not say.
      keras_version: of the Keras that wrote it; ``None`` where the file does not say.
    """

    arrays: list[np.ndarray]
    class_name: str | None = None
    config: Mapping[str, Any] | None = None
    keras_version: str | None = None


def snake_case(class_name: str) -> str:
    """``GRUCell`` to ``gru_cell``, as Keras does it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", class_name.rpartition(">")[2]).lower()


def keys_of(class_names: Iterable[str]) -> list[str]:
    """The names of groups for objects of these classes, in the order of a list: ``lstm``, ``gru``, ``lstm_1``, ..."""
    counts: dict[str, int] = {}
    keys = []
    for class_name in class_names:
        name = snake_case(class_name)
        count = counts[name] = counts.get(name, -1) + 1
        keys.append(f"{name}_{count}" if count else name)
    return keys


def read_keras3(reader: Reader, config: Config) -> dict[str, LayerWeights]:
    """The layers of a ``.weights.h5``; in the order of ``config`` where it is known, else by class and number."""
    layers: dict[str, LayerWeights] = {}

    def visit(container: Any, prefix: str, entries: Mapping[str, Config], outermost: bool = False) -> None:
        order = {key: index for index, key in enumerate(entries)}
        names = [n for n in reader.members(container) if n != "vars" and not (outermost and n == "optimizer")]
        for key in sorted(names, key=lambda n: (order.get(n, len(order)), _number(n))):
            group = reader.group(container, key)
            if not reader.is_group(group, "vars"):  # a list of layers
                visit(group, prefix, entries)
                continue
            own = reader.group(group, "vars")
            entry = entries.get(key, {})
            name = prefix + (reader.text(own, "name") or _name(entry) or key)
            model = group
            while reader.is_group(model, "layer"):  # a model may be in a TimeDistributed
                model = reader.group(model, "layer")
            if any(reader.is_group(model, inner) for inner in CONTAINERS):
                add(name, _own_arrays(reader, model), entry)
                visit(model, name + "/", _entries(entry))
            else:
                add(name, _arrays(reader, group, entry), entry)

    def add(name: str, arrays: list[np.ndarray], entry: Config) -> None:
        if arrays and name in layers:
            raise ConversionError(f"expected layers of different names, got {name!r} twice")
        if arrays:
            layers[name] = _layer(arrays, entry)

    root = reader.file
    if reader.is_group(root, "vars"):
        add(reader.text(reader.group(root, "vars"), "name") or "model", _own_arrays(reader, root), {})
    visit(root, "", _entries(config), outermost=True)
    return layers


def read_legacy(reader: Reader, config: Config) -> dict[str, LayerWeights]:
    """The layers of a ``.h5`` that has lists of names, of a whole model or, with ``config``, of weights alone."""
    text = reader.text(reader.file, "model_config")
    entries = {_name(entry): entry for entry in _layers(parse_json("model_config", text) if text else config)}
    root = reader.group(reader.file, "model_weights") if reader.is_group(reader.file, "model_weights") else reader.file
    layers: dict[str, LayerWeights] = {}
    names = reader.texts(root, "layer_names")
    if reader.is_group(root, "top_level_model_weights"):
        names.append("top_level_model_weights")
    groups = {name: reader.group(root, name) for name in names}
    paths = {name: reader.texts(group, "weight_names") for name, group in groups.items()}
    _check_listed(reader, groups, paths)
    for name, group in groups.items():
        weights = [(path, reader.array(group, path)) for path in paths[name]]
        for inner, layer in _split(name, weights, entries.get(name, {})):
            if inner in layers:
                raise ConversionError(f"expected layers of different names, got {inner!r} twice")
            layers[inner] = layer
    return layers


def _check_listed(reader: Reader, groups: Mapping[str, Any], paths: Mapping[str, Iterable[str]]) -> None:
    """Raises ``ConversionError`` for arrays in the groups of layers that are in no list, and so of no known order."""

    def found(group: Any, path: str) -> Iterable[str]:
        for key in reader.members(group):
            inner = f"{path}/{key}"
            yield from found(reader.group(group, key), inner) if reader.is_group(group, key) else [inner]

    # A name with slashes puts the group of one layer into that of another.
    listed = {f"{name}/{path}" for name in groups for path in paths[name]}
    for name, group in groups.items():
        if unlisted := [path for path in found(group, name) if path not in listed]:
            raise ConversionError(f"{group.name}: expected every array in weight_names, got {unlisted[:20]} besides")


def _split(name: str, weights: list[tuple[str, np.ndarray]], entry: Config) -> Iterable[tuple[str, LayerWeights]]:
    """The layers of a nested model, whose weights are in one list; their names are in those of the weights."""
    inner = {_name(layer): layer for layer in _layers(entry)}
    if not weights:
        return
    if not inner:
        yield name, _layer([array for _, array in sorted(weights, key=lambda weight: _rank(weight[0], entry))], entry)
        return
    model = name.rpartition("/")[2]
    owners: dict[str, list[tuple[str, np.ndarray]]] = {layer: [] for layer in inner}
    for path, array in weights:
        parts = path.split("/")
        parts = parts[parts.index(model) + 1 :] if model in parts else parts
        owner = _owner(parts, inner)
        if owner is None:
            raise ConversionError(f"{name}: expected {path!r} to name one of the layers {[*inner]}")
        rest = parts[parts.index(owner) + 1 :] if owner in parts else parts
        owners[owner].append(("/".join(rest), array))
    for layer, own in owners.items():
        yield from _split(f"{name}/{layer}", own, inner[layer])


def _owner(parts: list[str], layers: Mapping[str, Config]) -> str | None:
    """Which of ``layers`` a weight is of: one that is named, or else one in which one is. Not all models are named."""
    if named := [part for part in parts if part in layers]:
        return named[0]
    within = {name: {_name(layer): layer for layer in _layers(entry)} for name, entry in layers.items()}
    owners = [name for name, inner in within.items() if inner and _owner(parts, inner)]
    return owners[0] if len(owners) == 1 else None


def _arrays(reader: Reader, group: Any, entry: Config) -> list[np.ndarray]:
    """The arrays of a layer: its own, then those of the objects in it, as ``get_weights()`` has them."""
    names = reader.members(group)
    arrays = _own_arrays(reader, group) if "vars" in names else []
    inner = sorted((name for name in names if name != "vars"), key=lambda name: (name != "forward_layer", name))
    for name in inner:
        child = reader.group(group, name)
        if name != "cells":
            arrays += _arrays(reader, child, _inner_config(entry, name))
            continue
        for key, config in _cells(reader, child, entry):
            arrays += _arrays(reader, reader.group(child, key), config)
    return arrays


def _own_arrays(reader: Reader, group: Any) -> list[np.ndarray]:
    own = reader.group(group, "vars")
    return [reader.array(own, key) for key in sorted(reader.members(own), key=_number)]


def _cells(reader: Reader, group: Any, entry: Config) -> list[tuple[str, Config]]:
    """The cells of a stack in their order, which groups do not have where classes differ."""
    names = reader.members(group)
    configs = _cell_configs(entry)
    if configs is not None:
        keys = keys_of(config["class_name"] for config in configs)
        if sorted(keys) != sorted(names):
            raise ConversionError(f"{group.name}: expected cells {sorted(keys)}, got {sorted(names)}")
        return list(zip(keys, configs, strict=True))
    if len({_number(name)[0] for name in names}) > 1:
        raise ConversionError(
            f"{group.name}: the order of cells of several classes {sorted(names)} is not in a .weights.h5: "
            "expected a configuration"
        )
    return [(name, {}) for name in sorted(names, key=_number)]


def _cell_configs(entry: Config) -> list[Config] | None:
    """What the configuration of a stack says of its cells, if it is one."""
    cells = entry.get("config", {}).get("cells")
    return cells if isinstance(cells, list) else None


def _inner_config(entry: Config, name: str) -> Config:
    """What the configuration of a layer says of the object in its attribute ``name``."""
    config = entry.get("config", {})
    inner = config.get(name) or (config.get("layer") if name.endswith("_layer") else None)
    return inner if isinstance(inner, Mapping) else {}


def _layers(entry: Config) -> list[Config]:
    """What the configuration of a model, maybe wrapped, says of its layers; a Sequential of Keras 1 is a list."""
    config = entry.get("config", {})
    if isinstance(config, list):
        layers = config
    elif "layers" in config:
        layers = config["layers"]
    else:
        return _layers(config["layer"]) if isinstance(config.get("layer"), Mapping) else []
    return [layer for layer in layers if isinstance(layer, Mapping) and "class_name" in layer]


def _entries(entry: Config) -> dict[str, Config]:
    layers = _layers(entry)
    return dict(zip(keys_of(layer["class_name"] for layer in layers), layers, strict=True))


def _name(entry: Config) -> str:
    config = entry.get("config")
    return str(entry.get("name") or (config.get("name") if isinstance(config, Mapping) else None) or "")


def _layer(arrays: list[np.ndarray], entry: Config) -> LayerWeights:
    config = entry.get("config")
    return LayerWeights(arrays, entry.get("class_name"), config if isinstance(config, Mapping) else None)


def _number(name: str) -> tuple[str, int]:
    """For sorting ``lstm``, ``lstm_1``, ..., ``lstm_10``, and ``0``, ..., ``10``."""
    stem = name.rstrip("0123456789")
    return stem.removesuffix("_"), int(name[len(stem) :] or 0)


def _rank(path: str, entry: Config) -> tuple[bool, int]:
    """Where a weight of a layer belongs: what is frozen is written last, so directions and cells may change places."""
    parts = path.split("/")
    while inner := _inner_config(entry, "layer"):
        entry = inner
    cells = _cell_configs(_inner_config(entry, "cell")) or []
    cell = next((index for index, config in enumerate(cells) if _name(config) in parts), 0)
    return any(part.startswith("backward_") for part in parts), cell
