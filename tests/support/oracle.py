"""An independent oracle: the equations in NumPy float64, one row and one step at a time; and tools for the tests.

The state of a cell is a list of arrays, ``[h]`` or ``[h, c]``; that of a stack is a list of those.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

Array = np.ndarray

ACTIVATIONS: dict[Any, Callable[[Array], Array]] = {
    None: lambda x: x,
    "linear": lambda x: x,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid_keras2": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}
GATES = {"SimpleRNNCell": 1, "LSTMCell": 4, "GRUCell": 3}


@dataclasses.dataclass
class Layer:
    """One cell with its weights; dropout masks are lists of ``(B, D)`` (one, or one per gate) and of ``(B, H)``."""

    kind: str
    weights: dict[str, Array]
    activation: str | None = "tanh"
    recurrent_activation: str | None = "sigmoid"
    reset_after: bool = True
    input_masks: list[Array] | None = None
    recurrent_masks: list[Array] | None = None
    seen: dict[str, Array] = dataclasses.field(default_factory=dict[str, Array])  # what the last step computed

    @property
    def units(self) -> int:
        return self.weights["recurrent_kernel"].shape[0]

    def step(self, state: list[Array], x: Array, row: int) -> tuple[list[Array], Array]:
        """One step of one row: ``x`` is ``(D,)``, each state ``(H,)``."""
        n, h = self.units, state[0]
        act, gate = ACTIVATIONS[self.activation], ACTIVATIONS[self.recurrent_activation]
        kernel, recurrent = self.weights["kernel"], self.weights["recurrent_kernel"]
        bias = self.weights.get("bias", np.zeros(GATES[self.kind] * n))
        if bias.ndim == 2:
            bias, recurrent_bias = bias
        else:
            recurrent_bias = np.zeros_like(bias)

        def from_input(g: int) -> Array:
            dropped = x
            if self.input_masks is not None:
                dropped = x * self.input_masks[g if len(self.input_masks) > 1 else 0][row]
            return dropped @ kernel[:, g * n : (g + 1) * n] + bias[g * n : (g + 1) * n]

        def from_state(g: int, h: Array) -> Array:
            if self.recurrent_masks is not None:
                h = h * self.recurrent_masks[g][row]
            return h @ recurrent[:, g * n : (g + 1) * n] + recurrent_bias[g * n : (g + 1) * n]

        if self.kind == "SimpleRNNCell":
            new = act(from_input(0) + from_state(0, h))
            self.seen = {"h": new}
            return [new], new
        if self.kind == "LSTMCell":
            i, f, g, o = (from_input(k) + from_state(k, h) for k in range(4))
            c = gate(f) * state[1] + gate(i) * act(g)
            new = gate(o) * act(c)
            self.seen = {"i": gate(i), "f": gate(f), "g": act(g), "o": gate(o), "c": c, "h": new}
            return [new, c], new
        z = gate(from_input(0) + from_state(0, h))
        r = gate(from_input(1) + from_state(1, h))
        candidate = act(from_input(2) + (r * from_state(2, h) if self.reset_after else from_state(2, r * h)))
        new = z * h + (1 - z) * candidate
        self.seen = {"z": z, "r": r, "n": candidate, "h": new}
        return [new], new

    def zero_state(self) -> list[Array]:
        """The zero state of one row."""
        return [np.zeros(self.units) for _ in range(2 if self.kind == "LSTMCell" else 1)]


@dataclasses.dataclass
class Stack:
    """Layers on top of each other within each step."""

    layers: list[Layer]

    @property
    def units(self) -> int:
        return self.layers[-1].units

    def step(self, state: list[list[Array]], x: Array, row: int) -> tuple[list[list[Array]], Array]:
        new = []
        for layer, layer_state in zip(self.layers, state, strict=True):
            layer_state, x = layer.step(layer_state, x, row)
            new.append(layer_state)
        return new, x

    def zero_state(self) -> list[list[Array]]:
        return [layer.zero_state() for layer in self.layers]


def of(cell: Any, weights: Any, masks: Any = None) -> Any:
    """The oracle of one of our cells."""
    if hasattr(cell, "cells"):
        masks = masks or [None] * len(cell.cells)
        return Stack([of(c, w, m) for c, w, m in zip(cell.cells, weights, masks, strict=True)])
    weights, masks = jax.tree.map(lambda a: np.asarray(a, np.float64), (weights, masks))
    return Layer(
        type(cell).__name__,
        weights,
        cell.activation,
        getattr(cell, "recurrent_activation", None),
        getattr(cell, "reset_after", False),
        None if masks is None else masks.inputs,
        None if masks is None else masks.recurrent,
    )


def run(
    layer: Any,
    x: Array,
    initial_state: Any = None,
    mask: Array | None = None,
    seq_lengths: Array | None = None,
    *,
    return_sequences: bool = False,
    go_backwards: bool = False,
    keep_order: bool = False,
    zero_output_for_mask: bool = False,
    time_major: bool = False,
) -> tuple[Array, Any]:
    """Outputs and final state. Masked steps are skipped, rather than computed and thrown away."""
    x = np.asarray(x, np.float64)
    if time_major:
        x, mask = x.swapaxes(0, 1), None if mask is None else mask.T
    batch, steps, _ = x.shape
    if seq_lengths is not None:
        mask = np.arange(steps) < np.asarray(seq_lengths)[:, None]
    sequences, last, states = np.zeros((batch, steps, layer.units)), np.zeros((batch, layer.units)), []
    for row in range(batch):
        state = layer.zero_state() if initial_state is None else row_of(initial_state, row)
        for t in reversed(range(steps)) if go_backwards else range(steps):
            used = mask is None or mask[row, t]
            if used:
                state, last[row] = layer.step(state, x[row, t], row)
            if used or not zero_output_for_mask:
                sequences[row, t] = last[row]
        states.append(state)
    if go_backwards and not keep_order:
        sequences = sequences[:, ::-1]
    if time_major:
        sequences = sequences.swapaxes(0, 1)
    return sequences if return_sequences else last, jax.tree.map(lambda *rows: np.stack(rows), *states)


def row_of(state: Any, row: int) -> Any:
    """The state of one row, in float64."""
    if isinstance(state, list | tuple):
        return [row_of(part, row) for part in state]
    return np.asarray(state[row], np.float64)


def random_weights(cell: Any, features: int, rng: np.random.Generator) -> Any:
    """Asymmetric weights and non-zero biases."""
    if hasattr(cell, "cells"):
        sizes = [features, *(c.output_size(0) for c in cell.cells)]
        return tuple(random_weights(c, n, rng) for c, n in zip(cell.cells, sizes, strict=False))
    columns = GATES[type(cell).__name__] * cell.units
    weights = {
        "kernel": rng.normal(size=(features, columns)) * 0.8,
        "recurrent_kernel": rng.normal(size=(cell.units, columns)) * 0.8,
    }
    if cell.use_bias:
        weights["bias"] = rng.normal(size=(2, columns) if getattr(cell, "reset_after", False) else columns) * 0.5
    return weights


def random_state(cell: Any, batch: int, rng: np.random.Generator) -> Any:
    """A state of non-zero numbers."""
    if hasattr(cell, "cells"):
        return [random_state(c, batch, rng) for c in cell.cells]
    return [rng.normal(size=(batch, cell.units)) for _ in range(2 if type(cell).__name__ == "LSTMCell" else 1)]


def weighted_sum(rng_seed: int, *trees: Any) -> Any:
    """A scalar in which every number of ``trees`` has a weight of its own, for gradients; for NumPy and JAX arrays."""
    rng = np.random.default_rng(rng_seed)
    return sum((leaf * rng.normal(size=leaf.shape)).sum() for leaf in jax.tree.leaves(trees))


def central_differences(f: Callable[[Any], float], at: Any, step: float = 1e-6) -> Any:
    """The gradient of ``f`` with respect to every number in the tree ``at``."""
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda a: np.array(a, np.float64), at))
    gradients = []
    for leaf in leaves:
        gradient = np.zeros_like(leaf)
        for index in np.ndindex(leaf.shape):
            here = leaf[index]
            leaf[index] = here + step
            above = f(jax.tree.unflatten(tree, leaves))
            leaf[index] = here - step
            below = f(jax.tree.unflatten(tree, leaves))
            leaf[index] = here
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return jax.tree.unflatten(tree, gradients)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Whether two trees hold the same numbers; lists and tuples count as the same."""
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=tolerance, atol=tolerance)


def equations(jaxpr: Any, inside_scan: bool = False) -> Iterator[tuple[Any, bool]]:
    """Every equation of a jaxpr and of those within it, and whether it is in the body of a scan."""
    for equation in jaxpr.eqns:
        yield equation, inside_scan
        for value in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "jaxpr") or hasattr(p, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner, inside_scan or equation.primitive.name == "scan")
