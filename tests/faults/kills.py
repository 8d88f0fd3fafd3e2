"""``kill -9`` at random moments of preparing data, training and saving; the same command then has to end the same."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.faults import archives, programs, same
from tests.faults.verdicts import Case, Setting, expect

PREPARING, SAVING, WRITING, ANYWHERE = "preparing data", "saving", "writing results", "at any moment"

MANY = {PREPARING: 3, SAVING: 6, WRITING: 4, ANYWHERE: 5}
"""How often each cell is killed."""

_FAULT = "kill -9, {}: the same command ends with the same bits"


def cases(setting: Setting) -> Iterator[Case]:
    """Trainings that are killed several times, each with another cell."""
    rng = np.random.default_rng(setting.seed)
    for cell in ("lstm", "simple_rnn", "gru") if not setting.quick else ("lstm",):
        training = Training(setting.folder / cell, cell)
        seconds = training.whole()
        plan = [moment for moment, many in MANY.items() for _ in range(many)] if not setting.quick else [SAVING]
        yield from training.killed([plan[index] for index in rng.permutation(len(plan))], seconds, rng)


class Training:
    """One command, run in folders of its own.

    Args:
      folder: for all of them.
      cell: what to train.
    """

    def __init__(self, folder: Path, cell: str):
        self.folder, self.cell = folder, cell
        self.archive = archives.place(folder / "archive")
        self.variables = programs.environment(folder / "compiled")
        self._runs = 0

    def command(self, place: Path) -> list[str]:
        """It prepares data, trains, saves and writes below ``place``."""
        return [
            sys.executable, "-m", "tests.faults.archives", str(self.archive), *programs.TINY, "--epochs", "4",
            "--data", "imdb", "--data-dir", str(place / "data"), "--cell", self.cell, "--output", str(place / "out"),
            "--checkpoint", str(place / "saves"),
        ]  # fmt: skip

    def whole(self) -> float:
        """Runs it without interruption; returns for how long."""
        self.run(self.folder / "whole")  # which also compiles
        shutil.rmtree(self.folder / "whole")
        began = time.monotonic()
        self.run(self.folder / "whole")
        return time.monotonic() - began

    def run(self, place: Path) -> None:
        """Runs it to the end.

        Raises:
          RuntimeError: if it fails.
        """
        self.prepare(place)
        ended = programs.run(self.command(place), self.variables)
        if ended.code != 0:
            raise RuntimeError(f"{ended.code}: {ended.last}")

    def prepare(self, place: Path) -> None:
        """Puts the archive where it is looked for."""
        manual = place / "data" / "downloads" / "manual"
        if not manual.exists():
            manual.mkdir(parents=True)
            shutil.copy(self.archive, manual)

    def killed(self, plan: list[str], seconds: float, rng: np.random.Generator) -> Iterator[Case]:
        """Kills it at each moment of ``plan``; where it ends by itself, the rest is for another that begins anew."""
        left = [*plan]
        while left:
            self._runs += 1
            place = self.folder / f"killed-{self._runs}"
            self.prepare(place)
            done: list[tuple[str, float]] = []
            while left and (after := self._kill(left[0], place, seconds, rng)) is not None:
                done.append((left.pop(0), after))
            wrong = self.problem(place)
            said = ", ".join(f"{moment} after {after:.2f} s" for moment, after in done)
            for moment, _ in done or ([] if wrong is None else [("never", 0.0)]):
                yield expect(_FAULT.format(moment), wrong is None, f"{self.cell}, killed {said}: {wrong}")

    def problem(self, place: Path) -> str | None:
        """What is wrong when it is run to the end, ``None`` if it ends as if it had never been interrupted."""
        try:
            self.run(place)
        except RuntimeError as error:
            return str(error)
        return same.problem(self.folder / "whole", place, self.cell)

    def _kill(self, moment: str, place: Path, seconds: float, rng: np.random.Generator) -> float | None:
        """Runs and kills it; returns after how many seconds, or ``None`` if it had ended."""
        began = time.monotonic()
        process = programs.start(self.command(place), self.variables)
        if moment == ANYWHERE:
            time.sleep(rng.uniform(0, seconds))
        else:
            programs.wait_for(_signs(moment, place, int(rng.integers(1, 4))), process)
            time.sleep(rng.uniform(0, 1.0 if moment == PREPARING else 0.03))
        if process.poll() is not None:
            return None
        programs.kill(process)
        return time.monotonic() - began


_SIGNS = {
    PREPARING: "data/imdb_reviews/**/*incomplete*",
    SAVING: "saves/*/*orbax-checkpoint-tmp*",
    WRITING: "out/*.*",
}
"""Files that come, or become others, at each of the moments."""


def _signs(moment: str, place: Path, number: int) -> Callable[[], bool]:
    """Whether files tell that the moment has come, for the ``number``-th time."""
    seen: set[tuple[Path, int]] = set()

    def look() -> None:
        for path in place.glob(_SIGNS[moment]):
            try:
                seen.add((path, path.stat().st_mtime_ns if moment == WRITING else 0))
            except FileNotFoundError:  # it was there for a moment
                continue

    look()
    enough = len(seen) + (1 if moment == PREPARING else number)  # it is prepared once

    def has_come() -> bool:
        look()
        return len(seen) >= enough

    return has_come
