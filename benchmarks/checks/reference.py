"""A setting in float64, by ``loops``: outputs, states, and how a weighted sum of them changes along directions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.checks import loops
from benchmarks.checks.settings import Setting, Tree

_STEP = 1e-5
"""Of central differences: as far from rounding as from curvature."""


def expected(setting: Setting, arrays: Tree) -> tuple[np.ndarray, list[loops.State]]:
    """The outputs, and the state of each cell."""
    x, step = arrays["x"], loops.step_of(setting.cell, setting.activation)
    zeros = [np.zeros((*x.shape[:1], *x.shape[2:-1], setting.size.units))] * setting.states
    states = arrays.get("state", [zeros] * setting.cells)
    mask, resets, dropped = setting.mask_array(), setting.reset_array(), setting.dropped()
    backwards, sequences = bool(setting.option("go_backwards")), setting.option("return_sequences")

    def run(index: int, x: np.ndarray, backwards: bool, zeros: bool) -> tuple[np.ndarray, loops.State]:
        found, state = loops.run(
            step, arrays["params"][index], x, states[index], mask, resets, dropped, backwards, zeros and sequences
        )
        return found if sequences else found[:, 0 if backwards else -1], state

    zero = setting.option("zero_output_for_mask")
    if setting.layout == "stack":
        below, first = loops.run(step, arrays["params"][0], x, states[0], mask, resets, dropped, backwards)
        outputs, second = run(1, below, backwards, zero)
        return outputs, [first, second]
    if setting.layout == "bidirectional":
        pair = [run(index, x, bool(index), True) for index in range(2)]
        return np.concatenate([outputs for outputs, _ in pair], -1), [state for _, state in pair]
    found = [run(index, x, backwards, zero) for index in range(setting.cells)]
    outputs = np.stack([outputs for outputs, _ in found]) if setting.layout == "vmap" else found[0][0]
    if sequences and backwards and not setting.option("keep_order"):
        outputs = outputs[:, ::-1]
    return outputs, [state for _, state in found]


def weights_of(results: Any) -> list[np.ndarray]:
    """What each number of outputs and states is weighted with in the sum that is differentiated."""
    rng = np.random.default_rng(9)
    return [rng.normal(size=leaf.shape) for leaf in jax.tree.leaves(results)]


def directions(leaf: np.ndarray, count: int = 6) -> list[np.ndarray]:
    """Random ones, along which derivatives are compared."""
    rng = np.random.default_rng(10)
    return [rng.normal(size=leaf.shape) for _ in range(count)]


def derivatives(setting: Setting, arrays: Tree) -> list[np.ndarray]:
    """Of the weighted sum, for each array along each of its ``directions``, by central differences."""
    weights = weights_of(expected(setting, arrays))
    leaves, tree = jax.tree.flatten(arrays)

    def weighted_sum(index: int, leaf: np.ndarray) -> float:
        changed = jax.tree.unflatten(tree, [*leaves[:index], leaf, *leaves[index + 1 :]])
        results = jax.tree.leaves(expected(setting, changed))
        return sum(float((result * weight).sum()) for result, weight in zip(results, weights, strict=True))

    def along(function: Callable[[np.ndarray], float], leaf: np.ndarray, direction: np.ndarray) -> float:
        ahead, behind = function(leaf + _STEP * direction), function(leaf - _STEP * direction)
        return (ahead - behind) / (2 * _STEP)

    return [
        np.array([along(partial(weighted_sum, index), leaf, direction) for direction in directions(leaf)])
        for index, leaf in enumerate(leaves)
    ]
