"""Whether every path that runs on this device gives the right numbers: values and gradients, against float64.

All cells, implementations and options are run with small sizes in float32, and some of them in each other dtype. What
comes back is compared with loops in NumPy that know the equations alone: outputs and states as they are, gradients of
inputs, weights and initial states along random directions. To be run first on a device that is new.

Each line is a check: what was run, and the largest error as a part of the norm. The tolerances are those of the other
benchmarks. What an implementation declines is counted, with the reason. Whatever breaks takes its process with it, and
the others go on. On a GPU, XLA does not try out which of several products is the fastest here, to save time.

    python -m benchmarks.check --output check.txt
"""

import argparse
import itertools
import os
import queue
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from benchmarks import command
from benchmarks.cases import DTYPES, TOLERANCES, dtypes
from benchmarks.checks.judge import BROKEN, DECLINED, LATE, OK, Check, Verdict
from benchmarks.checks.loops import GATES
from benchmarks.checks.settings import everything, in_fewer_digits
from benchmarks.comparison import Asked
from benchmarks.contestants import IMPLEMENTATIONS
from benchmarks.workers import SHARING, Worker, WorkerError, exit_on_termination

LIMIT = 60.0
"""Seconds that a check may take."""
ALSO_AUTO = ("plain", "single step")
"""Settings that are run with ``implementation="auto"``, too, which may take one for values and one for gradients."""

Judged = tuple[Check, Verdict]


def start() -> Asked:
    """A process for checks."""
    return Worker("benchmarks.checks", environment=SHARING)


def checks(implementations: Sequence[str], wanted: Sequence[str], cells: Sequence[str]) -> list[Check]:
    """What there is for these."""
    found: list[Check] = []
    fewer = in_fewer_digits()
    for dtype in wanted:
        for setting, implementation in itertools.product(everything(), implementations):
            # The kernels for a GPU have nothing but fewer digits.
            whole = dtype == "float32" or implementation == "cuda"
            if (
                (whole or setting in fewer)
                and setting.cell in cells
                and (implementation != "auto" or setting.name in ALSO_AUTO)
            ):
                found.append(Check(setting, implementation, dtype))
    return found


class Court:
    """Processes for checks, each made anew after something broke in it, since a GPU may be in disorder for it then.

    Args:
      jobs: how many.
      seconds: after which no check is begun.
      start: makes one.
    """

    def __init__(self, jobs: int, seconds: float, start: Callable[[], Asked] = start):
        self._jobs, self._end, self._start = jobs, time.monotonic() + seconds, start
        self._idle: queue.Queue[Asked | None] = queue.Queue()
        for _ in range(jobs):
            self._idle.put(None)

    def about(self) -> dict[str, str]:
        """The device, and the version of jax."""
        worker = self._start()
        self._idle.get()
        self._idle.put(worker)
        return worker.ask(LIMIT)

    def judge(self, check: Check) -> Verdict:
        """In the next process that is idle."""
        worker = self._idle.get()
        try:
            if time.monotonic() > self._end:
                return Verdict(LATE, "there was no time left")
            worker = worker or self._start()
            try:
                verdict = Verdict(**worker.ask(LIMIT, **check.as_json()))
            except WorkerError as error:
                verdict = Verdict(BROKEN, str(error))
            if verdict.verdict == BROKEN:
                worker.close()
                worker = None
            return verdict
        finally:
            self._idle.put(worker)

    def run(self, wanted: Iterable[Check]) -> Iterator[Judged]:
        """All verdicts, in order."""
        wanted = [*wanted]
        with ThreadPoolExecutor(self._jobs) as pool:
            yield from zip(wanted, pool.map(self.judge, wanted), strict=True)

    def close(self) -> None:
        """Ends the processes."""
        for _ in range(self._jobs):
            if worker := self._idle.get():
                worker.close()


def report(judged: Iterable[Judged], say: Callable[[str], None]) -> bool:
    """Says each verdict and a summary; returns whether all that ran is right and something did run."""
    counts: Counter[tuple[str, str]] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for check, (verdict, words) in judged:
        counts[check.implementation, verdict] += 1
        if verdict == DECLINED:
            reasons[check.implementation, words] += 1
        else:
            say(f"{verdict:6} {check.label}: {words}")
    for (implementation, words), count in reasons.items():
        say(f"{implementation} declined {count} times: {words}")
    for implementation in dict.fromkeys(name for name, _ in counts):
        said = ", ".join(f"{count} {verdict}" for (name, verdict), count in counts.items() if name == implementation)
        say(f"{implementation}: {said}")
    found = {verdict for _, verdict in counts}
    return OK in found and found <= {OK, DECLINED}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("check", __doc__)
    every, jobs = ("auto", *IMPLEMENTATIONS), min(os.cpu_count() or 1, 12)
    parser.add_argument("--implementation", nargs="+", choices=every, default=list(every), help="[all]")
    parser.add_argument("--cell", nargs="+", choices=GATES, default=list(GATES), help="[all]")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="[all that differ on the device]")
    parser.add_argument("--minutes", type=float, default=30.0, help="after which no check is begun [%(default)s]")
    parser.add_argument("--jobs", type=int, default=jobs, help="checks at a time [%(default)s]")
    parser.add_argument("--output", type=Path, help="a file for the lines")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Checks, prints, writes, and exits with status 1 unless all is right."""
    options, began = parse(arguments), time.monotonic()
    exit_on_termination()
    file: TextIO | None = None
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        file = options.output.open("w")

    def say(line: str) -> None:
        print(line, flush=True)
        if file:
            print(line, file=file, flush=True)

    court = Court(options.jobs, 60 * options.minutes)
    try:
        about = court.about()
        say(f"jax {about['jax']} on {about['device']}; tolerances {TOLERANCES}")
        wanted = checks(options.implementation, options.dtype or dtypes(about["platform"]), options.cell)
        right = report(court.run(wanted), say)
        say(f"{'All is right' if right else 'NOT ALL IS RIGHT'}: {len(wanted)} in {time.monotonic() - began:.0f} s")
    finally:
        court.close()
        if file:
            file.close()
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
