"""NaN and infinity in steps that are masked, in inputs and in weights: what comes out is what NumPy has.

The oracle is ``tests/support/oracle.py``: the equations in float64, a row and a step at a time.
"""

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import flax_rnn
from tests.faults import programs
from tests.faults.verdicts import Case, Setting, expect

sys.path.insert(0, str(programs.ROOT / "tests" / "support"))
import oracle

CELLS: dict[str, Any] = {
    "SimpleRNN": flax_rnn.SimpleRNNCell,
    "LSTM": flax_rnn.LSTMCell,
    "GRU": flax_rnn.GRUCell,
    "GRU that resets before": lambda units: flax_rnn.GRUCell(units, reset_after=False),
}
WAYS = ("native", "fused", "scan")
ODD = (np.nan, np.inf, -np.inf)
B, T, D, H = 5, 7, 4, 3

LOOPS: tuple[dict[str, Any], ...] = (
    {"return_sequences": True},
    {"return_sequences": False},
    {"return_sequences": True, "go_backwards": True},
    {"return_sequences": True, "zero_output_for_mask": True},
)


def cases(setting: Setting) -> Iterator[Case]:
    """Every cell by every implementation, with every odd number, forward and backward."""
    rng = np.random.default_rng(setting.seed)
    found = [*itertools.product(CELLS, WAYS, LOOPS)]
    for name, way, loop in found if not setting.quick else found[:2]:
        problem = Problem(name, way, loop, rng)
        for odd in ODD:
            yield from problem.masked(odd)
            yield from problem.inputs(odd)
            yield from problem.weights(odd)


class Problem:
    """One cell, run one way."""

    def __init__(self, name: str, way: str, loop: dict[str, Any], rng: np.random.Generator):
        self.what = f"{name}, {way}, {loop}"
        self.cell, self.way, self.loop, self.rng = CELLS[name](H), way, loop, rng
        self.params: Any = narrow(oracle.random_weights(self.cell, D, rng))
        self.x = narrow(rng.normal(size=(B, T, D)))
        self.mask = rng.random((B, T)) < 0.6
        self.mask[1] = False  # a row without a step
        self.mask[2, T // 2 :] = False  # and one that is padded

        def loss(params: Any, x: Any, mask: Any) -> Any:
            found = flax_rnn.rnn(self.cell, params, x, mask=mask, return_state=True, implementation=way, **loop)
            return oracle.weighted_sum(1, found), found

        self._run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    def both(self, params: Any, x: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outputs and the state behind the last step, and gradients with respect to weights and inputs."""
        gradients, found = self._run(params, x, self.mask)
        return [*map(np.asarray, jax.tree.leaves(found))], [*map(np.asarray, jax.tree.leaves(gradients))]

    def masked(self, odd: float) -> Iterator[Case]:
        """At masked steps: nothing differs from what there is with zeros there, whose gradient is 0."""
        fault = "NaN and infinity at masked steps: outputs and gradients are those without"
        zeros = np.where(self.mask[..., None], self.x, 0).astype("f4")
        filled = np.where(self.mask[..., None], self.x, odd).astype("f4")
        expected, found = ([*itertools.chain(*self.both(self.params, x))] for x in (zeros, filled))
        is_same = all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
        is_finite = all(np.isfinite(array).all() for array in found)
        yield expect(fault, is_same and is_finite and not found[-1][~self.mask].any(), f"{self.what}, {odd}")
        right = oracle.run(oracle.of(self.cell, self.params), zeros, mask=self.mask, **self.loop)
        yield expect(fault, _close(found, right), f"{self.what}, {odd}: not those of NumPy")

    def inputs(self, odd: float) -> Iterator[Case]:
        """In the inputs of one row: it has what NumPy has, and the others are as they were."""
        fault = "NaN and infinity in inputs: as NumPy has it, and other rows are as they were"
        row, step = 3, int(self.rng.integers(T))
        self.mask[row, step] = True
        x = self.x.copy()
        x[row, step, self.rng.integers(D)] = odd
        (plain, plain_gradients), (found, gradients) = self.both(self.params, self.x), self.both(self.params, x)
        yield expect(
            fault, self._as_numpy(self.params, x, found), f"{self.what}, {odd}, row {row} step {step}: not as NumPy"
        )
        others = np.arange(B) != row
        pairs = [*zip(plain, found, strict=True), (plain_gradients[-1], gradients[-1])]
        is_same = all(np.allclose(a[others], b[others], rtol=1e-5, atol=1e-6) for a, b in pairs)
        yield expect(fault, is_same, f"{self.what}, {odd}, row {row} step {step}: other rows differ")

    def weights(self, odd: float) -> Iterator[Case]:
        """In one weight: what comes out is what NumPy has; gradients have the shapes of the weights."""
        fault = "NaN and infinity in weights: as NumPy has it"
        for name in self.params:
            params = {other: array.copy() for other, array in self.params.items()}
            params[name].flat[self.rng.integers(params[name].size)] = odd
            found, gradients = self.both(params, self.x)
            yield expect(fault, self._as_numpy(params, self.x, found), f"{self.what}, {odd}, in {name}: not as NumPy")
            likes = [*jax.tree.leaves(params), self.x]
            fits = all(a.shape == b.shape for a, b in zip(gradients, likes, strict=True))
            yield expect(fault, fits, f"{self.what}, {odd}, in {name}: gradients")

    def _as_numpy(self, params: Any, x: Any, found: Any) -> bool:
        with np.errstate(all="ignore"):
            expected = oracle.run(oracle.of(self.cell, params), x, mask=self.mask, **self.loop)
        return _close(found, expected)


def narrow(tree: Any) -> Any:
    """In float32."""
    return jax.tree.map(lambda array: np.asarray(array, "f4"), tree)


def _close(found: Any, expected: Any) -> bool:
    """Whether numbers are about the same, NaN and infinity where they are."""
    right = [np.asarray(array, np.float64) for array in jax.tree.leaves(expected)]
    return all(np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(found, right, strict=False))
