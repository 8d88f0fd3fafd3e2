"""Recurrent layers in NumPy's float64, step by step: written from the equations, as nothing in the library is.

A state is a list of arrays with a row for each sequence, ``[h]`` or ``[h, c]``. Weights are named as in the library.
Dropout masks are ``(masks of the inputs, masks of h)``, tuples with one for all gates or one for each, or ``None``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
State = list[Array]
Weights = dict[str, Array]
Step = Callable[[Weights, Any, State, Array], State]
"""``(weights, dropout masks, state, inputs of a step) -> state``, whose first array is the output."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}
GATES = {"lstm": 4, "gru": 3, "gru-reset-before": 3, "simple_rnn": 1, "cudnn-lstm": 4, "cudnn-gru": 3, "conv-lstm": 4}


def sigmoid(x: Array) -> Array:
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def product(x: Array, kernel: Array) -> Array:
    """Of matrices; or, with a kernel ``(window, C, F)``, a convolution along the axis before the last, zero-padded."""
    if kernel.ndim == 2:
        return x @ kernel
    window, places = len(kernel), x.shape[-2]
    before = (window - 1) // 2
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, window - 1 - before), (0, 0)])
    return sum((padded[..., k : k + places, :] @ kernel[k] for k in range(window)), np.zeros(()))


def by_gate(x: Array, kernel: Array, gates: int, masks: Any) -> list[Array]:
    """``(mask * x) @ kernel`` for each gate."""
    dropped = [x] * gates if masks is None else [x * mask for mask in (masks * gates)[:gates]]
    return [product(one, block) for one, block in zip(dropped, np.split(kernel, gates, -1), strict=True)]


def lstm(activation: str) -> Step:
    """Long short-term memory."""
    act = ACTIVATIONS[activation]

    def step(weights: Weights, masks: Any, state: State, x: Array) -> State:
        (h, c), (of_x, of_h) = state, masks or (None, None)
        bias = np.split(weights.get("bias", np.zeros(4)), 4)
        parts = zip(
            by_gate(x, weights["kernel"], 4, of_x), by_gate(h, weights["recurrent_kernel"], 4, of_h), bias, strict=True
        )
        i, f, g, o = (a + b + d for a, b, d in parts)
        c = sigmoid(f) * c + sigmoid(i) * act(g)
        return [sigmoid(o) * act(c), c]

    return step


def gru(activation: str, reset_after: bool) -> Step:
    """Gated recurrent unit, with the reset gate after the product or before it."""
    act = ACTIVATIONS[activation]

    def step(weights: Weights, masks: Any, state: State, x: Array) -> State:
        (h,), (of_x, of_h) = state, masks or (None, None)
        bias = weights.get("bias", np.zeros(3))
        of_inputs, of_state = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        x_z, x_r, x_n = (
            a + b for a, b in zip(by_gate(x, weights["kernel"], 3, of_x), np.split(of_inputs, 3), strict=True)
        )
        d_z, d_r, d_n = np.split(of_state, 3)
        h_z, h_r, h_n = by_gate(h, weights["recurrent_kernel"], 3, of_h)
        z, r = sigmoid(x_z + h_z + d_z), sigmoid(x_r + h_r + d_r)
        if reset_after:
            n = act(x_n + r * (h_n + d_n))
        else:
            n = act(x_n + by_gate(r * h, weights["recurrent_kernel"], 3, of_h)[2])
        return [z * h + (1 - z) * n]

    return step


def simple_rnn(activation: str) -> Step:
    """A dense layer of the inputs and its own output."""
    act = ACTIVATIONS[activation]

    def step(weights: Weights, masks: Any, state: State, x: Array) -> State:
        (h,), (of_x, of_h) = state, masks or (None, None)
        ((from_x,), (from_h,)) = (
            by_gate(x, weights["kernel"], 1, of_x), by_gate(h, weights["recurrent_kernel"], 1, of_h),
        )  # fmt: skip
        return [act(from_x + from_h + weights.get("bias", np.zeros(())))]

    return step


def plain(weights: Weights, gates: int) -> Weights:
    """The weights of a layer of cuDNN in the form of the others: what it keeps are the numbers of transposes."""
    kernels = [block.reshape(block.shape[::-1]).T for block in np.split(weights["kernel"], gates, -1)]
    recurrent = [block.T for block in np.split(weights["recurrent_kernel"], gates, -1)]
    bias = weights["bias"].reshape(2, -1)
    return {
        "kernel": np.concatenate(kernels, -1),
        "recurrent_kernel": np.concatenate(recurrent, -1),
        "bias": bias.sum(0) if gates == 4 else bias,
    }


def step_of(cell: str, activation: str) -> Step:
    """The step of a cell by its name, one of ``GATES``."""
    match cell.removeprefix("cudnn-").removeprefix("conv-"):
        case "lstm":
            found = lstm(activation)
        case "simple_rnn":
            found = simple_rnn(activation)
        case kind:
            found = gru(activation, reset_after=kind == "gru")
    if not cell.startswith("cudnn-"):
        return found
    return lambda weights, masks, state, x: found(plain(weights, GATES[cell]), masks, state, x)


def run(
    step: Step, weights: Weights, x: Array, state: State, mask: Array | None = None, resets: Array | None = None,
    masks: Any = None, backwards: bool = False, zeros: bool = False,
) -> tuple[Array, State]:  # fmt: skip
    """Outputs of all steps in their places, and the state after the last one; ``zeros`` at masked steps, or repeats."""

    def rows(of_step: Array, array: Array) -> Array:
        return of_step.reshape(-1, *(1,) * (array.ndim - 1))

    steps = x.shape[1]
    outputs, last = [np.zeros_like(state[0])] * steps, np.zeros_like(state[0])
    for t in reversed(range(steps)) if backwards else range(steps):
        if resets is not None:
            state = [np.where(rows(resets[:, t], part), 0, part) for part in state]
            last = np.where(rows(resets[:, t], last), 0, last)  # a sequence of its own begins
        new = step(weights, masks, state, x[:, t])
        used = np.ones(len(x), bool) if mask is None else mask[:, t]
        state = [np.where(rows(used, part), part, old) for part, old in zip(new, state, strict=True)]
        last = np.where(rows(used, last), new[0], last)
        outputs[t] = np.where(rows(used, last), last, 0) if zeros else last
    return np.stack(outputs, 1), state
