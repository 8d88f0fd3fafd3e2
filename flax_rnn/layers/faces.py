"""What the modules of both faces have in common, with neither of Flax's APIs."""

import dataclasses
from typing import Any

from flax_rnn.cells.protocol import MEMBERS, Cell, missing_members

# Members of a cell of the core that a module of a face does not have: what would define them would define nothing.
_OF_THE_CORE = frozenset({*MEMBERS, "param_specs", "explain"} - {"num_feature_axes"})


def refuse_members(cls: type) -> None:
    """Raises ``TypeError`` for a subclass of a module that defines what only a cell of the core has, as ``step``."""
    if names := sorted(_OF_THE_CORE & {*vars(cls)}):
        raise TypeError(
            f"{', '.join(names)}: not expected in the module {cls.__name__}, which has no mathematics of its own; "
            "define them in a subclass of the core's cell, and let RNN run that"
        )


def overrides(cls: type, *names: str) -> bool:
    """Whether a subclass defines one of these methods anew."""
    return not {*names}.isdisjoint(vars(cls))


def is_core_cell(value: Any) -> bool:
    """Whether ``value`` is a cell of the core, or means to be one."""
    return not isinstance(value, type) and len(missing_members(value)) < 3


def arguments(module: Any, cls: type | None = None) -> dict[str, Any]:
    """The attributes of ``module`` that are arguments of ``cls`` (its own class by default)."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(cls or type(module)) if field.init}


def without_initializers(cell: Cell) -> Any:
    """``cell`` as it is once its weights are there: initializers make no difference."""
    if not dataclasses.is_dataclass(cell):
        return cell
    names = [field.name for field in dataclasses.fields(cell) if field.name.endswith("_initializer")]
    return dataclasses.replace(cell, **dict.fromkeys(names, "zeros"))
