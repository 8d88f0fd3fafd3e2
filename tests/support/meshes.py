"""What tests of meshes share: arrays on them, results on one device, and a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


def randomized(tree: Any) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), tree)


def shard(mesh: Any, tree: Any, axis: int = 0) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, P(*[None] * axis, "data")))


def assert_sharded(mesh: Any, tree: Any, axis: int = 0) -> None:
    """Every device holds its part of the batch only."""
    for leaf in jax.tree.leaves(tree):
        expected = NamedSharding(mesh, P(*[None] * axis, "data"))
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (leaf.shape, leaf.sharding)


def alone(run: Callable[..., Any], *args: Any) -> Any:
    """The result without any mesh, on one device."""
    with jax.set_mesh(jax.make_mesh((1,), ("unused",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])):
        return jax.tree.map(np.asarray, jax.jit(run)(*args))


def loss_of(result: Any) -> Any:
    """``(loss, result)``; neighbouring numbers of the result do not have the same part in the loss."""
    return sum(jnp.sum(leaf * jnp.arange(leaf.shape[-1]) + leaf**2) for leaf in jax.tree.leaves(result)), result


def with_gradients(run: Callable[..., Any]) -> Callable[..., Any]:
    """``(gradients by the weights, result)``."""
    return jax.grad(lambda weights, *args: loss_of(run(weights, *args)), has_aux=True)
