"""What the CUDA kernels compute, in float64: all rows at once, one step after the other, in the kernels' arrays.

The forward pass runs with NumPy and with JAX, which derives it; the backward pass is derived by hand, from the values
that it is given, as a kernel's is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cuda_kernels import CELLS, KEEP_OUTPUTS, MASKED, RESETS, REVERSE, Kernel

Array = Any  # of NumPy or JAX

# Each with its derivative, from its value.
ACTIVATIONS: dict[str, tuple[Callable[[Any, Array], Array], Callable[[Array], Array]]] = {
    "linear": (lambda xp, x: x, np.ones_like),
    "tanh": (lambda xp, x: xp.tanh(x), lambda y: 1 - y**2),
    "sigmoid": (lambda xp, x: 1 / (1 + xp.exp(-x)), lambda y: y * (1 - y)),
    "relu": (lambda xp, x: xp.where(x > 0, x, 0), lambda y: (y > 0) * 1.0),
    "hard_sigmoid": (lambda xp, x: xp.clip(x / 6 + 0.5, 0, 1), lambda y: (y > 0) * (y < 1) / 6),
    "hard_sigmoid_keras2": (lambda xp, x: xp.clip(0.2 * x + 0.5, 0, 1), lambda y: (y > 0) * (y < 1) / 5),
    "softsign": (lambda xp, x: x / (1 + abs(x)), lambda y: (1 - abs(y)) ** 2),
}


def times(steps: int, flags: int) -> list[int]:
    """In the order in which they are run."""
    return [*reversed(range(steps))] if flags & REVERSE else [*range(steps)]


def forward(
    kernel: Kernel, operands: Mapping[str, Array], flags: int, xp: Any = np, nudge: Any = 0
) -> dict[str, Array]:
    """All results. ``nudge`` ``(T, B, S, H)`` is added to the sums, so that their gradients can be asked for."""
    x, recurrent, units = operands["x"], operands["recurrent"], kernel.tile.units
    steps, rows, _ = x.shape
    cell = CELLS[kernel.cell]
    nudge = nudge + np.zeros((steps, rows, cell.sums, units))
    h, c = operands["h0"], operands.get("c0", np.zeros((rows, units)))
    (act, _), (gate, _) = ACTIVATIONS[kernel.activation], ACTIVATIONS[kernel.recurrent_activation]
    seen: dict[int, tuple[Array, Array, Array]] = {}
    for t in times(steps, flags):
        if flags & RESETS:
            h, c = (xp.where(operands["resets"][t][:, None], 0, state) for state in (h, c))
        x_t = x[t].reshape(rows, cell.gates, units)
        blocks = recurrent.reshape(units, cell.gates, units)
        copies = [h * operands["dropped"][g] if kernel.dropped else h for g in range(cell.gates)]
        products = [copies[g] @ blocks[:, g] for g in range(cell.gates)]
        new_h, new_c, values = h, c, []
        if kernel.cell == "SimpleRnn":
            new_h = act(xp, x_t[:, 0] + products[0] + nudge[t, :, 0])
        elif kernel.cell == "Lstm":
            i, f, g, o = (x_t[:, k] + products[k] + nudge[t, :, k] for k in range(4))
            i, f, g, o = values = gate(xp, i), gate(xp, f), act(xp, g), gate(xp, o)
            new_c = f * c + i * g
            new_h = o * act(xp, new_c)
        else:
            z, r = (gate(xp, x_t[:, k] + products[k] + nudge[t, :, k]) for k in range(2))
            s = products[2] + operands["bias"] + nudge[t, :, 3]
            n = act(xp, x_t[:, 2] + nudge[t, :, 2] + r * s)
            new_h = z * h + (1 - z) * n
            values = z, r, n, s
        if flags & MASKED:
            used = operands["mask"][t][:, None] > 0
            h, c = xp.where(used, new_h, h), xp.where(used, new_c, c)
        else:
            h, c = new_h, new_c
        seen[t] = h, xp.concatenate(values, -1) if len(values) else np.zeros((rows, 0)), c
    outputs, values, cells = (xp.stack(arrays) for arrays in zip(*(seen[t] for t in range(steps)), strict=True))
    results = {"outputs": outputs, "values": values, "h": h}
    return {**results, "cells": cells, "c": c} if cell.has_c else results


def backward(kernel: Kernel, operands: Mapping[str, Array], flags: int) -> dict[str, Array]:
    """The gradients of sums and of the initial state."""
    outputs, units = operands["outputs"], kernel.tile.units
    steps, rows, _ = outputs.shape
    cell = CELLS[kernel.cell]
    values = operands["values"].reshape(steps, rows, cell.values, units)
    blocks = operands["recurrent"].reshape(units, cell.gates, units)
    d_h, d_c = operands["d_h"], operands.get("d_c", np.zeros((rows, units)))
    (act, d_act), (_, d_gate) = ACTIVATIONS[kernel.activation], ACTIVATIONS[kernel.recurrent_activation]
    d_sums = np.zeros((steps, rows, cell.sums, units))
    order = times(steps, flags)
    for position in reversed(range(steps)):
        t, before = order[position], order[position - 1] if position else None
        used = operands["mask"][t][:, None] > 0 if flags & MASKED else np.full((rows, 1), True)
        reset = operands["resets"][t][:, None] > 0 if flags & RESETS else np.full((rows, 1), False)
        if flags & KEEP_OUTPUTS:
            d_h = d_h + operands["d_outputs"][t]
        v = [values[t, :, k] for k in range(cell.values)]
        d_c_before = d_c
        if kernel.cell == "SimpleRnn":
            sums, d_h_before = [d_h * d_act(outputs[t])], np.zeros_like(d_h)
        elif kernel.cell == "Lstm":
            c_before = np.where(reset, 0, operands["c0"] if before is None else operands["cells"][before])
            i, f, g, o = v
            shown = act(np, operands["cells"][t])
            d = d_c + d_h * o * d_act(shown)
            sums = [d * g * d_gate(i), d * c_before * d_gate(f), d * i * d_act(g), d_h * shown * d_gate(o)]
            d_h_before, d_c_before = np.zeros_like(d_h), d * f
        else:
            h_before = np.where(reset, 0, operands["h0"] if before is None else outputs[before])
            z, r, n, s = v
            d_n = d_h * (1 - z) * d_act(n)
            sums, d_h_before = [d_h * (h_before - n) * d_gate(z), d_n * s * d_gate(r), d_n, d_n * r], d_h * z
        d_sums[t] = np.where(used[:, None], np.stack(sums, 1), 0)
        d_h, d_c = np.where(used, d_h_before, d_h), np.where(used, d_c_before, d_c)
        for g in range(cell.gates):
            # The product of the state with the last block of a GRU is a sum of its own.
            from_sum = d_sums[t, :, 3 if kernel.cell == "Gru" and g == 2 else g] @ blocks[:, g].T
            d_h = d_h + (from_sum * operands["dropped"][g] if kernel.dropped else from_sum)
        d_h, d_c = np.where(reset, 0, d_h), np.where(reset, 0, d_c)
    results = {"d_sums": d_sums.reshape(steps, rows, cell.sums * units), "d_h0": d_h}
    return {**results, "d_c0": d_c} if cell.has_c else results


def derivative(kernel: Kernel, operands: Mapping[str, Array], flags: int) -> dict[str, Array]:
    """The results of `backward`, as JAX derives them from `forward`."""
    cell, units = CELLS[kernel.cell], kernel.tile.units
    steps, rows, _ = operands["x"].shape
    varied = ["h0", "c0"] if cell.has_c else ["h0"]
    with jax.enable_x64():

        def run(nudge: Array, states: dict[str, Array]) -> tuple[Array, ...]:
            results = forward(kernel, {**operands, **states}, flags, jnp, nudge)
            return tuple(results[name] for name in ("outputs", "h", "c") if name in results)

        states = {name: jnp.asarray(operands[name]) for name in varied}
        given = [operands[name] for name in ("d_outputs", "d_h", "d_c") if name in operands]
        _, pull = jax.vjp(run, jnp.zeros((steps, rows, cell.sums, units)), states)
        nudge, d_states = pull(tuple(map(jnp.asarray, given)))
        results = {"d_sums": nudge.reshape(steps, rows, -1)} | {f"d_{name}": d_states[name] for name in varied}
        return {name: np.asarray(array) for name, array in results.items()}
