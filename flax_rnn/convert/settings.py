"""What a Keras file says of the options of recurrent layers, against those of an NNX model.

A wrong activation goes with the same weights, and gives wrong numbers without an error.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax_rnn import activations
from flax_rnn.convert.layouts import LayerWeights
from flax_rnn.convert.targets import Path

_OPTIONS = {
    "activation": "activation",
    "recurrent_activation": "recurrent_activation",
    "inner_activation": "recurrent_activation",  # of Keras 1
    "reset_after": "reset_after",
}
"""What options are called in the file, and here."""


def warn_of_differences(where: str, layer: LayerWeights, target: Any, places: Sequence[Path]) -> None:
    """Warns of each option of the file's cells that differs from that of the cells of ``target`` at ``places``."""
    saved = [*_saved(layer.config or {})]
    cells = [cell for place in places for cell in _cells(_at(target, place))]
    if len(saved) != len(cells):
        return  # a target that has no options, such as the parameters of linen
    for config, cell in zip(saved, cells, strict=True):
        for key, name in _OPTIONS.items():
            if key not in config or not hasattr(cell, name):
                continue
            wanted, got = _ours(config[key], layer.keras_version), getattr(cell, name)
            if wanted is not None and not _same(wanted, got):
                warnings.warn(f"{where}: {name}: saved with {wanted!r}, the target has {got!r}", stacklevel=5)


def _saved(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configurations of the cells of a layer, forward ahead of backward, from the bottom up."""
    if isinstance(config.get("layer"), Mapping):
        forward = config["layer"]
        yield from _saved(forward.get("config", {}))
        if "merge_mode" in config:
            yield from _saved((config.get("backward_layer") or forward).get("config", {}))
    elif isinstance(config.get("cell"), Mapping):
        yield from _saved(config["cell"].get("config", {}))
    elif isinstance(config.get("cells"), list):
        for cell in config["cells"]:
            yield from _saved(cell.get("config", {}))
    elif any("recurrent" in key or key.startswith("inner_") for key in config):
        yield config


def _at(target: Any, place: Path) -> Any:
    """The module of an NNX model at a path; ``None`` where there is none."""
    for name in place:
        if isinstance(target, Mapping):
            target = target.get(name)
        elif name.isdecimal() and hasattr(target, "__getitem__"):
            target = target[int(name)]
        else:
            target = getattr(target, name, None)
    return target


def _cells(module: Any) -> Iterator[Any]:
    """The cells of a module of ours, in the same order."""
    if hasattr(module, "forward_layer"):
        yield from _cells(module.forward_layer)
        yield from _cells(module.backward_layer)
    elif hasattr(module, "cells"):
        for cell in module.cells:
            yield from _cells(cell)
    elif hasattr(module, "cell"):
        yield from _cells(module.cell)
    elif hasattr(module, "core"):
        yield module.core


def _ours(value: Any, keras_version: str | None) -> Any:
    """An option as it is called here; ``None`` for what has no name here."""
    if isinstance(value, Mapping):  # as Keras 3 writes a function
        value = value.get("config")
    if isinstance(value, bool):
        return value
    if value == "hard_sigmoid" and (keras_version or "3").split(".")[0] in ("1", "2"):
        return "hard_sigmoid_keras2"
    try:
        activations.get(value)
    except (TypeError, ValueError):
        return None
    return value


def _same(wanted: Any, got: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(got, bool):
        return wanted == got
    known = {activations.get(name) for name in activations.names()}
    return activations.get(wanted) is activations.get(got) or activations.get(got) not in known
