"""The one place where weights and dropout masks are checked, ahead of whatever runs them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn import _checks
from flax_rnn.cells.dropout import DropoutMasks
from flax_rnn.cells.protocol import Cell, Masks, Params


def check_params(argument: str, cell: Cell, params: Params, inputs: Any) -> None:
    """Checks weights against what ``cell.param_specs`` says; a cell that does not say is left to itself.

    So is one that takes constants: ``params`` may have any form once they are bound to them.

    Raises:
      ValueError: for missing or surplus entries and wrong shapes.
      TypeError: for something else than arrays of floating-point numbers by their names.
    """
    specs = getattr(cell, "param_specs", None)
    if specs is not None and not getattr(cell, "takes_constants", False):
        _check(argument, specs(_in_features(params, inputs)), params)


def _in_features(params: Params, inputs: Any) -> int:
    """The number of features that ``params`` are for; where they do not tell, that of the inputs."""
    bottom = params
    while isinstance(bottom, tuple | list) and bottom:
        bottom = bottom[0]
    kernel = bottom.get("kernel") if isinstance(bottom, Mapping) else None
    rows = getattr(kernel, "shape", ())[-2:-1]
    return (*rows, *inputs.shape[-1:], 1)[0]


def _check(argument: str, specs: Any, params: Any) -> None:
    if specs is None:
        return
    if isinstance(specs, tuple):
        if not isinstance(params, tuple | list) or len(params) != len(specs):
            got = f"{len(params)} entries" if isinstance(params, tuple | list) else type(params).__name__
            raise ValueError(f"{argument}: expected the weights of each of {len(specs)} cells, got {got}")
        for index, (own, given) in enumerate(zip(specs, params, strict=True)):
            _check(f"{argument}[{index}]", own, given)
        return
    if not isinstance(params, Mapping):
        raise TypeError(f"{argument}: expected a dict of {', '.join(specs)}, got {type(params).__name__}")
    if {*params} != {*specs}:
        raise ValueError(
            f"{argument}: expected entries {', '.join(specs)}, got {', '.join(map(str, params)) or 'none'}"
        )
    for name, (_, shape) in specs.items():
        array = params[name]
        if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating):
            got = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{argument}: expected {name} of floating-point numbers, got {got}")
        if tuple(array.shape) != tuple(shape):
            raise ValueError(f"{argument}: expected {name} of shape {tuple(shape)}, got {tuple(array.shape)}")


def check_masks(argument: str, cell: Cell, masks: Masks, inputs: jax.Array) -> Masks:
    """Dropout masks in the shapes that ``cell`` needs for steps like ``inputs``, from what broadcasts to them.

    Of inputs and state each there is one mask for all gates, or one for each; cells of other kinds have masks of their
    own, which are left as they are.

    Raises:
      ValueError: for other numbers of masks and other shapes.
      TypeError: for something else than ``DropoutMasks``.
    """
    shapes = getattr(cell, "mask_shapes", None)
    if masks is None or shapes is None:
        return masks
    if not isinstance(masks, tuple) or len(masks) != 2:
        raise TypeError(f"{argument}: expected DropoutMasks, got {type(masks).__name__}")
    gates: int = getattr(cell, "num_gates", 1)
    pairs = zip(DropoutMasks._fields, masks, shapes(inputs.shape), strict=True)
    return DropoutMasks(*(_broadcast(f"{argument}: {name}", given, gates, shape) for name, given, shape in pairs))


def _broadcast(where: str, masks: Any, gates: int, shape: tuple[int, ...]) -> tuple[jax.Array, ...] | None:
    if masks is None or (isinstance(masks, tuple | list) and len(masks) == 0):
        return None
    if not isinstance(masks, tuple | list) or len(masks) not in (1, gates):
        got = len(masks) if isinstance(masks, tuple | list) else type(masks).__name__
        raise ValueError(f"{where}: expected a tuple of 1 or {gates} masks, got {got}")
    for mask in masks:
        _checks.floating(where, jnp.asarray(mask))
        if not _broadcasts(jnp.shape(mask), shape):
            raise ValueError(f"{where}: expected masks of shape {shape}, got {jnp.shape(mask)}")
    return tuple(
        mask if jnp.shape(mask) == shape else jnp.broadcast_to(mask, shape) for mask in map(jnp.asarray, masks)
    )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in pairs)
