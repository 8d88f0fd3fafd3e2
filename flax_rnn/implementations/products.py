"""Products over whole sequences whose backward pass is fast on CPUs, too.

The gradient of ``kernel`` in ``x @ kernel`` is ``x^T @ cotangent``, summed over all steps and sequences. XLA's product
with a transposed matrix on the left takes twice as long on a CPU as one with a matrix that lies transposed in memory,
which jax's own rule for the product cannot be made to ask for.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding

from flax_rnn.cells.protocol import dot as plain_dot


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dot(x: jax.Array, kernel: jax.Array, blocks: int, precision: jax.lax.PrecisionLike = None) -> tuple[jax.Array, ...]:
    """As ``flax_rnn.cells.protocol.dot``."""
    return plain_dot(x, kernel, blocks, precision)


def _dot_forward(x: jax.Array, kernel: jax.Array, blocks: int, precision: Any) -> tuple[Any, Any]:
    return plain_dot(x, kernel, blocks, precision), (x, kernel)


def _dot_backward(blocks: int, precision: Any, residuals: tuple[jax.Array, jax.Array], cotangent: Any) -> Any:
    x, kernel = residuals
    d_x = [
        jnp.tensordot(d, block, ((-1,), (1,)), precision=precision, out_sharding=_sharding(x, d))
        for d, block in zip(cotangent, jnp.split(kernel, blocks, -1), strict=True)
    ]
    return sum(d_x[1:], start=d_x[0]), kernel_gradient(kernel, x, cotangent, precision)


dot.defvjp(_dot_forward, _dot_backward)


def kernel_gradient(
    kernel: jax.Array, x: jax.Array, cotangent: Any, precision: jax.lax.PrecisionLike = None
) -> jax.Array:
    """The gradient of ``kernel`` ``(N, M)`` in ``x @ kernel``, for ``x`` ``(..., N)``.

    ``cotangent`` is ``(..., M)``, or a tuple of blocks of its columns. For a ``kernel`` ``(n, N, M)`` it has ``n`` of
    them, and ``x`` is ``(T, n, ..., N)``; see ``Affine``.
    """
    blocks = cotangent if isinstance(cotangent, tuple) else (cotangent,)
    if kernel.ndim == 3:
        each = enumerate(blocks)
        return jnp.stack([kernel_gradient(kernel[index], x[:, index], block, precision) for index, block in each])
    transposed = jax.lax.platform_dependent(
        jnp.moveaxis(x, -1, 0), cpu=jax.lax.optimization_barrier, default=lambda same: same
    )
    others = range(x.ndim - 1)
    axes = [axis + 1 for axis in others], [*others]
    gradients = [
        jnp.tensordot(transposed, block, axes, precision=precision, out_sharding=_sharding(kernel, block))
        for block in blocks
    ]
    return jnp.concatenate(gradients, -1).astype(kernel.dtype)


def _sharding(like: jax.Array, cotangent: jax.Array) -> Any:
    """How to lay out a gradient of ``like``, where that is a matter of types: on a mesh with explicit axes."""
    mesh: Any = jax.typeof(cotangent).sharding.mesh
    if AxisType.Explicit not in mesh.axis_types:
        return None
    return NamedSharding(mesh, jax.typeof(like).sharding.spec)
