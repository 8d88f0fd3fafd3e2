"""A process that forks while it uses the library.

What is promised: the parent goes on as if nothing had been, and a child that leaves jax alone, as one that loads data
with NumPy, neither hangs nor crashes, even if it is born while kernels run. Whoever wants to compute with jax in
another process spawns it. A forked child has none of the threads of XLA, which waits for them, and it may wait for good
for a lock that a thread held at its birth, one of XLA or that of the memory which kernels keep: what becomes of a child
that calls jax is told, not promised.
"""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from tests.stress.problems import Row, functions, same

PATIENCE = 10.0
"""Seconds after which a child hangs."""


def run(size: int) -> Iterator[Row]:
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # jax warns of os.fork
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # so does Python
    of = functions()
    children = max(2, size // 20)
    ended = [forked(with_numpy) for _ in range(children)]
    yield Row("a child uses NumPy", children, children - ended.count(0), told(ended))
    right = [same(function(*arguments), expected) for function, arguments, expected in of.values()]
    yield Row("the parent calls kernels after it has forked", len(right), right.count(False))

    with Calls(of) as calls:
        ended = [forked(with_numpy) for _ in range(children)]
    yield Row(
        "a child uses NumPy, born while four threads call kernels", children, children - ended.count(0), told(ended)
    )
    yield Row("these calls of the parent", calls.count, calls.wrong)

    with multiprocessing.get_context("fork").Pool(2) as pool:
        sums = pool.map(numpy_sum, range(children))
    wrong = sum(found != numpy_sum(seed) for seed, found in enumerate(sums))
    yield Row("multiprocessing with fork, and NumPy", children, wrong)
    for method in ("spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            wrong = sum(not right for right in pool.map(in_another_process, [expected_bits(of)] * 2))
        yield Row(f"multiprocessing with {method}, and kernels", 2, wrong)
    yield from _unpromised(of)


def _unpromised(of: dict[str, tuple[Any, Any, Any]]) -> Iterator[Row]:
    """What becomes of children that call jax."""
    for what, those in (
        ("kernels", functions(dropout=0)),
        ("kernels, and XLA to draw dropout masks", of), ("loops of XLA", functions(how="fused", dropout=0)),
        ("what jax compiles there", {"": (lambda: jax.jit(lambda x: 3 * x)(np.float32(2)), (), [np.float32(6)])}),
    ):  # fmt: skip
        calls = [*those.values()][:4]
        ended = [forked(lambda one=one: same(one[0](*one[1]), one[2]), PATIENCE / 2) for one in calls]
        yield Row(f"a child calls {what}", len(ended), None, told(ended))
    plain = functions(dropout=0)
    with Calls(plain):
        ended = [forked(lambda one=one: same(one[0](*one[1]), one[2]), PATIENCE / 2) for one in [*plain.values()][:4]]
    yield Row("a child calls kernels, born while four threads call them", len(ended), None, told(ended))


def forked(function: Callable[[], bool], patience: float = PATIENCE) -> int | None:
    """The exit status of a child: 0 if ``function()`` is true there, ``None`` if it hangs and was killed."""
    if (child := os.fork()) == 0:
        try:
            os._exit(0 if function() else 1)
        except BaseException:
            os._exit(2)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def with_numpy() -> bool:
    """Products, threads and files, as those who load data have them."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(numpy_sum(1)))
    thread.start()
    thread.join()
    with open(os.devnull, "wb") as file:
        np.save(file, np.ones(1000))
    return found == [numpy_sum(1)]


def numpy_sum(seed: int) -> float:
    array = np.random.default_rng(seed).normal(size=(120, 120))
    return float((array @ array).sum())


def expected_bits(of: dict[str, tuple[Any, Any, Any]]) -> dict[str, list[Any]]:
    return {name: expected for name, (_, _, expected) in of.items()}


def in_another_process(expected: dict[str, list[Any]]) -> bool:
    """Whether the results of a fresh process are these."""
    return all(same(list(ours), expected[name]) for name, (_, _, ours) in functions().items())


def told(ended: list[int | None]) -> str:
    words = {None: "hung", 0: "as expected"}
    counts = {words.get(status, f"ended with {status}"): ended.count(status) for status in dict.fromkeys(ended)}
    return ", ".join(f"{count} {word}" for word, count in counts.items())


class Calls:
    """Four threads that call functions until the end of a ``with``."""

    def __init__(self, of: dict[str, tuple[Any, Any, Any]]):
        self.functions, self.done, self.count, self.wrong = [*of.values()], threading.Event(), 0, 0
        self.lock = threading.Lock()

    def __enter__(self) -> "Calls":
        self.threads = [threading.Thread(target=self._call) for _ in range(4)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _call(self) -> None:
        while not self.done.is_set():
            for function, arguments, expected in self.functions:
                right = same(function(*arguments), expected)
                with self.lock:
                    self.count, self.wrong = self.count + 1, self.wrong + (not right)
