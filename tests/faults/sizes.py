"""Sizes that are none, and those beyond all measure, each in a process of its own with a limit of memory.

    python -m tests.faults.sizes NAME

runs one of them; what it has to be is a plain loop of Python's numbers, or of NumPy's.
"""

import math
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.faults import programs
from tests.faults.verdicts import Case, Setting

CELLS = ("SimpleRNN", "LSTM", "GRU")
WAYS = ("native", "fused", "scan")
STEPS = 2_000_000


def cases(setting: Setting) -> Iterator[Case]:
    """Each of ``TRIALS``."""
    for name, (fault, memory, _) in TRIALS.items():
        if setting.quick and "quick" not in name:
            continue
        ended = programs.run(
            [sys.executable, "-m", "tests.faults.sizes", name], programs.environment(), memory=memory, seconds=600
        )
        yield programs.judge(fault, ended, "^clear: ", name)


def problem(cell: str, batch: int, steps: int, features: int, units: int, seed: int = 0) -> tuple[Any, Any, np.ndarray]:
    """A cell, its weights and inputs in float32."""
    import flax_rnn

    rng = np.random.default_rng(seed)
    gates = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[cell] * units
    shapes = {
        "kernel": (features, gates), "recurrent_kernel": (units, gates),
        "bias": (2, gates) if cell == "GRU" else (gates,),
    }  # fmt: skip
    params = {name: (rng.normal(size=shape) / math.sqrt(units)).astype("f4") for name, shape in shapes.items()}
    x = rng.normal(size=(batch, steps, features)).astype("f4")
    return getattr(flax_rnn, f"{cell}Cell")(units), params, x


def scalar(cell: str, params: dict[str, np.ndarray], x: np.ndarray) -> float:
    """The last output of one unit that reads one feature, in Python's numbers."""
    kernel, recurrent = params["kernel"][0].tolist(), params["recurrent_kernel"][0].tolist()
    bias = np.atleast_2d(params["bias"]).tolist()
    h = c = 0.0
    for value in x[0, :, 0].tolist():
        a = [value * w + b for w, b in zip(kernel, bias[0], strict=True)]
        r = [h * w + b for w, b in zip(recurrent, bias[-1] if len(bias) == 2 else [0.0] * len(a), strict=True)]
        if cell == "SimpleRNN":
            h = math.tanh(a[0] + r[0])
        elif cell == "LSTM":
            i, f, g, o = (p + q for p, q in zip(a, r, strict=True))
            c = _sigmoid(f) * c + _sigmoid(i) * math.tanh(g)
            h = _sigmoid(o) * math.tanh(c)
        else:
            z, reset = _sigmoid(a[0] + r[0]), _sigmoid(a[1] + r[1])
            h = z * h + (1 - z) * math.tanh(a[2] + reset * r[2])
    return h


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def millions(cell: str, way: str) -> None:
    """Two million steps, forward and backward."""
    import jax

    import flax_rnn

    made, params, x = problem(cell, 1, STEPS, 1, 1)
    run: Any = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way)[0, 0])
    found = float(run(params, x))
    expected = scalar(cell, params, x)
    _same(found, expected, 1e-4)
    _within(1 << 30)
    gradient = jax.jit(jax.grad(run))(params, x)
    step = 1e-3
    around = [scalar(cell, params | {"kernel": params["kernel"].astype("f8") + sign * step}, x) for sign in (1, -1)]
    _same(float(np.sum(gradient["kernel"])), (around[0] - around[1]) / (2 * step), 2e-2)
    _within(3 << 30)


def one_unit(cell: str, way: str) -> None:
    """A single unit, against the loop."""
    import jax

    import flax_rnn

    made, params, x = problem(cell, 1, 50, 1, 1)
    found = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way))(params, x)
    _same(float(found[0, 0]), scalar(cell, params, x), 1e-5)


def many_units(cell: str, way: str) -> None:
    """10,000 units, two steps; from a state of zero, the first has no part of the recurrent kernel."""
    import jax

    import flax_rnn

    made, params, x = problem(cell, 1, 2, 2, 10_000)
    found = jax.jit(lambda params, x: flax_rnn.rnn(made, params, x, implementation=way, return_sequences=True))(
        params, x
    )
    found = np.asarray(found, "f8")[0]
    h = c = np.zeros(10_000)
    for step in range(2):
        h, c = _step(cell, params, x[0, step], h, c)
        _same(found[step], h, 1e-4)


def _step(cell: str, params: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of NumPy's."""
    bias = np.atleast_2d(params["bias"])
    a = x.astype("f8") @ params["kernel"] + bias[0]
    # In float32, as the product of a matrix of 10,000 times 40,000 would need 3 GiB more in float64.
    r = (h.astype("f4") @ params["recurrent_kernel"]).astype("f8") + (bias[1] if len(bias) == 2 else 0)

    def gate(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value))

    if cell == "SimpleRNN":
        return np.tanh(a + r), c
    if cell == "LSTM":
        i, f, g, o = np.split(a + r, 4)
        c = gate(f) * c + gate(i) * np.tanh(g)
        return gate(o) * np.tanh(c), c
    (z, reset, n), (rz, rr, rn) = np.split(a, 3), np.split(r, 3)
    z, reset = gate(z + rz), gate(reset + rr)
    return z * h + (1 - z) * np.tanh(n + reset * rn), c


