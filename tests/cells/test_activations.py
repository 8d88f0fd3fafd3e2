"""Every activation against the Keras function of the same name, in values and derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_rnn import LSTMCell, activations

keras = pytest.importorskip("keras")

SHARED = [name for name in activations.names() if name != "hard_sigmoid_keras2"]
# The sparsemax of Keras 3.15 is wrong wherever more than one entry is above 0; see its own test.
SAME = [name for name in SHARED if name != "sparsemax"]
# The one takes a threshold and a value, the other halves the last axis: neither can be the activation of a cell.
NOT_FOR_CELLS = {"threshold", "glu"}


@pytest.mark.parametrize("name", SAME)
def test_name_stands_for_the_function_of_keras(name: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)) * 3, jnp.float32)
    x = x.at[0].set(jnp.linspace(-8, 8, 9) + 0.1)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)

    def values_and_derivatives(f: Any) -> Any:
        return jax.jit(lambda x: (f(x), jax.grad(lambda x: (f(x) * weights).sum())(x)))(x)

    actual = values_and_derivatives(activations.get(name))
    expected = values_and_derivatives(keras.activations.get(name))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=2e-6)


def test_sparsemax_projects_onto_the_simplex_unlike_that_of_keras() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5))
    ours = np.asarray(activations.get("sparsemax")(jnp.asarray(x, jnp.float32)))
    for row, projection in zip(x, ours, strict=True):
        # The projection is max(row - level, 0) at the level that makes its sum 1, found here by bisection.
        low, high = row.min() - 1, row.max()
        level = low
        for _ in range(60):
            level = (low + high) / 2
            low, high = (level, high) if np.maximum(row - level, 0).sum() > 1 else (low, level)
        np.testing.assert_allclose(projection, np.maximum(row - level, 0), atol=1e-6)
    assert np.any((ours > 0).sum(-1) > 1)
    # Keras sums up all partial sums where the last of them is meant, so its entries do not add up to 1.
    theirs = np.asarray(keras.activations.get("sparsemax")(jnp.asarray(x, jnp.float32)))
    assert np.abs(theirs.sum(-1) - 1).max() > 0.1
    one_hot = jnp.array([[5.0, 1.0, -2.0]])
    np.testing.assert_allclose(activations.get("sparsemax")(one_hot), keras.activations.get("sparsemax")(one_hot))


def test_all_names_of_keras_are_known() -> None:
    objects = pytest.importorskip("keras.src.activations").ALL_OBJECTS_DICT
    assert set(objects) - NOT_FOR_CELLS == set(SHARED)
    assert activations.names() == sorted(activations.names())


def test_hard_sigmoids() -> None:
    x = np.array([-10, -3, -2.6, -2.4, -1, 0, 1, 2.4, 2.6, 3, 10], np.float32)
    keras2 = activations.get("hard_sigmoid_keras2")(jnp.asarray(x))
    np.testing.assert_allclose(keras2, np.clip(0.2 * x + 0.5, 0, 1), atol=1e-7)
    keras3 = activations.get("hard_sigmoid")(jnp.asarray(x))
    np.testing.assert_allclose(keras3, np.clip(x / 6 + 0.5, 0, 1), atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", activations.names())
def test_dtype_and_shape_stay(name: str, dtype: Any) -> None:
    out = jax.eval_shape(activations.get(name), jax.ShapeDtypeStruct((2, 3), dtype))
    assert (out.shape, out.dtype) == ((2, 3), dtype)


def test_none_and_callables() -> None:
    x = jnp.array([-1.5, 0.5])
    np.testing.assert_array_equal(activations.get(None)(x), x)
    assert activations.get(jnp.sin) is jnp.sin
    assert LSTMCell(2, jnp.sin).activation is jnp.sin


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^activation: unknown activation 'Tanh'; known are celu, .*tanh_shrink$"):
        activations.get("Tanh")
    wrong: Any = 1.5
    with pytest.raises(TypeError, match=r"^gate: expected a name, a callable or None, got 1\.5$"):
        activations.get(wrong, "gate")
