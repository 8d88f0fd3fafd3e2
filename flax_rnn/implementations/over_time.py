"""The loop itself: ``jax.lax.scan``, in the form that suits a CPU, and in the one that suits a GPU.

On a GPU a step costs what it launches, as long as layers are small: two kernels, the product with the recurrent weights
and all the rest, are enough. But XLA has a kernel more for each array of which all steps are kept, and one to count the
steps; an LSTM in training launches ten. So for a GPU some steps are one iteration of the loop, and all that they leave
behind, whatever has the same shape, is one array, which one kernel writes. ``benchmarks.launches`` counts.

On a CPU nothing is launched, and joining arrays would cost a copy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn import target
from flax_rnn.implementations.options import SequenceOptions

Step = Callable[[Any, Any], tuple[Any, Any]]
"""``(carry, x) -> (carry, y)``."""

_STEPS = 8
"""In an iteration on a GPU: of what it launches for all of them, an eighth is left to each."""


def over_time(
    step: Step, carry: Any, xs: Any, options: SequenceOptions, reverse: bool, apart: bool = True
) -> tuple[Any, Any]:
    """``(last carry, ys)`` of all steps.

    Args:
      step: what is done at each.
      carry: to start from.
      xs: what comes in, time axis first.
      options: of the loop, for ``unroll``.
      reverse: whether to start at the last step.
      apart: whether XLA may not compute a part of a step within another one on a GPU. Carries would be put together
        again from those of all steps before; gradients of carries are, at less launches.
    """
    if not target.launches():
        return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=options.unroll or 1)
    joined = _Joined()

    def joining(carry: Any, x: Any) -> tuple[Any, Any]:
        carry, y = step(jax.lax.optimization_barrier(carry) if apart else carry, x)
        return carry, joined.join(y)

    carry, rows = jax.lax.scan(joining, carry, xs, reverse=reverse, unroll=options.unroll or _STEPS)
    return carry, joined.split(rows)


def with_carries(
    step: Step, carry: Any, xs: Any, options: SequenceOptions, reverse: bool, apart: bool = True
) -> tuple[Any, Any, Any]:
    """``(last carry, ys, carries ahead of all steps)``; see ``over_time``."""
    if not target.launches():

        def keeping(carry: Any, x: Any) -> tuple[Any, Any]:
            new, y = step(carry, x)
            return new, (y, carry)

        last, (ys, carries) = over_time(keeping, carry, xs, options, reverse)
        return last, ys, carries

    def handing_on(carry: Any, x: Any) -> tuple[Any, Any]:
        # The new carry is often an output, too, and XLA would copy the old one to outlast it.
        new, y = step(carry, x)
        return new, (y, new)

    last, (ys, behind) = over_time(handing_on, carry, xs, options, reverse, apart)
    return last, ys, jax.tree.map(lambda first, others: _shifted(first, others, reverse), carry, behind)


def _shifted(first: jax.Array, others: jax.Array, reverse: bool) -> jax.Array:
    """What was ahead of each step, from what was behind it."""
    return jnp.concatenate([others[1:], first[None]] if reverse else [first[None], others[:-1]])


class _Joined:
    """Arrays of a step as few arrays ``(n, *shape)``, and back from those of all steps ``(T, n, *shape)``."""

    def join(self, tree: Any) -> list[jax.Array]:
        """What is there twice goes in once, and half precision as float32, which has all its values."""
        leaves, self._tree = jax.tree.flatten(tree)
        self._dtypes = [leaf.dtype for leaf in leaves]
        groups: dict[Any, list[jax.Array]] = {}
        self._places: list[tuple[Any, int]] = []
        for leaf in leaves:
            key = leaf.shape, _wide(leaf.dtype)
            group = groups.setdefault(key, [])
            place = next((index for index, other in enumerate(group) if other is leaf), len(group))
            if place == len(group):
                group.append(leaf)
            self._places.append((key, place))
        self._keys = [*groups]
        return [jnp.stack([leaf.astype(dtype) for leaf in group]) for (_, dtype), group in groups.items()]

    def split(self, rows: Sequence[jax.Array]) -> Any:
        """The tree of arrays of all steps."""
        found = dict(zip(self._keys, rows, strict=True))
        leaves = [found[key][:, place] for key, place in self._places]
        typed = [leaf.astype(dtype) for leaf, dtype in zip(leaves, self._dtypes, strict=True)]
        return jax.tree.unflatten(self._tree, typed)


def _wide(dtype: Any) -> Any:
    half = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize == 2
    return jnp.dtype(jnp.float32) if half else dtype
