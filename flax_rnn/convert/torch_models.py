"""Whole torch models into Flax models."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError, as_array, check_shape
from flax_rnn.convert.filling import Place, fill
from flax_rnn.convert.lists import nodes_in
from flax_rnn.convert.targets import Names, Path
from flax_rnn.convert.torch import from_torch
from flax_rnn.convert.torch_files import check_prefix, state_of

_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+(_reverse)?)?")
_COUNTERS = ("num_batches_tracked",)

State = dict[str, Any]


def load_torch(state: Any, target: Any, *, prefix: str = "", names: Names | None = None, strict: bool = True) -> Any:
    """Reads the weights of a torch model into a Flax model.

    Modules may be ``LSTM``, ``GRU`` and ``RNN``, of any number of layers and in one or both directions, their cells,
    ``Linear``, ``Embedding`` and ``LayerNorm``. Only weights are read: the ``nonlinearity`` of an ``RNN``, ``dropout``
    or an ``eps`` are for the Flax model to have. torch's states are ``(h, c)``, as ours, but ``(layers, B, H)`` each.

    Args:
      state: a ``state_dict()``, a module, or the path of a file of one: ``.safetensors``, or what ``torch.save`` wrote,
        which is read with ``weights_only``. Dicts within it are reached by ``prefix``, as ``"model_state_dict."``.
      target: the ``params`` of a linen model, arrays or shapes of them; or an ``nnx.Module``, which is changed. It may
        be one layer.
      prefix: which entries to take, such as ``"encoder."``; what follows is the name of a module.
      names: where the parameters of a module are in ``target``, as ``{"decoder.rnn": "decoder/lstm"}``, with slashes
        between names and for entries of lists their numbers. Where the layers of one torch module are in several
        places, it is a list of them, from the bottom up. What is not listed has the same name in both.
      strict: whether every module has to be used, and every parameter of ``target`` to be filled.

    Returns:
      New ``params``, as plain dicts, or the changed ``target``; in the dtypes that were there.

    Raises:
      ConversionError: where names, numbers or shapes do not fit, for other modules, and for files that are broken. An
        ``nnx.Module`` is then as it was.
      OSError: if there is no such file.
    """
    source = os.fspath(state) if isinstance(state, str | os.PathLike) else "state"
    entries = state_of(state)
    check_prefix(source, entries, prefix)
    modules: dict[str, State] = {}
    for name, value in entries.items():
        module, _, leaf = name.removeprefix(prefix).rpartition(".")
        if name.startswith(prefix) and leaf not in _COUNTERS:
            modules.setdefault(module.replace(".", "/"), {})[leaf] = value
    by_path = {str(name).replace(".", "/"): place for name, place in (names or {}).items()}

    def convert(name: str, where: str, places: list[Place]) -> Mapping[Path, np.ndarray]:
        is_recurrent = all(_RECURRENT.fullmatch(leaf) for leaf in modules[name])
        return (_recurrent if is_recurrent else _plain)(where, modules[name], places)

    return fill(source, target, modules, by_path, strict, convert)


def _recurrent(where: str, state: State, places: list[Place]) -> dict[Path, np.ndarray]:
    """The weights of the layers of one module, for the cells that are at ``places``."""
    nodes = [
        ((*path, *inner), node)
        for path, tree in places
        for inner, node in nodes_in(f"{where}: {'/'.join(path) or 'target'}", tree)
    ]
    try:
        layers = from_torch(state)
    except ConversionError as error:
        raise ConversionError(f"{where}: {error}") from error
    cells = [cell for layer in layers for cell in (layer if isinstance(layer, tuple) else (layer,))]
    if len(cells) != len(nodes):
        got = ["/".join(path) for path, _ in nodes]
        raise ConversionError(f"{where}: expected places of {len(cells)} cells, one per layer and direction, got {got}")
    arrays: dict[Path, np.ndarray] = {}
    for cell, (path, node) in zip(cells, nodes, strict=True):
        if {*cell} != {*node}:
            raise ConversionError(f"{where}: expected a cell with {[*cell]} at {'/'.join(path)}, got {sorted(node)}")
        if "bias" in cell and len(node["bias"].shape) < cell["bias"].ndim:
            raise ConversionError(f"{where}: expected reset_after=True at {'/'.join(path)}, as in torch, got False")
        arrays |= _fitting(where, path, node, cell)
    return arrays


def _plain(where: str, state: State, places: list[Place]) -> dict[Path, np.ndarray]:
    """The weights of a Linear, an Embedding or a LayerNorm; which it is, the parameters at its place tell."""
    if len(places) != 1:
        raise ConversionError(f"{where}: expected one place, got {len(places)}")
    ((path, node),) = places
    arrays = {name: as_array(f"{where}: {name}", value) for name, value in state.items()}
    weight = next((name for name in ("kernel", "embedding", "scale") if name in node), "")
    if not {"weight"} <= {*arrays} <= {"weight", "bias"} or not {*node} <= {weight, "bias"}:
        raise ConversionError(
            f"{where}: expected a recurrent layer, a Linear, an Embedding or a LayerNorm, got entries {sorted(arrays)} "
            f"for {'/'.join(path) or 'target'} with {sorted(node)}"
        )
    if {*node} != {weight, *arrays} - {"weight"}:
        raise ConversionError(f"{where}: expected entries for {sorted(node)}, got {sorted(arrays)}")
    is_linear = weight == "kernel"
    if arrays["weight"].ndim != (1 if weight == "scale" else 2):
        raise ConversionError(f"{where}: expected a weight for {weight}, got shape {arrays['weight'].shape}")
    new = {weight: arrays.pop("weight").T if is_linear else arrays.pop("weight"), **arrays}
    return _fitting(where, path, node, new)


def _fitting(
    where: str, path: Path, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[Path, np.ndarray]:
    for name, array in arrays.items():
        check_shape(f"{where}: {name}", array, node[name].shape)
    return {(*path, name): array for name, array in arrays.items()}
