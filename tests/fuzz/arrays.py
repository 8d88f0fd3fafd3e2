"""Random arrays for a case, as NumPy float64 of numbers that the dtype of the case can hold."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tests.fuzz.cases import Case, CellCase
from tests.fuzz.oracle import SUMS


class Data(NamedTuple):
    """A call: ``x`` is ``(*batch, T, D)``, states are lists, ``mask`` may be lengths, ``d_`` are cotangents."""

    weights: Any
    x: Any
    state: Any
    mask: Any
    resets: Any
    d_outputs: Any
    d_state: Any


def draw(case: Case, index: int) -> Data:
    """Set ``index`` of the arrays of a case."""
    rng = np.random.default_rng((case.seed, index))
    weights_rng = np.random.default_rng((case.seed, 0 if case.mapped and not case.mapped_weights else index, 1))
    below = [case.features, *(cell.units for cell in case.cells)] if case.form == "stack" else [case.features] * 2
    gain = weights_rng.choice((0.3, 0.8, 1.2) if case.bounded else (0.2, 0.4))
    weights = [_weights(case, cell, size, gain, weights_rng) for cell, size in zip(case.cells, below, strict=False)]
    states = [_state(cell, case.batch, rng) for cell in case.cells]
    x = rng.normal(size=(*case.batch, case.steps, case.features)) * rng.choice(
        (0.1, 1, 1, 3) if case.bounded else (0.5,)
    )
    resets = rng.random((*case.batch, case.steps)) < 0.2 if case.resets else None
    return Data(
        weights,
        _held(case, x),
        [[_held(case, part) for part in state] for state in states] if case.initial else None,
        _mask(case, rng),
        resets,
        [_held(case, rng.normal(size=shape)) for shape in outputs_shapes(case)],
        [[_held(case, part) for part in _state(cell, case.batch, rng)] for cell in case.cells],
    )


def outputs_shapes(case: Case) -> list[tuple[int, ...]]:
    """Those of the outputs: one, or one for each direction."""
    units = [cell.units for cell in case.cells]
    sizes = {"single": units[:1], "stack": units[-1:]}.get(case.form, units)
    if case.form == "pair" and case.merge_mode is not None:
        sizes = [sum(units)] if case.merge_mode == "concat" else units[:1]
    steps = (case.steps,) if case.options["return_sequences"] else ()
    return [(*case.batch, *steps, size) for size in sizes]


def _held(case: Case, array: Any) -> Any:
    dtype = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}[case.dtype]
    return np.asarray(array, dtype).astype(np.float64)


def _weights(case: Case, cell: CellCase, features: int, gain: float, rng: np.random.Generator) -> dict[str, Any]:
    columns = SUMS[cell.kind] * cell.units
    weights = {
        "kernel": rng.normal(size=(features, columns)) * gain / features**0.5,
        "recurrent_kernel": rng.normal(size=(cell.units, columns)) * gain / cell.units**0.5,
    }
    if case.use_bias:
        weights["bias"] = rng.normal(size=(2, columns) if cell.kind == "GRU" and cell.reset_after else columns) * 0.5
    return {name: _held(case, leaf) for name, leaf in weights.items()}


def _state(cell: CellCase, batch: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    return [rng.normal(size=(*batch, cell.units)) for _ in range(2 if cell.kind == "LSTM" else 1)]


def _mask(case: Case, rng: np.random.Generator) -> Any:
    """Booleans ``(*batch, T)``, lengths ``(*batch,)``, or ``None``."""
    steps = np.arange(case.steps)
    first, last = np.sort(rng.integers(0, case.steps + 1, (2, *case.batch)), 0)[..., None]
    match case.mask:
        case "none":
            return None
        case "lengths":
            return last[..., 0].astype(np.int32)
        case "right":
            return steps < last
        case "left":
            return steps >= first
        case "sides":
            return (steps >= first) & (steps < last)
        case "holes":
            return rng.random((*case.batch, case.steps)) < 0.6
        case _:
            return np.zeros((*case.batch, case.steps), bool)
