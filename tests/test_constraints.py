"""Constraints: each against Keras', and as the last transformation of an optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import oracle
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn.linen
import flax_rnn.nnx
from flax_rnn import GRUCell, LSTMCell, StackedRNNCells, constraints
from flax_rnn.constraints import constrain, get, max_norm, min_max_norm, non_neg, unit_norm

B, T, D, H = 3, 4, 3, 2
THEIRS: Any = keras.constraints
PAIRS = {
    "max_norm": (get("max_norm"), THEIRS.get("max_norm")),
    "min_max_norm": (get("min_max_norm"), THEIRS.get("min_max_norm")),
    "non_neg": (get("non_neg"), THEIRS.get("non_neg")),
    "unit_norm": (get("unit_norm"), THEIRS.get("unit_norm")),
    "max_norm(1.5, axis=1)": (max_norm(1.5, axis=1), THEIRS.MaxNorm(1.5, axis=1)),
    "max_norm(3, axis=(0, 1))": (max_norm(3, axis=(0, 1)), THEIRS.MaxNorm(3, axis=(0, 1))),
    "unit_norm(-1)": (unit_norm(-1), THEIRS.UnitNorm(-1)),
    "min_max_norm(1, 2, 0.3, 1)": (min_max_norm(1, 2, 0.3, 1), THEIRS.MinMaxNorm(1, 2, 0.3, 1)),
}


def weights_of(cell: Any, seed: int = 0) -> Any:
    weights = oracle.random_weights(cell, D, np.random.default_rng(seed))
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights)


def random_like(tree: Any, seed: int = 1) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), tree)


def apply(weights: Any, updates: Any) -> Any:
    return optax.apply_updates(weights, updates)


@pytest.mark.parametrize("name", PAIRS)
def test_each_equals_keras(name: str) -> None:
    ours, theirs = PAIRS[name]
    # Norms on both sides of every bound, and one of 0.
    w = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32) * np.array([0, 0.1, 0.5, 1, 2, 4], np.float32)
    assert ours is not None
    result = jax.jit(ours)(w)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, theirs(w), rtol=1e-6, atol=1e-7)


def test_the_names_are_those_tested() -> None:
    assert set(constraints.names()) <= set(PAIRS)
    assert get(None) is None


def test_constraint_is_that_of_the_weights_after_the_step() -> None:
    weights = {"rnn": weights_of(LSTMCell(H)), "dense": {"kernel": jnp.ones((H, 1)), "bias": -jnp.ones(1)}}
    optimizer: Any = constrain(kernel="max_norm", recurrent=unit_norm(1), bias="non_neg")
    updates = random_like(weights)
    changed, _ = jax.jit(optimizer.update)(updates, optimizer.init(weights), weights)
    free, new = apply(weights, updates), apply(weights, changed)
    expected = {
        "kernel": THEIRS.MaxNorm()(free["rnn"]["kernel"]),
        "recurrent_kernel": THEIRS.UnitNorm(1)(free["rnn"]["recurrent_kernel"]),
        "bias": THEIRS.NonNeg()(free["rnn"]["bias"]),
    }
    oracle.assert_close(new["rnn"], expected, 1e-6)
    assert not np.allclose(free["rnn"]["kernel"], new["rnn"]["kernel"])
    assert float(new["rnn"]["bias"].min()) == 0
    assert jax.tree.all(jax.tree.map(np.array_equal, changed["dense"], updates["dense"]))


def test_what_has_no_constraint_is_left_alone() -> None:
    weights = weights_of(StackedRNNCells((LSTMCell(H), GRUCell(D))))
    updates = random_like(weights)
    optimizer: Any = constrain(recurrent="non_neg")
    changed, _ = optimizer.update(updates, optimizer.init(weights), weights)
    for layer, (before, after) in enumerate(zip(updates, changed, strict=True)):
        np.testing.assert_array_equal(before["kernel"], after["kernel"])
        np.testing.assert_array_equal(before["bias"], after["bias"])
        new = weights[layer]["recurrent_kernel"] + after["recurrent_kernel"]
        np.testing.assert_allclose(
            new, np.maximum(weights[layer]["recurrent_kernel"] + before["recurrent_kernel"], 0), atol=1e-6
        )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_non_negative_weights_are_so_exactly(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.integers(-8, 8, size=(2, 100, 100))
    w, update = (jnp.asarray(a, dtype) for a in rng.normal(size=(2, 100, 100)) * scale)
    optimizer: Any = constrain(recurrent=non_neg())
    changed, _ = optimizer.update({"recurrent_kernel": update}, optax.EmptyState(), {"recurrent_kernel": w})
    new = apply({"recurrent_kernel": w}, changed)["recurrent_kernel"]
    assert new.dtype == dtype
    assert float(new.min()) == 0


def train(optimizer: Any, weights: Any, gradients: list[Any]) -> Any:
    """The weights after a step with each of the gradients."""

    @jax.jit
    def step(weights: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, weights)
        return apply(weights, updates), state

    state = optimizer.init(weights)
    for gradient in gradients:
        weights, state = step(weights, state, gradient)
    return weights


def test_training_with_adam_equals_that_of_the_keras_layer() -> None:
    weights = weights_of(LSTMCell(H))
    gradients = [random_like(weights, seed) for seed in range(3)]
    names = ("kernel", "recurrent_kernel", "bias")
    layer: Any = keras.layers.LSTM(
        H, kernel_constraint="non_neg", recurrent_constraint=THEIRS.MaxNorm(0.5), bias_constraint="unit_norm"
    )
    layer.build((B, T, D))
    layer.set_weights([np.asarray(weights[name]) for name in names])
    theirs = keras.optimizers.Adam(0.1, epsilon=1e-8)
    for gradient in gradients:
        theirs.apply([gradient[name] for name in names], layer.trainable_variables)
    ours = optax.chain(optax.adam(0.1), constrain("non_neg", max_norm(0.5), "unit_norm"))
    trained = train(ours, weights, gradients)
    oracle.assert_close([trained[name] for name in names], layer.get_weights(), 1e-5)
    assert not np.allclose(train(optax.adam(0.1), weights, gradients)["bias"], trained["bias"], atol=1e-2)


def test_linen_params() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(1)(flax_rnn.linen.GRU(H)(x))

    model, x = Model(), jnp.ones((B, T, D))
    params = model.init(jax.random.key(0), x)["params"]
    gradients = [jax.grad(lambda p: model.apply({"params": p}, x).sum())(params)]  # pyright: ignore[reportAttributeAccessIssue]
    new = train(optax.chain(optax.sgd(0.1), constrain(kernel="unit_norm")), params, gradients)
    free = train(optax.sgd(0.1), params, gradients)
    (name,) = (name for name in params if name.startswith("GRU"))
    norms = jnp.linalg.norm(new[name]["cell"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, np.ones(3 * H), rtol=1e-6)
    new[name]["cell"]["kernel"] = free[name]["cell"]["kernel"]
    oracle.assert_close(new, free, 1e-6)


def test_nnx_optimizer() -> None:
    class Model(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.rnn = flax_rnn.nnx.LSTM(D, H, rngs=rngs)
            self.dense = nnx.Linear(H, 1, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.dense(self.rnn(x))

    def trained(*constraint: optax.GradientTransformation) -> Any:
        model = Model(nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.chain(optax.adam(0.01), *constraint), wrt=nnx.Param)
        step(model, optimizer, jnp.ones((B, T, D)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model: Model, optimizer: nnx.Optimizer[Any], x: jax.Array) -> None:
        optimizer.update(model, nnx.grad(lambda model: model(x).sum())(model))

    free, new = trained(), trained(constrain(kernel="non_neg", recurrent=max_norm(0.3)))
    oracle.assert_close(new["dense"], free["dense"], 1e-6)
    before, after = free["rnn"]["cell"], new["rnn"]["cell"]
    assert float(before["kernel"].min()) < -0.1 and float(after["kernel"].min()) == 0
    np.testing.assert_allclose(after["kernel"], np.maximum(before["kernel"], 0), atol=1e-6)
    np.testing.assert_allclose(after["recurrent_kernel"], max_norm(0.3)(before["recurrent_kernel"]), atol=1e-6)
    assert float(jnp.linalg.norm(before["recurrent_kernel"], axis=0).max()) > 0.4
    np.testing.assert_allclose(after["bias"], before["bias"], atol=1e-6)


def test_errors_name_the_argument() -> None:
    weights = weights_of(LSTMCell(H))
    optimizer: Any = constrain(kernel="non_neg")
    with pytest.raises(ValueError, match=r"params: expected the weights that the updates are for, got None"):
        optimizer.update(weights, optimizer.init(weights))
    other = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=r"params: expected weights of a recurrent layer, got .*'kernel'"):
        optimizer.update(other, optimizer.init(other), other)
    with pytest.raises(ValueError, match=r"bias: unknown constraint 'max'; known are max_norm, min_max_norm, non_neg"):
        constrain(bias="max")
    with pytest.raises(TypeError, match=r"recurrent: expected a name, a callable or None, got 2"):
        constrain(recurrent=2)  # pyright: ignore[reportArgumentType]
