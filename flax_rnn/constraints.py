"""Keras' constraints: projections of the weights of recurrent layers after each step of an optimizer.

A constraint is any callable from an array to an array of its shape. Where Keras applies it to a variable, here it is
the last transformation of an optimizer: ``optax.chain(optax.adam(1e-3), constrain(recurrent=max_norm(2)))``.

Norms are over ``axis``, and have Keras' 1e-7 added where they divide. Axis 0 of a ``bias`` is not always that of the
gates: a GRU's has shape ``(2, 3 H)``.

Source: ``keras.constraints``. Needs optax.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_rnn import _checks
from flax_rnn.regularizers import weight_names

Constraint = Callable[[jax.Array], jax.Array]
ConstraintLike = str | Constraint | None
Axis = int | tuple[int, ...]

_EPSILON = 1e-7


def max_norm(max_value: float = 2.0, axis: Axis = 0) -> Constraint:
    """Scales norms above ``max_value`` down to it."""
    return min_max_norm(0.0, max_value, axis=axis)


def non_neg() -> Constraint:
    """``max(w, 0)``."""
    return lambda w: jnp.maximum(w, 0)


def unit_norm(axis: Axis = 0) -> Constraint:
    """Scales norms to 1."""
    return lambda w: w / (_EPSILON + _norm(w, axis))


def min_max_norm(min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Axis = 0) -> Constraint:
    """Moves norms outside of ``[min_value, max_value]`` towards it, by the part ``rate`` of their distance."""

    def project(w: jax.Array) -> jax.Array:
        norm = _norm(w, axis)
        desired = rate * jnp.clip(norm, min_value, max_value) + (1 - rate) * norm
        return w * (desired / (_EPSILON + norm))

    return project


_BY_NAME: dict[str, Callable[[], Constraint]] = {
    "max_norm": max_norm,
    "min_max_norm": min_max_norm,
    "non_neg": non_neg,
    "unit_norm": unit_norm,
}


def names() -> list[str]:
    """The known names, in alphabetical order."""
    return sorted(_BY_NAME)


def get(constraint: ConstraintLike, argument: str = "constraint") -> Constraint | None:
    """The callable that ``constraint`` (a name, for the defaults, or a callable) stands for; ``None`` for ``None``.

    Raises:
      ValueError: for an unknown name, and
      TypeError: for anything else; both name ``argument``.
    """
    if constraint is None or callable(constraint):
        return constraint
    return _checks.by_name(argument, constraint, _BY_NAME, "constraint", "a name, a callable or None")()


def constrain(
    kernel: ConstraintLike = None, recurrent: ConstraintLike = None, bias: ConstraintLike = None
) -> optax.GradientTransformation:
    """Turns updates into those after which the weights of all recurrent layers satisfy their constraints.

    ``update' = constraint(weight + update) - weight``, so nothing may follow it in a chain. Updates of other layers
    pass as they are. Weights are found as in ``regularizers.penalty``.

    Args:
      kernel, recurrent, bias: the constraints of ``kernel``, ``recurrent_kernel`` and ``bias``.

    Raises:
      ValueError: when it is run, without ``params`` or where there is no recurrent layer in them.
    """
    constraints = {
        "kernel": get(kernel, "kernel"),
        "recurrent_kernel": get(recurrent, "recurrent"),
        "bias": get(bias, "bias"),
    }

    def init(params: optax.Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError("params: expected the weights that the updates are for, got None")

        def one(name: str, weight: jax.Array, update: jax.Array) -> jax.Array:
            project = constraints.get(name)
            return update if project is None else project(weight + update) - weight

        weights, tree = jax.tree.flatten(params)
        changes: list[Any] = tree.flatten_up_to(updates)
        return tree.unflatten(map(one, weight_names(params), weights, changes)), state

    return optax.GradientTransformation(init, update)


def _norm(w: jax.Array, axis: Axis) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(w), axis=axis, keepdims=True))
