"""The layers of a torch module in whatever holds their weights here."""

from collections.abc import Mapping
from typing import Any

from flax_rnn.convert.errors import ConversionError
from flax_rnn.convert.lists import numbered
from flax_rnn.convert.targets import Target

Layer = tuple[Any, ...]
"""The weights of the cells of one layer: one, or two, forward and backward."""


def layers_in(where: str, value: Any) -> list[Layer]:
    """Layers from the bottom up.

    Raises:
      ConversionError: for other trees, and for a ``Bidirectional`` of a stack: torch joins both directions after each
        layer.
    """
    if isinstance(value, tuple | list):
        if not value:
            raise ConversionError(f"{where}: expected the weights of a cell, or a tuple of them, got an empty one")
        return [layer for index, part in enumerate(value) for layer in _entry(f"{where}[{index}]", part)]
    if not isinstance(value, Mapping):
        value = _tree(where, value)
    if "recurrent_kernel" in value or not any(isinstance(node, Mapping) for node in value.values()):
        return [(value,)]
    if {*value} == {"forward_layer", "backward_layer"}:
        sides = [layers_in(f"{where}: {name}", value[name]) for name in ("forward_layer", "backward_layer")]
        if any(len(side) != 1 or len(side[0]) != 1 for side in sides):
            raise ConversionError(f"{where}: expected a Bidirectional of one cell, which is all that torch has")
        return [(*sides[0][0], *sides[1][0])]
    if {*value} <= {"cell", "cells"}:
        return [layer for name, inner in value.items() for layer in layers_in(f"{where}: {name}", inner)]
    if names := numbered(value):
        return [layer for name in names for layer in layers_in(f"{where}: {name}", value[name])]
    raise ConversionError(f"{where}: expected the weights of recurrent layers, got entries {sorted(map(str, value))}")


def _entry(where: str, part: Any) -> list[Layer]:
    """A layer in a tuple of them; a pair is one layer in two directions."""
    if not isinstance(part, tuple | list):
        return layers_in(where, part)
    if not 1 <= len(part) <= 2:
        raise ConversionError(f"{where}: expected a cell or a pair of cells, got {len(part)}")
    return [tuple(part)]


def _tree(where: str, value: Any) -> Mapping[str, Any]:
    try:
        return Target(value).tree
    except ConversionError:
        raise ConversionError(
            f"{where}: expected the weights of a cell, a tuple of them, or a layer, got {type(value).__name__}"
        ) from None
