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

_FAULT = "kill -9, {}: the same command ends with the same bits"


def cases(setting: Setting) -> Iterator[Case]:
    """Trainings that are killed several times, each with another cell."""
    rng = np.random.default_rng(setting.seed)
    every = [PREPARING, SAVING, WRITING, ANYWHERE]
    for cell, many in (("lstm", 6), ("simple_rnn", 5), ("gru", 5)) if not setting.quick else (("lstm", 1),):
        training = Training(setting.folder / cell, cell)
        seconds = training.whole()
        for moments in ([PREPARING, SAVING], [WRITING, ANYWHERE]) if not setting.quick else (every[1:2],):
            plan = [moment for moment in moments for _ in range(many)]
            if moments[0] != PREPARING:
                rng.shuffle(plan)
            yield from training.killed(plan, seconds, rng)


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
            sys.executable, "-m", "tests.faults.archives", str(self.archive), *programs.TINY,
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

    def killed(self, moments: list[str], seconds: float, rng: np.random.Generator) -> Iterator[Case]:
        """Kills it at each of ``moments`` in turn, and has it end; the cases are all right if its end is."""
        self._runs += 1
        place = self.folder / f"killed-{self._runs}"
        self.prepare(place)
        said: list[str] = []
        for moment in moments:
            began = time.monotonic()
            process = programs.start(self.command(place), self.variables)
            if moment == ANYWHERE:
                time.sleep(rng.uniform(0, seconds))
                hit = True
            else:
                hit = programs.wait_for(_signs(moment, place, int(rng.integers(1, 4))), process)
                time.sleep(rng.uniform(0, 0.02))
            hit = hit and process.poll() is None
            programs.kill(process)
            said.append(f"{moment} after {time.monotonic() - began:.2f} s{'' if hit else ' (it had ended)'}")
        try:
            self.run(place)
            wrong = same.problem(self.folder / "whole", place, self.cell)
        except RuntimeError as error:
            wrong = str(error)
        for moment, what in zip(moments, said, strict=True):
            if "had ended" not in what:  # those do not count
                yield expect(_FAULT.format(moment), wrong is None, f"{self.cell}, killed {said}: {wrong}")


def _signs(moment: str, place: Path, number: int) -> Callable[[], bool]:
    """Whether files tell that the moment has come, for the ``number``-th time."""
    pattern = {
        PREPARING: "data/imdb_reviews/**/*incomplete*",
        SAVING: "saves/*/*orbax-checkpoint-tmp*",
        WRITING: "out/.*",
    }[moment]
    seen = {*place.glob(pattern)}
    enough = len(seen) + (1 if moment == PREPARING else number)  # it is prepared once

    def come() -> bool:
        seen.update(place.glob(pattern))
        return len(seen) >= enough

    return come
