"""The benchmarks' clockwork, and one quick comparison from end to end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import imdb_step, timing

ROOT = Path(__file__).parent.parent


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def contestant(name: str, seconds: float) -> Any:
        def turn() -> float:
            order.append(name)
            return seconds * len(order)

        return turn

    timings = timing.interleave({"a": contestant("a", 1.0), "b": contestant("b", 10.0)}, rounds=3)
    assert order == ["a", "b"] * 3
    assert timings["a"].seconds == [1.0, 3.0, 5.0] and timings["a"].median == 3.0
    assert timings["b"].as_json()["min_ms"] == 20_000 and timings["b"].as_json()["turns"] == 3


def test_machine_names_what_took_part() -> None:
    found = timing.machine()
    assert found["cores"] >= 1 and found["processor"] and found["packages"]["jax"]


@pytest.mark.parametrize(("cell", "count"), [("lstm", 131_584), ("gru", 99_072), ("simple_rnn", 32_896)])
def test_contestants_start_from_the_weights_of_the_reference_setting(cell: str, count: int) -> None:
    weights = imdb_step.initial_weights(cell)
    assert sum(array.size for array in weights) == 1_280_000 + count + 129
    assert all(np.abs(array).min() > 0 for array in weights)


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
    assert "| lstm | flax_rnn | 2.0 | 1.0 | 1.5 to 2.5 | 1.00 |" in text
    assert "| lstm | keras-torch | did not run: No module named 'torch' |" in text
