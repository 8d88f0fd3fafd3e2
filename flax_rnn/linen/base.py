"""The base of the cells as ``flax.linen`` modules."""

from typing import Any, ClassVar, Self

import jax
from flax import linen as nn

from flax_rnn._docstrings import describe_call
from flax_rnn.cells.evaluate import apply_cell, zero_carry
from flax_rnn.cells.protocol import Carry, Cell, Params
from flax_rnn.layers.faces import overrides, refuse_members


class CellModule(nn.RNNCellBase, kw_only=True):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.linen.RNN`` calls it.

    A subclass may override ``__call__`` and ``initialize_carry``; layers then run it as they run cells of others.

    Attributes:
      deterministic: whether dropout is off; without, ``rngs={"dropout": key}`` has to be given to ``apply``.
    """

    # Whether a subclass has methods of its own, which layers have to call.
    runs_itself: ClassVar[bool] = False

    deterministic: bool | None = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_members(cls)
        if overrides(cls, "__call__", "initialize_carry"):
            cls.runs_itself = True

    @property
    def core(self) -> Cell:
        """The cell of the core that this module declares weights for."""
        raise NotImplementedError

    @property
    def num_feature_axes(self) -> int:
        """That of the core's cell."""
        return self.core.num_feature_axes

    @property
    def weight_dtype(self) -> Any:
        """Dtype of the weights, and of the carry before there are inputs."""
        raise NotImplementedError

    def weights(self, inputs: jax.Array, constants: Any = None) -> Params:
        """The weights as the core takes them, declared for one step of such ``inputs`` ``(..., D)``."""
        raise NotImplementedError

    @nn.nowrap
    def fresh(self) -> Self:
        """A cell with the same arguments that belongs to no module yet."""
        return self.clone(parent=None, name=None)

    def dropout_key(self, training: bool | None = None) -> jax.Array | None:
        """A key from the ``dropout`` collection; ``None`` where dropout is not active."""
        active = not self.deterministic if training is None else training
        return self.make_rng("dropout") if active and self.core.has_dropout else None

    @describe_call(apply_cell)
    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        core, weights, key = self.core, self.weights(inputs), self.dropout_key()
        masks = None if key is None else core.dropout_masks(key, inputs)
        return apply_cell(core, weights, carry, inputs, masks)

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]) -> Carry:
        """The zero carry for inputs of ``input_shape`` ``(..., D)``."""
        del rng
        return zero_carry(self.core, input_shape, self.weight_dtype)
