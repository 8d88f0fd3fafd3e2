"""Cells of others in these layers: any NNX module with ``initialize_carry`` and ``num_feature_axes``.

A subclass of our own cells that has a ``__call__`` of its own is one, too: its call is what has to be run.
"""

from typing import Any

import jax
from flax import nnx

from flax_rnn.cells.foreign import Bound, ForeignCell
from flax_rnn.cells.protocol import Carry, Cell
from flax_rnn.nnx.base import CellModule


class Foreign:
    """Such a module as layers and stacks see a ``CellModule``."""

    # Dropout within such a cell is its own affair.
    deterministic = True
    _stream = None

    def __init__(self, module: nnx.Module):
        self._module = module
        self._graphdef, self._state = nnx.split(module)

    @property
    def num_feature_axes(self) -> int:
        """As for ``CellModule``."""
        module: Any = self._module
        return module.num_feature_axes

    @property
    def in_features(self) -> int | None:
        """How many features its inputs have, if it says so."""
        return getattr(self._module, "in_features", None)

    def weights(self) -> Bound:
        """All of its variables."""
        return Bound(self._state)

    @property
    def params(self) -> Bound:
        """The same."""
        return self.weights()

    @property
    def core(self) -> Cell:
        """The module as a cell of the core."""
        axes: Any = self._module
        return ForeignCell(self._module, axes.num_feature_axes, self._variables, self._start, self._call)

    def _dropout_key(self, *args: Any) -> None:
        del args

    def initialize_carry(self, *args: Any, **kwargs: Any) -> Carry:
        """As the module does."""
        module: Any = self._module
        return module.initialize_carry(*args, **kwargs)

    def _fresh(self, rngs: nnx.Rngs) -> nnx.Module:
        if isinstance(self._module, CellModule):
            return self._module._fresh(rngs)
        raise ValueError(
            f"backward_layer: expected one, since new weights of a {type(self._module).__name__} cannot be drawn from "
            "here; got None"
        )

    def _variables(self, key: jax.Array, inputs: jax.Array) -> Any:
        """Those that there are: an NNX module always has weights."""
        del key, inputs
        return self._state

    def _start(self, variables: Any, input_shape: tuple[int, ...]) -> Carry:
        # flax.nnx.RNN takes the keys of an initial carry from a seed of 0, too.
        module: Any = nnx.merge(self._graphdef, variables, copy=True)
        return module.initialize_carry(input_shape, nnx.Rngs(0))

    def _call(
        self, variables: Any, carry: Carry, inputs: jax.Array, key: Any, **constants: Any
    ) -> tuple[Carry, jax.Array]:
        """One step.

        Raises:
          ValueError: if it changes variables of the module, which would be lost.
        """
        del key
        module: Any = nnx.merge(self._graphdef, variables, copy=True)
        result = module(carry, inputs, **constants)
        before, after = (dict(nnx.to_flat_state(state)) for state in (variables, nnx.state(module)))
        changed = [
            "/".join(map(str, path))
            for path in after
            if path not in before or after[path].get_value() is not before[path].get_value()
        ]
        if changed:
            raise ValueError(
                f"cell: expected one whose steps change none of its variables, but {type(module).__name__} changed "
                f"{', '.join(changed)}; flax.nnx.RNN runs such cells"
            )
        return result


def view(cell: Any) -> Any:
    """``cell`` itself if it is one of these, or else as a ``Foreign`` one."""
    return cell if isinstance(cell, CellModule) and not cell._runs_itself else Foreign(cell)


def check_cell(argument: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is a cell, one of these or one that ``flax.nnx.RNN`` would take."""
    foreign = isinstance(value, nnx.Module) and callable(value) and hasattr(value, "initialize_carry")
    if isinstance(value, type):
        raise TypeError(f"{argument}: expected a cell, got the class {value.__name__}; call it with its arguments")
    if not isinstance(value, CellModule) and not foreign:
        raise TypeError(
            f"{argument}: expected a cell of flax_rnn.nnx or an nnx.Module with initialize_carry, or a list of them, "
            f"got {type(value).__name__}"
        )
