"""Keras' regularizers: penalties on the weights of recurrent layers, and on outputs.

A regularizer is any callable from an array to a scalar. Where Keras collects penalties in ``layer.losses``, here they
are summands of the loss: ``loss + penalty(params, kernel="l2", recurrent=l1(1e-4))``.

Source: ``keras.regularizers``.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn import _checks

Regularizer = Callable[[jax.Array], jax.Array]
RegularizerLike = str | Regularizer | None


def l1(rate: float = 0.01) -> Regularizer:
    """``rate * sum |w|``."""
    _check_factor("rate", rate)
    return lambda w: rate * jnp.sum(jnp.abs(w))


def l2(rate: float = 0.01) -> Regularizer:
    """``rate * sum w^2``."""
    _check_factor("rate", rate)
    return lambda w: rate * jnp.sum(jnp.square(w))


def l1_l2(l1: float = 0.0, l2: float = 0.0) -> Regularizer:
    """``l1 * sum |w| + l2 * sum w^2``."""
    _check_factor("l1", l1)
    _check_factor("l2", l2)
    return lambda w: l1 * jnp.sum(jnp.abs(w)) + l2 * jnp.sum(jnp.square(w))


def orthogonal(factor: float = 0.01, mode: str = "rows") -> Regularizer:
    """``factor`` times the mean of ``|cos(a, b)|`` over all pairs of rows of a matrix, or of columns.

    A matrix of a single row has no pairs, and the penalty 0.
    """
    _check_factor("factor", factor)
    if mode not in ("rows", "columns"):
        raise ValueError(f"mode: expected 'rows' or 'columns', got {mode!r}")

    def regularize(w: jax.Array) -> jax.Array:
        if w.ndim != 2:
            raise ValueError(f"orthogonal regularizer: expected a matrix, got shape {w.shape}")
        rows = w if mode == "rows" else w.T
        # Bounded below under the root, so that rows of zeros have a gradient.
        unit = rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(rows**2, axis=1, keepdims=True), 1e-14))
        count = rows.shape[0]
        cosines = (unit @ unit.T) * (1 - jnp.eye(count, dtype=w.dtype))
        return factor * jnp.sum(jnp.abs(cosines)) / max(count * (count - 1), 1)

    return regularize


_BY_NAME: dict[str, Callable[[], Regularizer]] = {
    "l1": l1,
    "l1_l2": lambda: l1_l2(0.01, 0.01),  # as Keras documents it; Keras 3.15's own lookup knows "l1l2" only, of rates 0
    "l2": l2,
    "orthogonal_regularizer": orthogonal,
}


def names() -> list[str]:
    """The known names, in alphabetical order."""
    return sorted(_BY_NAME)


def get(regularizer: RegularizerLike, argument: str = "regularizer") -> Regularizer | None:
    """The callable that ``regularizer`` (a name, for rates of 0.01, or a callable) stands for; ``None`` for ``None``.

    Raises:
      ValueError: for an unknown name, and
      TypeError: for anything else; both name ``argument``.
    """
    if regularizer is None or callable(regularizer):
        return regularizer
    return _checks.by_name(argument, regularizer, _BY_NAME, "regularizer", "a name, a callable or None")()


def penalty(
    params: Any, kernel: RegularizerLike = None, recurrent: RegularizerLike = None, bias: RegularizerLike = None
) -> jax.Array:
    """The sum of the regularizers of all weights of all recurrent layers in ``params``.

    Args:
      params: any tree of weights, such as those of a cell or of a stack, a linen model's ``params``, or
        ``nnx.to_pure_dict(nnx.state(model, nnx.Param))``, or that state itself. What other layers own does not count.
      kernel, recurrent, bias: the regularizers of ``kernel``, ``recurrent_kernel`` and ``bias``.

    Raises:
      ValueError: if there is no recurrent layer in ``params``.
    """
    regularizers = {
        "kernel": get(kernel, "kernel"),
        "recurrent_kernel": get(recurrent, "recurrent"),
        "bias": get(bias, "bias"),
    }
    total = jnp.zeros(())
    for name, weight in zip(weight_names(params), jax.tree.leaves(params), strict=True):
        regularize = regularizers.get(name)
        if regularize is not None:
            total += regularize(weight)
    return total


def activity(outputs: Any, regularizer: RegularizerLike) -> jax.Array:
    """The sum over ``outputs`` of ``regularizer(output) / B``, for Keras' ``activity_regularizer``.

    Args:
      outputs: an array ``(B, ...)`` or a tree of them. Keras counts whatever a layer returns, its states too.
      regularizer: a name or a callable; ``None`` for a sum of 0.
    """
    regularize = get(regularizer)
    total = jnp.zeros(())
    if regularize is not None:
        for output in jax.tree.leaves(outputs):
            total += regularize(output) / max(output.shape[0], 1)
    return total


def weight_names(params: Any) -> list[str]:
    """For each leaf of ``params`` its name, if it belongs to a recurrent layer, and ``""`` otherwise.

    A recurrent layer is where there is a ``recurrent_kernel``; what lies beside it is its own.

    Raises:
      ValueError: if there is no recurrent layer.
    """
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    layers = {path[:-1] for path in paths if path[-1:] == ("recurrent_kernel",)}
    if not layers:
        raise ValueError(f"params: expected weights of a recurrent layer, got {jax.tree.structure(params)}")
    return [str(path[-1]) if path[:-1] in layers else "" for path in paths]


def _names(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The keys, names and indices along ``path``, without that of the array in a box such as ``nnx.Param``."""
    names = tuple(getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path)
    return names[:-1] if names[-1:] == ("value",) else names


def _check_factor(argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{argument}: expected a finite number of at least 0, got {value!r}")
