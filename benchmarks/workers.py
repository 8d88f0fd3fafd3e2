"""Processes that answer requests: a contestant lives in one, as two frameworks in one get in each other's way.

Requests and answers are JSON, a line each. Between them a worker is stopped: threads of an idle framework spin at
times, and would take the processor from whoever has the turn. While it runs, threads of OpenMP do not spin either:
torch's would hold each other up wherever another program keeps a core busy.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Handler = Callable[[dict[str, Any]], dict[str, Any]]
"""Request to answer."""


WAITING = {"OMP_WAIT_POLICY": "passive"}
"""Variables of every worker."""
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
"""Variables for several processes on one GPU, which JAX and TensorFlow would each take for themselves."""
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Variables that keep a process away from it, where what it is compared with runs on a CPU."""


class WorkerError(Exception):
    """Why there is no answer; ``died`` tells whether the worker is gone, too."""

    def __init__(self, reason: str, died: bool = False):
        super().__init__(reason)
        self.died = died


class Worker:
    """A process seen from outside.

    Args:
      module, *arguments: what it runs, ``python -m module arguments``; that calls ``serve``.
      environment: variables in addition to those of this process.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None):
        # To a file, as a pipe that nobody reads fills up.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=Path(__file__).parent.parent,
            env=os.environ | WAITING | dict(environment or {}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, bufsize=0,
        )  # fmt: skip

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        """The answer to ``request``; the worker runs while it is waited for, and at no other time.

        Raises:
          WorkerError: for an answer that is an error, none within ``timeout`` seconds, and the end of the worker.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # found out when reading
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.send_signal(signal.SIGCONT)
        answer = json.loads(self._line(timeout))
        self._process.send_signal(signal.SIGSTOP)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _line(self, timeout: float | None) -> bytes:
        assert self._process.stdout is not None
        end = None if timeout is None else time.monotonic() + timeout
        line = b""
        while not line.endswith(b"\n"):
            left = None if end is None else max(end - time.monotonic(), 0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise WorkerError(f"no answer within {timeout:.0f} s", died=True)
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise WorkerError(self._last_words(), died=True)
            line += part
        return line

    def _last_words(self) -> str:
        """The last line that the worker wrote to stderr, or how it ended."""
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with status {self._process.wait()}"


def serve(handle: Handler) -> None:
    """Answers requests from stdin until there are no more; what ``handle`` raises is an answer, too."""
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        for line in sys.stdin:
            try:
                answer = handle(json.loads(line))
            except Exception as error:
                answer = {"error": in_a_line(error)}
            print(json.dumps(answer), file=answers, flush=True)


def exit_on_termination() -> None:
    """Lets SIGTERM raise ``SystemExit``, so that ``finally`` runs and no worker is left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def in_a_line(error: Exception, limit: int = 160) -> str:
    """What to say of an error: its name unless it is ours, and the beginning of its words."""
    text = " ".join(str(error).split())
    name = "" if type(error).__module__.startswith("benchmarks.") else f"{type(error).__name__}: "
    return (name + text)[:limit]
