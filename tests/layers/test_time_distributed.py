"""``time_distributed`` against Keras' TimeDistributed, and over our own layers."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_rnn.nnx
from flax_rnn import LSTMCell, rnn
from flax_rnn.time_distributed import time_distributed

B, T, D, H = 4, 3, 5, 2


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_dense_equals_keras() -> None:
    x = random(B, T, D)
    layer: Any = keras.layers.Dense(H, bias_initializer="normal")
    expected = keras.layers.TimeDistributed(layer)(x)
    kernel, bias = (jnp.asarray(w) for w in layer.get_weights())
    result = jax.jit(lambda x: time_distributed(lambda rows: rows @ kernel + bias, x))(x)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("time_major", [False, True])
def test_convolution_equals_keras(time_major: bool) -> None:
    x = random(B, T, 6, 7, 2)
    layer: Any = keras.layers.Conv2D(3, (2, 3), bias_initializer="normal")
    expected = np.asarray(keras.layers.TimeDistributed(layer)(x))
    kernel, bias = (jnp.asarray(w) for w in layer.get_weights())

    def convolve(rows: jax.Array) -> jax.Array:
        assert rows.shape == (B * T, 6, 7, 2)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(rows, kernel, (1, 1), "VALID", dimension_numbers=numbers) + bias

    given = x.swapaxes(0, 1) if time_major else x
    result = np.asarray(time_distributed(convolve, given, time_major=time_major))
    np.testing.assert_allclose(result.swapaxes(0, 1) if time_major else result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("time_major", [False, True])
def test_mask_goes_to_the_function_as_in_keras(time_major: bool) -> None:
    # Sequences of sequences: the inner layer takes the mask, the outer does nothing with it.
    x, mask = random(B, T, 6, D), np.random.default_rng(1).random((B, T, 6)) < 0.6
    mask[0, 1] = False
    layer: Any = keras.layers.LSTM(H)
    wrapped: Any = keras.layers.TimeDistributed(layer)
    expected = np.asarray(wrapped(x, mask=jnp.asarray(mask)))
    weights = dict(zip(("kernel", "recurrent_kernel", "bias"), map(jnp.asarray, layer.get_weights()), strict=True))

    def inner(rows: jax.Array, mask: jax.Array) -> jax.Array:
        return rnn(LSTMCell(H), weights, rows, mask=mask)

    given = (x.swapaxes(0, 1), mask.swapaxes(0, 1)) if time_major else (x, mask)
    result = np.asarray(time_distributed(inner, *given, time_major=time_major))
    np.testing.assert_allclose(result.swapaxes(0, 1) if time_major else result, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, wrapped(x), atol=1e-3)


def test_outputs_of_masked_steps_stay_as_in_keras() -> None:
    x, mask = random(B, T, D), jnp.arange(T) < jnp.array([[3], [2], [1], [0]])

    class Doubled(keras.layers.Layer):
        def call(self, inputs: Any, mask: Any = None) -> Any:
            return 2 * inputs + keras.ops.expand_dims(keras.ops.cast(mask, "float32"), 1)

    wrapped: Any = keras.layers.TimeDistributed(Doubled())
    expected = wrapped(x, mask=mask)
    result = time_distributed(lambda rows, mask: 2 * rows + mask[:, None], x, mask)
    np.testing.assert_array_equal(result, np.asarray(expected))
    assert np.all(np.asarray(result)[3] == 2 * x[3])


def test_outputs_may_be_any_tree() -> None:
    x = random(B, T, D)
    result = time_distributed(lambda rows: {"sum": rows.sum(-1), "parts": (rows, rows[:, None, :2])}, x)
    np.testing.assert_allclose(result["sum"], x.sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result["parts"][0], x)
    np.testing.assert_array_equal(result["parts"][1], x[:, :, None, :2])


def test_function_may_be_a_module() -> None:
    x = random(B, T, 6, D)
    layer = flax_rnn.nnx.LSTM(D, H, dropout=0.5, return_state=True, rngs=nnx.Rngs(0))
    outputs, carry = time_distributed(layer, x)
    assert [a.shape for a in (outputs, carry.h, carry.c)] == [(B, T, H)] * 3
    layer.eval()
    plain = time_distributed(layer, x)[0]
    np.testing.assert_allclose(plain[:, 1], layer(x[:, 1])[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs, plain, atol=1e-3)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return time_distributed(nn.Dropout(0.5, deterministic=False), time_distributed(nn.Dense(H), x))

    model: Any = Model()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    dropped, variables = model.init_with_output(keys, jnp.ones((50, 40, D)))
    assert variables["params"]["Dense_0"]["kernel"].shape == (D, H)
    zero = np.asarray(dropped) == 0
    assert 0.4 < zero.mean() < 0.6
    assert 0.4 < (zero[:, 0] == zero[:, 1]).mean() < 0.6  # each step drops on its own


@pytest.mark.parametrize("time_major", [False, True])
def test_a_batch_that_devices_share_stays_so(time_major: bool) -> None:
    x = random(T, B, D) if time_major else random(B, T, D)
    spec = P(None, "data") if time_major else P("data")
    weights = random(D, H, seed=1)
    expected = x @ weights
    for axis_type in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
        with jax.set_mesh(mesh):
            shared = jax.device_put(x, jax.NamedSharding(mesh, spec))
            result = jax.jit(lambda x: time_distributed(lambda rows: rows @ weights, x, time_major=time_major))(shared)
            assert result.sharding.is_equivalent_to(shared.sharding, 3)
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_errors_name_the_argument() -> None:
    x = jnp.ones((B, T, D))
    with pytest.raises(ValueError, match=r"inputs: expected at least 2 axes \(B, T, \.\.\.\), got shape \(3,\)"):
        time_distributed(jnp.tanh, jnp.ones(3))
    for shape in ((B,), (T, B), (B, T + 1)):
        with pytest.raises(ValueError, match=r"mask: expected shape \(B, T, \.\.\.\) that starts with \(4, 3\), as"):
            time_distributed(lambda rows, mask: rows, x, jnp.ones(shape, bool))
    for function in (lambda rows: rows.sum(), lambda rows: rows[1:], lambda rows: rows.T):
        with pytest.raises(ValueError, match=r"function: expected outputs of 12 rows, as its inputs, got shape \("):
            time_distributed(function, x)
