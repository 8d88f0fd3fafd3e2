"""Regularizers: each against Keras', and their sum over the weights of a model against its ``losses``."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, regularizers
from flax_rnn.regularizers import activity, get, l1, l1_l2, l2, orthogonal, penalty

B, T, D, H = 3, 4, 3, 2
PAIRS: dict[str, tuple[Any, Any]] = {
    "l1(0.3)": (l1(0.3), keras.regularizers.L1(0.3)),
    "l2(0.2)": (l2(0.2), keras.regularizers.L2(0.2)),
    "l1_l2(0.1, 0.3)": (l1_l2(0.1, 0.3), keras.regularizers.L1L2(0.1, 0.3)),
    "rows": (orthogonal(0.4), keras.regularizers.OrthogonalRegularizer(0.4)),
    "columns": (orthogonal(0.4, "columns"), keras.regularizers.OrthogonalRegularizer(0.4, "columns")),
    "l1": (get("l1"), keras.regularizers.get("l1")),
    "l2": (get("l2"), keras.regularizers.get("l2")),
    "l1_l2": (get("l1_l2"), keras.regularizers.L1L2(0.01, 0.01)),
    "orthogonal_regularizer": (get("orthogonal_regularizer"), keras.regularizers.get("orthogonal_regularizer")),
}
# Of Keras and ours: distinct ones for the three kinds of weights.
THEIRS: dict[str, Any] = {
    "kernel_regularizer": keras.regularizers.L1(0.3),
    "recurrent_regularizer": keras.regularizers.OrthogonalRegularizer(0.4),
    "bias_regularizer": keras.regularizers.L2(0.2),
}
OURS: dict[str, Any] = {"kernel": l1(0.3), "recurrent": orthogonal(0.4), "bias": l2(0.2)}
CELLS: dict[str, tuple[Any, Any]] = {
    "SimpleRNN": (SimpleRNNCell, keras.layers.SimpleRNN),
    "LSTM": (LSTMCell, keras.layers.LSTM),
    "GRU": (GRUCell, keras.layers.GRU),
}


def weights_of(cell: Any, seed: int = 0) -> Any:
    weights = oracle.random_weights(cell, D, np.random.default_rng(seed))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights)


def in_order(weights: dict[str, Any]) -> list[np.ndarray]:
    """The weights in Keras' order."""
    return [np.asarray(weights[name]) for name in ("kernel", "recurrent_kernel", "bias")]


def losses(layer: Any, weights: dict[str, Any]) -> float:
    """The sum of the losses of a Keras layer with these weights."""
    layer.build((B, T, weights["kernel"].shape[0]))
    layer.set_weights(in_order(weights))
    assert len(layer.losses) == 3
    return float(sum(layer.losses))


@pytest.mark.each(1)
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_each_equals_keras(name: str, shape: tuple[int, int]) -> None:
    ours, theirs = PAIRS[name]
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert ours is not None
    np.testing.assert_allclose(jax.jit(ours)(w), theirs(keras.ops.convert_to_tensor(w)), rtol=1e-6)


def test_the_names_are_those_tested() -> None:
    assert set(regularizers.names()) <= set(PAIRS)
    assert get(None) is None


@pytest.mark.parametrize("name", CELLS)
def test_penalty_of_a_cell_equals_the_losses_of_the_keras_layer(name: str) -> None:
    ours, theirs = CELLS[name]
    weights = weights_of(ours(H))
    np.testing.assert_allclose(penalty(weights, **OURS), losses(theirs(H, **THEIRS), weights), rtol=1e-6)


def test_penalty_adds_up_the_layers_of_a_stack() -> None:
    stack = StackedRNNCells((LSTMCell(H), GRUCell(D)))
    below, above = weights_of(stack)
    cells = [keras.layers.LSTMCell(H, **THEIRS), keras.layers.GRUCell(D, **THEIRS)]
    layer = keras.layers.RNN(cells)
    layer.build((B, T, D))
    layer.set_weights([*in_order(below), *in_order(above)])
    assert len(layer.losses) == 6
    np.testing.assert_allclose(penalty((below, above), **OURS), sum(layer.losses), rtol=1e-6)


def test_each_argument_is_for_its_own_weights() -> None:
    weights = weights_of(LSTMCell(H))
    for argument, name in (("kernel", "kernel"), ("recurrent", "recurrent_kernel"), ("bias", "bias")):
        gradients = jax.grad(lambda w, argument=argument: penalty(w, **{argument: l2(0.5)}))(weights)
        oracle.assert_close(gradients, {k: w if k == name else 0 * w for k, w in weights.items()}, 1e-6)
    assert penalty(weights) == 0


class LinenModel(nn.Module):
    """A recurrent layer between others, two of which share its names of weights."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(D)(x)
        x = flax_rnn.linen.Bidirectional(flax_rnn.linen.LSTM(H, return_sequences=True))(x)
        return nn.Dense(1)(x)


class NNXModel(nnx.Module):
    """As above, with a stack."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(D, D, rngs=rngs)
        cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=rngs, dropout=0.5), flax_rnn.nnx.GRUCell(H, D, rngs=rngs)]
        self.layers = nnx.List([flax_rnn.nnx.RNN(cells)])
        self.last = nnx.Linear(D, 1, rngs=rngs)


