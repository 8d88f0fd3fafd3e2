"""ONNX Runtime as a contestant: the same outputs as ours, and what it declines."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import cases, contestants, isa, processor
from benchmarks.cases import Case
from benchmarks.contestants.__main__ import distance

FORWARD = Case("lstm", *cases.TINY, phase="forward")


@pytest.fixture
def onnxruntime() -> Any:
    pytest.importorskip("onnx")
    return pytest.importorskip("onnxruntime")


def outputs(name: str, case: Case) -> np.ndarray:
    run = contestants.load(name).build(case)
    return run.read(run.call())["outputs"]


@pytest.mark.parametrize("cell", cases.CELLS)
@pytest.mark.parametrize("variant", ["plain", "relu", "no-bias", "bidirectional", "stack"])
def test_outputs_are_ours(onnxruntime: Any, cell: str, variant: str) -> None:
    case = replace(FORWARD, cell=cell, variant=variant, features=12)
    assert distance(outputs("onnxruntime", case), outputs("flax-rnn", case)) < 1e-5


def test_both_biases_of_a_gru_have_their_place(onnxruntime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(FORWARD, cell="gru")
    (weights,) = case.weights()
    without = outputs("onnxruntime", case)
    weights["bias"] = np.random.default_rng(0).standard_normal(weights["bias"].shape, np.float32)
    monkeypatch.setattr(Case, "weights", lambda self: (weights,))
    found = outputs("onnxruntime", case)
    assert distance(found, outputs("flax-rnn", case)) < 1e-5 and distance(found, without) > 0.1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"phase": "training"}, "has inference only"),
        ({"dtype": "bfloat16"}, "has float32 only"),
        ({"variant": "mask"}, "no masks"),
        ({"variant": "recurrent-dropout"}, "no recurrent dropout"),
    ],
)
def test_what_it_declines(onnxruntime: Any, changes: dict[str, str], reason: str) -> None:
    with pytest.raises(contestants.Absent, match=reason):
        contestants.load("onnxruntime").build(replace(FORWARD, **changes))


@pytest.mark.parametrize(("has", "declines"), [(processor.AVX512, True), (processor.AVX2, False)])
def test_it_cannot_be_held(onnxruntime: Any, monkeypatch: pytest.MonkeyPatch, has: str, declines: bool) -> None:
    monkeypatch.setattr(processor, "instruction_set", lambda: has)
    contestant = contestants.load("onnxruntime")
    contestant.build(FORWARD)
    for name, value in isa.environment({}).items():
        monkeypatch.setenv(name, value)
    if not declines:
        contestant.build(FORWARD)
        return
    with pytest.raises(contestants.Absent, match="cannot be held to AVX2"):
        contestant.build(FORWARD)


def test_it_takes_all_cores_and_waits_passively(onnxruntime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.contestants import onnxruntime as module

    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: {0, 2, 3}, raising=False)
    options = module.options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_it_is_absent_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.contestants.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(contestants.Absent, match="onnx is not installed"):
        contestants.load("onnxruntime")
