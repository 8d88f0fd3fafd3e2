"""What a training meets that asks it to stop or keeps it from writing: signals, a full disk, folders of others."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.faults import archives, programs
from tests.faults.kills import Training
from tests.faults.verdicts import Case, Setting, Verdict, expect

SPACE = "No space left|cannot write|could not be saved|cannot get|File too large|Nothing could be saved|not enough"


def cases(setting: Setting) -> Iterator[Case]:
    """Signals, then disks, then folders."""
    rng = np.random.default_rng(setting.seed)
    training = Training(setting.folder / "training", "gru")
    training.whole()
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        for index in range(setting.count(5)):
            yield from stopped(training, setting.folder / f"{name}-{index}", number, name, rng)
    can_mount = can_mount_disks(setting.folder / "disk")
    sizes = [32, 160, 256, 384, 512, 640, 768, 1024]  # KiB, of which it needs about 900
    for size in sizes if not setting.quick else sizes[3:4]:
        if can_mount:
            yield from full_disk(training, setting.folder / "disk", size)
    for size in (1, 8, 40) if not setting.quick else ():
        yield from small_files(training, setting.folder / f"small-{size}", size)
    yield from unwritable(setting.folder / "locked", programs.environment(setting.folder / "training" / "compiled"))


def stopped(training: Training, place: Path, number: int, name: str, rng: np.random.Generator) -> Iterator[Case]:
    """A signal at a random moment after the beginning; the same command goes on."""
    fault = f"{name}: saves, says how to go on, and the same command ends with the same bits"
    training.prepare(place)
    with tempfile.TemporaryFile() as output:
        process = programs.start(training.command(place), training.variables, output=output)
        if number == signal.SIGINT:  # before, Python itself answers
            programs.wait_for((place / "data" / "imdb_reviews").exists, process)
        wait = rng.uniform(0, 6 if number == signal.SIGTERM else 4)
        time.sleep(wait)
        code = programs.kill(process, number)
        output.seek(0)
        ended = programs.Ended(code, output.read().decode(errors="replace"))
    what = f"{name} after {wait:.1f} s"
    has_advice = "The same command goes on" in ended.text or "Nothing" in ended.text or "Interrupted" in ended.text
    is_fine = code in (0, -number) or (code == 130 and has_advice)
    yield expect(fault, is_fine and not programs.has_traceback(ended.text), f"{what}: {code}: {ended.last}")
    yield goes_on(fault, training, place, what)


def goes_on(fault: str, training: Training, place: Path, what: str) -> Case:
    """Whether the same command ends as if nothing had been."""
    wrong = training.problem(place)
    return expect(fault, wrong is None, f"{what}, then {wrong}")


def can_mount_disks(place: Path) -> bool:
    """Whether disks of any size can be had."""
    if os.getuid():
        return False
    try:
        with disk(place, 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def disk(place: Path, size: int) -> Generator[None]:
    """A disk of so many KiB."""
    place.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def full_disk(training: Training, place: Path, size: int) -> Iterator[Case]:
    """Everything is on a disk that becomes full; when there is space, the same command goes on."""
    fault = (
        "full disk, for data, checkpoints and results: told, and with space the same command ends with the same bits"
    )
    with disk(place, size):
        try:
            training.prepare(place)
        except OSError:
            shutil.rmtree(place / "data", ignore_errors=True)
        ended = programs.run(training.command(place), training.variables)
        yield programs.judge(fault, ended, SPACE, f"a disk of {size} KiB")
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True, capture_output=True)
        yield goes_on(fault, training, place, f"a disk of {size} KiB")


def small_files(training: Training, place: Path, size: int) -> Iterator[Case]:
    """No file may become larger than so many KiB."""
    fault = "no file may be large: told, and without the limit the same command ends with the same bits"
    training.prepare(place)
    ended = programs.run(training.command(place), training.variables, largest_file=size << 10)
    yield programs.judge(fault, ended, SPACE, f"files of {size} KiB at most")
    yield goes_on(fault, training, place, f"files of {size} KiB at most")


def unwritable(place: Path, variables: dict[str, str]) -> Iterator[Case]:
    """Folders and files that may not be written or read."""
    fault = "folders and files without permission"
    locked = place / "locked"
    (locked / "folder").mkdir(parents=True)
    (locked / "file").write_text("a review")
    os.chmod(locked / "file", 0)
    os.chmod(locked / "folder", 0)
    os.chmod(locked, 0o555)
    (place / "saves" / "lstm-0").mkdir(parents=True)
    (place / "saves" / "lstm-0" / "settings.json").write_text("{}")
    os.chmod(place / "saves" / "lstm-0" / "settings.json", 0)
    archives.place(place / "data", 4)
    prepared = place / "data" / "imdb_reviews"
    prepared.mkdir()
    os.chmod(prepared, 0o555)
    tiny, out = (
        [*programs.IMDB, *programs.TINY],
        ["--output", str(place / "out"), "--checkpoint", str(place / "saves-2")],
    )
    predict = [*programs.IMDB, "predict"]
    asked: list[tuple[list[str], str]] = [
        ([*tiny, *out, "--output", str(locked)], "--output: cannot write to .*locked"),
        ([*tiny, *out, "--output", str(locked / "new")], "--output: cannot write to .*new"),
        ([*tiny, *out, "--output", str(locked / "folder" / "new")], "--output: cannot write to .*new"),
        ([*tiny, *out, "--output", str(locked / "file")], "--output: cannot write to .*file"),
        ([*tiny, *out, "--checkpoint", str(locked)], "--checkpoint: cannot write to .*locked"),
        ([*tiny, *out, "--checkpoint", str(locked / "folder")], "--checkpoint: cannot write to .*folder"),
        ([*tiny, *out, "--checkpoint", str(locked / "file")], "--checkpoint: cannot write to .*file"),
        ([*tiny, *out, "--checkpoint", str(place / "saves")], "--checkpoint: cannot .*saves"),
        ([*tiny, *out, "--data", "imdb", "--data-dir", str(locked / "folder")], "cannot get the IMDB .* from .*folder"),
        ([*tiny, *out, "--data", "imdb", "--data-dir", str(place / "data")], "cannot get the IMDB .* from .*data"),
        ([*predict, "good", "--model", str(locked / "folder")], "imdb.py predict: .*folder"),
        ([*predict, "--file", str(locked / "file"), "--model", str(place)], "imdb.py predict: .*"),
    ]  # fmt: skip
    for command, words in asked:
        ended = programs.run(programs.without_privileges(command), variables | programs.OFFLINE)
        case = programs.judge(fault, ended, words, " ".join(command[2:]))
        # Nothing was to be had here: success is none.
        yield case if case.verdict is not Verdict.SURVIVED else Case(fault, Verdict.LOST, f"{command} succeeded")
    os.chmod(locked, 0o755)
    os.chmod(locked / "folder", 0o755)
