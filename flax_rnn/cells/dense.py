"""The common part of the built-in cells: weights, dropout masks, and the two matrix products of a step."""

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from flax_rnn import _checks, activations, initializers, target
from flax_rnn.cells.arguments import CellArguments, Dtype
from flax_rnn.cells.dropout import DropoutMasks, draw_masks
from flax_rnn.cells.protocol import Affine, Cell, Dot, Params, affine, dot


def accumulation_dtype(dtype: Dtype) -> Dtype:
    """The dtype of sums and of state that is integrated over time: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


class RecurrentWeights(NamedTuple):
    """The prepared weights of a dense cell.

    Attributes:
      kernels: blocks of ``recurrent_kernel``, one for each of ``DenseCell.product_groups``; with masks one per gate,
        or, where each product is launched by itself, those of a group as one array ``(n, H, H)``.
      masks: the dropout mask of each gate, or ``(n, B, H)`` of each group.
      bias: what has to be added within the loop.
    """

    kernels: tuple[jax.Array, ...]
    masks: tuple[jax.Array, ...] | None
    bias: jax.Array | None


class DenseCell(CellArguments, Cell):
    """Base of the cells whose gates are ``x @ kernel + h @ recurrent_kernel + bias``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax_rnn import {name}, rnn
      >>> cell = {name}({H})
      >>> params = cell.init_params(jax.random.key(0), 3)  # for 3 features
      >>> x = jnp.ones({x})  # 2 sequences of 5 steps
      >>> rnn(cell, params, x, return_sequences=True).shape
      {y}
    """

    num_gates: ClassVar[int] = 1
    units: Any  # an argument of most cells
    activation: activations.Activation

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__mro__:
            if "projected_like" in vars(base):
                break
            if "project" in vars(base):  # a projection of its own may have other shapes
                cls.projected_like = Cell.projected_like
                break

    @classmethod
    def of(cls, source: Any) -> Self:
        """The cell with the attributes of the same names of ``source`` for hyper-parameters, which has checked them."""
        cell = object.__new__(cls)
        for field in dataclasses.fields(cls):
            setattr(cell, field.name, getattr(source, field.name))
        return cell

    @property
    def has_dropout(self) -> bool:
        """Whether training needs a key."""
        return self.dropout > 0 or self.recurrent_dropout > 0

    @property
    def product_groups(self) -> tuple[int, ...]:
        """How many gates, one after the other, are one product with the state unless each drops its own."""
        return (self.num_gates,)

    def output_size(self, in_features: int) -> int:
        """``units``."""
        del in_features
        return self.units

    def bias_shape(self) -> tuple[int, ...]:
        """Shape of ``bias``."""
        return (self.num_gates * self.units,)

    def param_specs(self, in_features: int) -> dict[str, tuple[initializers.Initializer, tuple[int, ...]]]:
        """Initializer and shape of each weight, in Keras' order: ``kernel``, ``recurrent_kernel``, ``bias``."""
        columns = self.num_gates * self.units
        specs: dict[str, tuple[initializers.Initializer, tuple[int, ...]]] = {
            "kernel": (initializers.get(self.kernel_initializer), (in_features, columns)),
            "recurrent_kernel": (initializers.get(self.recurrent_initializer), (self.units, columns)),
        }
        if self.use_bias:
            specs["bias"] = (self._bias_initializer(), self.bias_shape())
        return specs

    def init_params(self, key: jax.Array, in_features: int) -> dict[str, jax.Array]:
        """Fresh weights ``{"kernel", "recurrent_kernel"[, "bias"]}``."""
        _checks.positive_int("in_features", in_features)
        return super().init_params(key, in_features)

    def mask_shapes(self, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of a dropout mask of the inputs, and of one of the state, for a step of inputs of ``input_shape``."""
        return tuple(input_shape), (*input_shape[:-1], self.units)

    @property
    def input_mask_count(self) -> int:
        """How many masks of the inputs are drawn: one for all gates, or one for each."""
        return self.num_gates if self.recurrent_dropout > 0 else 1

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> DropoutMasks | None:
        """Masks for a sequence whose steps are shaped like ``inputs`` ``(B, D)``; ``None`` if nothing is dropped."""
        if not self.has_dropout:
            return None
        input_key, recurrent_key = jax.random.split(key)
        _, (*axes, units) = self.mask_shapes(inputs.shape)
        # The state has the batch axes, and so their sharding, of the inputs.
        corner = inputs[(..., *(slice(1),) * self.num_feature_axes)]
        state = jnp.broadcast_to(corner, (*axes, 1))
        count, gates = self.input_mask_count, self.num_gates
        return DropoutMasks(
            draw_masks(input_key, self.dropout, inputs, inputs.shape[-1], count) if self.dropout > 0 else None,
            draw_masks(recurrent_key, self.recurrent_dropout, state, units, gates)
            if self.recurrent_dropout > 0
            else None,
        )

    def plain(self, params: Params) -> Params:
        """The weights as the equations have them, for cells that keep them in another form."""
        return params

    def project(
        self, params: Params, inputs: jax.Array, masks: DropoutMasks | None = None, dot: Dot = dot
    ) -> tuple[jax.Array, ...]:
        """``inputs @ kernel + bias`` gate by gate: ``(..., D)`` to ``num_gates`` arrays ``(..., H)``.

        One product per gate for the whole sequence.

        Raises:
          ValueError: if ``inputs`` do not have the number of features that ``kernel`` has rows.
          TypeError: if they are not real numbers.
        """
        dtype = self._checked_dtype(params, inputs)
        params = self.plain(params)
        x, kernel = inputs.astype(dtype), params["kernel"].astype(dtype)
        dropped = (masks and masks.inputs) or ()
        if len(dropped) > 1:
            blocks = zip(dropped, self.split_gates(kernel), strict=True)
            gates = [gate for mask, block in blocks for gate in self._dot(x * mask.astype(dtype), block, 1, dot)]
        else:
            gates = self._dot(x * dropped[0].astype(dtype) if dropped else x, kernel, self.num_gates, dot)
        if not self.use_bias:
            return tuple(gates)
        biases = self.split_gates(self.projected_bias(params["bias"]).astype(dtype))
        return tuple(gate + bias for gate, bias in zip(gates, biases, strict=True))

    def projected_like(self, params: Params, inputs: jax.Array) -> tuple[jax.Array, ...]:
        """Arrays like those that ``project`` returns; raises what it raises."""
        dtype = self._checked_dtype(params, inputs)
        corner = inputs[(..., *(slice(1),) * self.num_feature_axes)].astype(dtype)
        return (jnp.broadcast_to(corner, self.mask_shapes(inputs.shape)[1]),) * self.num_gates

    def _checked_dtype(self, params: Params, inputs: jax.Array) -> Dtype:
        """The compute dtype."""
        _checks.floating("inputs", inputs)
        _checks.last_axis("inputs", inputs, params["kernel"].shape[-2])
        return self.dtype or jnp.result_type(inputs.dtype, params["kernel"].dtype)

    def split_gates(self, array: jax.Array) -> list[jax.Array]:
        """The last axis cut into the gates' blocks."""
        return jnp.split(array, self.num_gates, axis=-1)

    def prepare(
        self, params: Params, projected: Sequence[jax.Array], masks: DropoutMasks | None = None
    ) -> RecurrentWeights:
        """Splits and casts ``recurrent_kernel``; see ``Cell.prepare``."""
        params, dtype = self.plain(params), projected[0].dtype
        dropped = masks and masks.recurrent and tuple(mask.astype(dtype) for mask in masks.recurrent)
        if dropped and len(dropped) == 1:  # for all gates
            dropped *= self.num_gates
        by_group = target.launches()
        sizes = (1,) * self.num_gates if dropped and not by_group else self.product_groups
        ends = [self.units * end for end in itertools.accumulate(sizes)]
        kernels = tuple(jnp.split(params["recurrent_kernel"].astype(dtype), ends[:-1], axis=-1))
        if dropped and by_group:
            kernels, dropped = tuple(map(self._by_gate, kernels)), self._by_group(dropped)
        return RecurrentWeights(kernels, dropped or None, self.recurrent_bias(params, accumulation_dtype(dtype)))

    def _by_gate(self, block: jax.Array) -> jax.Array:
        """``(n, ..., H)`` of the columns ``(..., n H)`` of several gates."""
        gates = jnp.moveaxis(block.reshape(*block.shape[:-1], -1, self.units), -2, 0)
        return gates if gates.shape[0] > 1 else block

    def _by_group(self, gates: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        """What each gate has, one array for each of ``product_groups``."""
        ends = itertools.accumulate(self.product_groups)
        groups = [gates[end - size : end] for size, end in zip(self.product_groups, ends, strict=True)]
        return tuple(jnp.stack(group) if len(group) > 1 else group[0] for group in groups)

    def step(
        self, weights: RecurrentWeights, carry: Any, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[Any, jax.Array]:
        """The equations of the cell, which are in ``explain``: ``(carry, projected) -> (new carry, h')``."""
        return self.explain(weights, carry, projected, affine)[:2]

    @abstractmethod
    def explain(
        self, weights: RecurrentWeights, carry: Any, projected: tuple[jax.Array, ...], affine: Affine = affine
    ) -> tuple[Any, jax.Array, Any]:
        """The equations of the cell; see ``Cell.explain``."""
        ...

    def recur(
        self, weights: RecurrentWeights, group: int, h: jax.Array, addends: Sequence[jax.Array], affine: Affine
    ) -> tuple[jax.Array, ...]:
        """``(mask * h) @ recurrent_kernel + addend`` for each gate of a group."""
        dtype = weights.kernels[0].dtype
        h, wide = h.astype(dtype), tuple(addend.astype(accumulation_dtype(dtype)) for addend in addends)
        if weights.masks is None or len(weights.masks) == len(self.product_groups):
            operand = h if weights.masks is None else h * weights.masks[group]
            return affine(operand, weights.kernels[group], wide, self.precision)
        gates = range(sum(self.product_groups[:group]), self.num_gates)
        return tuple(
            affine(h * weights.masks[gate], weights.kernels[gate], addend, self.precision)
            for gate, addend in zip(gates, wide, strict=False)
        )

    def _dot(self, x: jax.Array, kernel: jax.Array, gates: int, dot: Dot) -> Sequence[jax.Array]:
        return dot(x, kernel, gates, self.precision)

    def _bias_initializer(self) -> initializers.Initializer:
        return initializers.get(self.bias_initializer)

    def projected_bias(self, bias: jax.Array) -> jax.Array:
        """The part of ``bias`` ``(g H,)`` that can be added ahead of the loop."""
        return bias

    def recurrent_bias(self, params: Params, dtype: Dtype) -> jax.Array | None:
        """The part of ``bias`` that has to be added within the loop."""
        del params, dtype
        return None
