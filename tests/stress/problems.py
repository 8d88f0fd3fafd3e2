"""Layers to call, each with what one thread alone gets of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import flax_rnn

CELLS: dict[str, Callable[..., Any]] = {
    "SimpleRNN": flax_rnn.SimpleRNNCell,
    "LSTM": flax_rnn.LSTMCell,
    "GRU": flax_rnn.GRUCell,
    "GRU, reset before": lambda units, **options: flax_rnn.GRUCell(units, reset_after=False, **options),
}
ROWS, UNITS = (33, 12, 9, 40), (2, 9, 5, 256)
"""Rows, steps, features and units: of a layer whose rows threads divide, and of one whose units they divide."""


class Problem(NamedTuple):
    """A layer: functions ``(weights, x, mask, cotangent)``, and random arguments.

    ``forward`` returns the outputs of all steps, ``gradient`` also the gradients of weights and inputs.
    """

    name: str
    forward: Callable[..., Any]
    gradient: Callable[..., Any]
    arguments: tuple[Any, ...]


def problem(
    name: str, sizes: tuple[int, int, int, int] = ROWS, how: str = "native", seed: int = 0, dropout: float = 0.2
) -> Problem:
    """The layer of a cell of ``CELLS``, with dropout of both kinds; nothing is compiled."""
    batch, steps, features, units = sizes
    cell = CELLS[name](units, dropout=dropout, recurrent_dropout=dropout)
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: cell.init_params(jax.random.key(0), features))
    weights = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape) * units**-0.5), shapes)
    x, cotangent = (np.float32(rng.normal(size=(batch, steps, size))) for size in (features, units))
    mask = rng.random((batch, steps)) < 0.7
    key = jax.random.key(1) if dropout else None

    def forward(weights: Any, x: Any, mask: Any, cotangent: Any) -> Any:
        del cotangent
        return flax_rnn.rnn(cell, weights, x, mask=mask, dropout_key=key, return_sequences=True, implementation=how)

    def gradient(weights: Any, x: Any, mask: Any, cotangent: Any) -> Any:
        outputs, pull = jax.vjp(lambda weights, x: forward(weights, x, mask, None), weights, x)
        return outputs, pull(cotangent)

    return Problem(name, forward, gradient, (weights, x, mask, cotangent))


def functions(
    sizes: tuple[int, int, int, int] = ROWS, how: str = "native", dropout: float = 0.2
) -> dict[str, tuple[Any, Any, Any]]:
    """By name: a compiled function, its arguments on the device, and its results when nothing else runs."""
    found: dict[str, tuple[Any, Any, Any]] = {}
    for name in CELLS:
        one = problem(name, sizes, how, dropout=dropout)
        arguments = jax.device_put(one.arguments)
        for what in ("forward", "gradient"):
            function = jax.jit(getattr(one, what))
            found[f"{name}, {what}"] = function, arguments, numbers(function(*arguments))
    return found


def numbers(tree: Any) -> list[Any]:
    """The arrays of a tree in NumPy."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(results: Any, expected: list[Any]) -> bool:
    """Whether they are equal, bit for bit."""
    ours = numbers(results)
    return len(ours) == len(expected) and all(a.tobytes() == b.tobytes() for a, b in zip(ours, expected, strict=True))


class Row(NamedTuple):
    """One line of the results; nothing is promised where ``failed`` is ``None``."""

    what: str
    tried: int
    failed: int | None
    note: str = ""
