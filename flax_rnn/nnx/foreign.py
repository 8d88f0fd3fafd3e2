"""Cells of others in these layers: any NNX module with ``initialize_carry`` and ``num_feature_axes``."""

from typing import Any, NoReturn

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
        self._graphdef, state = nnx.split(module)
        self.params = Bound(state)

    @property
    def core(self) -> Cell:
        """The module as a cell of the core."""
        axes: Any = self._module
        return ForeignCell(self._module, axes.num_feature_axes, self._variables, self._start, self._call)

    def _dropout_key(self, *args: Any) -> None:
        del args

    def _fresh(self, rngs: nnx.Rngs) -> NoReturn:
        del rngs
        raise ValueError(
            f"backward_layer: expected one, since new weights of a {type(self._module).__name__} cannot be drawn from "
            "here; got None"
        )

    def _variables(self, key: jax.Array, inputs: jax.Array) -> Any:
        """Those that there are: an NNX module always has weights."""
        del key, inputs
        return self.params.variables

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
    return cell if isinstance(cell, CellModule) else Foreign(cell)


def check_cell(argument: str, value: Any) -> None:
    """Raises ``TypeError`` unless ``value`` is a cell, one of these or one that ``flax.nnx.RNN`` would take."""
    foreign = isinstance(value, nnx.Module) and callable(value) and hasattr(value, "initialize_carry")
    if not isinstance(value, CellModule) and not foreign:
        raise TypeError(
            f"{argument}: expected a cell of flax_rnn.nnx or an nnx.Module with initialize_carry, or a list of them, "
            f"got {type(value).__name__}"
        )
