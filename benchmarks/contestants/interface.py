"""What a contestant is: something that makes of a case a function to call."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cases import Case, Layers

Results = dict[str, np.ndarray]
"""``outputs``, and where there are gradients those of ``inputs`` and of the weights, in float32 and our layout."""


class Absent(Exception):
    """Why a contestant does not take part in a case."""


class Run(NamedTuple):
    """A case, ready to run.

    Attributes:
      start: runs it once, or tells the device to, and returns what it returns, which need not be there yet.
      read: makes ``Results`` of that.
      wait: until all is there that was started up to a result; without it, ``start`` waits itself.
    """

    start: Callable[[], Any]
    read: Callable[[Any], Results]
    wait: Callable[[Any], Any] = lambda result: None

    def call(self) -> Any:
        """Runs it once, waits, and returns the result."""
        result = self.start()
        self.wait(result)
        return result


class Contestant(ABC):
    """The interface.

    Attributes:
      platform: ``"cpu"`` or ``"gpu"``.
      device: the name of the device.
    """

    platform: str
    device: str

    @abstractmethod
    def build(self, case: Case) -> Run:
        """Makes everything ready but for what is compiled at the first call.

        Raises:
          Absent: where the case has something that the contestant does not.
        """

    def chosen(self, case: Case) -> str | None:
        """Which of several implementations it takes by itself; ``None`` where that is no question."""
        del case
        return None

    def note(self, case: Case) -> str | None:
        """What else there is to know about how it runs a case."""
        del case
        return None

    def product(self, dtype: str, size: int) -> Callable[[], Any]:
        """A product of two square matrices, to find out what the machine is capable of."""
        raise Absent("measures no products")


def of_weights(layers: Layers) -> Results:
    """Gradients of the weights by name; of a GRU's two biases, which not all have, the one of the inputs."""
    return {path: array[0] if array.ndim == 2 and path.endswith("bias") else array for path, array in _walk(layers)}


def for_each_cell(function: Callable[[Any], Any], layers: Layers) -> Layers:
    """``function`` of the weights of each cell, in the same structure."""
    return tuple(for_each_cell(function, node) if isinstance(node, tuple) else function(node) for node in layers)


def refuse(*reasons: tuple[bool, str]) -> None:
    """Raises ``Absent`` with the first reason that holds."""
    for holds, reason in reasons:
        if holds:
            raise Absent(reason)


def _walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(node, tuple | list):
        for index, part in enumerate(node):
            yield from _walk(part, (*path, str(index)))
    elif isinstance(node, Mapping):
        for name, part in node.items():
            yield from _walk(part, (*path, name))
    else:
        yield "/".join(path), node
