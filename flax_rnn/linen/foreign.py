"""Cells of others in these layers: any linen module with ``initialize_carry`` and ``num_feature_axes``.

A subclass of our own cells that has a ``__call__`` of its own is one, too: its call is what has to be run.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flax_rnn.cells.foreign import Bound, ForeignCell
from flax_rnn.cells.protocol import Carry
from flax_rnn.linen.base import CellModule


class Foreign:
    """Such a module as layers and stacks see a ``CellModule``."""

    deterministic = True

    def __init__(self, module: nn.Module):
        self._module: Any = module

    @property
    def num_feature_axes(self) -> int:
        """As for ``CellModule``."""
        return self._module.num_feature_axes

    @property
    def core(self) -> ForeignCell:
        """The module as a cell of the core."""
        module = self._module
        unbound = module if module.scope is None else module.unbind()[0]

        def start(variables: Any, input_shape: tuple[int, ...]) -> Carry:
            del variables
            # flax.linen.RNN takes the keys of an initial carry from a seed of 0, too.
            return unbound.initialize_carry(jax.random.key(0), input_shape)

        def variables(key: jax.Array, inputs: jax.Array) -> Any:
            return unbound.init(key, start(None, inputs.shape), inputs)

        def call(
            variables: Any, carry: Carry, inputs: jax.Array, key: Any, **constants: Any
        ) -> tuple[Carry, jax.Array]:
            # Flax refuses to change variables here, and says which.
            return unbound.apply(variables, carry, inputs, rngs=None if key is None else {"dropout": key}, **constants)

        return ForeignCell(module, module.num_feature_axes, variables, start, call)

    @property
    def weight_dtype(self) -> Any:
        """As for ``CellModule``."""
        return getattr(self._module, "param_dtype", jnp.float32)

    def weights(self, inputs: jax.Array, constants: Any = None) -> Bound:
        """As for ``CellModule``: all variables of the module."""
        if self._module.is_initializing():
            given = {} if constants is None or not self.core.takes_constants else {"constants": constants}
            self._module(self._module.initialize_carry(jax.random.key(0), inputs.shape), inputs, **given)
        return Bound(self._module.unbind()[1])

    def dropout_key(self, training: bool | None = None) -> jax.Array | None:
        """A key for the module to draw from, if there is any: whether it drops is its own affair."""
        del training
        return self._module.make_rng("dropout") if self._module.has_rng("dropout") else None

    def fresh(self) -> nn.Module:
        """As for ``CellModule``."""
        return self._module.clone(parent=None, name=None)


def view(cell: Any) -> Any:
    """``cell`` itself if it is one of these, or else as a ``Foreign`` one."""
    return cell if isinstance(cell, CellModule) and not cell.runs_itself else Foreign(cell)


def check_cell(argument: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is a cell, one of these or one that ``flax.linen.RNN`` would take."""
    foreign = isinstance(value, nn.Module) and callable(value) and hasattr(value, "initialize_carry")
    if isinstance(value, type):
        raise TypeError(f"{argument}: expected a cell, got the class {value.__name__}; call it with its arguments")
    if not isinstance(value, CellModule) and not foreign:
        raise TypeError(
            f"{argument}: expected a cell of flax_rnn.linen or an nn.Module with initialize_carry, or a list of them, "
            f"got {type(value).__name__}"
        )
