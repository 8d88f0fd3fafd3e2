"""What a training notes: each step and epoch once, also where it is killed and goes on."""

import builtins
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments import imdb, report, reviews, trainer
from experiments.checkpoints import Store
from experiments.files import Refused
from experiments.logs import Events, JsonLines, Line, Logs

SILENT = Console(quiet=True)
DATA = reviews.load("generated", limit=324, maxlen=12, num_words=200)
SMALL = [
    "--data", "generated", "--limit", "324", "--maxlen", "12", "--num-words", "200", "--units", "5", "--embedding", "6",
    "--batch-size", "8", "--epochs", "2", "--cell", "simple_rnn",
]  # fmt: skip
CHOSEN = imdb.parse([*SMALL, "--schedule", "linear", "--validation", "0.25"])
STEPS = 31  # of an epoch: 243 reviews


class Killed(Exception):
    """Whatever ends a program."""


class KilledAfter:
    """A log that ends the program behind so many lines, ahead of what would be saved next."""

    def __init__(self, lines: int):
        self.left = lines

    def begin(self, cell: str, seed: int, lines: list[Line]) -> None:
        pass

    def write(self, line: Line) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(lines: list[Line], run: report.Run) -> None:
    """All that training measured is there, once and in order."""
    points = [line for line in lines if line["kind"] == "steps"]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [(line["epoch"], line["step"]) for line in points] == [(1, 20), (1, 31), (2, 51), (2, 62)]
    assert [(line["kind"], line["step"]) for line in lines[2:4]] == [("epoch", 31), ("steps", 51)]
    assert [(line["loss"], line["accuracy"]) for line in points] == [*map(tuple, run.curve)]
    rates = [1e-3 * (1 - (line["step"] - 1) / (2 * STEPS)) for line in points]
    np.testing.assert_allclose([line["learning_rate"] for line in points], rates, rtol=1e-5)
    assert [line["epoch"] for line in epochs] == [1, 2]
    for name in ("train", "validation", "test"):
        assert [line[name] for line in epochs] == [score._asdict() for score in getattr(run, name)]
    assert [line["seconds"] for line in epochs] == run.seconds
    assert all((line["cell"], line["seed"]) == (run.cell, run.seed) for line in lines)


