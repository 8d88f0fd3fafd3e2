"""The benchmarks' clockwork and workers, and one quick comparison of training steps from end to end."""

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import imdb_step, imdb_workloads, processor, single_step, timing
from benchmarks.workers import Worker, WorkerError

ROOT = Path(__file__).parents[2]


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float) -> Any:
        def turn() -> float:
            order.append(name)
            return seconds * len(order)

        return turn

    names = ("a", "b", "c")
    timings = timing.interleave({name: contestant(name, 10.0) for name in names}, rounds=12)
    rounds = [order[start : start + 3] for start in range(0, 36, 3)]
    assert all(sorted(turns) == [*names] for turns in rounds)
    neighbours = {pair for turns in rounds for pair in itertools.pairwise(turns)}
    assert neighbours == {*itertools.permutations(names, 2)}, "nobody always comes after the same one"
    assert timings["a"].seconds == [10.0 * (place + 1) for place, name in enumerate(order) if name == "a"]
    assert timings["a"].median == np.median(timings["a"].seconds)
    assert timings["b"].as_json()["min_ms"] == 10_000 * (order.index("b") + 1)
    assert timings["b"].as_json()["turns"] == 12


def test_the_slow_run_out_of_their_budget() -> None:
    timings = timing.interleave({"slow": lambda: time.sleep(0.02) or 1.0, "fast": lambda: 2.0}, rounds=5, budget=0.03)
    assert len(timings["slow"].seconds) == 2 and len(timings["fast"].seconds) == 5


def test_repeated_calls_count_by_their_median() -> None:
    pauses = iter([0.0, 0.02, 0.0])
    assert timing.repeat(lambda: time.sleep(next(pauses)), 3) < 0.02


def test_machine_names_what_took_part() -> None:
    found = timing.machine()
    assert found["cores"] >= 1 and found["processor"] and found["packages"]["jax"]
    assert found["instruction_set"] == processor.instruction_set()


@pytest.mark.parametrize(("cell", "count"), [("lstm", 131_584), ("gru", 99_072), ("simple_rnn", 32_896)])
def test_contestants_start_from_the_weights_of_the_reference_setting(cell: str, count: int) -> None:
    weights = imdb_workloads.initial_weights(cell)
    assert sum(array.size for array in weights) == 1_280_000 + count + 129
    assert all(np.abs(array).min() > 0 for array in weights)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """Answers with what Python makes of a word."""
    (tmp_path / "answers.py").write_text(
        "import os, time\nfrom benchmarks.workers import serve\n"
        "serve(lambda request: (print('noise'), {'answer': eval(request['word'])})[1])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker("answers")
    yield worker
    worker.close()


def test_a_worker_answers_errors_too(worker: Worker) -> None:
    assert worker.ask(word="6 * 7") == {"answer": 42}
    with pytest.raises(WorkerError, match="ZeroDivisionError: division by zero") as caught:
        worker.ask(word="1 / 0")
    assert not caught.value.died
    assert worker.ask(word="'again'") == {"answer": "again"}


def test_threads_of_a_worker_sleep_while_they_wait(worker: Worker) -> None:
    assert worker.ask(word="os.environ['OMP_WAIT_POLICY']") == {"answer": "passive"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
def test_a_worker_stands_still_between_requests(worker: Worker) -> None:
    pid = worker.ask(word="os.getpid()")["answer"]
    deadline = time.monotonic() + 5
    while (state := Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]) != "T":
        assert time.monotonic() < deadline, state


def test_a_worker_that_hangs_or_dies_is_told_apart(worker: Worker) -> None:
    worker.ask(word="0")
    with pytest.raises(WorkerError, match="no answer within 0 s") as caught:
        worker.ask(timeout=0.1, word="time.sleep(60)")
    assert caught.value.died


def test_the_end_of_a_worker_is_told_with_its_last_words(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="out of memory") as caught:
        worker.ask(word="(os.write(2, b'out of memory'), os._exit(1))")
    assert caught.value.died
    with pytest.raises(WorkerError):
        worker.ask(word="0")


@pytest.mark.full
def test_a_quick_comparison_with_keras(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.imdb_step", "--quick", "--cell", "simple_rnn", "--against", "keras-jax"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    rows = [line.split("|")[2].strip() for line in finished.stdout.splitlines() if line.startswith("| simple_rnn")]
    assert rows == ["flax_rnn", "keras-jax"], "both ran, and gave the same probabilities before they were timed"


def test_what_cannot_run_is_listed_with_the_reason() -> None:
    row = {"median_ms": 2.0, "min_ms": 1.0, "quartile_1_ms": 1.5, "quartile_3_ms": 2.5, "ratio": 1.0}
    text = imdb_step.table(
        [{"cell": "lstm", "contestants": {"flax_rnn": row}, "absent": {"keras-torch": "No module named 'torch'"}}]
    )
    assert "| lstm | flax_rnn | 2.00 | 1.00 | 1.50 to 2.50 | 1.00 |" in text
    assert "| lstm | keras-torch | did not run: No module named 'torch' |" in text


def test_a_quick_look_at_single_steps(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    single_step.main(["--quick", "--units", "5", "--batch", "2"])  # which compares all ways with torch
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| torch |") and "(1.00)" in lines[2]
    assert {"apply_cell", "rnn", "stateful, nnx.jit"} <= {line.split("|")[1].strip() for line in lines if "|" in line}


def test_single_steps_hand_their_state_on() -> None:
    call = single_step.carried(lambda state, x: (state * x, state + 1), 2, 10)
    assert [call(), call(), call()] == [20, 30, 40]
