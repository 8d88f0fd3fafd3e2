"""A twin of the two functions of ``jax.experimental.rnn`` that call cuDNN, for machines without a GPU.

It has their arguments, their results, their vector of weights and their lengths of sequences. Like them it can neither
be differentiated by jax nor run under ``jax.vmap``. It keeps account of its calls, and leaves NaN where nobody may
look: in outputs and gradients of inputs beyond the lengths; in all results where a length is 0, and in all gradients if
a cotangent beyond the lengths is not.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.core import ShapedArray
from jax.experimental import rnn
from jax.extend.core import Primitive
from jax.interpreters import mlir


def parts(features: int, units: int, layers: int, directions: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names of torch and shapes of what is in the vector of weights, one behind the other."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for kind in ("weight", "bias"):
        for layer in range(layers):
            width = features if layer == 0 else directions * units
            for suffix in ("", "_reverse")[:directions]:
                for operand, columns in (("ih", width), ("hh", units)):
                    shape = (4 * units, columns) if kind == "weight" else (4 * units,)
                    found.append((f"{kind}_{operand}_l{layer}{suffix}", shape))
    return found


def unpacked(weights: Any, features: int, units: int, layers: int, directions: int) -> dict[str, Any]:
    """The vector taken apart."""
    arrays, start = {}, 0
    for name, shape in parts(features, units, layers, directions):
        size = math.prod(shape)
        arrays[name] = weights[start : start + size].reshape(shape)
        start += size
    assert start == weights.size
    return arrays


def lstm(x: Any, h_0: Any, c_0: Any, weights: Any, lengths: Any, layers: int, directions: int) -> tuple[Any, Any, Any]:
    """Outputs, zeros beyond the lengths, and the last states; one step of all rows after the other."""
    _, steps, features = x.shape
    units = h_0.shape[-1]
    arrays = unpacked(weights, features, units, layers, directions)
    last_h, last_c = [], []
    for layer in range(layers):
        sides = []
        for direction in range(directions):
            end = f"_l{layer}" + ("_reverse" if direction else "")
            state = (h_0[layer * directions + direction], c_0[layer * directions + direction])

            def step(state: Any, at: Any, x: Any = x, end: str = end) -> Any:
                h, c = state
                gates = x[:, at] @ arrays["weight_ih" + end].T + arrays["bias_ih" + end]
                gates = gates + h @ arrays["weight_hh" + end].T + arrays["bias_hh" + end]
                i, f, g, o = (gates[:, k * units : (k + 1) * units] for k in range(4))
                new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
                used = (at < lengths)[:, None]
                return (jnp.where(used, new_h, h), jnp.where(used, new_c, c)), jnp.where(used, new_h, 0.0)

            # Backwards, the steps beyond the length come first and change nothing.
            (h, c), outputs = jax.lax.scan(step, state, jnp.arange(steps), reverse=direction == 1)
            sides.append(outputs.swapaxes(0, 1))
            last_h.append(h)
            last_c.append(c)
        x = jnp.concatenate(sides, -1)
    return x, jnp.stack(last_h), jnp.stack(last_c)


class Twin:
    """What stands in for ``jax.experimental.rnn``; ``calls`` has the static arguments of every call that was traced."""

    def __init__(self):
        self.calls: list[dict[str, Any]] = []

    def of(self, name: str) -> list[dict[str, Any]]:
        """The calls of one of the functions."""
        return [call for call in self.calls if call["name"] == name]

    def _noted(self, name: str, x: Any, h_0: Any, w: Any, seq_lengths: Any, **fixed: Any) -> Any:
        layers, both = fixed["num_layers"], fixed["bidirectional"]
        directions = 2 if both else 1
        assert {x.dtype, h_0.dtype, w.dtype} == {jnp.dtype("float32")} and seq_lengths.dtype == jnp.dtype("int32")
        assert x.shape[2] == fixed["input_size"] and fixed["dropout"] == 0 and 0 not in x.shape
        assert h_0.shape == (layers * directions, x.shape[0], fixed["hidden_size"])
        assert fixed["precision"] in (jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST)
        self.calls.append({"name": name, **fixed})
        return functools.partial(lstm, layers=layers, directions=directions)

    def lstm_fwd(
        self, x: Any, h_0: Any, c_0: Any, w: Any, seq_lengths: Any, input_size: int, hidden_size: int,
        num_layers: int, dropout: float, bidirectional: bool, precision: Any,
    ) -> Any:  # fmt: skip
        run = self._noted(
            "forward", x, h_0, w, seq_lengths, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            dropout=dropout, bidirectional=bidirectional, precision=precision,
        )  # fmt: skip

        def forward(x: Any, h_0: Any, c_0: Any, w: Any, seq_lengths: Any) -> Any:
            y, h_n, c_n = unless(jnp.any(seq_lengths < 1), run(x, h_0, c_0, w, seq_lengths))
            return poisoned(y, seq_lengths), h_n, c_n

        y, h_n, c_n = opaque(forward, x, h_0, c_0, w, seq_lengths)
        return (y, h_n, c_n), (x, h_0, c_0, w, seq_lengths, y, jnp.zeros(7, jnp.float32))

    def lstm_bwd(
        self, input_size: int, hidden_size: int, num_layers: int, dropout: float, bidirectional: bool, precision: Any,
        residuals: Any, gradients: Any,
    ) -> Any:  # fmt: skip
        x, h_0, c_0, w, seq_lengths, _, reserve = residuals
        assert reserve.shape == (7,)
        run = self._noted(
            "backward", x, h_0, w, seq_lengths, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            dropout=dropout, bidirectional=bidirectional, precision=precision,
        )  # fmt: skip

        def backward(x: Any, h_0: Any, c_0: Any, w: Any, seq_lengths: Any, gradients: Any) -> Any:
            _, pull = jax.vjp(lambda *operands: run(*operands, seq_lengths), x, h_0, c_0, w)
            beyond = ~within(gradients[0], seq_lengths)
            wrong = jnp.any(jnp.where(beyond, gradients[0], 0) != 0)
            d_x, *others = unless(wrong, pull(gradients))
            return poisoned(d_x, seq_lengths), *others

        return *opaque(backward, x, h_0, c_0, w, seq_lengths, gradients), jnp.zeros_like(seq_lengths)


def within(sequences: Any, lengths: Any) -> Any:
    """Which of the steps are within the lengths ``(B, T, 1)``."""
    return (jnp.arange(sequences.shape[1]) < lengths[:, None])[..., None]


def poisoned(sequences: Any, lengths: Any) -> Any:
    """NaN beyond the lengths."""
    return jnp.where(within(sequences, lengths), sequences, jnp.nan)


def unless(wrong: Any, arrays: Any) -> Any:
    """NaN in all arrays if something is wrong."""
    return tuple(jnp.where(wrong, jnp.nan, array) for array in arrays)


def opaque(function: Any, *operands: Any) -> Any:
    """``function(*operands)`` as jax knows cuDNN: with neither derivatives nor a rule for ``jax.vmap``.

    Nor does ``jax.shard_map`` learn over which axes the results vary.
    """
    leaves, tree = jax.tree.flatten(operands)
    results, result_tree = jax.tree.flatten(jax.eval_shape(function, *operands))

    def run(*leaves: Any) -> Any:
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

    primitive = Primitive("cudnn_twin")
    primitive.multiple_results = True
    primitive.def_impl(run)
    primitive.def_abstract_eval(lambda *_: [ShapedArray(result.shape, result.dtype) for result in results])
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=True))
    return jax.tree.unflatten(result_tree, primitive.bind(*leaves))


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> Twin:
    """A twin in the place of the functions, on a machine that says that it has a GPU.

    What was traced in one test is kept for equal layers of others, so tests of ``calls`` have sizes of their own.
    """
    twin = Twin()
    monkeypatch.setattr(rnn, "lstm_fwd", twin.lstm_fwd)
    monkeypatch.setattr(rnn, "lstm_bwd", twin.lstm_bwd)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return twin
