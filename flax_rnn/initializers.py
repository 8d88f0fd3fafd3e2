"""Weight initializers by their Keras names.

An initializer is any callable ``(key, shape, dtype) -> array``, as in ``jax.nn.initializers``. A cell applies it to the
*fused* matrix, ``(D, g H)`` or ``(H, g H)`` for ``g`` gates, as Keras does: ``glorot_uniform`` then has
``limit = sqrt(6 / (D + g H))``, and ``orthogonal`` makes the H rows of the whole matrix orthonormal, not the block of
each gate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers as init

from flax_rnn import _checks

Initializer = Callable[..., jax.Array]
InitializerLike = str | Initializer


def identity(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Ones on the main diagonal, zeros elsewhere; two-dimensional shapes only."""
    del key
    if len(shape) != 2:
        raise ValueError(f"identity initializer: expected a shape of 2 axes, got {tuple(shape)}")
    return jnp.eye(*shape, dtype=dtype)


def orthogonal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """``jax.nn.initializers.orthogonal``, in float32 where the QR decomposition lacks the dtype, such as bfloat16."""
    return init.orthogonal()(key, tuple(shape), jnp.promote_types(dtype, jnp.float32)).astype(dtype)


def random_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform on [-0.05, 0.05), Keras' default range (``jax.nn``'s starts at 0)."""
    return jax.random.uniform(key, tuple(shape), dtype, -0.05, 0.05)


_BY_NAME: dict[str, Initializer] = {
    "glorot_normal": init.glorot_normal(),
    "glorot_uniform": init.glorot_uniform(),
    "he_normal": init.he_normal(),
    "he_uniform": init.he_uniform(),
    "identity": identity,
    "lecun_normal": init.lecun_normal(),
    "lecun_uniform": init.lecun_uniform(),
    "normal": init.normal(0.05),
    "ones": init.ones,
    "orthogonal": orthogonal,
    "random_normal": init.normal(0.05),
    "random_uniform": random_uniform,
    "truncated_normal": init.truncated_normal(0.05),
    "uniform": random_uniform,
    "variance_scaling": init.variance_scaling(1.0, "fan_in", "truncated_normal"),
    "zeros": init.zeros,
}


def names() -> list[str]:
    """The known names, in alphabetical order."""
    return sorted(_BY_NAME)


def get(initializer: InitializerLike, argument: str = "initializer") -> Initializer:
    """The callable that ``initializer`` (a name or a callable) stands for.

    Raises:
      ValueError: for an unknown name, and
      TypeError: for anything else; both name ``argument``.
    """
    if callable(initializer):
        return initializer
    return _checks.by_name(argument, initializer, _BY_NAME, "initializer", "a name or a callable")


def unit_forget_bias(bias: Initializer, start: int, units: int) -> Initializer:
    """``bias``, but for ones at the ``units`` places from ``start`` on, where an LSTM has its forget gate.

    Source: Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures"; Keras' LSTMCell.
    """

    def initialize(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return bias(key, shape, dtype).at[start : start + units].set(1)

    return initialize