def no_rows(cell: str, way: str) -> None:
    """A batch of none, forward and backward."""
    import jax

    import flax_rnn

    made, params, x = problem(cell, 0, 5, 3, 4)

    def loss(params: Any, x: Any) -> Any:
        found, state = flax_rnn.rnn(made, params, x, implementation=way, return_sequences=True, return_state=True)
        return found.sum(), (found, state)

    (dw, dx), (found, state) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
    assert found.shape == (0, 5, 4) and dx.shape == x.shape
    assert all(leaf.shape == (0, 4) for leaf in jax.tree.leaves(state))
    assert all(not np.any(leaf) and leaf.shape == params[name].shape for name, leaf in dw.items())


def no_length(cell: str, way: str) -> None:
    """Sequences of length 0 among others give their initial state, and no gradient."""
    import jax

    import flax_rnn

    made, params, x = problem(cell, 3, 5, 3, 4)
    start = jax.numpy.asarray(np.random.default_rng(1).normal(size=(3, 4)), "f4")
    state: Any = flax_rnn.LSTMCarry(start, 2 * start) if cell == "LSTM" else start

    def loss(params: Any, x: Any, lengths: Any) -> Any:
        found, last = flax_rnn.rnn(
            made, params, x, initial_state=state, seq_lengths=lengths, implementation=way, return_state=True
        )
        return found.sum(), (found, last)

    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (_, dx), (_, last) = grad(params, x, np.array([0, 5, 2], "i4"))
    for leaf, first in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(leaf[0], first[0])
    assert not np.any(dx[0]) and np.any(dx[1]) and not np.any(dx[2, 2:])
    (dw, dx), (_, last) = grad(params, x, np.zeros(3, "i4"))
    assert not np.any(dx) and not any(map(np.any, dw.values()))
    np.testing.assert_array_equal(jax.tree.leaves(last)[0], start)


def no_steps(cell: str, way: str) -> None:
    """A time axis of 0 steps is refused."""
    import flax_rnn

    made, params, x = problem(cell, 2, 0, 3, 4)
    flax_rnn.rnn(made, params, x, implementation=way)


def no_units(cell: str, way: str) -> None:
    """A cell of 0 units is refused."""
    import flax_rnn

    getattr(flax_rnn, f"{cell}Cell")(0)


def absurd_units(cell: str, way: str) -> None:
    """A layer whose weights no machine holds."""
    import jax
    from flax import nnx

    import flax_rnn.nnx

    jax.block_until_ready(nnx.state(getattr(flax_rnn.nnx, cell)(1 << 20, 1 << 22, rngs=nnx.Rngs(0))))


def absurd_outputs(cell: str, way: str) -> None:
    """Outputs that are larger than the memory, of inputs that are not."""
    import jax

    import flax_rnn

    made, params, _ = problem(cell, 1, 1, 1, 2000)
    many = jax.numpy.zeros((1, 2_000_000, 1), "f4")
    jax.block_until_ready(
        jax.jit(lambda p, x: flax_rnn.rnn(made, p, x, implementation=way, return_sequences=True))(params, many)
    )


def absurd_batch(cell: str, way: str) -> None:
    """States that are larger than the memory."""
    import jax

    import flax_rnn

    made, params, _ = problem(cell, 1, 1, 1, 500)
    many = jax.numpy.zeros((8_000_000, 1, 1), "f4")
    jax.block_until_ready(jax.jit(lambda p, x: flax_rnn.rnn(made, p, x, implementation=way))(params, many))


def _same(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def _within(most: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert used < most, f"it took {used >> 20} MiB, expected less than {most >> 20}"


Trial = tuple[str, int, Callable[[], None]]
"""The fault, the limit of memory, and what to run."""

_KINDS: tuple[tuple[str, int, Callable[[str, str], None]], ...] = (
    (f"{STEPS:,} steps, forward and backward", 16, millions),
    ("1 unit", 16, one_unit),
    ("10,000 units", 16, many_units),
    ("a batch of 0", 16, no_rows),
    ("lengths of 0", 16, no_length),
    ("0 steps", 16, no_steps),
    ("0 units", 16, no_units),
    ("out of memory: weights", 12, absurd_units),
    ("out of memory: outputs", 12, absurd_outputs),
    ("out of memory: states", 12, absurd_batch),
)


def _trials() -> dict[str, Trial]:
    found: dict[str, Trial] = {}
    for fault, memory, run in _KINDS:
        for cell in CELLS:
            for way in WAYS if "units" not in run.__name__ or run is one_unit else ("native",):
                found[f"{run.__name__} {cell} {way}"] = (fault, memory << 30, lambda r=run, c=cell, w=way: r(c, w))
    return found


TRIALS = _trials()

_MUST_FAIL = ("no_steps", "no_units", "absurd_units", "absurd_outputs", "absurd_batch")


def main(name: str) -> None:
    """Runs one; an error of the kinds that are documented is said in a line, and the status is 1."""
    try:
        TRIALS[name][2]()
    except AssertionError:
        raise
    except (ValueError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Out of memory" not in str(error):
            raise
        raise SystemExit(f"clear: {type(error).__name__}: {error}") from error
    assert not name.startswith(_MUST_FAIL), "it should have been refused"


if __name__ == "__main__":
    main(sys.argv[1])
