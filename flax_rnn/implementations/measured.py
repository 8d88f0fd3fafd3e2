"""What was measured on GPUs, and which measurement speaks for a layer.

The table, ``measured.json``, has figures of the benchmarks: on which device which implementation took how long, for
one cell, dtype and shape, with its gradients or without. What was not measured is nothing to go by.
"""

import functools
import json
import math
from importlib import resources
from typing import Any, NamedTuple

from flax_rnn.implementations.native import kernels
from flax_rnn.implementations.precision import allows_tf32
from flax_rnn.implementations.protocol import Request


class Entry(NamedTuple):
    """One measurement.

    Attributes:
      device: the kind of GPU, as jax calls it.
      cell: ``"lstm"``, ``"gru"`` or ``"simple_rnn"``.
      dtype: ``"tf32"`` for float32 whose ``precision`` allows it, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
      training: whether with gradients.
      shape: rows, steps, features and units ``[B, T, D, H]``.
      times_ms: by implementation.
      source: the file with all of it.
    """

    device: str
    cell: str
    dtype: str
    training: bool
    shape: list[int]
    times_ms: dict[str, float]
    source: str

    @property
    def fastest_first(self) -> list[str]:
        """The implementations."""
        return sorted(self.times_ms, key=self.times_ms.__getitem__)

    def __str__(self) -> str:
        """In words that can follow others."""
        times = ", ".join(f"{name} {self.times_ms[name]:g} ms" for name in self.fastest_first)
        phase = "with gradients" if self.training else "without gradients"
        return f"{times}, on {self.device} in {self.dtype} {phase}, (B, T, D, H) = {(*self.shape,)}, {self.source}"

    def distance(self, rows: int, steps: int, units: int) -> float | None:
        """How far from a shape, as the sum of logarithms of ratios; ``None`` if one of them is above 2."""
        own = (self.shape[0], self.shape[1], self.shape[3])
        logs = [abs(math.log2(ours / theirs)) for ours, theirs in zip(own, (rows, steps, units), strict=True)]
        return sum(logs) if max(logs) <= 1 else None


@functools.cache
def table() -> tuple[Entry, ...]:
    """All measurements."""
    text = resources.files("flax_rnn.implementations").joinpath("measured.json").read_text()
    return tuple(Entry(**entry) for entry in json.loads(text))


def entry_for(request: Request) -> Entry | None:
    """The nearest measurement that speaks for ``request``: on its device, and each size within a factor of two.

    One of a single implementation compares nothing, and is passed over.
    """
    cell: Any = request.cell
    if not request.device or request.shape is None or 0 in request.shape or kernels.kind(cell) is None:
        return None
    dtype: str = request.dtype.name
    if dtype == "float32" and allows_tf32(cell.precision):
        dtype = "tf32"
    wanted = request.device, kernels.kind(cell), dtype, request.training
    near = [
        (distance, index, entry)
        for index, entry in enumerate(table())
        if (entry.device, entry.cell, entry.dtype, entry.training) == wanted
        and len(entry.times_ms) > 1
        and (distance := entry.distance(*request.shape, cell.units)) is not None
    ]
    return min(near)[2] if near else None
