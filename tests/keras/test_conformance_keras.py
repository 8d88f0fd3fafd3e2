"""The full cross of options against live Keras on JAX: outputs, final states and the gradients of everything.

No row of a batch sees another, so each masked batch has one row of every kind of mask; their outputs, states and
gradients with respect to inputs and initial state are compared row by row. ``test_keras_live`` has the cells' own
options, and a test for each difference that ``documented`` accounts for.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from live_keras import CELLS, MASK, call, evaluate, keras, keras_of, problem

from flax_rnn import StackedRNNCells, bidirectional, rnn

FORMS = ("single", "stack", "bidirectional")
MASKING = ("no_mask", "masked", "masked_to_zero")


@dataclasses.dataclass(frozen=True)
class Case:
    """One combination of options."""

    cell: str
    form: str
    return_sequences: bool = True
    go_backwards: bool = False
    masking: str = "masked"
    initial_state: bool = True
    unroll: bool | int = False

    def __str__(self) -> str:
        flags = ("return_sequences", "go_backwards", "initial_state", "unroll")
        return "-".join([self.cell, self.form, self.masking, *(name for name in flags if getattr(self, name))])

    @property
    def cells(self) -> tuple[Any, ...]:
        cell, other = CELLS[self.cell]
        return {"single": (cell,), "stack": (cell, other), "bidirectional": (cell, cell)}[self.form]

    @property
    def mask(self) -> Any:
        return None if self.masking == "no_mask" else MASK

    @property
    def options(self) -> dict[str, Any]:
        """What both call by the same name."""
        options = {name: getattr(self, name) for name in ("return_sequences", "go_backwards", "unroll")}
        if self.form != "bidirectional":
            options["zero_output_for_mask"] = self.masking == "masked_to_zero"
        return options


BOTH = (False, True)
# Of a pair, Keras sets `zero_output_for_mask` itself, and reverses the one direction (but see the test of pairs).
CASES = [
    case
    for case in itertools.starmap(Case, itertools.product(CELLS, FORMS, BOTH, BOTH, MASKING, BOTH, BOTH))
    if case.form != "bidirectional" or not (case.go_backwards or case.masking == "masked_to_zero")
]


def ours(case: Case, weights: Any, x: Any, state: Any, cells: Any = None, **options: Any) -> Any:
    cells, options = cells or case.cells, case.options | options | {"mask": case.mask, "return_state": True}
    if case.form == "bidirectional":
        return bidirectional(cells, weights, x, initial_state=state, **options)
    cell = StackedRNNCells(cells) if case.form == "stack" else cells[0]
    return rnn(cell, weights, x, initial_state=state, **options)


def keras_layer(case: Case, dtype: str | None) -> Any:
    options = case.options | {"return_state": True, "dtype": dtype}
    if case.form == "stack":
        return keras.layers.RNN([keras_of(cell, "Cell", dtype=dtype) for cell in case.cells], **options)
    layer = keras_of(case.cells[0], "", **options)
    return keras.layers.Bidirectional(layer, dtype=dtype) if case.form == "bidirectional" else layer


def theirs(case: Case, layer: Any, weights: Any, x: Any, state: Any) -> list[Any]:
    if case.form == "bidirectional" and state is not None:
        state = [*state[0], *state[1]]
    outputs, *states = call(layer, weights, x, state, case.mask)
    return [documented(case, outputs, states[-1][0] if case.form == "stack" else states[0]), *states]


def documented(case: Case, outputs: Any, last: Any) -> Any:
    """Keras' outputs with those replaced in which its JAX backend departs from its documentation.

    ``last`` is the output of the last step that counts. Everything else is compared as it is.
    """
    if case.masking == "no_mask":
        return outputs
    zeroing = case.masking == "masked_to_zero" or (case.form == "bidirectional" and case.return_sequences)
    used = MASK[:, ::-1] if case.go_backwards else MASK
    wrong = np.zeros_like(used)
    if zeroing and case.return_sequences and case.unroll:
        wrong = ~used  # test_unrolling_honours_zero_output_for_mask_unlike_in_keras_on_jax
    elif not case.unroll:
        wrong = np.cumsum(used, 1) == 0  # test_outputs_before_the_first_step_are_zeros_unlike_in_keras_on_jax
    if not case.return_sequences:
        wrong = wrong[:, -1]
        if zeroing and not case.unroll:
            # test_last_output_is_that_of_the_last_step_that_counts_unlike_in_keras
            outputs = jnp.where(used[:, -1:], outputs, last)
    return jnp.where(wrong[..., None], 0, outputs)


def point_of(case: Case, dtype: Any = jnp.float32) -> tuple[Any, Any, Any]:
    weights, x, state = problem(case.cells, case.form, dtype)
    return weights, x, state if case.initial_state else None


@functools.cache
def ours_step_by_step(case: Case) -> Any:
    return evaluate(functools.partial(ours, case), point_of(case))


# Both sides run primitive by primitive: to compile each combination would take half an hour. Unrolled or not is then
# the same to us, but not to Keras, which has a loop for each.
@pytest.mark.each(2, at_most=8, full=2)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_states_and_gradients(case: Case) -> None:
    with jax.disable_jit():
        expected = evaluate(functools.partial(theirs, case, keras_layer(case, "float32")), point_of(case))
        oracle.assert_close(ours_step_by_step(dataclasses.replace(case, unroll=False)), expected, 2e-5)


@pytest.mark.each(1, at_most=1, full=1)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", CELLS)
def test_compiled(cell: str, form: str) -> None:
    # What users run; a choice of options, since each takes a second. Unrolling by 2 leaves one of the three steps over.
    cases = [Case(cell, form, form == "stack", go_backwards=form == "single", unroll=2)]
    if form == "single":
        cases += [Case(cell, form), Case(cell, form, masking="no_mask", unroll=True)]
    points = [point_of(case) for case in cases]
    runs = [functools.partial(evaluate, functools.partial(ours, case)) for case in cases]
    results = jax.jit(lambda points: [run(point) for run, point in zip(runs, points, strict=True)])(points)
    for case, point, result in zip(cases, points, results, strict=True):
        case = dataclasses.replace(case, unroll=case.unroll is True)
        with jax.disable_jit():
            expected = evaluate(functools.partial(theirs, case, keras_layer(case, "float32")), point)
        oracle.assert_close(result, expected, 2e-5)


@pytest.mark.each(1, at_most=2, full=2)
@pytest.mark.parametrize("case", [case for case in CASES if not case.unroll], ids=str)
def test_half_precision(case: Case) -> None:
    dtype, tolerance = ("bfloat16", 4e-2) if case.initial_state else ("float16", 5e-3)
    cells = tuple(dataclasses.replace(cell, dtype=jnp.dtype(dtype)) for cell in case.cells)
    with jax.disable_jit():
        outputs, states = ours(case, *point_of(case), cells=cells)
        expected = theirs(case, keras_layer(case, f"mixed_{dtype}"), *point_of(case))
    assert outputs.dtype == expected[0].dtype == dtype
    oracle.assert_close((outputs, states), jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), expected), tolerance)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("cell", CELLS)
def test_float64_is_float64_unlike_in_keras_on_jax(cell: str) -> None:
    # Keras' rules of promotion have no float64 on JAX: the steps of its float64 layers compute in float32.
    case = Case(cell, "single", initial_state=False)
    with jax.enable_x64(True):
        weights, x, _ = point = point_of(case, jnp.float64)
        exact = oracle.run(oracle.of(case.cells[0], weights), np.asarray(x), mask=MASK, return_sequences=True)
        oracle.assert_close(ours(case, *point), exact, 1e-12)
        outputs, *states = theirs(case, keras_layer(case, "float64"), *point)
        oracle.assert_close((outputs, states), exact, 2e-6)
        assert np.max(np.abs(np.asarray(outputs) - exact[0])) > 1e-10
