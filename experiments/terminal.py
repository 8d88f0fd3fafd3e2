"""What the experiment shows while it trains, on any terminal and in any pipe, and how it is asked to stop."""

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from experiments.training import Score


@contextmanager
def patient_output() -> Generator[None]:
    """Letters that the output cannot have become question marks; where it cannot be written, the program ends quietly.

    Streams that are closed are as if nobody read them, and had nothing to say.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the program runs)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not there where somebody has replaced it
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Python would try to write what is left once more, at its very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # a reader that has gone away knows
            print(f"imdb.py: {error}", file=sys.stderr)
        raise SystemExit(1) from None


class Stop:
    """Notes Ctrl-C and SIGTERM, so that training ends between two steps; the second one is as it always was."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])


class Meter:
    """A progress bar with loss, accuracy and reviews a second; silent where the output is not a terminal."""

    def __init__(self, label: str, total: int, seen: int, console: Console):
        self.start, self.seen = time.perf_counter(), seen
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TaskProgressColumn(),
            TextColumn("{task.fields[score]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(label, total=total, completed=seen, score="compiling")

    def update(self, seen: int, score: Score) -> None:
        """Shows the mean score of the reviews seen so far."""
        speed = (seen - self.seen) / (time.perf_counter() - self.start)
        text = f"loss {score.loss:.3f} accuracy {score.accuracy:.3f} {speed:,.0f} reviews/s"
        self.bar.update(self.task, completed=seen, score=text)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
