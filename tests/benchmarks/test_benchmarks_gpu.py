"""The benchmark for a GPU, rehearsed on a CPU: its order, its budget, what it writes and when."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_workers import Local

from benchmarks import cases, comparison, contestants, gpu, imdb_step, layers, record, tables, timing
from benchmarks.cases import Case
from benchmarks.comparison import Effort, Field
from benchmarks.contestants.interface import Run
from benchmarks.progress import Lines
from benchmarks.workers import WorkerError

ROOT = Path(__file__).parents[2]
IMDB = cases.SIZES["imdb"][0]


def local(name: str, environment: Mapping[str, str]) -> Local:
    return Local(lambda: contestants.load(name))


def field(*names: str, **effort: Any) -> Field:
    return Field(names, Effort(rounds=1, turn=0.0, queued=True)._replace(**effort), local)


def test_the_most_telling_come_first_and_none_twice() -> None:
    plan = gpu.plan()
    assert len({*plan}) == len(plan) and {*gpu.FIRST} == {*plan[:4]}
    assert {(case.size, case.cell, case.dtype) for case in plan[:4]} == {
        (IMDB, "lstm", "tf32"), (IMDB, "lstm", "bfloat16"),
    }  # fmt: skip
    assert plan[0].phase == "training"
    assert {*cases.default("gpu")} <= {*plan}
    early = plan[:40]
    assert {case.variant for case in early} == {*cases.VARIANTS} and {case.cell for case in early} == {*cases.CELLS}
    assert {case.dtype for case in early} == {*cases.DTYPES}


def test_a_rehearsal_has_every_kind_of_case_in_a_tiny_size() -> None:
    plan = gpu.rehearsed(gpu.plan())
    assert {case.size for case in plan} == {gpu.REHEARSED}
    kinds = {(case.cell, case.phase, case.dtype, case.variant) for case in gpu.plan()}
    assert {(case.cell, case.phase, case.dtype, case.variant) for case in plan} == kinds and len(plan) == len(kinds)


def test_nothing_is_begun_that_would_not_be_done_in_time() -> None:
    now = [0.0]
    budget = gpu.Budget(10, clock=lambda: now[0])
    begun = []
    for number, task in enumerate(budget.spend([lambda shown: None] * 9)):
        task(Lines())
        begun.append(number)
        now[0] += 4
    assert begun == [0, 1] and budget.left == 2


def test_calls_in_a_queue_are_waited_for_once() -> None:
    order: list[str] = []
    run = Run(lambda: order.append("start"), lambda result: {}, lambda result: order.append("wait"))
    assert timing.queued(run.start, run.wait, 3) > 0
    assert order == ["start", "start", "start", "wait"]
    run.call()
    assert order[4:] == ["start", "wait"]


def test_on_a_gpu_time_on_the_device_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"queue": {"flax-rnn": 0.001, "scan": 0.003}, "turn": {"flax-rnn": 0.004, "scan": 0.004}}
    here = field("flax-rnn", "scan", queued=False)

    def ask(name: str, do: str, **request: Any) -> dict[str, Any]:
        return {"seconds": seconds[do][name]} if do in seconds else Field.ask(here, name, do=do, **request)

    monkeypatch.setattr(here, "ask", ask)
    case = Case("lstm", 2, 3, 4, 5)
    without = comparison.compare(here, case, peak=1e12)["contestants"]["scan"]
    assert without["ratio"] == 1 and "queued_ms" not in without
    monkeypatch.setattr(here, "platform", "gpu")
    monkeypatch.setattr(here, "refusal", lambda name: None)
    row = comparison.compare(here, case, peak=1e12)
    found = row["contestants"]["scan"]
    assert found["queued_ms"] == pytest.approx(3) and found["median_ms"] == pytest.approx(4)
    assert found["ratio"] == pytest.approx(3) and found["us_per_step"] == pytest.approx(1000)
    assert "| 1.00 / 4.00 (1.00) | 3.00 / 4.00 (3.00) |" in tables.overview([row])
    assert tables.time_ms(found) == pytest.approx(3)


def test_who_takes_part_in_nothing_is_asked_once() -> None:
    started: list[str] = []

    def start(name: str, environment: Mapping[str, str]) -> Any:
        started.append(name)
        if name == "missing":
            raise WorkerError("keras is not installed")
        return local(name, environment)

    here = Field(["flax-rnn", "missing", "jax-cudnn"], Effort(rounds=1, turn=0.0, jobs=2), start)
    here.gather()
    rows = [comparison.compare(here, Case("lstm", 2, 3, 4, 5, phase), peak=1e12) for phase in cases.PHASES]
    assert [row["absent"]["missing"] for row in rows] == ["keras is not installed"] * 2
    assert [row["absent"]["jax-cudnn"] for row in rows] == ["needs a GPU"] * 2
    assert sorted(started) == ["flax-rnn", "jax-cudnn", "missing"]


def test_ours_upon_cudnn_is_absent_where_it_cannot_be_had() -> None:
    row = comparison.compare(field("flax-rnn", "cudnn"), Case("lstm", 2, 3, 4, 5, "forward"), peak=1e12)
    assert "implementation: " in row["absent"]["cudnn"]


def test_no_process_takes_the_whole_gpu() -> None:
    environments: list[Mapping[str, str]] = []

    def start(name: str, environment: Mapping[str, str]) -> Local:
        environments.append(environment)
        return local(name, environment)

    Field(["flax-rnn", "scan"], Effort(), start).gather()
    assert len(environments) == 2
    for environment in environments:
        assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
        assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_files_are_whole_whenever_the_writer_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.write(tmp_path / "deep" / "gpu", {"results": [1]}, "a page")
    monkeypatch.setattr(record.os, "replace", lambda part, whole: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        record.write(tmp_path / "deep" / "gpu", {"results": [1, 2]}, "another page")
    assert json.loads((tmp_path / "deep" / "gpu.json").read_text()) == {"results": [1]}
    assert (tmp_path / "deep" / "gpu.md").read_text() == "a page"


def test_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "exit_on_termination", lambda: None)
    monkeypatch.setattr(gpu, "Field", lambda names, effort: field("flax-rnn"))
    with pytest.raises(SystemExit, match="there is no GPU"):
        gpu.main([])
    with pytest.raises(SystemExit):
        gpu.parse(["--rehearse"])


def test_what_there_is_is_written_after_each_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    here = field("flax-rnn")

    def step(*arguments: Any, **more: Any) -> dict[str, Any]:
        raise WorkerError("flax_rnn: no answer")

    def write(stem: Path, results: dict[str, Any], page: str) -> None:
        seen.append(len(results["results"]))
        record.write(stem, results, page)
        if len(seen) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(here, "peak", lambda dtype: 1e12)
    monkeypatch.setattr(imdb_step, "compare", step)
    monkeypatch.setattr(gpu, "write", write)
    options = gpu.parse(["--rehearse", "--output", str(tmp_path / "gpu")])
    with pytest.raises(KeyboardInterrupt):
        gpu.run(here, gpu.Budget(600), options, "a command")
    assert seen == [1, 2, 3, 4, 4, 5], "the fifth was the experiment's step, which went wrong"
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["case"]["dtype"] for row in found["results"]] == ["tf32", "tf32", "bfloat16", "bfloat16", "tf32"]
    assert all("queued_ms" in row["contestants"]["flax-rnn"] for row in found["results"])
    page = (tmp_path / "gpu.md").read_text()
    assert "# Layers on cpu" in page and "- WorkerError: flax_rnn: no answer" in page


def test_without_matplotlib_there_are_no_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    layers.draw({"results": [], "device": "cpu"}, tmp_path / "gpu")
    assert "matplotlib is not installed" in capsys.readouterr().out and not [*tmp_path.iterdir()]


MISSING = (
    "matplotlib", "onnx", "onnxruntime", "keras", "tensorflow", "tensorflow_datasets", "h5py", "safetensors", "torch",
)  # fmt: skip


def test_commands_for_a_gpu_need_little_more_than_flax() -> None:
    program = f"""
