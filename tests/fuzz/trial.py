"""One case: the library runs it, and what comes is compared with what the oracle expects."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flax_rnn
from tests.fuzz import arrays
from tests.fuzz.arrays import Data
from tests.fuzz.cases import SETS, Case, CellCase
from tests.fuzz.expected import Expected, expect

TELLING = {"float64": 1e-3, "float32": 0.03, "bfloat16": 0.25}
"""How large a tolerance may be, of the largest number; beyond that a comparison tells nothing, and is not counted."""


def run(case: Case) -> dict[str, Any]:
    """``verdict`` (passed, failed, kink, vague), ``ratio`` of the largest error to its tolerance, and ``where``."""
    with jax.enable_x64() if case.dtype == "float64" else contextlib.nullcontext():
        dtype = jnp.dtype("float32" if case.dtype == "bfloat16" else case.dtype)
        cells = [_cell(case, cell) for cell in case.cells]
        stacked = flax_rnn.StackedRNNCells(cells)
        sets = [arrays.draw(case, index) for index in range(case.mapped or SETS)]
        key = jax.random.key(case.seed)
        drawn = _masks(case, cells, jnp.asarray(sets[0].x[..., 0, :], _compute(case)), key)
        given = drawn if case.dropout_by == "masks" and any(masks is not None for masks in drawn) else None
        dropping = case.dropout > 0 or case.recurrent_dropout > 0
        call = _call(case, cells, stacked)

        def whole(data: Data, key: Any, given: Any) -> Any:
            function = lambda weights, x, state: call(  # noqa: E731
                weights, x, state, data.mask, data.resets, key if dropping and given is None else None, given
            )
            if not case.gradients:
                return jax.tree.leaves(function(data.weights, data.x, data.state))
            results, pull = jax.vjp(function, data.weights, data.x, data.state)
            cotangents = jax.tree.map(lambda d, r: d.astype(r.dtype), _like(case, data, results), results)
            return jax.tree.leaves((results, pull(cotangents)))

        ours = [_device(case, data, dtype) for data in sets]
        if case.mapped:
            axes: Any = Data(*(0 if part is not None else None for part in ours[0]))
            if not case.mapped_weights:
                axes = axes._replace(weights=None)
            mapped = jax.vmap(whole, in_axes=(axes, None, None))
            stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ours)
            if not case.mapped_weights:
                stack = stack._replace(weights=ours[0].weights)
            done = (jax.jit(mapped) if case.jit else mapped)(stack, key, given)
            found = [[leaf[index] for leaf in done] for index in range(case.mapped)]
        else:
            function = jax.jit(whole) if case.jit else whole
            found = [function(data, key, given) for data in ours]
        masks = [None if one is None else (one.inputs, one.recurrent) for one in drawn]
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), masks)
        with np.errstate(all="ignore"):
            expected = [expect(case, data, wide) for data in sets]
        return worst([_compare(case, *pair) for pair in zip(found, expected, strict=True)])


def worst(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """The one to be told."""
    order = ("passed", "vague", "kink", "failed")
    return max(verdicts, key=lambda one: (order.index(one["verdict"]), one["ratio"]))


def _compare(case: Case, found: list[Any], expected: Expected) -> dict[str, Any]:
    ratios: list[float] = []
    told = True
    if len(found) != len(expected.leaves):
        return {"verdict": "failed", "ratio": 1e30, "where": f"{len(found)} arrays, expected {len(expected.leaves)}"}
    for index, (leaf, exact, tolerance) in enumerate(zip(found, expected.leaves, expected.tolerances, strict=True)):
        ours = np.asarray(leaf, np.float64)
        if case.options["time_major"] and ours.ndim == 3:
            ours = ours.swapaxes(0, 1)
        if ours.size != exact.size:
            return {"verdict": "failed", "ratio": 1e30, "where": f"array {index} of shape {ours.shape}, {exact.shape}"}
        ours = ours.reshape(exact.shape)
        largest = float(np.abs(exact).max(initial=0))
        if not np.isfinite(tolerance) or not largest < 1e18 or tolerance > TELLING[case.dtype] * max(largest, 1e-6):
            told = False
            ratios.append(0.0)
            continue
        error = float(np.abs(ours - exact).max(initial=0))
        ratios.append(1e30 if np.isnan(error) else error / (tolerance + 1e-37))
    # Values do not jump at a kink, only gradients do.
    jumps = case.gradients and expected.nearest_kink < expected.kink_error
    at = int(np.argmax(ratios[: expected.values] if max(ratios[: expected.values]) > 1 else ratios))
    ratio = float(ratios[at])
    verdict = "passed" if ratio <= 1 else "failed"
    if verdict == "failed" and jumps and at >= expected.values:
        verdict = "kink"
    return {
        "verdict": verdict if told or verdict != "passed" else "vague", "ratio": ratio,
        "where": f"array {at} of shape {expected.leaves[at].shape}",
    }  # fmt: skip


def _cell(case: Case, cell: CellCase) -> Any:
    options: dict[str, Any] = dict(
        activation=cell.activation, use_bias=case.use_bias, dropout=case.dropout, precision=case.precision,
        recurrent_dropout=case.recurrent_dropout, dtype=_compute(case),
    )  # fmt: skip
    if cell.kind == "SimpleRNN":
        return flax_rnn.SimpleRNNCell(cell.units, **options)
    options["recurrent_activation"] = cell.recurrent_activation
    if cell.kind == "LSTM":
        return flax_rnn.LSTMCell(cell.units, **options)
    return flax_rnn.GRUCell(cell.units, reset_after=cell.reset_after, **options)


def _compute(case: Case) -> Any:
    return {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.bfloat16}[case.dtype]


def _masks(case: Case, cells: list[Any], first: Any, key: Any) -> list[Any]:
    """The dropout masks of each cell, as the library draws them from ``key``."""
    if case.form == "single":
        return [cells[0].dropout_masks(key, first)]
    if case.form == "stack":
        return [*flax_rnn.StackedRNNCells(cells).dropout_masks(key, first)]
    return [cell.dropout_masks(jax.random.fold_in(key, index), first) for index, cell in enumerate(cells)]


def _device(case: Case, data: Data, dtype: Any) -> Data:
    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype if leaf.dtype == np.float64 else leaf.dtype), tree)

    data = cast(data)
    if case.options["time_major"]:
        turn = lambda leaf: None if leaf is None else leaf.swapaxes(0, 1)  # noqa: E731
        data = data._replace(x=turn(data.x), resets=turn(data.resets))
        if case.mask != "lengths":
            data = data._replace(mask=turn(data.mask))
        if case.options["return_sequences"]:
            data = data._replace(d_outputs=[turn(leaf) for leaf in data.d_outputs])
    return data


def _carries(case: Case, states: Any) -> Any:
    carries = tuple(
        flax_rnn.LSTMCarry(*state) if cell.kind == "LSTM" else state[0]
        for cell, state in zip(case.cells, states, strict=True)
    )
    return carries[0] if case.form == "single" else carries


def _like(case: Case, data: Data, results: Any) -> Any:
    outputs = tuple(data.d_outputs) if isinstance(results[0], tuple) else data.d_outputs[0]
    return outputs, _carries(case, data.d_state)


def _call(case: Case, cells: list[Any], stacked: Any) -> Any:
    options: dict[str, Any] = {**case.options, "return_state": True, "implementation": case.implementation}

    def call(weights: Any, x: Any, state: Any, mask: Any, resets: Any, key: Any, given: Any) -> Any:
        arguments: dict[str, Any] = options | {
            "initial_state": None if state is None else _carries(case, state), "resets": resets, "dropout_key": key,
            "dropout_masks": given, "seq_lengths" if case.mask == "lengths" else "mask": mask,
        }  # fmt: skip
        if case.form == "pair":
            return flax_rnn.bidirectional(tuple(cells), tuple(weights), x, merge_mode=case.merge_mode, **arguments)
        if case.form == "stack":
            return flax_rnn.rnn(stacked, tuple(weights), x, **arguments)
        return flax_rnn.rnn(cells[0], weights[0], x, **arguments | {"dropout_masks": given and given[0]})

    return call
