"""Functions with a backward pass of their own, which can be differentiated again all the same.

A foreign function, such as a kernel, can be differentiated by nobody. Who has one for the forward pass and one for the
backward pass makes one function of them here; its second derivative is that of other code with the same values.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def differentiable(
    forward: Callable[[Any, Any, bool], tuple[Any, Any]],
    backward: Callable[[Any, Any, Any, Any], Any],
    reference: Callable[[Any, Any], Any],
) -> Callable[[Any, Any], Any]:
    """``(fixed, arrays) -> result``, for what is ``fixed`` and can be hashed, and a tree of arrays.

    Args:
      forward: ``(fixed, arrays, keep) -> (result, saved)``, ``saved`` being whatever the backward pass needs; where
        ``keep`` is not set, nobody asks for that.
      backward: ``(fixed, arrays, saved, cotangents of the result) -> gradients``, in the form of ``floats(arrays)``.
      reference: ``(fixed, arrays) -> result``, in code that jax differentiates.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def plain(fixed: Any, arrays: Any) -> Any:
        return forward(fixed, arrays, False)[0]

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def keeping(fixed: Any, arrays: Any) -> tuple[Any, Any]:
        return forward(fixed, arrays, True)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    @functools.partial(jax.jit, static_argnums=0)  # which drops what nobody asks for
    def gradients(fixed: Any, arrays: Any, saved: Any, cotangents: Any) -> Any:
        return backward(fixed, arrays, saved, cotangents)

    def plain_forward(fixed: Any, arrays: Any) -> tuple[Any, Any]:
        kept: Any = keeping(fixed, arrays)
        return kept[0], (arrays, kept[1])

    def plain_backward(fixed: Any, residuals: Any, cotangents: Any) -> tuple[Any]:
        return (gradients(fixed, *residuals, cotangents),)

    def keeping_forward(fixed: Any, arrays: Any) -> tuple[Any, Any]:
        kept: Any = keeping(fixed, arrays)
        return kept, (arrays, kept[1])

    def keeping_backward(fixed: Any, residuals: Any, cotangents: Any) -> tuple[Any]:
        return plain_backward(fixed, residuals, cotangents[0])  # ``saved`` goes nowhere else

    def gradients_forward(fixed: Any, arrays: Any, saved: Any, cotangents: Any) -> tuple[Any, Any]:
        return gradients(fixed, arrays, saved, cotangents), (arrays, cotangents)

    def gradients_backward(fixed: Any, residuals: Any, d_gradients: Any) -> tuple[Any, None, Any]:
        arrays, cotangents = residuals

        def again(some: Any, cotangents: Any) -> Any:
            _, pull = jax.vjp(lambda some: reference(fixed, merged(arrays, some)), some)
            return pull(cotangents)[0]

        _, pull = jax.vjp(again, floats(arrays), cotangents)
        d_arrays, d_cotangents = pull(d_gradients)
        return d_arrays, None, d_cotangents

    # Forward rules call what has a rule itself, since whoever differentiates twice differentiates them.
    plain.defvjp(plain_forward, plain_backward)
    keeping.defvjp(keeping_forward, keeping_backward)
    gradients.defvjp(gradients_forward, gradients_backward)
    return plain


def floats(tree: Any) -> Any:
    """``tree`` with ``None`` for what has no derivative: booleans, integers, keys."""
    return jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, tree)


def merged(tree: Any, some: Any) -> Any:
    """``tree`` with the leaves that there are in ``some``, as ``floats`` makes it."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, tree, some)
