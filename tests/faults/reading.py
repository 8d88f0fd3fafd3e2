"""A process that damages a file again and again, and reads it.

    python -m tests.faults.reading SUBJECT FOLDER SEED FIRST COUNT

It writes a line of JSON for each, and may end at any of them.
"""

import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import structures
from tests.faults.subjects import SUBJECTS, Found, Subject
from tests.faults.verdicts import Verdict

MEMORY = 2 << 30
"""What reading a file of some KiB may take, in bytes of addresses, beyond what the process has."""


def judge(subject: Subject, path: Path, expected: Found) -> tuple[Verdict, str]:
    """Reads a damaged file; returns how that ended, and why."""
    try:
        found = subject.read(path)
        if any(_same(found, right) for right in (expected, *subject.also)):
            return Verdict.SURVIVED, ""
        if subject.is_sealed:
            return Verdict.LOST, "other values than were written"
        if problem := _form(found, expected):
            return Verdict.LOST, problem
        if not _same(found, subject.read(path)):
            return Verdict.LOST, "other values each time"
        return Verdict.CHANGED, ""
    except subject.errors as error:
        text = str(error)
        names = [path, path.parent]  # of a folder, the one that the command names
        if isinstance(error, SystemExit) and isinstance(error.code, int):
            return Verdict.LOST, f"status {text} without a word"
        return (
            (Verdict.CLEAR, text) if any(str(name) in text for name in names) else (Verdict.LOST, f"which file? {text}")
        )
    except BaseException:
        return Verdict.LOST, traceback.format_exc(limit=-3)


def _same(found: Found, expected: Found) -> bool:
    """Whether they are the same to the last bit."""
    if found.keys() != expected.keys():
        return False
    pairs = [(np.asarray(found[name]), np.asarray(expected[name])) for name in expected]
    return all(a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def _form(found: Found, expected: Found) -> str | None:
    def form(values: Found) -> dict[str, Any]:
        arrays = {name: np.asarray(value) for name, value in values.items()}
        return {
            name: (array.shape, array.dtype if array.dtype.kind != "U" else "str") for name, array in arrays.items()
        }

    return None if form(found) == form(expected) else f"expected {form(expected)}, got {form(found)}"


def main(name: str, folder: Path, seed: int, first: int, count: int) -> None:
    """Writes a line for each damaged file; the intact one is in ``folder``, or is written there."""
    warnings.simplefilter("ignore")
    subject = SUBJECTS()[name]
    whole = folder / "whole"
    if not whole.exists():
        (making := folder / "making").mkdir(exist_ok=True)
        made = subject.make(making)
        (making / "name").write_text(str(made.relative_to(making)))
        making.rename(whole)
    inner = (whole / "name").read_text()
    expected = subject.read(_fresh(whole, folder / "intact") / inner)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(first, first + count):
        place = _fresh(whole, folder / "damaged")
        what = structures.change(place / inner, np.random.default_rng((seed, number)))
        print(json.dumps({"begun": number, "what": what}), flush=True)
        verdict, why = judge(subject, place / inner, expected)
        print(json.dumps({"number": number, "what": what, "verdict": verdict.value, "why": why[-1500:]}), flush=True)


def _fresh(whole: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    return place


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]))
