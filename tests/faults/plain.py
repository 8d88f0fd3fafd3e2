"""Layers of random weights, and what they have to give: a plain loop of Python's numbers, or of NumPy's."""

import math
from typing import Any

import numpy as np


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


def step(cell: str, params: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
