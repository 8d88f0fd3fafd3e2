"""The convolutions of a convolutional LSTM: that of the inputs, ahead of the loop, and that of the state within it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from flax_rnn.cells.arguments import Dtype


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, ...],
    padding: str,
    dilation_rate: tuple[int, ...],
    precision: jax.lax.PrecisionLike = None,
    dtype: Dtype | None = None,
    kernel_axes: str = "IO",
) -> jax.Array:
    """``x`` ``(..., *S, C)`` and ``kernel`` ``(*K, C, F)`` to ``(..., *S', F)``, summed in ``dtype``.

    Where ``kernel_axes`` are ``"OI"``, ``kernel`` is ``(*K, F, C)``.
    """
    rank = kernel.ndim - 2
    batch, features = x.shape[: -rank - 1], x.shape[-rank - 1 :]
    # All batch axes become one, time among them. The last has to be the outermost of it, since it may be sharded.
    x = jnp.moveaxis(x, len(batch) - 1, 0) if batch else x
    outer = x.shape[: len(batch)]
    axes = "DHW"[-rank:]
    y = jax.lax.conv_general_dilated(
        x.reshape(math.prod(batch), *features),
        kernel,
        strides,
        padding.upper(),
        rhs_dilation=dilation_rate,
        dimension_numbers=(f"N{axes}C", axes + kernel_axes, f"N{axes}C"),
        precision=precision,
        preferred_element_type=dtype,
    )
    y = y.reshape(*outer, *y.shape[1:])
    return jnp.moveaxis(y, 0, len(batch) - 1) if batch else y


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def convolve_state(precision: Any, dtype: Dtype, h: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution within the loop: ``h`` ``(..., *S, F)`` to the same shape; strides of 1, ``"same"`` padding."""
    ones = (1,) * (kernel.ndim - 2)
    return convolve(h, kernel, ones, "same", ones, precision, dtype)


@functools.partial(convolve_state.defjvp, symbolic_zeros=True)
def _convolve_state_jvp(precision: Any, dtype: Dtype, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # XLA's convolutions on CPUs are fast within a loop only if the kernel's axes are in the order "IO". Transposed for
    # the backward pass, the term of `h` has them in the order opposite to that here.
    (h, kernel), (d_h, d_kernel) = primals, tangents
    ones = (1,) * (kernel.ndim - 2)
    result = convolve_state(precision, dtype, h, kernel)
    tangent = jnp.zeros_like(result)
    if not isinstance(d_h, SymbolicZero):
        tangent += convolve(d_h, kernel.swapaxes(-1, -2), ones, "same", ones, precision, dtype, "OI")
    if not isinstance(d_kernel, SymbolicZero):
        tangent += convolve(h, d_kernel, ones, "same", ones, precision, dtype)
    return result, tangent
