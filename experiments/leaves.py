"""Trees of arrays as numbers by name, for disks and other processes, and back."""

import io
import json
from typing import Any

import jax
import numpy as np


def numbers(tree: Any) -> dict[str, np.ndarray]:
    """The numbers of each leaf; of one that several devices have, those of the first."""
    return {name: _plain(leaf) for name, leaf in _flatten(tree)}


def as_like(flat: dict[str, np.ndarray], like: dict[str, Any]) -> dict[str, Any]:
    """The inverse: the leaves of those parts of ``like`` that there are.

    Raises:
      ValueError: if they are of something else.
    """
    parts = {name: part for name, part in like.items() if any(one.startswith(f"['{name}']") for one in flat)}
    names = [name for name, _ in _flatten(parts)]
    if {*names} != {*flat}:
        raise ValueError(f"expected arrays {names}, got {[*flat]}")
    leaves = [_as(flat[name], leaf) for name, leaf in _flatten(parts)]
    return jax.tree.unflatten(jax.tree.structure(parts), leaves)


def pack(tree: dict[str, Any], about: dict[str, Any]) -> bytes:
    """A tree, and what goes with it as JSON."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **numbers(tree))
    return file.getvalue()


def unpack(content: bytes, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse; see ``as_like``."""
    with np.load(io.BytesIO(content)) as file:
        flat = dict(file)
    about = json.loads(str(flat.pop("about")))
    return as_like(flat, like), about


def _flatten(tree: Any) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        leaf = leaf.addressable_data(0)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _as(value: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))  # pyright: ignore (an array of numbers)
    if value.shape != like.shape or value.dtype != like.dtype:
        raise ValueError(f"expected {like.dtype}{list(like.shape)}, got {value.dtype}{list(value.shape)}")
    return jax.numpy.asarray(value)
