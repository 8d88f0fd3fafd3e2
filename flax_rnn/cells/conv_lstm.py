"""Convolutional LSTMs: the LSTM with convolutions for matrix products, over 1, 2 or 3 spatial axes.

Shapes: inputs ``(B, *S, C)``, output and state ``(B, *S', F)``. ``S`` are the spatial axes, ``C`` the channels, ``F``
the filters, and ``S'`` is what the convolution of the inputs makes of ``S``.
"""

import dataclasses
from collections.abc import Sequence
from numbers import Integral
from typing import ClassVar

import jax
import jax.numpy as jnp

from flax_rnn import activations, initializers
from flax_rnn._docstrings import describe
from flax_rnn.cells.arguments import CellArguments
from flax_rnn.cells.convolutions import convolve, convolve_state
from flax_rnn.cells.dense import RecurrentWeights, accumulation_dtype
from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.lstm import LSTMEquations, LSTMGates
from flax_rnn.cells.protocol import Affine, Dot, Params, dot

Sizes = int | tuple[int, ...]
"""One number per spatial axis, or one for all of them."""


@dataclasses.dataclass(unsafe_hash=True)
class Window:
    """The arguments that come first, and may go without a name, and the other ones of the convolutions.

    Attributes:
      filters: number F of channels of output and state.
      kernel_size: of both convolutions; one number for each spatial axis, or one for all of them.
      strides: of the convolution of the inputs; likewise.
      padding: of the convolution of the inputs, ``"valid"`` or ``"same"``.
      data_format: ``"channels_last"``, the only one.
      dilation_rate: of ``kernel``, where ``strides`` are 1; likewise. ``recurrent_kernel`` is never dilated.
      activation: of ``g`` and of the new memory: a name as in Keras, see ``flax_rnn.activations``, a callable
        ``array -> array`` or ``None`` (linear).
    """

    filters: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: str = "valid"
    _: dataclasses.KW_ONLY
    data_format: str = "channels_last"
    dilation_rate: Sizes = 1
    activation: activations.Activation = "tanh"


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTMArguments(LSTMGates, CellArguments, Window):
    """The arguments of a ``ConvLSTMCell``: those of ``Window``, ``LSTMGates`` and ``CellArguments``."""

    rank: ClassVar[int]

    def validate(self) -> None:
        """As for every cell, and the options of the convolutions."""
        super().validate()
        for name in ("kernel_size", "strides", "dilation_rate"):
            self.sizes(name)
        if max(self.sizes("strides")) > 1 and max(self.sizes("dilation_rate")) > 1:
            raise ValueError(
                f"strides, dilation_rate: expected at most one of them above 1, got {self.strides} and "
                f"{self.dilation_rate}"
            )
        if str(self.padding).lower() not in ("valid", "same"):
            raise ValueError(f"padding: expected 'valid' or 'same', got {self.padding!r}")
        if self.data_format != "channels_last":
            raise ValueError(
                f"data_format: expected 'channels_last' (jnp.moveaxis takes other inputs there), "
                f"got {self.data_format!r}"
            )

    def sizes(self, name: str) -> tuple[int, ...]:
        """The argument ``name``, with one number per spatial axis."""
        value = getattr(self, name)
        sizes = value if isinstance(value, tuple) else (value,) * self.rank
        wrong = any(isinstance(size, bool) or not isinstance(size, Integral) or size <= 0 for size in sizes)
        if wrong or len(sizes) != self.rank:
            raise ValueError(f"{name}: expected a positive integer or a tuple of {self.rank} of them, got {value!r}")
        return sizes


class ConvLSTM1DArguments(ConvLSTMArguments):
    """The arguments of a ``ConvLSTM1DCell``."""

    rank: ClassVar[int] = 1


class ConvLSTM2DArguments(ConvLSTMArguments):
    """The arguments of a ``ConvLSTM2DCell``."""

    rank: ClassVar[int] = 2


class ConvLSTM3DArguments(ConvLSTMArguments):
    """The arguments of a ``ConvLSTM3DCell``."""

    rank: ClassVar[int] = 3


