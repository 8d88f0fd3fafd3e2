"""Convolutional LSTMs: the LSTM with convolutions for matrix products, over 1, 2 or 3 spatial axes.

Shapes: inputs ``(B, *S, C)``, output and state ``(B, *S', F)``. ``S`` are the spatial axes, ``C`` the channels, ``F``
the filters, and ``S'`` is what the convolution of the inputs makes of ``S``.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from flax_rnn import _checks, activations, initializers
from flax_rnn.cells.dense import Dtype, RecurrentWeights, accumulation_dtype
from flax_rnn.cells.dropout import DropoutMasks, draw_masks
from flax_rnn.cells.lstm import LSTMCell
from flax_rnn.cells.protocol import Affine, Dot, Params, dot

Sizes = int | tuple[int, ...]
"""One number per spatial axis, or one for all of them."""


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


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTMCell(LSTMCell):
    """Base of the convolutional LSTMs; the carry is ``LSTMCarry(h, c)``, both ``(B, *S', F)``.

    The equations are those of ``LSTMCell``, where for ``x @ K`` stands the convolution of the inputs, which the options
    below describe, and for ``h @ R`` that of the output, with strides of 1 and ``"same"`` padding. Weights are
    ``kernel`` ``(*kernel_size, C, 4 F)``, ``recurrent_kernel`` ``(*kernel_size, F, 4 F)`` and ``bias`` ``(4 F,)``.

    With dropout each gate has masks of its own, always, and these drop single numbers rather than whole channels.

    Attributes:
      filters: number F of output channels.
      kernel_size: of both convolutions.
      strides: of the convolution of the inputs.
      padding: of the convolution of the inputs, ``"valid"`` or ``"same"``.
      data_format: ``"channels_last"``, the only one.
      dilation_rate: of ``kernel``; ``recurrent_kernel`` is never dilated.

    Source: Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting",
    without its peepholes; ``keras.layers.ConvLSTM1D``, ``ConvLSTM2D`` and ``ConvLSTM3D``.
    """

    rank: ClassVar[int]
    # Of the inherited arguments, a class variable is none any more, and the other one is not the second any more.
    units: ClassVar[Any] = property(lambda self: self.filters)
    activation: activations.Activation = dataclasses.field(default="tanh", kw_only=True)

    filters: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    _: dataclasses.KW_ONLY
    data_format: str = "channels_last"
    dilation_rate: Sizes = 1

    def validate(self) -> None:
        """As ``LSTMCell.validate``, and the options of the convolutions."""
        _checks.positive_int("filters", self.filters)
        super().validate()
        for name in ("kernel_size", "strides", "dilation_rate"):
            self._sizes(name)
        if str(self.padding).lower() not in ("valid", "same"):
            raise ValueError(f"padding: expected 'valid' or 'same', got {self.padding!r}")
        if self.data_format != "channels_last":
            raise ValueError(
                f"data_format: expected 'channels_last' (jnp.moveaxis takes other inputs there), "
                f"got {self.data_format!r}"
            )

    @property
    def num_feature_axes(self) -> int:
        """The spatial axes and the channels."""
        return self.rank + 1

    def param_specs(self, in_features: int) -> dict[str, tuple[initializers.Initializer, tuple[int, ...]]]:
        """As ``DenseCell.param_specs``, with the window before the rows and columns of the kernels."""
        window = self._sizes("kernel_size")
        specs = super().param_specs(in_features)
        return {
            name: (initialize, shape if name == "bias" else (*window, *shape))
            for name, (initialize, shape) in specs.items()
        }

    def output_axes(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """``S'`` for inputs with the spatial axes ``S``.

        Raises:
          ValueError: if they are smaller than the window.
        """
        windows = zip(spatial, self._sizes("kernel_size"), self._sizes("dilation_rate"), strict=True)
        margins = [0 if self.padding.lower() == "same" else (size - 1) * rate for _, size, rate in windows]
        if any(n <= margin for n, margin in zip(spatial, margins, strict=True)):
            least = tuple(margin + 1 for margin in margins)
            raise ValueError(f"inputs: expected spatial axes of at least {least}, got {spatial}")
        strides = self._sizes("strides")
        return tuple(-(-(n - margin) // s) for n, margin, s in zip(spatial, margins, strides, strict=True))

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> DropoutMasks | None:
        """Masks ``(B, *S, C)`` and ``(B, *S', F)`` for a sequence whose steps are shaped like ``inputs``."""
        if not self.has_dropout:
            return None
        input_key, recurrent_key = jax.random.split(key)
        batch, spatial = inputs.shape[: -self.rank - 1], inputs.shape[-self.rank - 1 : -1]
        corner = inputs[(..., *(slice(1),) * (self.rank + 1))]
        outputs = jnp.broadcast_to(corner, (*batch, *self.output_axes(spatial), 1))
        return DropoutMasks(
            draw_masks(input_key, self.dropout, inputs, inputs.shape[-1], self.num_gates) if self.dropout > 0 else None,
            draw_masks(recurrent_key, self.recurrent_dropout, outputs, self.filters, self.num_gates)
            if self.recurrent_dropout > 0
            else None,
        )

    def project(
        self, params: Params, inputs: jax.Array, masks: DropoutMasks | None = None, dot: Dot = dot
    ) -> tuple[jax.Array, ...]:
        """The convolution of the inputs, and the bias, gate by gate: ``(..., *S, C)`` to four ``(..., *S', F)``.

        One convolution for the whole sequence, or one per gate where inputs are dropped.

        Raises:
          ValueError: if ``inputs`` lack spatial axes, or these are too small, or the channels are not those of
            ``kernel``.
          TypeError: if they are not real numbers.
        """
        if inputs.ndim <= self.rank:
            raise ValueError(
                f"inputs: expected {self.rank} spatial axes and the channels last, got shape {inputs.shape}"
            )
        self.output_axes(inputs.shape[-self.rank - 1 : -1])
        return super().project(params, inputs, masks, dot)

    @property
    def product_groups(self) -> tuple[int, ...]:
        """Every gate has a convolution of its own."""
        return (1,) * self.num_gates

    def recur(
        self, weights: RecurrentWeights, group: int, h: jax.Array, addends: Sequence[jax.Array], affine: Affine
    ) -> tuple[jax.Array, ...]:
        """The convolution of ``mask * h`` with ``recurrent_kernel``, ``+ addend``, for each gate."""
        del group, affine  # which is a matrix product
        narrow = weights.kernels[0].dtype
        dtype, h = accumulation_dtype(narrow), h.astype(narrow)
        masked = [h] * self.num_gates if weights.masks is None else [h * mask for mask in weights.masks]
        return tuple(
            convolve_state(self.precision, dtype, one, kernel) + addend.astype(dtype)
            for one, kernel, addend in zip(masked, weights.kernels, addends, strict=True)
        )

    def _dot(self, x: jax.Array, kernel: jax.Array, gates: int, dot: Dot) -> Sequence[jax.Array]:
        del dot  # which is a matrix product
        strides, dilation_rate = self._sizes("strides"), self._sizes("dilation_rate")
        return jnp.split(convolve(x, kernel, strides, self.padding, dilation_rate, self.precision), gates, -1)

    def _sizes(self, name: str) -> tuple[int, ...]:
        """The argument ``name``, with one number per spatial axis."""
        value = getattr(self, name)
        sizes = value if isinstance(value, tuple) else (value,) * self.rank
        wrong = any(isinstance(size, bool) or not isinstance(size, Integral) or size <= 0 for size in sizes)
        if wrong or len(sizes) != self.rank:
            raise ValueError(f"{name}: expected a positive integer or a tuple of {self.rank} of them, got {value!r}")
        return sizes


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM1DCell(ConvLSTMCell):
    """A ``ConvLSTMCell`` over one spatial axis: inputs ``(B, S, C)``."""

    rank: ClassVar[int] = 1


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM2DCell(ConvLSTMCell):
    """A ``ConvLSTMCell`` over two spatial axes: inputs ``(B, S_1, S_2, C)``."""

    rank: ClassVar[int] = 2


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM3DCell(ConvLSTMCell):
    """A ``ConvLSTMCell`` over three spatial axes: inputs ``(B, S_1, S_2, S_3, C)``."""

    rank: ClassVar[int] = 3