def test_lines_of_a_training(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl", is_new=True)
    run, _ = trainer.train("simple_rnn", 3, DATA, CHOSEN, SILENT, logs=Logs([log], SILENT))
    check(read(log.path), run)
    speeds = [line["reviews_per_second"] for line in read(log.path) if line["kind"] == "steps"]
    reviews_of = [160, 83, 160, 83]
    seconds = np.array(reviews_of) / speeds
    np.testing.assert_allclose([seconds[:2].sum(), seconds[2:].sum()], run.seconds, rtol=1e-9)


@pytest.mark.parametrize("kind", ["jsonl", "tensorboard"])
def test_a_training_that_is_killed_notes_nothing_twice_and_leaves_nothing_out(tmp_path: Path, kind: str) -> None:
    if kind == "tensorboard":
        pytest.importorskip("tensorboardX")
    path = tmp_path / "log.jsonl"
    path.write_text('{"cell": "gru", "seed": 3, "kind": "steps", "epoch": 1, "step": 20}\n')
    ended = None
    # Behind the first steps, before any save; within the second epoch; and behind the end of it, before its save.
    for lines in (1, 4, 3, 9):
        log = JsonLines(path, is_new=False) if kind == "jsonl" else Events(tmp_path / "tb", ["simple_rnn-3"], False)
        store = Store(tmp_path / "saves", {}, every=50)
        logs = Logs([log, KilledAfter(lines)], SILENT)
        try:
            ended, _ = trainer.train("simple_rnn", 3, DATA, CHOSEN, SILENT, store=store, logs=logs)
        except Killed:
            with path.open("a") as file:
                file.write('{"cell": "simple_rnn", "se')  # what a disk may have of the last line
        finally:
            store.close()
    assert ended is not None
    if kind == "jsonl":
        first, *rest = read(path)
        assert first["cell"] == "gru"
        check(rest, ended)
    else:
        found = scalars(tmp_path / "tb" / "simple_rnn-3")
        for name in report.Score._fields:
            steps, values = zip(*found[name], strict=True)
            assert steps == (20, 31, 51, 62)
            np.testing.assert_allclose(values, [getattr(score, name) for score in ended.curve], rtol=1e-6)
            for split in ("train", "validation", "test"):
                steps, values = zip(*found[f"{split}/{name}"], strict=True)
                assert steps == (31, 62)
                np.testing.assert_allclose(values, [getattr(s, name) for s in getattr(ended, split)], rtol=1e-6)


def test_lines_that_were_lost_are_written_again(tmp_path: Path) -> None:
    path, store = tmp_path / "log.jsonl", Store(tmp_path / "saves", {}, every=50)
    run, _ = trainer.train("simple_rnn", 3, DATA, CHOSEN, SILENT, store=store)
    log = JsonLines(path, is_new=False)
    again, _ = trainer.train("simple_rnn", 3, DATA, CHOSEN, SILENT, store=store, logs=Logs([log], SILENT))
    assert again == run
    check(read(path), run)
    assert {line["reviews_per_second"] for line in read(path) if line["kind"] == "steps"} == {None}
    store.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: it forgets what came ahead of a start with the same or a lower step."""
    from tensorboardX.proto import event_pb2

    protocol: Any = event_pb2
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event: Any = protocol.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == protocol.SessionLog.START:
                found = {name: [one for one in values if one[0] < event.step] for name, values in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_a_log_that_cannot_be_written_ends_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = JsonLines(tmp_path / "logs" / "log.jsonl", is_new=True)
    log.path.unlink()
    log.path.mkdir()
    run, _ = trainer.train("simple_rnn", 3, DATA, CHOSEN, SILENT, logs=Logs([log], Console(width=200)))
    assert len(run.test) == 2
    assert capsys.readouterr().out.count("JsonLines ends here: ") == 1


def test_the_command_writes_both_logs_and_sets_earlier_ones_aside(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    arguments = [
        *SMALL, "--epochs", "1", "--output", str(tmp_path / "out"), "--log", str(tmp_path / "logs" / "a.jsonl"),
        "--tensorboard", str(tmp_path / "tb"),
    ]  # fmt: skip
    for number in (0, 1):
        (run,) = imdb.main(arguments)
        lines = read(tmp_path / "logs" / "a.jsonl")
        assert [line["step"] for line in lines] == [20, 40, 41, 41]
        assert lines[-1]["test"] == run.test[0]._asdict()
        steps, values = zip(*scalars(tmp_path / "tb" / "simple_rnn-0")["loss"], strict=True)
        assert steps == (20, 40, 41)
        np.testing.assert_allclose(values, [score.loss for score in run.curve], rtol=1e-6)
        assert (tmp_path / "logs" / "earlier-1" / "a.jsonl").exists() == bool(number)
        assert (tmp_path / "tb" / "earlier-1" / "simple_rnn-0").exists() == bool(number)


def test_logs_that_cannot_be_had_are_noticed_ahead_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    arguments = [*SMALL, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        imdb.main([*arguments, "--log", str(tmp_path / "file" / "log.jsonl")])
    assert "--log: " in (text := capsys.readouterr().out) and "epoch" not in text
    with pytest.raises(SystemExit):
        imdb.main([*arguments, "--tensorboard", str(tmp_path / "file")])
    assert "--tensorboard: " in (text := capsys.readouterr().out) and "epoch" not in text

    imported = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "tensorboardX":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(Refused, match="--tensorboard: tensorboardX is not installed: pip install tensorboardX"):
        Events(tmp_path / "tb", [], is_new=True)
