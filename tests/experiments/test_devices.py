"""Training over several devices is that of one, each runs the kernels for its rows, and what does not fit is told."""

import argparse
import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from experiments import devices, imdb, report, reviews, trainer
from experiments.checkpoints import Store
from experiments.files import Refused
from experiments.model import build
from experiments.optimizers import optimizer
from experiments.terminal import Stop
from experiments.training import Batch, batches, compile_steps
from flax_rnn.implementations.native import library

DATA = reviews.load("generated", limit=166, maxlen=12, num_words=200)
SMALL = [
    "--data", "generated", "--limit", "166", "--maxlen", "12", "--num-words", "200", "--units", "5", "--embedding", "6",
    "--batch-size", "8", "--epochs", "1", "--learning-rate", "0.01",
]  # fmt: skip


def options(*more: str) -> argparse.Namespace:
    return imdb.parse([*SMALL, *more])


def mesh_of(count: int) -> Mesh | None:
    return devices.make_mesh(options("--devices", str(count)))


def train(mesh: Mesh | None, **more: Any) -> tuple[report.Run, list[np.ndarray]]:
    run, params = trainer.train("lstm", 0, DATA, options(), Console(quiet=True), mesh=mesh, **more)
    return run, [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(params))]


@functools.cache
def alone() -> tuple[report.Run, list[np.ndarray]]:
    return train(None)


def assert_same(found: tuple[report.Run, list[np.ndarray]]) -> None:
    (run, weights), (expected_run, expected) = found, alone()
    for name in ("curve", "train", "test"):
        np.testing.assert_allclose(getattr(run, name), getattr(expected_run, name), rtol=0, atol=1e-5)
    assert run.reviews == expected_run.reviews == 166  # 20 batches and 6 reviews
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_one_device_is_no_mesh() -> None:
    assert mesh_of(1) is None


@pytest.mark.full
def test_training_is_that_of_one_device_with_the_same_dropout() -> None:
    assert_same(train(mesh_of(4)))


class AtOnce(Stop):
    """Asks to stop behind the first steps."""

    def __init__(self) -> None:
        self.signal = 2


@pytest.mark.full
def test_what_four_devices_saved_goes_on_with_two(tmp_path: Path) -> None:
    store = Store(tmp_path, {}, every=20)
    with pytest.raises(trainer.Interrupted):
        train(mesh_of(4), store=store, stop=AtOnce())
    store.close()
    store = Store(tmp_path, {}, every=20)
    assert_same(train(mesh_of(2), store=store))
    store.close()


def compiled(mesh: Mesh) -> tuple[str, Any, Any]:
    """A step of training as XLA has it, and the state and sums behind it."""
    state, steps = compile_steps(build("lstm", 0, options()), optimizer(options(), 1), mesh)
    batch = next(batches(*DATA.train, 8, np.arange(8)))
    step: Any = steps.train.args[0]  # pyright: ignore (behind it, the batch is divided)
    rows = Batch(*(devices.divide(mesh, leaf) for leaf in batch))
    text = step.lower(state, rows).compile().as_text()
    return text, *steps.train(state, batch)


@pytest.mark.full
@pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))
def test_each_device_runs_the_kernels_for_its_rows_and_has_the_whole_state() -> None:
    mesh = mesh_of(4)
    assert mesh is not None
    text, state, sums = compiled(mesh)
    calls = re.findall(r'custom_call_target="flax_rnn_(\w+)", operand_layout_constraints=\{\w+\[(\d+),', text)
    assert {"forward", "backward", "weights_gradient"} <= {name for name, _ in calls}
    assert {int(rows) for _, rows in calls} == {2}
    assert "all-reduce" in text and "all-gather" not in text
    for leaf in [sums, *jax.tree.leaves(state)]:
        assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == 4


def test_what_the_devices_do_not_divide_is_refused() -> None:
    with pytest.raises(Refused, match=r"--batch-size: expected a multiple of 4, the number of devices, got 6"):
        devices.make_mesh(options("--batch-size", "6"))
    with pytest.raises(Refused, match=r"--devices: expected at most 4, as there are no more, got 5"):
        devices.make_mesh(options("--devices", "5"))


def test_a_refusal_is_a_line_ahead_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        imdb.main([*SMALL, "--batch-size", "6", "--output", str(tmp_path / "out")])
    assert ended.value.code == 1 and not (tmp_path / "out").exists()
    assert "expected a multiple of 4" in (text := capsys.readouterr().out) and "Data:" not in text


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coordinator", "host:1"], "argument --coordinator: expected --processes and --process-id beside it"),
        (["--coordinator", "host"], "argument --coordinator: expected HOST:PORT, got host"),
        (["--coordinator", "a:1", "--processes", "2", "--process-id", "2"], "expected a number below --processes 2"),
        (["--coordinator", "a:1", "--processes", "2", "--process-id", "1", "--distributed"], "--distributed: expected"),
        (["--devices", "0"], "argument --devices: expected a whole number of at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        imdb.parse(arguments)
    assert words in capsys.readouterr().err
