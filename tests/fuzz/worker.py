"""Cases in a process of their own, which may crash: ``python -m tests.fuzz.worker FIRST COUNT [CHANGES]``.

It prints a line of JSON ahead of each case and one behind it. With ``CHANGES``, fields of the case as JSON, it
looks for the least that still fails.
"""

import dataclasses
import json
import sys
import time
import traceback
from typing import Any

from tests.fuzz import cases, trial
from tests.fuzz.cases import Case, CellCase

SHRINKING_SECONDS = 60


def main(first: int, count: int, changes: str | None) -> None:
    for seed in range(first, first + count):
        case = cases.draw(seed)
        if changes is not None:
            case = changed(case, json.loads(changes))
        print(json.dumps({"begin": seed}), flush=True)
        start = time.monotonic()
        outcome = attempt(case)
        if changes is not None and outcome["verdict"] == "failed":
            case, outcome = shrink(case, outcome)
            outcome["changes"] = differences(cases.draw(seed), case)
        print(json.dumps({"seed": seed, "seconds": time.monotonic() - start, **labels(case), **outcome}), flush=True)


def attempt(case: Case) -> dict[str, Any]:
    """What `trial.run` says; an exception is a failure."""
    try:
        return trial.run(case)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__}: {str(error)[:400]} ({last.filename}:{last.lineno})"
        return {"verdict": "failed", "ratio": 1e30, "where": where}


def shrink(case: Case, outcome: dict[str, Any]) -> tuple[Case, dict[str, Any]]:
    """The simplest case that was found to fail, too."""
    deadline, found = time.monotonic() + SHRINKING_SECONDS, True
    while found and time.monotonic() < deadline:
        found = False
        for other in cases.simpler(case):
            if time.monotonic() < deadline and (less := attempt(other))["verdict"] == "failed":
                case, outcome, found = other, less, True
                break
    return case, outcome


def differences(case: Case, other: Case) -> dict[str, Any]:
    """The fields of ``other`` that are not those of ``case``, as `changed` takes them."""
    before, after = dataclasses.asdict(case), dataclasses.asdict(other)
    return {name: value for name, value in after.items() if value != before[name]}


def changed(case: Case, changes: dict[str, Any]) -> Case:
    """``case`` with other fields."""
    if "cells" in changes:
        changes = {**changes, "cells": tuple(CellCase(**cell) for cell in changes["cells"])}
    if "batch" in changes:
        changes = {**changes, "batch": tuple(changes["batch"])}
    return dataclasses.replace(case, **changes)


def labels(case: Case) -> dict[str, Any]:
    """What results are counted by."""
    options = [name for name, value in case.options.items() if value]
    dropped = [name for name in ("dropout", "recurrent_dropout") if getattr(case, name)]
    flags = [name for name in ("resets", "initial", "use_bias", "gradients", "jit") if getattr(case, name)]
    return {
        "cell": sorted({name(cell) for cell in case.cells}), "form": case.form, "implementation": case.implementation,
        "dtype": case.dtype, "mask": case.mask, "batch axes": str(len(case.batch)),
        "options": [*options, *dropped, *flags, *["vmap"] * (case.mapped > 0)],
    }  # fmt: skip


def name(cell: CellCase) -> str:
    return f"{cell.kind}, reset before" if cell.kind == "GRU" and not cell.reset_after else cell.kind


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
