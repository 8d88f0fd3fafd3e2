"""Serves one contestant: builds cases, compares their results, and takes turns when told to."""

import functools
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import contestants, workers
from benchmarks.cases import Case
from benchmarks.timing import queued, repeat, stopwatch

PRODUCT = {"cpu": 2048, "gpu": 8192}
"""Rows of the matrices whose product shows what a machine is capable of."""


class Service:
    """Answers the requests of ``benchmarks.comparison``.

    Args:
      load: makes the contestant, at the first request, so that a reason why it cannot is an answer.
    """

    def __init__(self, load: Callable[[], contestants.Contestant]):
        self._load = functools.cache(load)
        self._run: contestants.Run | None = None

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request: ``{"do": the name of a method, **arguments}``."""
        actions = {
            "about": self.about, "peak": self.peak, "build": self.build, "turn": self.turn, "queue": self.queue,
        }  # fmt: skip
        return actions[request.pop("do")](**request)

    def about(self) -> dict[str, Any]:
        """What it runs on."""
        contestant = self._load()
        return {"platform": contestant.platform, "device": contestant.device}

    def peak(self, dtype: str) -> dict[str, Any]:
        """Operations in a second that large products reach."""
        contestant = self._load()
        size = PRODUCT[contestant.platform]
        call = contestant.product(dtype, size)
        call()
        return {"flops": 2 * size**3 / min(stopwatch(call) for _ in range(5))}

    def build(self, case: dict[str, Any], reference: str) -> dict[str, Any]:
        """Makes a case ready to be timed; its results are compared with the file ``reference``, or become it."""
        contestant, wanted, path = self._load(), Case(**case), Path(reference)
        self._run = None
        gc.collect()
        comparable = contestant.build(wanted.comparable)
        first, result = _timed(comparable.call)
        results: dict[str, Any] = comparable.read(result)
        differences = {}
        if path.exists():
            with np.load(path) as expected:
                differences = {name: distance(results[name], expected[name]) for name in expected.files}
        else:
            np.savez(path, **results)
        del result, results
        self._run = run = comparable
        if wanted.comparable != wanted:
            self._run = run = contestant.build(wanted)
            first = stopwatch(run.call)
        return {
            "differences": differences, "first": first, "warm": stopwatch(run.call),
            "chosen": contestant.chosen(wanted), "note": contestant.note(wanted),
        }  # fmt: skip

    def turn(self, warm_up: int, calls: int) -> dict[str, Any]:
        """The seconds of a call that is waited for, after so many calls to warm up."""
        return {"seconds": repeat(self._warm(warm_up).call, calls)}

    def queue(self, warm_up: int, calls: int) -> dict[str, Any]:
        """The seconds of a call among so many that are waited for together."""
        run = self._warm(warm_up)
        return {"seconds": queued(run.start, run.wait, calls)}

    def _warm(self, calls: int) -> contestants.Run:
        if self._run is None:
            raise RuntimeError("a turn without anything built")
        for _ in range(calls):
            self._run.call()
        return self._run


def distance(array: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference as a part of that of ``reference``; infinite for other shapes and what is not finite."""
    if array.shape != reference.shape or not (np.isfinite(array).all() and np.isfinite(reference).all()):
        return float("inf")
    return float(np.linalg.norm(array - reference) / max(np.linalg.norm(reference), 1e-30))


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    results: list[Any] = []
    seconds = stopwatch(lambda: results.append(function()))
    return seconds, results.pop()


if __name__ == "__main__":
    workers.serve(Service(functools.partial(contestants.load, sys.argv[1])).handle)
