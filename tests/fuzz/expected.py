"""What the oracle makes of the arrays of a case: results and gradients, and how far rounding may be from them."""

from typing import Any, NamedTuple

import numpy as np

from tests.fuzz import oracle
from tests.fuzz.arrays import Data
from tests.fuzz.cases import Case

UNITS = {"float64": (2.0**-53, 2.0**-53), "float32": (2.0**-24, 2.0**-24), "bfloat16": (2.0**-24, 2.0**-8)}
"""Unit roundoff of sums and of factors, which are of bfloat16 while sums are float32."""
FACTOR = 4.0
"""What is small about the factor in the bound of `oracle.Rounding`, and about the chance that errors cancel."""
SAMPLES = 2


class Expected(NamedTuple):
    """Leaves in order, ``values`` of them and then gradients, each with its tolerance.

    ``nearest_kink`` is the smallest distance of a sum from a kink of its activation, and ``kink_error`` one that
    rounding may bridge.
    """

    leaves: list[Any]
    tolerances: list[float]
    nearest_kink: float
    kink_error: float
    values: int


def expect(case: Case, data: Data, masks: Any) -> Expected:
    """Results, then gradients; ``masks`` are pairs of lists of dropout masks, one for each cell."""
    leaves, kink = _run(case, data, masks, oracle.Exact)
    unit, factors = UNITS[case.dtype]
    # Errors of float64 are too close to the oracle's own: larger ones, scaled down.
    scale = 2.0**20 if case.dtype == "float64" else 1.0
    deviations = np.zeros(len(leaves))
    for sample in range(SAMPLES):
        rough, _ = _run(case, data, masks, lambda: oracle.Rounding(unit * scale, factors * scale, case.seed + sample))  # noqa: B023
        found = [np.abs(a - b).max(initial=0) for a, b in zip(rough, leaves, strict=True)]
        deviations = np.maximum(deviations, np.asarray(found) / scale)
    largest = [float(np.abs(leaf).max(initial=0)) for leaf in leaves]
    tolerances = [FACTOR * (d + 2 * factors * size) for d, size in zip(deviations, largest, strict=True)]
    values = sum(len(state) for state in data.d_state) + len(data.d_outputs)
    return Expected(leaves, tolerances, kink, max(tolerances[:values]) + 16 * factors, values)


def _run(case: Case, data: Data, masks: Any, rounding: Any) -> tuple[list[Any], float]:
    rows = int(np.prod(case.batch))

    def flat(array: Any) -> Any:
        return np.reshape(array, (rows, *np.shape(array)[len(case.batch) :]))

    x = flat(data.x)
    mask = np.ones((rows, case.steps), bool)
    if data.mask is not None and case.mask == "lengths":
        mask = np.arange(case.steps) < flat(data.mask)[:, None]
    elif data.mask is not None:
        mask = flat(data.mask)
    resets = np.zeros_like(mask) if data.resets is None else flat(data.resets)
    layers: list[oracle.Layer] = []
    for index, cell in enumerate(case.cells):
        dropped = [None if part is None else [flat(leaf) for leaf in part] for part in masks[index] or (None, None)]
        layers.append(
            oracle.Layer(
                cell.kind,
                data.weights[index],
                cell.activation,
                cell.recurrent_activation,
                cell.reset_after,
                *dropped,
                rounding=rounding(),
            )
        )
    states = [
        layer.zeros(rows) if data.state is None else [flat(part) for part in data.state[index]]
        for index, layer in enumerate(layers)
    ]
    sequences, pair, options = case.options["return_sequences"], case.form == "pair", case.options
    runs: list[oracle.Run] = []
    outputs: list[Any] = []
    lasts: list[Any] = []
    after: list[Any] = []
    for index, layer in enumerate(layers):
        backwards = options["go_backwards"] != (pair and index == 1)
        top = pair or index == len(layers) - 1
        zero = sequences if pair else options["zero_output_for_mask"] if top else True
        source = x if pair or index == 0 else outputs[-1]
        runs.append(oracle.Run(layer, source, states[index], mask, resets, backwards, zero))
        whole, last, state = runs[-1].forward()
        outputs.append(whole)
        lasts.append(last)
        after.append(state)
    turned = not pair and options["go_backwards"] and not options["keep_order"]

    def turn(array: Any) -> Any:
        return array[:, ::-1] if turned and sequences else array

    shown = outputs if sequences else lasts
    shown = shown if pair else [turn(shown[-1])]
    d_shown = [flat(leaf) for leaf in data.d_outputs]
    if pair:
        merged, d_shown = _merge(case.merge_mode, shown, d_shown)
        shown = merged
    else:
        d_shown = [turn(d_shown[0])]
    leaves = [*shown, *(part for state in after for part in state)]
    kink = lambda: min(layer.nearest_kink for layer in layers)  # noqa: E731
    if not case.gradients:
        return leaves, kink()

    d_x = np.zeros_like(x)
    d_states: list[Any] = [None] * len(layers)
    d_above: Any = None
    for index in reversed(range(len(layers))):
        run = runs[index]
        d_whole, d_last = np.zeros_like(outputs[index]), np.zeros_like(lasts[index])
        if pair or index == len(layers) - 1:
            d_top = d_shown[index if pair else 0]
            d_whole, d_last = (d_top, d_last) if sequences else (d_whole, d_top)
        else:
            d_whole = d_above
        d_own, d_states[index] = run.backward(d_whole, d_last, [flat(part) for part in data.d_state[index]])
        d_above = d_own
        if pair or index == 0:
            d_x = d_x + d_own
    for layer in layers:
        totals = layer.totals(rows, case.steps)
        leaves += [totals[name] for name in ("bias", "kernel", "recurrent_kernel") if name in totals]
    leaves.append(d_x)
    if data.state is not None:
        leaves += [part for state in d_states for part in state]
    return leaves, kink()


def _merge(mode: str | None, shown: list[Any], d: list[Any]) -> tuple[list[Any], list[Any]]:
    """The merged outputs of both directions, and the cotangents of each."""
    a, b = shown
    match mode:
        case None:
            return shown, d
        case "concat":
            return [np.concatenate([a, b], -1)], [d[0][..., : a.shape[-1]], d[0][..., a.shape[-1] :]]
        case "sum":
            return [a + b], [d[0], d[0]]
        case "ave":
            return [(a + b) / 2], [d[0] / 2, d[0] / 2]
        case _:
            return [a * b], [d[0] * b, d[0] * a]
