"""What weights are read into: the parameters of a linen model, or an NNX model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_rnn.convert.errors import ConversionError, check_shape

Path = tuple[str, ...]
Names = Mapping[str, str | Sequence[str]]
"""Where the parameters of a layer are, by its name: one path, or for a stack of cells the path of each."""


class Target:
    """The parameters of a model by path, whichever of Flax's APIs it is of.

    Args:
      model: a tree of dicts, as linen's ``params``; or an ``nnx.Module``, whose parameters and batch statistics count.

    Attributes:
      arrays: the array at each path; entries of lists are under their numbers.
    """

    def __init__(self, model: Any):
        self._model = model
        self._is_module = _is_module(model)
        keys: Any = _module_arrays(model) if self._is_module else _flat(model)
        self._keys = {tuple(map(str, key)): key for key in keys}
        self.arrays: dict[Path, Any] = {path: keys[key] for path, key in self._keys.items()}
        self.tree = nested(self.arrays)

    def find(self, path: Path) -> Mapping[str, Any] | None:
        """The part of ``tree`` at ``path``; ``None`` where there is none."""
        node: Any = self.tree
        for name in path:
            node = node.get(name) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else None

    def replaced(self, new: Mapping[Path, np.ndarray]) -> Any:
        """The model with ``new`` arrays, cast to the dtypes of the old ones; an NNX model is changed and returned."""
        arrays = {path: _place("/".join(path), new[path], old) for path, old in self.arrays.items() if path in new}
        if not self._is_module:
            return nested({key: arrays.get(path, self.arrays[path]) for path, key in self._keys.items()})
        from flax import nnx

        nnx.update(self._model, nested({self._keys[path]: array for path, array in arrays.items()}))
        return self._model


def places_of(layers: Iterable[str], names: Names) -> dict[str, list[Path]]:
    """The paths in the model of each layer: its own, but for the longest beginning that ``names`` has."""
    used = set()
    places: dict[str, list[Path]] = {}
    for layer in layers:
        parts = layer.split("/")
        heads = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        head = next((head for head in heads if head in names), None)
        used.add(head)
        tail = parts if head is None else layer.removeprefix(head).split("/")[1:]
        listed: Any = "" if head is None else names[head]
        starts = [listed] if isinstance(listed, str) else listed
        if not isinstance(starts, list | tuple) or not all(isinstance(start, str) for start in starts):
            raise ConversionError(f"names: expected a path or a list of paths for {head!r}, got {listed!r}")
        places[layer] = [tuple(filter(None, [*start.split("/"), *tail])) for start in starts]
    if unknown := sorted(map(str, {*names} - used)):
        raise ConversionError(f"names: expected names of layers with weights, {[*layers]}, got {unknown}")
    return places


def nested(arrays: Mapping[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """Arrays by path as a tree of dicts."""
    tree: dict[Any, Any] = {}
    for (*path, last), array in arrays.items():
        node = tree
        for name in path:
            node = node.setdefault(name, {})
        node[last] = array
    return tree


def _flat(tree: Mapping[Any, Any], prefix: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    arrays: dict[tuple[Any, ...], Any] = {}
    for name, node in tree.items():
        path = (*prefix, name)
        if isinstance(node, Mapping):
            arrays |= _flat(node, path)
        elif hasattr(node, "shape") and hasattr(node, "dtype"):
            arrays[path] = node
        else:
            where = "/".join(map(str, path))
            raise ConversionError(f"target: expected an array at {where}, got {type(node).__name__}")
    return arrays


def _is_module(model: Any) -> bool:
    from flax import nnx

    if not isinstance(model, nnx.Module | Mapping):
        raise ConversionError(f"target: expected a dict of parameters or an nnx.Module, got {type(model).__name__}")
    return isinstance(model, nnx.Module)  # which may be a mapping, too


def _module_arrays(model: Any) -> dict[tuple[Any, ...], Any]:
    from flax import nnx

    return _flat(nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))))


def _place(where: str, new: np.ndarray, old: Any) -> jax.Array:
    """``new`` in the dtype, and on the devices, of ``old``."""
    check_shape(where, new, old.shape)
    if not jnp.issubdtype(old.dtype, jnp.floating):
        raise ConversionError(f"{where}: expected a parameter of floating-point numbers, got dtype {old.dtype}")
    return jax.device_put(new.astype(old.dtype), old.sharding if isinstance(old, jax.Array) else None)
