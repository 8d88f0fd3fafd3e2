"""The comparison with Keras' own training: its table, its order, that nothing is lost, and a small one as a whole."""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import imdb_accuracy, imdb_training
from experiments import reviews

ROOT = Path(__file__).parents[2]
TINY = ["--data", "generated", "--limit", "64", "--units", "4", "--embedding", "4", "--maxlen", "20"]


def run(side: str, cell: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([len(side), len(cell), seed])
    losses, accuracies = rng.uniform(0.1, 0.9, (2, 2)).tolist()
    scores = [
        {"loss": loss, "accuracy": accuracy} for loss, accuracy in zip(losses, accuracies, strict=True)
    ]  # fmt: skip
    return {
        "side": side, "cell": cell, "seed": seed, "parameters": 5, "train": scores[0], "test": scores[1],
        "epoch_seconds": rng.uniform(1, 9, 2).tolist(), "test_seconds": rng.uniform(1, 9),
    }  # fmt: skip


def rows(table: str) -> dict[tuple[str, str], list[str]]:
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    return {(label, who): figures for label, who, *figures in cells}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Trains nothing, and tells what was to be trained."""
    asked: list[tuple[str, str, int]] = []

    def train(side: str, cell: str, seed: int, *_: Any) -> dict[str, Any]:
        asked.append((side, cell, seed))
        return run(side, cell, seed)

    monkeypatch.setattr(imdb_accuracy, "train", train)
    return asked


def test_the_table_is_that_of_the_runs() -> None:
    runs = [run(side, "lstm", seed) for seed in range(4) for side in ("flax_rnn", "Keras")]
    found = rows(imdb_accuracy.table([*runs, run("flax_rnn", "lstm", 4)], is_imdb=True))
    sides = {side: [one for one in runs if one["side"] == side] for side in ("flax_rnn", "Keras")}
    totals: dict[str, float] = {}
    for side, some in sides.items():
        for split, score in (("test", "accuracy"), ("test", "loss"), ("train", "accuracy"), ("train", "loss")):
            values = sorted(one[split][score] for one in some)
            expected = f"{sum(values) / 4:.3f} ({values[0]:.3f}-{values[-1]:.3f})"
            assert found[f"{split} {score}", side] == [expected]
        seconds = sorted(one["epoch_seconds"][0] + one["epoch_seconds"][1] for one in some)
        totals[side] = statistics.median(seconds)
        assert found["training, s", side] == [f"{totals[side]:.1f} ({seconds[0]:.1f}-{seconds[-1]:.1f})"]
        last = statistics.median(one["epoch_seconds"][1] for one in some)
        assert found["last epoch, s", side][0].startswith(f"{last:.1f} (")
    assert found["training, s", "Keras / flax_rnn"] == [f"{totals['Keras'] / totals['flax_rnn']:.2f}"]
    assert found["seeds", "both"] == ["4"], "a seed that only one has does not count"
    assert found["test accuracy", "published"] == ["0.828"]
    assert ("test accuracy", "published (IMDB)") in rows(imdb_accuracy.table(runs, is_imdb=False))


def test_a_seed_is_complete_before_the_next_and_the_two_take_turns(
    pretended: list[tuple[str, str, int]], tmp_path: Path
) -> None:
    imdb_accuracy.main([*TINY, "--seeds", "2", "--seed", "5", "--output", str(tmp_path / "found")])
    cells = ("simple_rnn", "lstm", "gru")
    assert pretended == [(side, cell, seed) for seed in (5, 6) for cell in cells for side in ("flax_rnn", "Keras")]
    text = (tmp_path / "found.md").read_text()
    assert "# generated reviews (NOT IMDB)" in text and "published (IMDB)" in text and "64 reviews" in text
    assert imdb_accuracy.machine()["processor"] in text and "keras 3" in text


def test_what_was_trained_outlives_an_interruption(
    pretended: list[tuple[str, str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*TINY, "--cell", "gru", "--seeds", "2", "--output", str(tmp_path / "found")]
    whole = imdb_accuracy.train

    def interrupted(*training: Any) -> dict[str, Any]:
        if len(pretended) == 3:
            raise KeyboardInterrupt
        return whole(*training)

    monkeypatch.setattr(imdb_accuracy, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imdb_accuracy.main(arguments)
    kept = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert kept == [run("flax_rnn", "gru", 0), run("Keras", "gru", 0), run("flax_rnn", "gru", 1)]
    assert "| seeds | both | 1 |" in (tmp_path / "found.md").read_text()

    monkeypatch.setattr(imdb_accuracy, "train", whole)
    pretended.clear()
    imdb_accuracy.main([*arguments, "--resume"])
    assert pretended == [("Keras", "gru", 1)]
    assert json.loads((tmp_path / "found.json").read_text())["runs"] == [*kept, run("Keras", "gru", 1)]
    with pytest.raises(SystemExit, match="is of other settings"):
        imdb_accuracy.main([*arguments, "--resume", "--units", "8"])
    pretended.clear()
    imdb_accuracy.main(arguments)
    assert len(pretended) == 4, "without --resume it begins anew"


def test_without_keras_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="Keras is not installed"):
        imdb_accuracy.main([*TINY, "--output", str(tmp_path / "found")])


def test_the_process_of_keras_has_nothing_of_ours() -> None:
    code = "import sys, benchmarks.imdb_training; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'numpy'" in loaded and not any(f"'{name}'" in loaded for name in ("flax_rnn", "jax", "experiments"))


def test_reviews_reach_the_processes_as_they_are(tmp_path: Path) -> None:
    data = reviews.load("generated", limit=7, maxlen=9)
    imdb_training.save(tmp_path / "reviews.npz", data.train, data.test)
    for split, found in zip((data.train, data.test), imdb_training.load(str(tmp_path / "reviews.npz")), strict=True):
        for array, read in zip(split, found, strict=True):
            np.testing.assert_array_equal(array, read)
            assert array.dtype == read.dtype


@pytest.mark.full
def test_both_train_the_same_model_and_seeds_differ(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    imdb_accuracy.main([*TINY, "--cell", "gru", "--seeds", "2", "--output", str(tmp_path / "found")])
    runs = json.loads((tmp_path / "found.json").read_text())["runs"]
    assert {one["parameters"] for one in runs} == {10_000 * 4 + 3 * (4 * 4 + 4 * 4 + 2 * 4) + 4 + 1}
    losses = [one["test"]["loss"] for one in runs]
    assert len(set(losses)) == 4 and all(abs(loss - np.log(2)) < 0.1 for loss in losses)
    assert all(len(one["epoch_seconds"]) == 2 and min(one["epoch_seconds"]) > 0 for one in runs)
    assert all(one["epoch_seconds"][0] > one["epoch_seconds"][1] for one in runs), "the first has the compilation"
