"""The bases of the ``flax.nnx`` modules."""

from collections.abc import Callable
from typing import Self

import jax
import jax.numpy as jnp
from flax import nnx

from flax_rnn.cells.protocol import Carry, Cell, Params, apply_cell, zero_carry

RngSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a dropout key may come from: ``Rngs`` with a ``dropout`` or default stream, a stream, or a key itself."""

# What a call needs is in properties and private methods: nnx.tabulate takes public methods to be traceable.


class BaseModule(nnx.Module):
    """What cells and layers have in common."""

    deterministic: bool

    # Modules are equal to themselves only, while the hyper-parameters they inherit compare by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def set_view(self, deterministic: bool | None = None) -> None:
        """For ``nnx.view``: a view with or without dropout."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _is_training(self, training: bool | None) -> bool:
        return not self.deterministic if training is None else training


class CellModule(BaseModule):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.nnx.RNN`` calls it."""

    @property
    def core(self) -> Cell:
        """The cell of the core that this module holds weights for."""
        raise NotImplementedError

    @property
    def params(self) -> Params:
        """The weights as the core takes them."""
        raise NotImplementedError

    @property
    def _stream(self) -> nnx.RngStream | None:
        """Where dropout keys come from; ``None`` for a cell without dropout."""
        raise NotImplementedError

    def _fresh(self, rngs: nnx.Rngs) -> Self:
        """A cell with the same arguments and new weights."""
        raise NotImplementedError

    def _dropout_key(self, training: bool | None = None, rngs: RngSource | None = None) -> jax.Array | None:
        """A key from ``rngs``, or else from the cell's own stream; ``None`` where dropout is not active."""
        stream = self._stream
        if stream is None or not self._is_training(training):
            return None
        source = stream if rngs is None else rngs
        source = source.dropout if isinstance(source, nnx.Rngs) else source
        return source() if isinstance(source, nnx.RngStream) else source

    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        core, key = self.core, self._dropout_key()
        masks = None if key is None else core.dropout_masks(key, inputs)
        return apply_cell(core, self.params, carry, inputs, masks)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> Carry:
        """The carry for inputs of ``input_shape`` ``(..., D)``: zeros, or ``carry_init`` with keys from ``rngs``."""
        carry = zero_carry(self.core, input_shape, jnp.result_type(*jax.tree.leaves(self.params)))
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError("rngs: expected nnx.Rngs or a stream, since carry_init is given; got None")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)
