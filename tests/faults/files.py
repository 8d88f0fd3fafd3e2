"""Files that are damaged at random, and read: weights, models, checkpoints, prepared reviews.

Processes read many in a row, each within a limit of time and memory, and are replaced when they die.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults import programs
from tests.faults.subjects import SUBJECTS
from tests.faults.verdicts import Case, Setting, Verdict

MANY = 1000
SECONDS = 60.0
"""For one file."""
START_SECONDS = 600.0
"""For the start of a process, which imports much."""


def cases(setting: Setting) -> Iterator[Case]:
    """Damaged files of every kind."""
    for index, name in enumerate(SUBJECTS()):
        (folder := setting.folder / str(index)).mkdir()
        yield from damaged(name, folder, setting.seed, setting.count(MANY, 3))


def damaged(name: str, folder: Path, seed: int, count: int, module: str = "tests.faults.reading") -> Iterator[Case]:
    """``count`` damaged files of one kind."""
    number = 0
    # No network: what is missing must not be fetched again.
    variables = programs.environment() | programs.OFFLINE
    while number < count:
        command = [sys.executable, "-m", module, name, str(folder), str(seed), str(number), str(count - number)]
        process = programs.start(command, variables, output=subprocess.PIPE, memory=64 << 30, stderr=subprocess.DEVNULL)
        last: dict[str, Any] = {}
        for last in _answers(process):
            if "verdict" in last:
                number = last["number"] + 1
                detail = f"seed {seed} number {last['number']}, {last['what']}: {last['why']}"
                verdict = Verdict(last["verdict"])
                yield Case(f"damaged: {name}", verdict, detail if verdict is Verdict.LOST else "")
        code = programs.kill(process)
        if number >= count:
            return
        if "begun" not in last or last["begun"] < number:
            raise RuntimeError(f"{' '.join(command)}: nothing could be read, status {code}")
        number = last["begun"] + 1
        detail = f"seed {seed} number {last['begun']}, {last['what']}: the process ended by {code}, or took {SECONDS} s"
        yield Case(f"damaged: {name}", Verdict.LOST, detail)


def _answers(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What a process says, line by line, until it ends or says nothing for too long."""
    assert process.stdout is not None
    with process.stdout as lines:
        seconds = START_SECONDS
        while True:
            watch = threading.Timer(seconds, process.kill)
            watch.start()
            line = lines.readline()
            watch.cancel()
            if not line:
                return
            if line.startswith(b"{"):
                yield json.loads(line)
                seconds = SECONDS
