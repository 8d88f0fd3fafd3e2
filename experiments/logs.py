"""What a training notes as it goes: lines of JSON, and events for TensorBoard.

A line is of the last few steps, or of an epoch. All but the speed follows from what training itself keeps, so that
after an interruption there is neither a line of steps that are trained once more, nor one too few.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optax
from rich.console import Console

from experiments import files
from experiments.report import Run

Line = dict[str, Any]


@dataclass(frozen=True)
class Timeline:
    """When things are: how many ``steps`` an epoch has, and the learning ``rate`` at each."""

    steps: int
    rate: optax.Schedule

    def point(self, run: Run, number: int, speed: float | None = None) -> Line:
        """Of one point of the learning curve, from 0 on."""
        epoch, within = divmod(number, -(-self.steps // run.every))
        step = epoch * self.steps + min((within + 1) * run.every, self.steps)
        return {
            **self._of(run, "steps", epoch + 1, step),
            **run.curve[number]._asdict(),
            "learning_rate": float(np.asarray(self.rate(step - 1))),
            "reviews_per_second": speed,
        }

    def epoch(self, run: Run, number: int) -> Line:
        """Of one epoch, from 0 on."""
        splits = {name: getattr(run, name) for name in ("train", "validation", "test") if getattr(run, name)}
        return {
            **self._of(run, "epoch", number + 1, (number + 1) * self.steps),
            **{name: scores[number]._asdict() for name, scores in splits.items()},
            "seconds": run.seconds[number],
        }

    def everything(self, run: Run) -> list[Line]:
        """All lines of a training up to here, in order."""
        points = [self.point(run, number) for number in range(len(run.curve))]
        epochs = [self.epoch(run, number) for number in range(len(run.test))]
        return sorted([*points, *epochs], key=lambda line: (line["step"], line["kind"] == "epoch"))

    def _of(self, run: Run, kind: str, epoch: int, step: int) -> Line:
        return {"cell": run.cell, "seed": run.seed, "kind": kind, "epoch": epoch, "step": step}


class Log(Protocol):
    """Where lines go; all raise ``OSError`` where they cannot."""

    def begin(self, cell: str, seed: int, lines: list[Line]) -> None:
        """A training starts, or goes on behind ``lines``."""

    def write(self, line: Line) -> None:
        """One more line."""


class JsonLines:
    """A file with a line of JSON for each."""

    def __init__(self, path: Path, is_new: bool):
        """Opens it; an earlier one is set aside if all is new.

        Raises:
          OSError: if it cannot be written.
        """
        self.path = path
        self.earlier = files.prepare(path.parent, [path.name] if is_new else [])
        path.open("a").close()

    def begin(self, cell: str, seed: int, lines: list[Line]) -> None:
        """Cuts what is of steps to come."""
        found = _parse(self.path.read_text(encoding="utf-8", errors="replace"))
        own = {_key(line): line for line in found if (line["cell"], line["seed"]) == (cell, seed)}
        others = [line for line in found if _key(line) not in own]
        kept = [*others, *(own.get(_key(line), line) for line in lines)]
        files.replace(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Line) -> None:
        """Appends it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _key(line: Line) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("cell", "seed", "kind", "step"))


def _parse(text: str) -> list[Line]:
    """Those that are whole: the last one may not be."""
    lines: list[Line] = []
    for line in text.splitlines():
        try:
            found = json.loads(line)
            _key(found)
        except (ValueError, TypeError, KeyError):
            continue
        lines.append(found)
    return lines


class Events:
    """A folder for TensorBoard, with one in it for each training."""

    def __init__(self, folder: Path, names: Sequence[str], is_new: bool):
        """Makes it; earlier trainings of these ``names`` are set aside if all is new.

        Raises:
          files.Refused: if tensorboardX is not installed.
          OSError: if it cannot be written.
        """
        try:
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        except ImportError as error:
            raise files.Refused("--tensorboard: tensorboardX is not installed: pip install tensorboardX") from error
        # Its SummaryWriter has a queue and a thread, and what waits there would be lost.
        self._writer, self._summary = event_file_writer.EventsWriter, summary
        self._proto: Any = event_pb2
        self.folder = folder
        self.earlier = files.prepare(folder, names if is_new else [])
        self._writers: dict[tuple[str, int], Any] = {}

    def begin(self, cell: str, seed: int, lines: list[Line]) -> None:
        """Tells TensorBoard to forget what is of the last step, and of steps to come; the former is written again."""
        last, folder = lines[-1]["step"] if lines else 0, self.folder / f"{cell}-{seed}"
        # A number, as files of one second would have one name.
        number = len([*folder.glob("events*")])
        folder.mkdir(parents=True, exist_ok=True)
        writer = self._writers[cell, seed] = self._writer(str(folder / "events"), f".{number}")
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        writer.write_event(self._proto.Event(step=last, wall_time=time.time(), session_log=start))
        for line in lines:
            if line["step"] == last:
                self.write(line)

    def write(self, line: Line) -> None:
        """Adds what is a number, under its name."""
        writer = self._writers[line["cell"], line["seed"]]
        for name, value in _numbers(line):
            found = self._summary.scalar(name, value)
            writer.write_event(self._proto.Event(step=line["step"], wall_time=time.time(), summary=found))
        writer.flush()


def _numbers(line: Line) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in line.items():
        if isinstance(value, dict):
            found += [(f"{name}/{part}", number) for part, number in value.items()]
        elif isinstance(value, float):
            found.append((name, value))
    return found


class Logs:
    """All logs of a run; one that fails is left, since training is worth more."""

    def __init__(self, logs: Sequence[Log], console: Console):
        self.logs, self._console = [*logs], console
        self._time = Timeline(1, optax.constant_schedule(0.0))

    def begin(self, runs: Sequence[Run], time: Timeline) -> None:
        """Trainings start, or go on."""
        self._time = time
        for run in runs:
            self._each(lambda log, run=run: log.begin(run.cell, run.seed, time.everything(run)))

    def point(self, runs: Sequence[Run], speed: float) -> None:
        """Behind some steps, which were done at so many reviews a second."""
        for run in runs:
            self._write(lambda run=run: self._time.point(run, len(run.curve) - 1, speed))

    def epoch(self, runs: Sequence[Run]) -> None:
        """Behind an epoch."""
        for run in runs:
            self._write(lambda run=run: self._time.epoch(run, len(run.test) - 1))

    def _write(self, line: Any) -> None:
        if self.logs:
            found = line()
            self._each(lambda log: log.write(found))

    def _each(self, call: Any) -> None:
        for log in [*self.logs]:
            try:
                call(log)
            except OSError as error:
                self.logs.remove(log)
                self._console.print(f"{type(log).__name__} ends here: {error}", style="bold red", soft_wrap=True)
