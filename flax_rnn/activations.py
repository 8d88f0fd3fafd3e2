"""Activations by their Keras names.

An activation is any shape-keeping callable on an array ``(..., H)``; ``None`` is the identity. A name stands for the
function that Keras 3 gives it, whose defaults differ from ``jax.nn``'s for ``gelu`` and ``leaky_relu``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import nn

from flax_rnn import _checks

Activation = str | Callable[[jax.Array], jax.Array] | None


def linear(x: jax.Array) -> jax.Array:
    """``x``."""
    return x


def hard_sigmoid_keras2(x: jax.Array) -> jax.Array:
    """``clip(0.2 x + 0.5, 0, 1)``: the ``hard_sigmoid`` of Keras 1 and 2 (Keras 3 has slope 1/6).

    At its kinks the derivative is 0, as that of ``jax.nn.hard_sigmoid``.
    """
    y = 0.2 * x + 0.5
    return jnp.where(y <= 0, 0.0, jnp.where(y >= 1, 1.0, y)).astype(y.dtype)


def gelu(x: jax.Array) -> jax.Array:
    """``x Phi(x)`` with the exact normal distribution function (``jax.nn.gelu`` approximates by default)."""
    return nn.gelu(x, approximate=False)


def leaky_relu(x: jax.Array) -> jax.Array:
    """``max(x, 0.2 x)``: Keras' slope (``jax.nn.leaky_relu`` has 0.01)."""
    return nn.leaky_relu(x, 0.2)


def hard_shrink(x: jax.Array) -> jax.Array:
    """``x`` where ``|x| > 0.5``, else 0."""
    return jnp.where(jnp.abs(x) > 0.5, x, 0)


def soft_shrink(x: jax.Array) -> jax.Array:
    """``sign(x) max(|x| - 0.5, 0)``."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0)


def tanh_shrink(x: jax.Array) -> jax.Array:
    """``x - tanh(x)``."""
    return x - jnp.tanh(x)


def sparsemax(x: jax.Array) -> jax.Array:
    """The Euclidean projection of the last axis onto the simplex (Martins & Astudillo 2016)."""
    descending = jnp.flip(jnp.sort(x, axis=-1), axis=-1)
    count = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    total = jnp.cumsum(descending, axis=-1) - 1
    support = jnp.sum(count * descending > total, axis=-1, keepdims=True)
    level = jnp.take_along_axis(total, support - 1, axis=-1) / support.astype(x.dtype)
    return jnp.maximum(x - level, 0)


_BY_NAME: dict[str, Callable[[jax.Array], jax.Array]] = {
    "celu": nn.celu,
    "elu": nn.elu,
    "exponential": jnp.exp,
    "gelu": gelu,
    "hard_shrink": hard_shrink,
    "hard_sigmoid": nn.hard_sigmoid,
    "hard_sigmoid_keras2": hard_sigmoid_keras2,
    "hard_silu": nn.hard_silu,
    "hard_swish": nn.hard_silu,
    "hard_tanh": nn.hard_tanh,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "log_sigmoid": nn.log_sigmoid,
    "log_softmax": nn.log_softmax,
    "mish": nn.mish,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "soft_shrink": soft_shrink,
    "softmax": nn.softmax,
    "softplus": nn.softplus,
    "softsign": nn.soft_sign,
    "sparse_plus": nn.sparse_plus,
    "sparse_sigmoid": nn.sparse_sigmoid,
    "sparsemax": sparsemax,
    "squareplus": nn.squareplus,
    "swish": nn.silu,
    "tanh": jnp.tanh,
    "tanh_shrink": tanh_shrink,
}


def names() -> list[str]:
    """The known names, in alphabetical order."""
    return sorted(_BY_NAME)


def get(activation: Activation, argument: str = "activation") -> Callable[[jax.Array], jax.Array]:
    """The callable that ``activation`` (a name, a callable or ``None``) stands for.

    Raises:
      ValueError: for an unknown name, and
      TypeError: for anything else; both name ``argument``.
    """
    if activation is None:
        return linear
    if callable(activation):
        return activation
    return _checks.by_name(argument, activation, _BY_NAME, "activation", "a name, a callable or None")
