"""Every initializer against the Keras one of the same name: shape, dtype and distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_rnn import initializers

keras = pytest.importorskip("keras")

SHAPE = (150, 400)
RANDOM = [name for name in initializers.names() if name not in ("identity", "ones", "zeros", "orthogonal")]


def draw(name: str, shape: tuple[int, ...] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """Ours and that of Keras."""
    reference = keras.initializers.get(name)
    return np.asarray(initializers.get(name)(jax.random.key(3), shape)), np.asarray(reference(shape))


@pytest.mark.parametrize("name", RANDOM)
def test_distribution_is_that_of_keras(name: str) -> None:
    ours, reference = draw(name)
    assert abs(ours.mean()) < 0.02 * reference.std()
    # With 60,000 numbers the errors of these estimates are below 1 %; a wrong fan or scale changes them by far more.
    np.testing.assert_allclose(ours.std(), reference.std(), rtol=0.02)
    np.testing.assert_allclose((ours**4).mean(), (reference**4).mean(), rtol=0.08)
    deciles = np.linspace(0.05, 0.95, 7)
    np.testing.assert_allclose(np.quantile(ours, deciles), np.quantile(reference, deciles), atol=0.04 * reference.std())
    bounded = "uniform" in name or name in ("truncated_normal", "variance_scaling") or "_normal" in name[2:]
    if bounded and name not in ("normal", "random_normal"):
        np.testing.assert_allclose(np.abs(ours).max(), np.abs(reference).max(), rtol=0.02)


@pytest.mark.parametrize("name", ["ones", "zeros", "identity"])
def test_constants_are_those_of_keras(name: str) -> None:
    ours, reference = draw(name, (3, 5))
    np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("shape", [(12, 48), (48, 12), (7, 7)])
def test_orthogonal(shape: tuple[int, int]) -> None:
    for matrix in draw("orthogonal", shape):
        small = matrix if shape[0] <= shape[1] else matrix.T
        np.testing.assert_allclose(small @ small.T, np.eye(min(shape)), atol=1e-5)
    first, second = (initializers.get("orthogonal")(jax.random.key(k), shape) for k in (0, 1))
    assert not np.allclose(first, second)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", initializers.names())
def test_shape_and_dtype(name: str, dtype: Any) -> None:
    out = jax.eval_shape(lambda: initializers.get(name)(jax.random.key(0), (3, 8), dtype))
    assert (out.shape, out.dtype) == ((3, 8), dtype)
    out = jax.eval_shape(lambda: initializers.get(name)(jax.random.key(0), (3, 8)))
    assert out.dtype == jnp.float32


def test_all_names_of_keras_are_known() -> None:
    objects = pytest.importorskip("keras.src.initializers").ALL_OBJECTS_DICT
    snake_case = {name for name in objects if name.islower()}
    # A base class, one that needs a value, aliases, and filters for spectrograms.
    assert snake_case - {"initializer", "constant", "one", "zero", "stft"} == set(initializers.names())


def test_unit_forget_bias() -> None:
    random = initializers.unit_forget_bias(initializers.get("normal"), 3, 3)(jax.random.key(0), (12,))
    np.testing.assert_array_equal(random[3:6], np.ones(3))
    assert np.all(np.delete(np.asarray(random), [3, 4, 5]) != 1)
    assert len(np.unique(random)) == 10


def test_callables_and_errors() -> None:
    constant = jax.nn.initializers.constant(0.3)
    assert initializers.get(constant) is constant
    with pytest.raises(ValueError, match=r"^initializer: unknown initializer 'glorot'; known are glorot_normal, "):
        initializers.get("glorot")
    wrong: Any = 0.5
    with pytest.raises(TypeError, match=r"^bias: expected a name or a callable, got 0\.5$"):
        initializers.get(wrong, "bias")
    with pytest.raises(ValueError, match=r"identity initializer: expected a shape of 2 axes, got \(3,\)"):
        initializers.get("identity")(jax.random.key(0), (3,))