@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTMCell(LSTMEquations, ConvLSTMArguments):
    """Base of the convolutional LSTMs.

    Inputs are ``(B, *S, C)``, with spatial axes ``S`` and channels ``C``. The carry is ``LSTMCarry(h, c)``, both
    ``(B, *S', F)``, where ``S'`` is what the convolution of the inputs makes of ``S``. With ``K`` for ``kernel``, ``R``
    for ``recurrent_kernel``, ``b`` for ``bias``, their last axis in the order i, f, g, o, and ``conv`` and ``same`` for
    the convolutions::

        i = recurrent_activation(conv(x, K_i) + same(h, R_i) + b_i)
        f = recurrent_activation(conv(x, K_f) + same(h, R_f) + b_f)
        g = activation(conv(x, K_g) + same(h, R_g) + b_g)
        o = recurrent_activation(conv(x, K_o) + same(h, R_o) + b_o)
        c' = f * c + i * g
        h' = o * activation(c')

    ``strides``, ``padding`` and ``dilation_rate`` are those of ``conv``; ``same`` has strides of 1 and ``"same"``
    padding. With dropout each gate has masks of its own, always, and these drop single numbers rather than channels.

    Weights:
      kernel: ``(*kernel_size, C, 4 F)``
      recurrent_kernel: ``(*kernel_size, F, 4 F)``
      bias: ``(4 F,)``, where ``use_bias``

    Source: Shi et al. 2015, "Convolutional LSTM Network: A Machine Learning Approach for Precipitation Nowcasting",
    without its peepholes; ``keras.layers.ConvLSTM1D``, ``ConvLSTM2D`` and ``ConvLSTM3D``.
    """

    @property
    def units(self) -> int:
        """The number of filters."""
        return self.filters

    @property
    def num_feature_axes(self) -> int:
        """The spatial axes and the channels."""
        return self.rank + 1

    def param_specs(self, in_features: int) -> dict[str, tuple[initializers.Initializer, tuple[int, ...]]]:
        """As ``DenseCell.param_specs``, with the window before the rows and columns of the kernels."""
        window = self.sizes("kernel_size")
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
        windows = zip(spatial, self.sizes("kernel_size"), self.sizes("dilation_rate"), strict=True)
        margins = [0 if self.padding.lower() == "same" else (size - 1) * rate for _, size, rate in windows]
        if any(n <= margin for n, margin in zip(spatial, margins, strict=True)):
            least = tuple(margin + 1 for margin in margins)
            raise ValueError(f"inputs: expected spatial axes of at least {least}, got {spatial}")
        strides = self.sizes("strides")
        return tuple(-(-(n - margin) // s) for n, margin, s in zip(spatial, margins, strides, strict=True))

    def mask_shapes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """``(B, *S, C)`` and ``(B, *S', F)``."""
        batch, spatial = input_shape[: -self.rank - 1], input_shape[-self.rank - 1 : -1]
        return tuple(input_shape), (*batch, *self.output_axes(tuple(spatial)), self.filters)

    @property
    def input_mask_count(self) -> int:
        """One for each gate, always."""
        return self.num_gates

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

    projected_like = LSTMEquations.projected_like

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
        strides, dilation_rate = self.sizes("strides"), self.sizes("dilation_rate")
        return jnp.split(convolve(x, kernel, strides, self.padding, dilation_rate, self.precision), gates, -1)


@describe
@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM1DCell(ConvLSTMCell, ConvLSTM1DArguments):
    """One step of an LSTM with convolutions over one spatial axis: inputs ``(B, S, C)``."""


@describe
@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM2DCell(ConvLSTMCell, ConvLSTM2DArguments):
    """One step of an LSTM with convolutions over two spatial axes: inputs ``(B, S_1, S_2, C)``."""


@describe
@dataclasses.dataclass(unsafe_hash=True)
class ConvLSTM3DCell(ConvLSTMCell, ConvLSTM3DArguments):
    """One step of an LSTM with convolutions over three spatial axes: inputs ``(B, S_1, S_2, S_3, C)``."""