import sys
for name in {MISSING!r}:
    sys.modules[name] = None
from benchmarks import check, choices, contestants, gpu, imdb_step, imdb_workloads, layers
from experiments import training
contestants.load("flax-rnn"), contestants.load("flax-nnx")
gpu.parse([]), check.parse([])
for name in ("keras-jax", "keras-tensorflow", "keras-torch"):
    try:
        contestants.load(name)
    except contestants.Absent as error:
        print(error)
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines == ["keras is not installed", "tensorflow is not installed", "torch is not installed"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "NVIDIA H100"}, "runs on a gpu only"),
        ({"probabilities": np.array([0.5, 0.7])}, "other probabilities than flax_rnn: by 0.1, 0.0001 allowed"),
        ({"probabilities": np.array([0.5, np.nan])}, "other probabilities"),
        ({}, None),
    ],
)
def test_steps_are_compared_with_equals(changes: dict[str, Any], reason: str | None) -> None:
    ours = {"device": "cpu", "probabilities": np.array([0.5, 0.6])}
    found = imdb_step.different({"flax_rnn": ours, "other": ours | changes}, "flax_rnn")
    assert {*found} == ({"other"} if reason else set()) and found.get("other", "").startswith(reason or "")


@pytest.mark.full
def test_a_rehearsal_that_is_killed_leaves_whole_files(tmp_path: Path) -> None:
    command = ["-m", "benchmarks.gpu", "--rehearse", "--against", "torch", "--output", str(tmp_path / "gpu")]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (tmp_path / "gpu.md").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert json.loads((tmp_path / "gpu.json").read_text())["results"][0]["contestants"].keys() >= {"flax-rnn", "torch"}


@pytest.mark.full
def test_a_rehearsal_ends_with_its_budget(tmp_path: Path) -> None:
    command = ["-m", "benchmarks.gpu", "--rehearse", "--minutes", "0.4", "--against", "torch"]
    finished = subprocess.run(
        [sys.executable, *command, "--output", str(tmp_path / "gpu")], cwd=ROOT, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    done = int(finished.stdout.splitlines()[-1].split()[0])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert 0 < done < 73 and done == len(found["results"]) + len(found["imdb_step"])
    assert not found["failures"]
