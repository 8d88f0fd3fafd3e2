"""Which combinations of a parametrized test plain `pytest` runs, and which `--full`."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

Features = frozenset[tuple[tuple[str, str], ...]]


def left_out(items: Iterable[pytest.Item], full: bool) -> set[pytest.Item]:
    """The items that are marked `full`, or are of a test marked `each` and add nothing to those chosen before.

    With `--full` those alone that `each(..., full=size)` does not choose.
    """
    marked = [*items]
    groups: dict[Any, list[Any]] = {}
    for item in marked:
        if item.get_closest_marker("each"):
            groups.setdefault(getattr(item, "function", None), []).append(item)
    out = {item for item in marked if item.get_closest_marker("full") and not full}
    return out.union(*(_redundant(group, full) for group in groups.values()))


def _redundant(group: Sequence[Any], full: bool) -> set[pytest.Item]:
    mark: Any = group[0].get_closest_marker("each")
    size, at_most = mark.args[0], mark.kwargs.get("at_most")
    if full:
        size, at_most = mark.kwargs.get("full"), None
    return set() if size is None else {*group} - {*covering(group, size, at_most)}


def covering(group: Sequence[Any], size: int, at_most: int | None = None) -> list[Any]:
    """A few of the items, in which each set of `size` values occurs that occurs in any of them.

    Each next one adds the most, and of equals the first; no more than `at_most`.
    """
    features = {item: _features(item.callspec.params, size) for item in group}
    missing = frozenset().union(*features.values())
    chosen: list[Any] = []
    while missing and len(chosen) != at_most:
        chosen.append(max(group, key=lambda item: len(features[item] & missing)))
        missing -= features[chosen[-1]]
    return chosen


def _features(params: dict[str, Any], size: int) -> Features:
    values = [pair for name, value in params.items() for pair in _values(name, value)]
    return frozenset(itertools.combinations(sorted(values), min(size, len(values))))


def _values(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A parameter; of one that is a record of options, such as a `Case`, each of them."""
    if dataclasses.is_dataclass(value) and type(value).__name__ == "Case":
        for field in dataclasses.fields(value):
            yield f"{name}.{field.name}", repr(getattr(value, field.name))
    else:
        yield name, repr(value)
