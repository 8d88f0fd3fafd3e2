"""Checks of what users pass in: each error names the argument, what was expected and what came."""

import dataclasses
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def positive_int(argument: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is an integer above 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value <= 0:
        raise ValueError(f"{argument}: expected a positive integer, got {value!r}")


def rate(argument: str, value: Any) -> None:
    """Raises ``ValueError`` unless ``value`` is a dropout rate in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ValueError(f"{argument}: expected a rate in [0, 1), got {value!r}")


def by_name(argument: str, name: Any, table: Mapping[str, T], kind: str, accepted: str) -> T:
    """The entry of ``table`` that ``name`` stands for; ``kind`` says what it has, ``accepted`` what else would do.

    Raises:
      TypeError: if ``name`` is not a string, and
      ValueError: if it is unknown.
    """
    if not isinstance(name, str):
        raise TypeError(f"{argument}: expected {accepted}, got {name!r}")
    if name not in table:
        raise ValueError(f"{argument}: unknown {kind} {name!r}; known are {', '.join(sorted(table))}")
    return table[name]


def last_axis(argument: str, value: jax.Array, size: int) -> None:
    """Raises ``ValueError`` unless the last axis of ``value`` has ``size`` features."""
    if value.ndim == 0 or value.shape[-1] != size:
        got = value.shape[-1] if value.ndim else "a scalar"
        raise ValueError(f"{argument}: expected {size} features in the last axis, got {got}")


def floating(argument: str, value: Any) -> None:
    """Raises ``TypeError`` for arrays that are not real numbers, such as booleans or complex numbers."""
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"{argument}: expected real numbers, got dtype {value.dtype}")


def booleans(argument: str, value: Any) -> jax.Array:
    """``value`` as an array; raises ``TypeError`` unless it holds booleans."""
    value = jnp.asarray(value)
    if value.dtype != jnp.bool_:
        raise TypeError(f"{argument}: expected booleans, got dtype {value.dtype}")
    return value


def carry_like(argument: str, expected: Any, given: Any) -> Any:
    """``given`` in the container types of ``expected``, its arrays as they are.

    Any sequence may stand for a tuple or a list, and ``[h]`` for ``h``, so what Keras takes is accepted.

    Raises:
      ValueError: where the structure or a shape differs.
      TypeError: where an array does not hold the same kind of numbers.
    """

    def convert(expected: Any, given: Any, where: str) -> Any:
        if isinstance(expected, tuple | list):
            if not isinstance(given, tuple | list) or len(given) != len(expected):
                fail(where)
            names = getattr(expected, "_fields", range(len(expected)))
            parts = [
                convert(e, g, f"{where}.{name}" if isinstance(name, str) else f"{where}[{name}]")
                for name, e, g in zip(names, expected, given, strict=True)
            ]
            return type(expected)(*parts) if hasattr(expected, "_fields") else type(expected)(parts)
        if isinstance(expected, dict):
            if not isinstance(given, dict) or {*given} != {*expected}:
                fail(where)
            return {key: convert(value, given[key], f"{where}[{key!r}]") for key, value in expected.items()}
        if not hasattr(expected, "dtype"):  # any other node, down to its children
            children, tree = jax.tree.flatten(expected, is_leaf=lambda node: node is not expected)
            others, other = jax.tree.flatten(given, is_leaf=lambda node: node is not given)
            if tree != other:
                fail(where)
            parts = [convert(e, g, f"{where}[{i}]") for i, (e, g) in enumerate(zip(children, others, strict=True))]
            return jax.tree.unflatten(tree, parts)
        leaf: Any = given[0] if isinstance(given, tuple | list) and len(given) == 1 else given
        if not hasattr(leaf, "shape") or tuple(leaf.shape) != tuple(expected.shape):
            fail(where)
        if _kind(leaf.dtype) != _kind(expected.dtype):
            raise TypeError(f"{where}: expected {_kind(expected.dtype)}, got dtype {leaf.dtype}")
        return leaf

    def fail(where: str) -> NoReturn:
        raise ValueError(
            f"{argument}: expected {describe(expected)}, got {describe(given)}"
            + (f" (they differ at {where})" if where != argument else "")
        )

    return convert(expected, given, argument)


def cast_like(leaf: Any, like: jax.Array) -> jax.Array:
    """``leaf`` in the dtype of ``like``, which is of the same kind; keys are as they are."""
    return leaf if jnp.issubdtype(like.dtype, jax.dtypes.prng_key) else jnp.asarray(leaf, like.dtype)


def _kind(dtype: Any) -> str:
    kinds = {
        jnp.floating: "floating-point numbers",
        jnp.complexfloating: "complex numbers",
        jnp.integer: "integers",
        jnp.bool_: "booleans",
        jax.dtypes.prng_key: "keys",
    }
    return next((words for kind, words in kinds.items() if jnp.issubdtype(dtype, kind)), f"dtype {dtype}")


def describe(tree: Any) -> str:
    """Shapes and dtypes of a carry in one line, such as ``LSTMCarry(h=float32(2, 3), c=float32(2, 3))``."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        fields: tuple[str, ...] = tree._fields  # pyright: ignore[reportAttributeAccessIssue]
        return f"{type(tree).__name__}({', '.join(f'{n}={describe(v)}' for n, v in zip(fields, tree, strict=True))})"
    if isinstance(tree, tuple | list):
        inside = ", ".join(describe(v) for v in tree)
        return f"[{inside}]" if isinstance(tree, list) else f"({inside}{',' if len(tree) == 1 else ''})"
    if isinstance(tree, dict):
        return f"{{{', '.join(f'{key!r}: {describe(value)}' for key, value in tree.items())}}}"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}{tuple(tree.shape)}"
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inside = ", ".join(f"{f.name}={describe(getattr(tree, f.name))}" for f in dataclasses.fields(tree))
        return f"{type(tree).__name__}({inside})"
    return repr(tree)
