"""Several batch axes as one, for what takes no others."""

import math
from typing import Any

import jax

from flax_rnn.implementations.loop import Arrays


def one_batch_axis(arrays: Arrays, axes: int) -> Arrays:
    """``arrays`` ``(*batch, T, ...)`` with the first ``axes`` axes of those that have them as one; with none, as 1."""
    if axes == 1:
        return arrays

    def merge(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(math.prod(leaf.shape[:axes]), *leaf.shape[axes:]), tree)

    carry, x, masks, mask = map(merge, (arrays.carry, arrays.x, arrays.masks, arrays.mask))
    return arrays._replace(carry=carry, x=x, masks=masks, mask=mask)
