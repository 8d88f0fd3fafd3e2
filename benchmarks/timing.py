"""How everything here is timed: contestants take turns within one run, and the median of many turns counts.

A machine's speed drifts, so a figure means little by itself: the ratio to another contestant of the same run does.
"""

import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from benchmarks import processor

PACKAGES = (
    "jax", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu", "torch", "onnx", "onnxruntime", "numpy",
)  # fmt: skip
PREFIXES = (
    "ATEN_", "CUDA_", "DNNL_", "FLAX_RNN_", "JAX_", "KMP_", "MKL_", "OMP_", "ONEDNN_", "TF_", "TORCH_", "XLA_",
)  # fmt: skip
"""Of variables that frameworks listen to."""


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


def interleave(
    contestants: Mapping[str, Callable[[], float]], rounds: int, budget: float = math.inf
) -> dict[str, Timing]:
    """Lets each contestant have its turn, ``rounds`` times over; a turn returns the seconds that it is judged by.

    Each round has an order of its own, so that nobody always comes after the same one, which may leave the processor
    hot. Whoever has spent ``budget`` seconds on its turns has no more of them, so that the slow do not hold up others.
    """
    rng = random.Random(0)  # the same orders in each run
    timings = {name: Timing([]) for name in contestants}
    spent = dict.fromkeys(contestants, 0.0)
    for _ in range(rounds):
        for name in rng.sample([*contestants], len(contestants)):
            if spent[name] < budget:
                timing, turn = timings[name], contestants[name]
                spent[name] += stopwatch(lambda timing=timing, turn=turn: timing.seconds.append(turn()))
    return timings


def stopwatch(function: Callable[[], Any]) -> float:
    """Seconds that one call takes; ``function`` must wait for its own results."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def repeat(function: Callable[[], Any], calls: int) -> float:
    """Seconds of the median among so many calls."""
    return float(np.median([stopwatch(function) for _ in range(calls)]))


def queued(start: Callable[[], Any], wait: Callable[[Any], Any], calls: int) -> float:
    """Seconds of one among so many calls that are waited for only once: the time on the device.

    Or the time that it takes to start a call, where that is longer, as with a device that has next to nothing to do.
    """

    def run() -> None:
        result = None
        for _ in range(calls):
            result = start()
        wait(result)

    return stopwatch(run) / calls


@dataclass
class Machine:
    """Where and with what the figures were measured."""

    processor: str
    instruction_set: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    variables: dict[str, str]


def machine() -> dict[str, Any]:
    """This machine, the versions of whatever took part, and the variables that tell frameworks what to do."""
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)}
    found = Machine(
        processor.name(), processor.instruction_set(), os.cpu_count() or 0, platform.platform(),
        platform.python_version(), installed(PACKAGES), variables,
    )  # fmt: skip
    return asdict(found)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are there."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
