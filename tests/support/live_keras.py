"""Live Keras layers as functions of their weights, and problems for them and for us."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell

keras: Any = pytest.importorskip("keras")

B, T, D, H = 6, 3, 4, 2
# Nothing masked, padding on the right, on the left, a hole, padding on both sides, nothing left.
MASK: Any = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)
# The cell, and another of another size for stacks and pairs.
CELLS: dict[str, tuple[Any, Any]] = {
    "SimpleRNN": (SimpleRNNCell(H), LSTMCell(3)),
    "LSTM": (LSTMCell(H), GRUCell(3)),
    "GRU": (GRUCell(H), GRUCell(3, reset_after=False)),
    "GRU_before": (GRUCell(H, reset_after=False), SimpleRNNCell(3)),
}


def problem(cells: tuple[Any, ...], form: str, dtype: Any = jnp.float32, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, inputs and initial state."""
    rng = np.random.default_rng(seed)
    sizes = [D, *(cell.units for cell in cells)] if form == "stack" else [D] * len(cells)
    weights = tuple(oracle.random_weights(cell, size, rng) for cell, size in zip(cells, sizes, strict=False))
    states = tuple(oracle.random_state(cell, B, rng) for cell in cells)
    if form == "single":
        (weights,), (states,) = weights, states
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (weights, rng.normal(size=(B, T, D)), states))


def keras_of(cell: Any, suffix: str, **options: Any) -> Any:
    names = ("units", "activation", "use_bias", "recurrent_activation", "reset_after")
    options |= {name: getattr(cell, name) for name in names if hasattr(cell, name)}
    return getattr(keras.layers, type(cell).__name__.removesuffix("Cell") + suffix)(**options)


def call(layer: Any, weights: Any, x: Any, state: Any, mask: Any) -> list[Any]:
    """Keras' layer as a function of weights, which come in Keras' order."""
    if not layer.built:
        layer.build(x.shape)
    parts = jax.tree.leaves(weights, is_leaf=lambda part: isinstance(part, dict))
    variables = [part[name] for part in parts for name in ("kernel", "recurrent_kernel", "bias")]
    others = [variable.value for variable in layer.non_trainable_variables]
    mask = None if mask is None else jnp.asarray(mask)
    return list(layer.stateless_call(variables, others, x, mask=mask, initial_state=state)[0])


def evaluate(run: Callable[..., Any], point: Any) -> Any:
    """Gradients and results."""

    def loss(*point: Any) -> Any:
        result = run(*point)
        return oracle.weighted_sum(1, result), result

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*point)
