"""Programs that are run to see how they end, under limits of time and memory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.faults.verdicts import Case, Verdict

ROOT = Path(__file__).parents[2]

IMDB = [sys.executable, str(ROOT / "experiments" / "imdb.py")]
TINY = [
    "--data", "generated", "--limit", "160", "--maxlen", "8", "--num-words", "200", "--units", "3", "--embedding", "4",
    "--batch-size", "4", "--epochs", "2", "--every", "20",
]  # fmt: skip
"""A training of a second, which is saved three or four times."""

OFFLINE = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
"""Variables without which what is missing would be fetched."""

SECONDS = 240.0
MEMORY = 16 << 30
"""Of addresses, of which jax takes a few GiB without using them."""

_OURS = re.compile(
    r"Traceback \(most recent call last\):\n(  .*\n)*?  File .*, in <module>"
    r"|Exception in thread|Fatal Python error|Segmentation fault|terminate called"
)
"""What ends a program, or a part of it; not what a library logs of what it was told, with frames of its own alone."""


class Ended(NamedTuple):
    """How a program ended.

    Attributes:
      code: its exit status, that of a signal negative; ``None`` if it ran out of time.
      text: what it has said on either stream.
    """

    code: int | None
    text: str

    @property
    def last(self) -> str:
        """The end of what it has said."""
        return self.text.strip()[-1500:]


def environment(cache: Path | None = None, **more: str | None) -> dict[str, str]:
    """Variables for a program; ``None`` takes one away. What it compiles is kept in ``cache``."""
    found: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    if cache is not None:
        found |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return {name: value for name, value in (found | more).items() if value is not None}


def without_privileges(command: Sequence[str]) -> list[str]:
    """A command for which permissions hold, also where root gives it."""
    if os.getuid():
        return [*command]
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all", *command]


def as_nobody_known(command: Sequence[str]) -> list[str]:
    """A command given by a user who is in no list and owns nothing, where root can arrange that."""
    if os.getuid():
        return [*command]
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *may_read, *command]


def start(
    command: Sequence[str | bytes],
    variables: Mapping[str, str],
    *,
    output: IO[bytes] | int = subprocess.DEVNULL,
    memory: int = MEMORY,
    largest_file: int | None = None,
    **options: Any,
) -> subprocess.Popen[bytes]:
    """A program that has begun, the first of a group of processes, with limits."""
    options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, "cwd": ROOT} | options
    limits = ["prlimit", f"--as={memory}", *([] if largest_file is None else [f"--fsize={largest_file}"]), "--"]
    process: Any = subprocess.Popen([*limits, *command], env=variables, process_group=0, **options)
    return process


def run(
    command: Sequence[str | bytes], variables: Mapping[str, str], *, seconds: float = SECONDS, **options: Any
) -> Ended:
    """A program from start to end, or until its time is over."""
    # Through a pipe, as a file of what it says would count for its limits.
    process = start(command, variables, output=subprocess.PIPE, **options)
    try:
        said, _ = process.communicate(timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        code = None
    return Ended(code, said.decode(errors="replace"))


def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    """Sends a signal to the program and waits for its end."""
    process.send_signal(number)
    return process.wait(SECONDS)


def commanded(place: Path, *arguments: str) -> list[str]:
    """A tiny training that writes and saves below ``place``."""
    return [*IMDB, *TINY, "--output", str(place / "out"), "--checkpoint", str(place / "saves"), *arguments]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = SECONDS) -> bool:
    """Whether something comes about while a program runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        if what():
            return True
        time.sleep(0.002)
    return False


def has_traceback(text: str) -> bool:
    """Whether a program has ended in a way that says nothing to a user."""
    return _OURS.search(text) is not None


def judge(fault: str, ended: Ended, words: str | None = None, what: str = "") -> Case:
    """Survived if the program did what it should, a clear error if it said ``words`` (a pattern), lost otherwise.

    Args:
      fault: the row of the table.
      ended: how the program ended.
      words: what a clear error has to say; ``None`` where nothing but success will do.
      what: how to repeat it.
    """
    if ended.code is None or ended.code < 0 or has_traceback(ended.text):
        verdict = Verdict.LOST
    elif ended.code == 0:
        verdict = Verdict.SURVIVED
    else:
        verdict = Verdict.CLEAR if words is not None and re.search(words, ended.text) else Verdict.LOST
    detail = f"{what}: status {ended.code}: {ended.last}" if verdict is Verdict.LOST else ""
    return Case(fault, verdict, detail)
