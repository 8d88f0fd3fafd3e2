"""Seeds that are trained at once: each has what it would have alone."""

import argparse
import json
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from stopping import StopAfter

from experiments import imdb, report, reviews, trainer
from experiments.checkpoints import Store
from experiments.training import Batch, Steps, train_steps

SILENT = Console(quiet=True)
DATA = reviews.load("generated", limit=324, maxlen=12, num_words=200)
SMALL = [
    "--data", "generated", "--limit", "324", "--maxlen", "12", "--num-words", "200", "--units", "5", "--embedding", "6",
    "--batch-size", "8", "--epochs", "2",
]  # fmt: skip
SEEDS = [3, 4, 5]

Trained = list[tuple[report.Run, Any]]


def options(*more: str) -> argparse.Namespace:
    return imdb.parse([*SMALL, *more])


def leaves(params: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(params))]


def scores(run: report.Run) -> dict[str, np.ndarray]:
    return {name: np.array(getattr(run, name)) for name in report.SCORES}


def assert_alike(found: Trained, expected: Trained, rtol: float = 1e-4, accuracy: float = 0.02) -> None:
    """As far as rounding goes, which may turn a review round."""
    for (run, params), (run_expected, params_expected) in zip(found, expected, strict=True):
        assert (run.seed, run.reviews, run.parameters) == (
            run_expected.seed, run_expected.reviews, run_expected.parameters,
        )  # fmt: skip
        for name, value in scores(run).items():
            other = scores(run_expected)[name]
            assert value.shape == other.shape, name
            if value.size:
                np.testing.assert_allclose(value[:, 0], other[:, 0], rtol=rtol)
                np.testing.assert_allclose(value[:, 1], other[:, 1], atol=accuracy)
        for leaf, other in zip(leaves(params), leaves(params_expected), strict=True):
            np.testing.assert_allclose(leaf, other, atol=10 * rtol)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("cell", ["gru", "lstm", "simple_rnn"])
def test_each_seed_ends_where_it_ends_alone(cell: str) -> None:
    alone = [trainer.train(cell, seed, DATA, options(), SILENT) for seed in SEEDS]
    together = trainer.train_seeds(cell, SEEDS, DATA, options(), SILENT)
    assert_alike(together, alone)
    losses = [run.test[-1].loss for run, _ in together]
    assert len({*losses}) == 3 and all(run.seconds for run, _ in together)


STOPPING = ("--epochs", "7", "--validation", "0.25", "--patience", "1", "--learning-rate", "0.01")


def test_a_seed_that_stops_keeps_its_best_while_others_go_on() -> None:
    chosen = options(*STOPPING)
    alone = [trainer.train("simple_rnn", seed, DATA, chosen, SILENT) for seed in SEEDS]
    together = trainer.train_seeds("simple_rnn", SEEDS, DATA, chosen, SILENT)
    assert len({len(run.test) for run, _ in alone}) > 1, "they all stop together"
    assert_alike(together, alone, rtol=1e-2)


def test_seeds_that_are_interrupted_all_the_time_end_with_the_same_bits(tmp_path: Path) -> None:
    chosen = options(*STOPPING)
    expected = trainer.train_seeds("simple_rnn", SEEDS, DATA, chosen, SILENT)
    found: Trained = []
    for _ in range(50):
        store = Store(tmp_path, {}, 20)
        try:
            found = trainer.train_seeds("simple_rnn", SEEDS, DATA, chosen, SILENT, store=store, stop=StopAfter(4))
            break
        except trainer.Interrupted:
            continue
        finally:
            store.close()
    for (run, params), (run_expected, params_expected) in zip(found, expected, strict=True):
        for name, value in scores(run).items():
            np.testing.assert_array_equal(value, scores(run_expected)[name])
        for leaf, other in zip(leaves(params), leaves(params_expected), strict=True):
            np.testing.assert_array_equal(leaf, other)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(("watched", "fails"), [((1,), False), ((0, 1), True)])
def test_a_loss_that_nobody_looks_at_ends_nothing(watched: tuple[int, ...], fails: bool) -> None:
    sums: Any = np.array([[np.nan, 0, 8], [5.0, 4, 8]])
    steps = Steps(lambda state, batch: (state, sums), lambda state, batch: sums)
    none, state = np.zeros(8), cast(Any, None)
    run = train_steps(steps, state, iter([Batch(none, none, none)] * 3), watched=watched)
    if fails:
        with pytest.raises(FloatingPointError, match="the loss became nan"):
            next(run)
    else:
        assert len(next(run)[1]) == 3


def test_the_command_trains_at_once_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *SMALL, "--epochs", "1", "--cell", "simple_rnn", "--seeds", "2", "--seed", "7", "--at-once",
        "--output", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "saves"),
    ]  # fmt: skip
    runs = imdb.main(arguments)
    assert [run.seed for run in runs] == [7, 8]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [7, 8]
    assert json.loads((tmp_path / "out" / "simple_rnn.json").read_text())["seed"] == 7
    weights = (tmp_path / "out" / "simple_rnn.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "saves").iterdir()] == ["simple_rnn-7-8"]
    capsys.readouterr()
    assert imdb.main(arguments) == runs
    assert "seeds 7 to 8: goes on from" in capsys.readouterr().out
    assert (tmp_path / "out" / "simple_rnn.safetensors").read_bytes() == weights
