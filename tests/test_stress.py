"""Rehearsals of ``python -m tests.fuzz`` and ``python -m tests.stress``; and that both find what is wrong."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flax_rnn.implementations.native import library
from tests.fuzz import __main__ as fuzz
from tests.fuzz import cases, oracle, report, worker
from tests.stress import __main__ as stress
from tests.stress import forks, memory
from tests.stress.problems import numbers, same

needs_kernels = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))
SEED = 6
SMALL: dict[str, Any] = {
    "form": "single", "batch": [3], "steps": 4, "features": 5, "mask": "holes", "resets": False, "dropout": 0.0,
    "implementation": "scan", "dtype": "float32", "gradients": True, "jit": True, "mapped": 0, "initial": True,
    "cells": [dict(kind="LSTM", units=6, activation="tanh", recurrent_activation="sigmoid", reset_after=False)],
    "recurrent_dropout": 0.0, "merge_mode": None, "precision": None,
    "options": dict(return_sequences=True, go_backwards=False, zero_output_for_mask=False, time_major=False,
                    unroll=False, checkpoint_every=None, keep_order=False),
}  # fmt: skip


def small(**changes: Any) -> cases.Case:
    return worker.changed(cases.draw(SEED), SMALL | changes)


def test_a_case_is_its_seed() -> None:
    drawn = [cases.draw(seed) for seed in range(100)]
    assert drawn == [cases.draw(seed) for seed in range(100)]
    assert all(cases.work(case) <= cases.MAX_WORK for case in drawn)
    assert {cell.kind for case in drawn for cell in case.cells} == {*oracle.SUMS}


@pytest.mark.full
@pytest.mark.parametrize("part", ["_input", "_state", "_slope"])
def test_what_is_a_little_wrong_is_found_and_made_small(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small()
    assert worker.attempt(case)["verdict"] == "passed"
    right: Any = getattr(oracle.Layer, part)
    monkeypatch.setattr(oracle.Layer, part, lambda *given: right(*given) * (1 + 1e-4))
    assert worker.attempt(case)["verdict"] == "failed"
    if part == "_input":
        less, outcome = worker.shrink(case, {})
        assert outcome["verdict"] == "failed"
        assert (less.batch, less.steps, less.features, less.cells[0].units) == ((1,), 1, 1, 1)
        changes = json.loads(json.dumps(worker.differences(cases.draw(SEED), less)))
        assert worker.changed(cases.draw(SEED), changes) == less


def test_what_is_raised_is_a_failure() -> None:
    outcome = worker.attempt(small(implementation="unheard of"))
    assert outcome["verdict"] == "failed" and "unheard of" in outcome["where"]


@pytest.mark.full
def test_the_fuzzer_in_processes_that_may_die() -> None:
    good = [*fuzz.run(SEED, 2, json.dumps(SMALL))]
    assert [(outcome["seed"], outcome["verdict"]) for outcome in good] == [(SEED, "passed"), (SEED + 1, "passed")]
    (dead,) = fuzz.run(SEED, 1, '{"no field": 1}')
    assert dead["verdict"] == "failed" and "the process ended with 1" in dead["where"] and "no field" in dead["where"]
    summary = report.summary([*good, dead], SEED, 0.1)
    assert (summary["cases"], summary["failed"]) == (3, 1)
    assert f"python -m tests.fuzz --case {SEED}`" in report.page(summary)


@pytest.mark.full
@needs_kernels
def test_the_stress(tmp_path: Path) -> None:
    assert stress.main(["--size", "1", "--only", "memory", "--output", str(tmp_path / "results")]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["failed"] == 0 and len(results["parts"]["memory"]["rows"]) == 9
    assert "10 calls: LSTM, gradient | 10 | 0 |" in (tmp_path / "results.md").read_text()


def test_memory_that_grows_is_seen() -> None:
    kept: list[bytes] = []
    row = memory.measured("leak", lambda: kept.append(os.urandom(memory.MOST)), (), 3)
    assert (row.tried, row.failed) == (3, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_what_becomes_of_children() -> None:
    assert forks.forked(lambda: True) == 0
    assert forks.forked(lambda: False) == 1
    assert forks.forked(lambda: bool(1 / 0)) == 2
    assert forks.forked(lambda: os._exit(7)) == 7
    assert forks.forked(lambda: bool(time.sleep(60)), 0.1) is None
    assert not same([1.0], numbers([1.0 + 2**-52]))
