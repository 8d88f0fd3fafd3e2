"""The experiment through its command line: what it prints, writes and refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--limit", "96", "--units", "8", "--embedding", "8", "--batch-size", "16", "--maxlen", "20"]
DATA = Path(os.environ.get("TFDS_DATA_DIR", ROOT.parent / "shared" / "tensorflow_datasets"))


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "TFDS_DATA_DIR"} | environment
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "imdb.py"), *arguments],
        capture_output=True, text=True, env=variables, timeout=300,
    )  # fmt: skip


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("run")
    finished = run("--cell", "all", "--data", "generated", "--seeds", "2", *SMALL, "--output", str(folder))
    assert finished.returncode == 0, finished.stderr
    return finished, folder


def test_a_run_prints_summary_epochs_and_table(everything: Any) -> None:
    output = everything[0].stdout
    parameters = 10_000 * 8 + 4 * (8 * 8 + 8 * 8 + 8) + 9
    assert f"Total Parameters: {parameters:,}" in output
    assert all(name in output for name in ("SimpleRNN seed 1 epoch 2/2", "LSTM seed 0 epoch 1/2", "GRU seed 1"))
    table = output[output.index("after 2 epochs, mean of 2 seeds") :]
    assert all(figure in table for figure in ("0.739", "0.528", "0.828", "0.391", "0.838", "0.370"))


def test_a_run_writes_results_table_and_picture(everything: Any) -> None:
    folder = everything[1]
    found = results(folder)
    assert [(r["cell"], r["seed"]) for r in found["runs"]] == [
        (cell, seed) for cell in ("simple_rnn", "lstm", "gru") for seed in (0, 1)
    ]
    for one in found["runs"]:
        assert len(one["train"]) == len(one["test"]) == 2
        assert all(0 <= score["accuracy"] <= 1 and score["loss"] > 0 for score in one["curve"] + one["test"])
        assert one["reviews_per_second"] > 0
    assert found["settings"]["units"] == 8 and found["environment"]["jax"]
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.md").read_text().count("\n| ") == 10


def test_made_up_reviews_are_never_called_imdb(everything: Any) -> None:
    finished, folder = everything
    found = results(folder)
    assert not found["is_imdb"] and "NOT IMDB" in found["data"]
    assert "NOT IMDB" in (folder / "table.md").read_text()
    epochs = [line for line in finished.stdout.splitlines() if "test loss" in line and "epoch" in line]
    assert len(epochs) == 12 and all("NOT IMDB" in line for line in epochs)
    assert "the published figures are of another data set" in finished.stdout


@pytest.mark.full
def test_a_seed_fixes_the_results_bit_for_bit(tmp_path: Path) -> None:
    curves = []
    for name in ("a", "b"):
        finished = run("--cell", "gru", "--data", "generated", "--seed", "5", *SMALL, "--output", str(tmp_path / name))
        assert finished.returncode == 0, finished.stderr
        one = results(tmp_path / name)["runs"][0]
        curves.append([one[part] for part in ("curve", "train", "test")])
    assert curves[0] == curves[1]


@pytest.mark.full
def test_auto_says_loudly_what_it_trains_on_where_there_is_no_data(tmp_path: Path) -> None:
    # A file where the folder should be: nothing can be read from it or downloaded to it.
    (tmp_path / "file").touch()
    finished = run("--data-dir", str(tmp_path / "file"), *SMALL, "--epochs", "1", "--output", str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert "THIS IS NOT IMDB" in finished.stderr and "--data-dir" in finished.stderr
    assert not results(tmp_path / "out")["is_imdb"]


def test_imdb_never_substitutes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run("--data", "imdb", "--data-dir", str(tmp_path / "file"), *SMALL, "--output", str(tmp_path / "out"))
    assert finished.returncode == 1
    assert "cannot get the IMDB reviews" in finished.stdout + finished.stderr
    assert not (tmp_path / "out").exists()


def test_help_explains_every_option() -> None:
    text = run("--help").stdout
    for option in (
        "--cell", "--units", "--embedding", "--dropout", "--recurrent-dropout", "--epochs", "--batch-size",
        "--learning-rate", "--clip-norm", "--seed", "--seeds", "--data", "--data-dir", "--num-words", "--maxlen",
        "--limit", "--output",
    ):  # fmt: skip
        assert f"  {option} " in text


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(
    ("option", "value"),
    [("--dropout", "1.0"), ("--units", "0"), ("--clip-norm", "-1"), ("--cell", "mlp"), ("--data", "mnist")],
)
def test_bad_arguments_are_named(option: str, value: str) -> None:
    finished = run(option, value)
    assert finished.returncode == 2
    assert f"argument {option}" in finished.stderr and value in finished.stderr


@pytest.mark.full
@pytest.mark.skipif(not (DATA / "imdb_reviews").is_dir(), reason="the IMDB reviews are not at hand")
def test_the_real_reviews_are_read_and_learned(tmp_path: Path) -> None:
    finished = run(
        "--cell", "gru", "--data", "imdb", "--limit", "4000", "--units", "32", "--embedding", "32", "--epochs", "3",
        "--output", str(tmp_path), TFDS_DATA_DIR=str(DATA),
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    found = results(tmp_path)
    assert found["is_imdb"] and found["data"] == "imdb_reviews"
    assert found["runs"][0]["test"][-1]["accuracy"] > 0.65
