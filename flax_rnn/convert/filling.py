"""The parameters of a model from those of another one, layer by layer: everything used, everything filled, or told."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from flax_rnn.convert.errors import ConversionError
from flax_rnn.convert.targets import Names, Path, Target, places_of

Place = tuple[Path, Mapping[str, Any]]
"""Where in the model a layer, or a cell of a stack, is, and the parameters there."""

Convert = Callable[[str, str, list[Place]], Mapping[Path, np.ndarray]]
"""``(name of the layer, what to call it in errors, its places) -> new arrays by their paths``."""


def fill(source: str, target: Any, layers: Iterable[str], names: Names | None, strict: bool, convert: Convert) -> Any:
    """The ``target`` with what ``convert`` returns for each of ``layers``.

    Args:
      source: what to call the other model in errors.
      target, names, strict: as in ``load``.
      layers: the names of the other model's layers.
      convert: see ``Convert``.

    Raises:
      ConversionError: where ``target`` has no place for a layer, or two have the same one, or a parameter gets nothing.
    """
    model = Target(target)
    found: dict[Path, np.ndarray] = {}
    unused = []
    for name, paths in places_of(layers, names or {}).items():
        trees = [(path, model.find(path)) for path in paths]
        if absent := ["/".join(path) for path, tree in trees if tree is None]:
            unused.append(f"{name} (at {', '.join(absent)})")
            continue
        where = f"{source}: layer {name!r}"
        for path, array in convert(name, where, [(path, tree or {}) for path, tree in trees]).items():
            if path in found:
                raise ConversionError(f"{where}: expected a place of its own, got {'/'.join(path[:-1])} again")
            found[path] = array
    missing = ["/".join(path) for path in model.arrays if path not in found]
    if unused and (strict or not found):
        raise ConversionError(
            f"{source}: expected a place in target for every layer, found none for {unused}; parameters not filled: "
            f"{missing}. See names"
        )
    if missing and strict:
        raise ConversionError(f"{source}: expected a layer for every parameter, found none for {missing}")
    return model.replaced(found)
