"""Many threads of Python at once: the bits are those of one thread."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from tests.stress.problems import CELLS, ROWS, UNITS, Row, functions, numbers, problem, same

THREADS = 16


def run(size: int) -> Iterator[Row]:
    for what, sizes in (("whose rows are divided", ROWS), ("whose units are divided", UNITS)):
        yield _at_once(f"{THREADS} threads call the same compiled functions, {what}", functions(sizes), size)
    mixed = {f"{how}, {name}": one for how in ("native", "fused") for name, one in functions(ROWS, how).items()}
    yield _at_once(f"{THREADS} threads call kernels and loops of XLA", mixed, size)
    yield _compiling(max(1, size // 250))
    yield _clearing(functions(), max(1, size // 10))


def _at_once(what: str, of: dict[str, tuple[Any, Any, Any]], size: int) -> Row:
    """``size`` calls from all threads, of random functions."""
    chosen = np.random.default_rng(0).choice([*of], size)

    def call(name: str) -> bool:
        function, arguments, expected = of[name]
        return same(function(*arguments), expected)

    with ThreadPoolExecutor(THREADS) as threads:
        right = [*threads.map(call, chosen)]
    return Row(what, len(right), right.count(False))


def _compiling(rounds: int) -> Row:
    """Threads that trace, compile and run layers of their own shapes at once."""
    tried = failed = 0
    for repeat in range(rounds):
        sizes = [(3 + index, 4 + repeat, 5, 6 + index) for index in range(2)]
        works = [(name, one, what) for name in CELLS for one in sizes for what in ("forward", "gradient")]
        expected: dict[Any, Any] = {}
        for work in works:
            one = problem(work[0], work[1])
            expected[work] = numbers(jax.jit(getattr(one, work[2]))(*one.arguments))
        jax.clear_caches()

        def compiled(work: Any, expected: dict[Any, Any] = expected) -> bool:
            one = problem(work[0], work[1])
            return same(jax.jit(getattr(one, work[2]))(*one.arguments), expected[work])

        with ThreadPoolExecutor(THREADS) as threads:
            right = [*threads.map(compiled, works)]
        tried, failed = tried + len(right), failed + right.count(False)
    return Row(f"{THREADS} threads trace and compile layers of different shapes at once", tried, failed)


def _clearing(of: dict[str, tuple[Any, Any, Any]], size: int) -> Row:
    """Calls while another thread throws away what was compiled."""
    done = threading.Event()

    def clear() -> None:
        while not done.wait(1):
            jax.clear_caches()

    clearing = threading.Thread(target=clear)
    clearing.start()
    try:
        row = _at_once("calls while another thread clears what is compiled", of, size)
    finally:
        done.set()
        clearing.join()
    return row
