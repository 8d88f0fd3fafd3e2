"""Several seeds that are trained at once: each has weights, keys, moments and an order of reviews of its own.

What belongs to several seeds has a first axis for them. What belongs to one has none, and is computed as it always is.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from experiments.reviews import Split
from experiments.training import Batch, State, Steps, batches, compile_steps, compiled, functions


def compile_all(
    models: Sequence[nnx.Module], optimizer: optax.GradientTransformation, mesh: Mesh | None = None
) -> tuple[State, Steps]:
    """The state of all ``models`` at the start of training, and the functions that change and judge it.

    Of several, training takes batches ``(S, B, T)``, evaluation ``(B, T)``; both return sums ``(S, 3)``.
    """
    if len(models) == 1:
        return compile_steps(models[0], optimizer, mesh)
    states, (one, *_) = zip(*(functions(model, optimizer) for model in models), strict=True)
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return compiled(state, Steps(jax.vmap(one.train), jax.vmap(one.evaluate, in_axes=(0, None))), mesh)


def epoch(train: Split, size: int, seeds: Sequence[int], epoch: int, done: int) -> Iterator[Batch]:
    """The batches of an epoch behind the first ``done``, in the order of each seed."""
    each = [
        batches(*train, size, np.random.default_rng((seed, epoch)).permutation(len(train.labels))[done * size :])
        for seed in seeds
    ]
    if len(each) == 1:
        return each[0]
    return (Batch(*map(np.stack, zip(*group, strict=True))) for group in zip(*each, strict=True))


def pick(new: Any, old: Any, is_new: Sequence[bool]) -> Any:
    """A copy of the ``new`` weights of those seeds, the ``old`` ones of the others."""
    if len(is_new) == 1:
        return jax.tree.map(jnp.copy, new) if is_new[0] else old
    if old is None:
        return jax.tree.map(jnp.copy, new)
    which = np.array(is_new)
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


def split(params: Any, seeds: int) -> list[Any]:
    """The weights of each seed."""
    if seeds == 1:
        return [params]
    return [jax.tree.map(lambda leaf, number=number: leaf[number], params) for number in range(seeds)]
