"""What a ``precision`` means for products of float32 on a GPU."""

from typing import Any

import jax


def allows_tf32(precision: jax.lax.PrecisionLike) -> bool | None:
    """Whether products may round their operands to TF32; ``None`` where an algorithm is named that is neither.

    Where ``precision`` is ``None`` it is what ``jax_default_matmul_precision`` says.
    """
    config: Any = jax.config
    chosen = config.jax_default_matmul_precision if precision is None else precision
    if chosen is None:
        return True
    try:
        return jax.lax.Precision(chosen) is not jax.lax.Precision.HIGHEST
    except ValueError:
        return None
