"""The bases of the ``flax.nnx`` modules."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from flax_rnn._docstrings import SignatureOfInit, describe_call
from flax_rnn.cells.evaluate import apply_cell, zero_carry
from flax_rnn.cells.protocol import Carry, Cell, Params
from flax_rnn.layers.faces import overrides, refuse_members

RngSource = nnx.Rngs | nnx.RngStream | jax.Array
"""Where a dropout key may come from: ``Rngs`` with a ``dropout`` or default stream, a stream, or a key itself."""

# nnx.tabulate runs all public methods under jax.jit, so what takes or returns something else is private.


class EqualInitializer:
    """An initializer that equals every other: once there are weights, modules that differ in it only are alike.

    Graph definitions contain the arguments, and ``nnx.jit`` would compile anew for each module otherwise.
    """

    def __init__(self, initialize: Callable[..., jax.Array]):
        self.initialize = initialize

    def __call__(self, key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        """As every initializer."""
        return self.initialize(key, shape, dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EqualInitializer)

    def __hash__(self) -> int:
        return hash(EqualInitializer)


T = TypeVar("T")


def made_anew(cls: type[T], *args: Any, **kwargs: Any) -> T:
    """A module for the other direction.

    Raises:
      ValueError: for a subclass with a constructor of its own, which takes other arguments.
    """
    try:
        return cls(*args, **kwargs)
    except TypeError as error:
        raise ValueError(
            f"backward_layer: expected one, since a new {cls.__name__} cannot be made from the arguments "
            f"{', '.join(kwargs)}: {error}; got None"
        ) from error


class BaseModule(nnx.Module):
    """What cells and layers have in common.

    Attributes:
      rngs: for the weights its stream ``params``, and where anything is dropped ``dropout``, or the default
        one in place of them.
      deterministic: whether dropout is off; ``model.eval()`` and ``model.train()`` set it.
    """

    deterministic: bool
    __signature__ = SignatureOfInit()

    # Modules are equal to themselves only, while the arguments they inherit compare by value.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def set_view(self, deterministic: bool | None = None) -> None:
        """For ``nnx.view``: a view with or without dropout."""
        if deterministic is not None:
            self.deterministic = deterministic

    def _is_training(self, training: bool | None) -> bool:
        return not self.deterministic if training is None else training

    def _validate(self: Any) -> None:
        """Checks the arguments, and makes initializers alike."""
        self.validate()
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name, None)
            if field.name.endswith("_initializer") and not isinstance(value, str | EqualInitializer | None):
                setattr(self, field.name, EqualInitializer(value))


class CellModule(BaseModule):
    """Base of the cells: ``cell(carry, inputs) -> (carry, output)``, as ``flax.nnx.RNN`` calls it.

    A subclass may override ``__call__`` and ``initialize_carry``; layers then run it as they run cells of others.
    """

    # Whether a subclass has methods of its own, which layers have to call.
    _runs_itself: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_members(cls)
        if overrides(cls, "__call__", "initialize_carry"):
            cls._runs_itself = True

    @property
    def core(self) -> Cell:
        """The cell of the core that this module holds weights for."""
        raise NotImplementedError

    def weights(self) -> Params:
        """The weights as the core takes them."""
        raise NotImplementedError

    @property
    def params(self) -> Params:
        """The same."""
        return self.weights()

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

    @describe_call(apply_cell)
    def __call__(self, carry: Carry, inputs: jax.Array) -> tuple[Carry, jax.Array]:
        """One step, ``(carry, inputs (..., D)) -> (carry, output (..., H))``; dropout masks are drawn anew."""
        core, key = self.core, self._dropout_key()
        masks = None if key is None else core.dropout_masks(key, inputs)
        return apply_cell(core, self.weights(), carry, inputs, masks)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Callable[..., jax.Array] | None = None,
    ) -> Carry:
        """The carry for inputs of ``input_shape`` ``(..., D)``: zeros, or ``carry_init`` with keys from ``rngs``."""
        carry = zero_carry(self.core, input_shape, jnp.result_type(*jax.tree.leaves(self.weights())))
        if carry_init is None:
            return carry
        if rngs is None:
            raise ValueError("rngs: expected nnx.Rngs or a stream, since carry_init is given; got None")
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
        return jax.tree.map(lambda leaf: carry_init(stream(), leaf.shape, leaf.dtype), carry)
