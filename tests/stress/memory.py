"""The memory of the process over many calls.

After a thousand calls to warm up it may grow by 8 MB in all that follow: in 10,000 of them that is 840 bytes a call,
and the outputs of each have 6 KB.
"""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax

from tests.stress.problems import CELLS, Row, problem
from tests.stress.resident import resident

SIZES = (4, 6, 5, 64)
"""Whose matrices are large enough that the kernels keep memory for them."""
WARM_UP = 1000
MOST = 8 * 2**20
"""Bytes by which a process may grow."""


def run(size: int) -> Iterator[Row]:
    calls = 10 * size
    for name in CELLS:
        one = problem(name, SIZES)
        arguments = jax.device_put(one.arguments)
        for what in ("forward", "gradient"):
            yield measured(f"{name}, {what}", jax.jit(getattr(one, what)), arguments, calls)
    one = problem("LSTM", SIZES)
    yield measured("LSTM, forward, outside of jax.jit", one.forward, one.arguments, calls)


def measured(name: str, function: Callable[..., Any], arguments: Any, calls: int) -> Row:
    def call(times: int) -> int:
        for _ in range(times):
            jax.block_until_ready(function(*arguments))
        gc.collect()
        return resident()

    before = call(min(calls, WARM_UP))
    grown = call(calls) - before
    return Row(f"{calls} calls: {name}", calls, int(grown > MOST), f"{grown / 2**20:+.1f} MB")