def random_like(tree: Any) -> Any:
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def test_only_recurrent_layers_of_a_linen_model_count() -> None:
    params = random_like(LinenModel().init(jax.random.key(0), jnp.ones((B, T, D)))["params"])
    (layer,) = (part for name, part in params.items() if name.startswith("Bidirectional"))
    own = [layer[direction]["cell"] for direction in ("forward_layer", "backward_layer")]
    expected = sum(losses(keras.layers.LSTM(H, **THEIRS), weights) for weights in own)
    np.testing.assert_allclose(penalty(params, **OURS), expected, rtol=1e-6)
    np.testing.assert_allclose(penalty({"params": params}, **OURS), expected, rtol=1e-6)
    boxed = jax.tree.map(lambda a: nn.Partitioned(a, (None,) * a.ndim), params)
    np.testing.assert_allclose(penalty(boxed, **OURS), expected, rtol=1e-6)


def test_only_recurrent_layers_of_an_nnx_model_count() -> None:
    model = NNXModel(nnx.Rngs(0))
    nnx.update(model, random_like(nnx.state(model, nnx.Param)))
    lstm, gru = (cell.params for cell in model.layers[0].cell.cells)
    expected = losses(keras.layers.LSTM(H, **THEIRS), lstm) + losses(keras.layers.GRU(D, **THEIRS), gru)
    state = nnx.state(model, nnx.Param)
    np.testing.assert_allclose(penalty(nnx.to_pure_dict(state), **OURS), expected, rtol=1e-6)
    np.testing.assert_allclose(penalty(state, **OURS), expected, rtol=1e-6)

    def loss(model: NNXModel) -> jax.Array:
        return penalty(nnx.to_pure_dict(nnx.state(model, nnx.Param)), kernel=l2(0.5))

    gradients = nnx.to_pure_dict(nnx.grad(loss)(model))
    np.testing.assert_array_equal(gradients["first"]["kernel"], jnp.zeros((D, D)))
    np.testing.assert_allclose(gradients["layers"][0]["cell"]["cells"][0]["kernel"], lstm["kernel"], rtol=1e-6)


@pytest.mark.parametrize("return_sequences", [False, True])
def test_activity_equals_the_losses_of_the_keras_layer(return_sequences: bool) -> None:
    layer: Any = keras.layers.LSTM(
        H, activity_regularizer=keras.regularizers.L1L2(0.1, 0.3), return_sequences=return_sequences, return_state=True
    )
    x = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    outputs = layer(x)
    assert len(layer.losses) == 3
    np.testing.assert_allclose(activity(outputs, l1_l2(0.1, 0.3)), sum(layer.losses), rtol=1e-6)
    np.testing.assert_allclose(activity(outputs[0], l1_l2(0.1, 0.3)), layer.losses[0], rtol=1e-6)
    assert activity(outputs, None) == 0


def test_activity_of_simple_rnn_counts_unlike_in_keras() -> None:
    layer: Any = keras.layers.SimpleRNN(H, activity_regularizer="l2")
    outputs = layer(np.ones((B, T, D), np.float32))
    assert layer.losses == []
    np.testing.assert_allclose(activity(outputs, "l2"), 0.01 * np.sum(np.square(outputs)) / B, rtol=1e-6)


def test_activity_of_an_empty_batch_is_0() -> None:
    assert activity(jnp.zeros((0, H)), "l2") == 0


def test_orthogonal_is_finite_where_there_is_nothing_to_compare() -> None:
    assert orthogonal()(jnp.ones((1, 3))) == 0
    zeros = jnp.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    np.testing.assert_allclose(orthogonal()(zeros), PAIRS["orthogonal_regularizer"][1](zeros), rtol=1e-6)
    assert bool(jnp.isfinite(jax.grad(orthogonal())(zeros)).all())


def test_errors_name_the_argument() -> None:
    weights = weights_of(LSTMCell(H))
    with pytest.raises(ValueError, match=r"recurrent: unknown regularizer 'l3'; known are l1, l1_l2, l2"):
        penalty(weights, recurrent="l3")
    with pytest.raises(TypeError, match=r"kernel: expected a name, a callable or None, got 0\.1"):
        penalty(weights, kernel=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"params: expected weights of a recurrent layer, got .*'kernel'"):
        penalty({"kernel": jnp.ones((2, 2))}, kernel="l2")
    factories: list[tuple[Any, str]] = [(l1, "rate"), (l2, "rate"), (l1_l2, "l1"), (orthogonal, "factor")]
    for factory, argument in factories:
        for value in (-0.1, float("nan"), float("inf"), True, "0.1"):
            with pytest.raises(ValueError, match=rf"{argument}: expected a finite number of at least 0, got "):
                factory(value)
    with pytest.raises(ValueError, match=r"mode: expected 'rows' or 'columns', got 'both'"):
        orthogonal(mode="both")
    with pytest.raises(ValueError, match=r"orthogonal regularizer: expected a matrix, got shape \(3,\)"):
        orthogonal()(jnp.ones(3))
