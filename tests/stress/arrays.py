"""Arrays that do not lie as XLA lays them: unaligned, strided, of others' memory, without elements."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from tests.stress.problems import CELLS, Row, numbers, problem, same

SIZES = (5, 7, 12, 24)


def run(size: int) -> Iterator[Row]:
    repeats = max(1, size // 100)
    ways: dict[str, Callable[[Any], Any]] = {
        **{f"{shift} bytes off": lambda array, shift=shift: moved(array, shift) for shift in (1, 2, 4, 8, 16, 32)},
        "in Fortran's order": np.asfortranarray,
        "backwards": lambda array: np.ascontiguousarray(array[::-1])[::-1],
        "every other number of a larger array": every_other,
        "that cannot be written": read_only,
        "by DLPack": jax.dlpack.from_dlpack,
        "by DLPack, 4 bytes off": lambda array: by_dlpack(moved(array, 4)),
        "by DLPack, 4 bytes off, as a part of a larger one": lambda array: by_dlpack(inner(array)),
    }
    failed = dict.fromkeys(ways, 0)
    for name in CELLS:
        one = problem(name, SIZES)
        for function in (jax.jit(one.forward), jax.jit(one.gradient)):
            expected = numbers(function(*one.arguments))
            for way, change in ways.items():
                for _ in range(repeats):
                    arguments = jax.tree.map(change, one.arguments)
                    failed[way] += not same(function(*arguments), expected)
    for way, count in failed.items():
        yield Row(f"arrays {way}", 2 * len(CELLS) * repeats, count)
    yield from _empty()


def moved(array: Any, shift: int) -> Any:
    """The same numbers that many bytes behind a multiple of 64."""
    memory = np.zeros(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + shift
    there = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    there[...] = array
    return there


def inner(array: Any) -> Any:
    """The same numbers behind another one."""
    return np.concatenate([np.zeros(1, array.dtype), array.ravel()])[1:].reshape(array.shape)


def every_other(array: Any) -> Any:
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def read_only(array: Any) -> Any:
    array = array.copy()
    array.flags.writeable = False
    return array


def by_dlpack(array: Any) -> Any:
    return jax.dlpack.from_dlpack(array) if array.dtype != bool else array


def _empty() -> Iterator[Row]:
    """No rows: results and gradients without elements, and zeros for the weights. No steps are refused."""
    failed = refused = 0
    for make in CELLS.values():
        cell = make(6, dropout=0.3, recurrent_dropout=0.3)
        weights = cell.init_params(jax.random.key(0), 4)

        def loss(weights: Any, x: Any, mask: Any, cell: Any = cell) -> Any:
            result = flax_rnn.rnn(
                cell, weights, x, mask=mask, dropout_key=jax.random.key(1), return_sequences=True,
                implementation="native",
            )  # fmt: skip
            return result.sum(), result

        for mask in (None, np.zeros((0, 5), bool)):
            gradients, outputs = jax.grad(loss, (0, 1), has_aux=True)(weights, np.zeros((0, 5, 4), np.float32), mask)
            zero = all(not leaf.any() for leaf in jax.tree.leaves(gradients[0]))
            failed += not (zero and outputs.shape == (0, 5, 6) and gradients[1].shape == (0, 5, 4))
        try:
            loss(weights, jnp.zeros((3, 0, 4)), None)
        except ValueError:
            refused += 1
    yield Row("arrays without rows", 2 * len(CELLS), failed)
    yield Row("arrays without steps are refused with ValueError", len(CELLS), len(CELLS) - refused)
