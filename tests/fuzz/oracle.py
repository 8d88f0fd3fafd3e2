"""Layers in NumPy with a backward pass written by hand: all rows at once, one step at a time, nothing of ours in it.

In float64 it is what the library is compared with. Given a `Rounding` it makes errors such as floating point makes, at
the places where it makes them, for the tolerance of that comparison.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Weights = dict[str, Array]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


# Each with its derivative, and where that jumps.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array], tuple[float, ...]]] = {
    "linear": (lambda x: x, np.ones_like, ()),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2, ()),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), ()),
    "relu": (lambda x: np.maximum(x, 0), lambda x: 1.0 * (x > 0), (0,)),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: (1 + np.abs(x)) ** -2, ()),
    "hard_sigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: (np.abs(x) < 3) / 6, (-3, 3)),
    "hard_sigmoid_keras2": (lambda x: np.clip(0.2 * x + 0.5, 0, 1), lambda x: (np.abs(x) < 2.5) * 0.2, (-2.5, 2.5)),
    "softplus": (lambda x: np.logaddexp(0, x), _sigmoid, ()),
    "silu": (lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)), ()),
}
SUMS = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}


class Rounding:
    """Errors of a random sign, as large as those of rounding may be.

    A sum of n products has an error of at most ``sqrt(n) u`` times the sum of their magnitudes, but for a small factor
    (Higham & Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis"), with the unit roundoff ``u`` of
    what adds. Where factors are rounded to fewer digits, twice their unit roundoff is the error of each product, and
    the errors are independent of each other.

    Args:
      unit: of sums.
      factors: of what is multiplied and stored.
      seed: of the signs.
    """

    def __init__(self, unit: float, factors: float, seed: int):
        self.unit, self.factors, self.rng = unit, factors, np.random.default_rng(seed)

    def product(self, a: Array, b: Array) -> Array:
        error = self.unit * a.shape[-1] ** 0.5 * (np.abs(a) @ np.abs(b))
        if self.factors > self.unit:
            error = error + 2 * self.factors * np.sqrt(a**2 @ b**2)
        return a @ b + self.signs(error)

    def total(self, total: Array, size: Array, squares: Array, rows: int, steps: int) -> Array:
        """A sum over all rows and steps, whose terms' magnitudes add up to ``size``, and their squares to ``squares``.

        Where there are fewer digits it may be rounded to them after each step.
        """
        error = self.unit * (rows * steps) ** 0.5 * size
        if self.factors > self.unit:
            error = error + (2 + steps**0.5) * self.factors * np.sqrt(squares)
        return total + self.signs(error)

    def stored(self, a: Array) -> Array:
        """A result that is rounded."""
        return a + self.factors * self.signs(a)

    def activated(self, a: Array) -> Array:
        """A value of an activation, which is right to five units in the last place."""
        return self.stored(a + 10 * self.unit * self.signs(a))

    def slope(self, a: Array) -> Array:
        """A derivative that is computed from such a value ``y``, as is ``1 - y y``, which may cancel."""
        return a + 20 * self.unit * self.signs(np.ones_like(a))

    def signs(self, a: Array) -> Array:
        return a * self.rng.choice((-1.0, 1.0), np.shape(a))


class Exact:
    """No errors but those of NumPy."""

    def product(self, a: Array, b: Array) -> Array:
        return a @ b

    def total(self, total: Array, size: Array, squares: Array, rows: int, steps: int) -> Array:
        return total

    def stored(self, a: Array) -> Array:
        return a

    activated = slope = stored


@dataclasses.dataclass
class Layer:
    """One cell: ``kind`` of `SUMS`, its weights in Keras' order, and dropout masks ``(B, D)`` and ``(B, H)``."""

    kind: str
    weights: Weights
    activation: str
    recurrent_activation: str
    reset_after: bool
    input_masks: Sequence[Array] | None = None
    recurrent_masks: Sequence[Array] | None = None
    rounding: Any = dataclasses.field(default_factory=Exact)

    def __post_init__(self) -> None:
        self.units = self.weights["recurrent_kernel"].shape[0]
        self.kernels = np.split(self.weights["kernel"], SUMS[self.kind], 1)
        self.recurrent = np.split(self.weights["recurrent_kernel"], SUMS[self.kind], 1)
        bias = self.weights.get("bias", np.zeros(SUMS[self.kind] * self.units))
        self.biases = [np.split(row, SUMS[self.kind]) for row in np.atleast_2d(bias)]
        self.gradients, self.sizes, self.squares = (
            {name: np.zeros_like(leaf) for name, leaf in self.weights.items()} for _ in range(3)
        )
        self.nearest_kink = np.inf

    # Masks: one for all gates, one for each, or none.
    def _masked(self, masks: Sequence[Array] | None, gate: int, values: Array) -> Array:
        return values if masks is None else values * masks[gate if len(masks) > 1 else 0]

    def _apply(self, name: str, sums: Array) -> Array:
        for kink in ACTIVATIONS[name][2]:
            if sums.size:
                self.nearest_kink = min(self.nearest_kink, float(np.abs(sums - kink).min()))
        values = ACTIVATIONS[name][0](sums)
        return values if name == "linear" else self.rounding.activated(values)

    def _slope(self, name: str, sums: Array) -> Array:
        slopes = ACTIVATIONS[name][1](sums)
        return slopes if name == "linear" or ACTIVATIONS[name][2] else self.rounding.slope(slopes)

    def _input(self, gate: int, x: Array) -> Array:
        product = self.rounding.product(self._masked(self.input_masks, gate, x), self.kernels[gate])
        return self.rounding.stored(product + self.biases[0][gate])

    def _state(self, gate: int, h: Array) -> Array:
        return self.rounding.product(self._masked(self.recurrent_masks, gate, h), self.recurrent[gate])

    def forward(self, x: Array, state: list[Array]) -> tuple[list[Array], Any]:
        """``(new state, what `backward` needs)`` for ``x`` ``(B, D)`` and a state of arrays ``(B, H)``."""
        act, gate, store = self.activation, self.recurrent_activation, self.rounding.stored
        h = state[0]
        if self.kind == "SimpleRNN":
            sums = self._input(0, x) + self._state(0, h)
            return [self._apply(act, sums)], sums
        if self.kind == "LSTM":
            a = [self._input(k, x) + self._state(k, h) for k in range(4)]
            i, f, g, o = (
                self._apply(gate, a[0]),
                self._apply(gate, a[1]),
                self._apply(act, a[2]),
                self._apply(gate, a[3]),
            )
            c = store(f * state[1] + i * g)
            shown = self._apply(act, c)
            return [store(o * shown), c], (a, i, f, g, o, c, shown)
        second = self.biases[1] if len(self.biases) > 1 else [np.zeros(self.units)] * 3
        a_z = self._input(0, x) + self._state(0, h) + second[0]
        a_r = self._input(1, x) + self._state(1, h) + second[1]
        z, r = self._apply(gate, a_z), self._apply(gate, a_r)
        inner = self._state(2, h if self.reset_after else store(r * h)) + second[2]
        a_n = self._input(2, x) + (r * inner if self.reset_after else inner)
        n = self._apply(act, a_n)
        return [store(z * h + (1 - z) * n)], (a_z, a_r, a_n, z, r, n, inner)

    def backward(self, x: Array, state: list[Array], saved: Any, d: list[Array]) -> tuple[Array, list[Array]]:
        """Gradients of ``x`` and ``state`` from those ``d`` of the new state; those of the weights are added up."""
        act, gate, slope, h = self.activation, self.recurrent_activation, self._slope, state[0]
        if self.kind == "SimpleRNN":
            return self._products(x, [h], [d[0] * slope(act, saved)], None)
        if self.kind == "LSTM":
            a, i, f, g, o, c, shown = saved
            d_c = self.rounding.stored(d[1] + d[0] * o * slope(act, c))
            sums = [
                d_c * g * slope(gate, a[0]), d_c * state[1] * slope(gate, a[1]), d_c * i * slope(act, a[2]),
                d[0] * shown * slope(gate, a[3]),
            ]  # fmt: skip
            d_x, (d_h,) = self._products(x, [h] * 4, sums, None)
            return d_x, [d_h, d_c * f]
        a_z, a_r, a_n, z, r, n, inner = saved
        s_n = d[0] * (1 - z) * slope(act, a_n)
        s_z = d[0] * (h - n) * slope(gate, a_z)
        if self.reset_after:
            s_r = s_n * inner * slope(gate, a_r)
            d_x, (d_h,) = self._products(x, [h] * 3, [s_z, s_r, s_n], s_n * r)
            return d_x, [d_h + d[0] * z]
        reset = self._masked(self.recurrent_masks, 2, self.rounding.product(s_n, self.recurrent[2].T))
        s_r = reset * h * slope(gate, a_r)
        d_x, (d_h,) = self._products(x, [h, h, r * h], [s_z, s_r, s_n], None, but_last=True)
        return d_x, [d_h + d[0] * z + reset * r]

    def _products(
        self, x: Array, states: list[Array], sums: list[Array], recurrent_n: Array | None, but_last: bool = False
    ) -> tuple[Array, list[Array]]:
        """What follows from the gradients of the sums; ``recurrent_n`` is that of the state's part of the last one."""
        sums = [self.rounding.stored(d) for d in sums]
        d_x, d_h, product = np.zeros_like(x), np.zeros_like(states[0]), self.rounding.product
        for k, d in enumerate(sums):
            own = d if recurrent_n is None or k < len(sums) - 1 else self.rounding.stored(recurrent_n)
            columns = slice(k * self.units, (k + 1) * self.units)
            self._add("kernel", slice(None), columns, self._masked(self.input_masks, k, x), d)
            self._add("recurrent_kernel", slice(None), columns, self._masked(self.recurrent_masks, k, states[k]), own)
            if "bias" in self.weights:
                for row, gradient in enumerate((d, own)[: len(self.biases)]):
                    self._add("bias", slice(row, row + 1), columns, np.ones((len(d), 1)), gradient)
            d_x += self._masked(self.input_masks, k, product(d, self.kernels[k].T))
            if not (but_last and k == len(sums) - 1):
                d_h += self._masked(self.recurrent_masks, k, product(own, self.recurrent[k].T))
        return self.rounding.stored(d_x), [self.rounding.stored(d_h)]

    def _add(self, name: str, rows: slice, columns: slice, a: Array, d: Array) -> None:
        at = rows, columns
        np.atleast_2d(self.gradients[name])[at] += a.T @ d
        if not isinstance(self.rounding, Exact):
            np.atleast_2d(self.sizes[name])[at] += np.abs(a).T @ np.abs(d)
            np.atleast_2d(self.squares[name])[at] += a.T**2 @ d**2

    def totals(self, rows: int, steps: int) -> Weights:
        """The gradients of the weights, when all steps are done."""
        total = self.rounding.total
        return {
            name: total(leaf, self.sizes[name], self.squares[name], rows, steps)
            for name, leaf in self.gradients.items()
        }

    def zeros(self, rows: int) -> list[Array]:
        return [np.zeros((rows, self.units)) for _ in range(2 if self.kind == "LSTM" else 1)]


@dataclasses.dataclass
class Run:
    """A layer over ``x`` ``(B, T, D)``; ``mask`` and ``resets`` are ``(B, T)``, and all sequences in the inputs' order.

    Outputs of masked steps are those of the step before, as the loop goes, or zeros. A reset begins a new sequence, in
    which there is no step before, whether its first step is masked or not.
    """

    layer: Layer
    x: Array
    state: list[Array]
    mask: Array
    resets: Array
    backwards: bool
    zero_output: bool

    def forward(self) -> tuple[Array, Array, list[Array]]:
        """``(outputs of all steps (B, T, H), that of the last step that counts (B, H), last state)``."""
        rows, steps, _ = self.x.shape
        self.order = [*range(steps)][:: -1 if self.backwards else 1]
        outputs, last, state = np.zeros((rows, steps, self.layer.units)), np.zeros((rows, self.layer.units)), self.state
        self.saved: list[Any] = []
        for t in self.order:
            fresh, used = self.resets[:, t, None], self.mask[:, t, None]
            state, last = [np.where(fresh, 0, part) for part in state], np.where(fresh, 0, last)
            x = np.where(used, self.x[:, t], 0)
            new, saved = self.layer.forward(x, state)
            self.saved.append((x, state, saved))
            state = [np.where(used, ours, old) for ours, old in zip(new, state, strict=True)]
            last = np.where(used, new[0], last)
            outputs[:, t] = np.where(used, new[0], 0) if self.zero_output else last
        return outputs, last, state

    def backward(self, d_outputs: Array, d_last: Array, d_state: list[Array]) -> tuple[Array, list[Array]]:
        """Gradients of ``x`` and of the state to start from; those of the weights are the layer's."""
        d_x = np.zeros_like(self.x)
        for t, (x, state, saved) in zip(reversed(self.order), reversed(self.saved), strict=True):
            fresh, used = self.resets[:, t, None], self.mask[:, t, None]
            d_output = np.zeros_like(d_last)
            if self.zero_output:
                d_output = np.where(used, d_outputs[:, t], 0)
            else:
                d_last = d_last + d_outputs[:, t]
            d_output = d_output + np.where(used, d_last, 0)
            d_last = np.where(used, 0, d_last)
            d_new = [np.where(used, part, 0) for part in d_state]
            d_new[0] = d_new[0] + d_output
            d_x[:, t], d_before = self.layer.backward(x, state, saved, d_new)
            d_x[:, t] = np.where(used, d_x[:, t], 0)
            d_state = [np.where(used, 0, part) + more for part, more in zip(d_state, d_before, strict=True)]
            d_state, d_last = [np.where(fresh, 0, part) for part in d_state], np.where(fresh, 0, d_last)
        return d_x, d_state
