"""How everything here is timed: contestants take turns within one run, and the median of many turns counts.

A machine's speed drifts, so a figure means little by itself: the ratio to another contestant of the same run does.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np


@dataclass
class Timing:
    """Seconds of one contestant's turns."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return float(np.median(self.seconds))

    def as_json(self) -> dict[str, Any]:
        """Milliseconds: median, minimum, and the quartiles that enclose half of the turns."""
        low, high = np.percentile(self.seconds, [25, 75])
        values = {"median": self.median, "min": min(self.seconds), "quartile_1": low, "quartile_3": high}
        return {f"{name}_ms": 1e3 * float(value) for name, value in values.items()} | {"turns": len(self.seconds)}


def interleave(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Lets each contestant have its turn, ``rounds`` times over; a turn returns its seconds."""
    timings = {name: Timing([]) for name in contestants}
    for _ in range(rounds):
        for name, turn in contestants.items():
            timings[name].seconds.append(turn())
    return timings


def stopwatch(function: Callable[[], Any]) -> float:
    """Seconds that one call takes; ``function`` must wait for its own results."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@dataclass
class Machine:
    """Where and with what the figures were measured."""

    processor: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]


def machine() -> dict[str, Any]:
    """This machine, and the versions of whatever took part."""
    packages = {}
    for name in ("jax", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu", "torch", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return asdict(Machine(_processor(), os.cpu_count() or 0, platform.platform(), platform.python_version(), packages))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
