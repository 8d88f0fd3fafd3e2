"""Training that is interrupted ends as if it had not been, and what is damaged or another's is never taken for it."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from stopping import StopAfter

from experiments import imdb, report, reviews, trainer
from experiments.checkpoints import Store
from experiments.files import Refused, prepare, replace
from experiments.model import build
from experiments.training import Score

ROOT = Path(__file__).parents[2]
SILENT = Console(quiet=True)
DATA = reviews.load("generated", limit=320, maxlen=12, num_words=200)
SMALL = [
    "--data", "generated", "--limit", "320", "--maxlen", "12", "--num-words", "200", "--units", "5", "--embedding", "6",
    "--batch-size", "8", "--epochs", "2",
]  # fmt: skip


def options(*more: str) -> argparse.Namespace:
    return imdb.parse([*SMALL, *more])


def leaves(params: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.to_pure_dict(params))]


def figures(run: report.Run) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {name: getattr(run, name) for name in (*report.SCORES, "parameters", "reviews")}


def stopped(folder: Path, chosen: argparse.Namespace, questions: int, every: int = 20) -> tuple[report.Run, Any]:
    """Trains, and is interrupted after every so many questions, until it ends."""
    for _ in range(50):
        store = Store(folder, {"units": 5}, every)
        try:
            return trainer.train("gru", 3, DATA, chosen, SILENT, store=store, stop=StopAfter(questions))
        except trainer.Interrupted:
            continue
        finally:
            store.close()
    raise AssertionError("it makes no progress")


@pytest.mark.parametrize("more", [(), ("--validation", "0.2", "--patience", "1", "--learning-rate", "0.02")])
def test_a_training_that_is_interrupted_all_the_time_ends_with_the_same_bits(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    chosen = options("--epochs", "4" if more else "2", *more)
    run, params = trainer.train("gru", 3, DATA, chosen, SILENT)
    again, params_again = stopped(tmp_path / "a", chosen, questions=1)
    assert figures(again) == figures(run)
    for expected, found in zip(leaves(params), leaves(params_again), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_is_kept_is_the_epoch_with_the_least_loss_on_held_out_reviews() -> None:
    chosen = options("--validation", "0.25", "--learning-rate", "0.05", "--epochs", "6", "--patience", "2")
    run, params = trainer.train("simple_rnn", 0, DATA, chosen, SILENT)
    losses = [score.loss for score in run.validation]
    assert run.best == 1 + int(np.argmin(losses)) and len(losses) == min(6, run.best + 2)
    model = build("simple_rnn", 0, chosen)
    nnx.update(model, params)
    model.eval()
    _, (tokens, labels) = trainer.hold_out(DATA, 0.25)
    assert len(labels) == 80 and abs(labels.mean() - DATA.train.labels.mean()) < 0.01
    logits = np.asarray(model(jnp.asarray(tokens)), np.float64)
    loss = np.mean(np.logaddexp(0, logits) - labels * logits)
    np.testing.assert_allclose(loss, min(losses), rtol=1e-5)


def save_three(folder: Path) -> Store:
    store = Store(folder, {"units": 5}, every=1)
    for number in (1, 2, 3):
        arrays = {"state": {"a": jnp.full((300, 7), number, jnp.float32), "key": jax.random.key(number)}}
        assert store.save(arrays, {"number": number, "sums": []})
    return store


LIKE = {"state": {"a": jnp.zeros((300, 7)), "key": jax.random.key(0)}, "kept": jnp.zeros(3)}


def test_the_last_save_comes_back(tmp_path: Path) -> None:
    save_three(tmp_path).close()
    store = Store(tmp_path, {"units": 5}, every=1)
    found = store.restore(LIKE)
    assert found is not None
    assert found[1]["number"] == 3 and {*found[0]} == {"state"}
    np.testing.assert_array_equal(found[0]["state"]["a"], np.full((300, 7), 3))
    assert found[0]["state"]["key"] == jax.random.key(3)
    store.close()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_the_save_before_a_damaged_one_is_taken_and_both_are_left(tmp_path: Path, damage: str) -> None:
    save_three(tmp_path / "whole").close()
    names = [name for name in files_of(tmp_path / "whole" / "3") if (tmp_path / "whole" / "3" / name).stat().st_size]
    assert len(names) > 5
    noticed = 0
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / "3" / name
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            half = len(content) // 2
            path.write_bytes(
                content[:half] + (bytes([content[half] ^ 1]) + content[half + 1 :]) * (damage == "changed")
            )
        store = Store(folder, {"units": 5}, every=1)
        found = store.restore(LIKE)
        assert found is not None
        # Some files say nothing that is needed; what is read is right in any case.
        assert (np.asarray(found[0]["state"]["a"]) == found[1]["number"]).all()
        if found[1]["number"] == 2:
            noticed += 1
            assert (folder / "damaged-3").is_dir() and "3 " in store.problem
            assert store.save({"state": LIKE["state"]}, {"sums": []}) and store.last == folder / "4"
        store.close()
    assert noticed >= 3


@pytest.mark.parametrize("value", ["x", [], 1e999])
def test_what_orbax_notes_of_a_save_is_not_needed_to_read_it(tmp_path: Path, value: Any) -> None:
    save_three(tmp_path).close()
    path = tmp_path / "3" / "_CHECKPOINT_METADATA"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"init_timestamp_nsecs": value, "item_handlers": value}))
    store = Store(tmp_path, {"units": 5}, every=1)
    found = store.restore(LIKE)
    assert found is not None and found[1]["number"] == 3
    assert store.save({"state": LIKE["state"]}, {"sums": []}) and store.last == tmp_path / "4"
    store.close()


def test_nothing_is_changed_where_all_saves_are_damaged(tmp_path: Path) -> None:
    save_three(tmp_path).close()
    for path in tmp_path.glob("*/rest/metadata"):
        path.write_text("{")
    before = files_of(tmp_path)
    store = Store(tmp_path, {"units": 5}, every=1)
    with pytest.raises(Refused, match=r"no save in .* can be read: .*name another folder"):
        store.restore(LIKE)
    store.close()
    assert files_of(tmp_path) == before


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    save_three(tmp_path).close()
    with pytest.raises(Refused, match=r"units: expected 5 as in .*settings.json, got 6"):
        Store(tmp_path, {"units": 6}, every=1)


def test_settings_that_are_damaged_and_a_name_that_is_no_utf_8_are_told(tmp_path: Path) -> None:
    save_three(tmp_path).close()
    for damage in ("null", "3", "[1]", "{", "\xff"):
        (tmp_path / "settings.json").write_bytes(damage.encode("latin-1"))
        with pytest.raises(Refused, match=r"settings.json is damaged"):
            Store(tmp_path, {"units": 5}, every=1)
    with pytest.raises(Refused, match="expected a name in UTF-8"):
        Store(tmp_path / "caf\udce9", {"units": 5}, every=1)
    assert not [*tmp_path.glob("caf*")]


def test_two_programs_do_not_share_a_folder(tmp_path: Path) -> None:
    store = save_three(tmp_path)
    with pytest.raises(Refused, match="in use by another program"):
        Store(tmp_path, {"units": 5}, every=1)
    store.close()
    Store(tmp_path, {"units": 5}, every=1).close()


def test_a_save_that_fails_is_told_and_the_last_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = save_three(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._manager, "save", fail)  # pyright: ignore (there is no other way to fill a disk)
    assert not store.save({"state": LIKE["state"]}, {"sums": []})
    assert "No space left on device" in store.problem and store.last == tmp_path / "3"
    store.close()


def test_files_are_replaced_as_a_whole_and_earlier_ones_are_kept(tmp_path: Path) -> None:
    replace(tmp_path / "a", "one")
    with pytest.raises(UnicodeEncodeError):
        replace(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "one" and files_of(tmp_path) == ["a"]
    for number in (1, 2):
        assert prepare(tmp_path, ["a", "b"]) == tmp_path / f"earlier-{number}"
        replace(tmp_path / "a", "two")
    assert (tmp_path / "earlier-1" / "a").read_text() == "one"
    assert prepare(tmp_path, ["b"]) is None


def command(*arguments: str, **environment: str) -> list[str]:
    return [sys.executable, str(ROOT / "experiments" / "imdb.py"), *SMALL, *arguments]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path) -> None:
    arguments = ["--epochs", "60", "--cell", "simple_rnn", "--checkpoint", str(tmp_path / "saves")]
    process = subprocess.Popen(
        command(*arguments, "--output", str(tmp_path / "out")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    while "epoch 1/60" not in (line := process.stdout.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130
    assert "The same command goes on from" in rest and "Traceback" not in rest
    # What was measured up to there is written.
    assert json.loads((tmp_path / "out" / "results.json").read_text())["runs"][0]["test"]
    done = imdb.main([*SMALL, *arguments[2:], "--epochs", "3", "--output", str(tmp_path / "out")])
    assert len(done[0].test) >= 3 and done[0].seconds


@pytest.mark.full
def test_a_training_that_is_killed_at_any_moment_ends_with_the_same_bits(tmp_path: Path) -> None:
    arguments = ["--epochs", "3", "--cell", "lstm", "--every", "20", "--checkpoint", str(tmp_path / "saves")]
    kept = []
    for name in ("whole", "killed"):
        last = [*arguments[:-1], str(tmp_path / f"saves-{name}"), "--output", str(tmp_path / name)]
        waits = np.random.default_rng(0).uniform(2, 9, 2) if name == "killed" else []
        for wait in waits:
            process = subprocess.Popen(command(*last), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(wait)
            process.kill()
            process.wait()
        subprocess.run(command(*last), check=True, capture_output=True, timeout=300)
        kept.append((tmp_path / name / "lstm.safetensors").read_bytes())
    assert kept[0] == kept[1]


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--learning-rate", "0", "expected a number above 0, got 0"),
        ("--learning-rate", "-1", "expected a number above 0, got -1"),
        ("--learning-rate", "nan", "expected a number above 0, got nan"),
        ("--num-words", "1", "expected a whole number of at least 4, got 1"),
        ("--seed", "-1", "expected a whole number of at least 0, got -1"),
        ("--units", "many", "expected a whole number of at least 1, got many"),
        ("--patience", "3", "expected --validation beside it"),
        ("--every", "3", "expected --checkpoint DIR beside it"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        imdb.parse([f"{option}={value}"])
    assert refused.value.code == 2
    assert f"argument {option}: {words}" in capsys.readouterr().err


def test_divergence_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        imdb.main([*SMALL, "--learning-rate", "1e30", "--output", str(tmp_path)])
    assert ended.value.code == 1
    assert "the loss became" in (text := capsys.readouterr().out) and "try a --learning-rate below 1e+30" in text


def test_an_output_that_cannot_be_written_is_noticed_ahead_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        imdb.main([*SMALL, "--output", str(tmp_path / "file")])
    text = capsys.readouterr().out
    assert "--output: cannot write to" in text and "epoch" not in text


@pytest.mark.full
def test_a_disk_that_is_full_when_the_model_is_saved_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.saved.save", fail)
    assert imdb.main([*SMALL, "--epochs", "1", "--output", str(tmp_path)])
    assert "--output: [Errno 28] No space left on device" in capsys.readouterr().out
    assert (tmp_path / "results.json").is_file()


@pytest.mark.full
def test_output_that_has_no_such_letters_and_a_reader_that_goes_away(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    arguments = command("--output", str(tmp_path))
    done = subprocess.run(arguments, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    assert process.wait(60) == 1


def test_a_run_survives_json() -> None:
    run = report.Run(
        "gru", 1, 7, 20, [Score(0.1 + 0.2, 1 / 3)], [Score(1.0, 0.5)], [], [Score(2.0, 0.25)], [1.5], [0.5], 9
    )
    assert report.from_json(json.loads(json.dumps(report.as_json(run)))) == run
