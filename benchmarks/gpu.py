"""Ours against all peers on a GPU, within some minutes: the most telling cases first.

First an LSTM of the size of the IMDB experiment, then a training step of that experiment, larger sizes, masks and other
options, other cells, single sequences, other dtypes, and what else there is. No case is begun that would not be done
in time if it took as long as the one before. What there is is written after every case, so that nothing is lost if the
machine goes away. --rehearse goes the same way with tiny sizes, on a CPU too, where its figures mean nothing.

Times are those on the device, of calls that are waited for together, and beside them those of calls that are waited for
each. Contestants get ready several at a time, to save minutes, so that their compile times are not comparable.

    python -m benchmarks.gpu --minutes 6
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command, imdb_step, tables
from benchmarks.cases import VARIANTS, Case, Size, default, named, product
from benchmarks.comparison import Effort, Field
from benchmarks.contestants import OURS, PEERS
from benchmarks.imdb_workloads import WITHOUT
from benchmarks.layers import SECOND_LSTMS, draw, measure, slug, started
from benchmarks.progress import Progress, progress
from benchmarks.record import RESULTS, write
from benchmarks.workers import exit_on_termination

EFFORT = Effort(rounds=4, turn=0.04, budget=1.0, limit=60.0, jobs=8)
AGAINST = tuple(name for name in PEERS if name not in (*SECOND_LSTMS, "onnxruntime"))
STEP = ("flax_rnn", "keras-jax", "keras-tensorflow", WITHOUT)
"""Contestants of the experiment's step."""
REHEARSED = Size(2, 3, 4, 5)

FIRST = product(named("imdb"), ["lstm"], ["training", "forward"], ["tf32", "bfloat16"])
"""What is measured ahead of the experiment's step."""

Task = Callable[[Progress], None]
"""Something to measure, which adds to the results."""


def plan() -> list[Case]:
    """All cases, each once, in the order in which they are measured."""
    lstm, gru, both, options = ["lstm"], ["gru"], ["tf32", "bfloat16"], ["mask", "recurrent-dropout", "relu"]
    wanted = [
        *FIRST,
        *product(named("imdb"), lstm, ["training"], ["tf32"], options),
        *product(named("small"), lstm, dtypes=both),
        *product(named("imdb"), gru, dtypes=both),
        *product(named("large"), lstm, dtypes=both),
        *product(named("imdb"), lstm, ["training"], ["bfloat16"], options),
        *product(named("small", "large"), gru, dtypes=both),
        *product(named("medium"), lstm, ["training"], both),
        *product(named("imdb"), ["simple_rnn"], ["training"], both),
        *product(named("imdb"), lstm, ["training"], ["float16", "float32"]),
        *product(named("imdb"), lstm, ["training"], ["tf32"], VARIANTS[1:]),
        *product(named("wide"), lstm, ["training"], both),
        *product(named("latency"), lstm, ["forward"], both),
        *product(named("medium", "flashrnn"), lstm, ["training"], ["float16"]),
        *product(named("medium", "wide"), lstm, ["forward"], both),
        *product(named("medium"), gru, ["training"], both),
        *product(named("small", "medium", "large"), ["simple_rnn"], ["training"], both),
        *product(named("imdb"), gru, ["training"], ["tf32"], VARIANTS[1:]),
        *default("gpu"),
    ]
    return [*dict.fromkeys(wanted)]


def rehearsed(cases: list[Case]) -> list[Case]:
    """The same with tiny sizes, each once."""
    return [*dict.fromkeys(Case(c.cell, *REHEARSED, c.phase, c.dtype, c.variant) for c in cases)]


class Budget:
    """So many seconds, of which tasks take as they need.

    Args:
      seconds: from now on.
      clock: tells the time, in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._end, self._clock, self._last = clock() + seconds, clock, 0.0

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - self._clock()

    def spend(self, tasks: list[Task]) -> Iterator[Task]:
        """The tasks one by one, as long as one that takes as long as the last would be done in time."""
        for task in tasks:
            if self.left < self._last:
                return
            start = self._clock()
            yield task
            self._last = self._clock() - start


def limit(budget: Budget) -> float:
    """Seconds that one answer may take: as usual, or what is left."""
    return max(min(EFFORT.limit, budget.left), 1.0)


def step(results: dict[str, Any], budget: Budget, quick: bool, shown: Progress) -> None:
    """The experiment's step, as ``benchmarks.imdb_step`` has it."""
    shown.now("a step of the IMDB experiment")
    steps, rounds = (2, 1) if quick else (imdb_step.STEPS, 4)
    contestants = [name for name in STEP if not quick or name in (STEP[0], WITHOUT)]
    found = imdb_step.compare("lstm", contestants, steps, rounds, EFFORT.jobs, limit(budget))
    results["imdb_step"].append(found)
    shown.done("a step of the IMDB experiment\n" + imdb_step.table([found]))


def page(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = [tables.report(results)]
    if results["imdb_step"]:
        parts += ["A training step of the IMDB experiment:\n", imdb_step.table(results["imdb_step"])]
    if results["failures"]:
        parts += ["What went wrong:\n", "\n".join(f"- {words}" for words in results["failures"]) + "\n"]
    return "\n".join(parts)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("gpu", __doc__)
    parser.add_argument("--minutes", type=float, default=6.0, help="of all, the start included [%(default)s]")
    parser.add_argument(
        "--ours", nargs="+", choices=OURS, default=OURS, help=f"the first is the measure [{' '.join(OURS)}]"
    )
    parser.add_argument("--against", nargs="*", choices=PEERS, default=AGAINST, help=f"[{' '.join(AGAINST)}]")
    parser.add_argument("--jobs", type=int, default=EFFORT.jobs, help="who get ready at once [%(default)s]")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on whatever there is; needs --output")
    parser.add_argument("--output", type=Path, help="of the results, without ending [benchmarks/results/gpu-DEVICE]")
    options = parser.parse_args(arguments)
    if options.rehearse and not options.output:
        parser.error("--rehearse: expected --output, since its figures are not results")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measures, and writes what there is after every case."""
    options = parse(arguments)
    exit_on_termination()
    budget = Budget(60 * options.minutes)
    effort = EFFORT._replace(jobs=options.jobs)
    if options.rehearse:
        effort = effort._replace(rounds=1, turn=0.0, queued=True)
    field = Field([*options.ours, *options.against], effort)
    try:
        if field.platform == "cpu" and not options.rehearse:
            sys.exit("benchmarks.gpu: there is no GPU that jax knows of; --rehearse runs on a CPU")
        field.gather()
        run(field, budget, options, command.line("gpu", arguments))
    finally:
        field.close()


def run(field: Field, budget: Budget, options: argparse.Namespace, called: str) -> None:
    """``main``, once it is known who is there."""
    results = started(field, called) | {"imdb_step": [], "failures": []}
    stem = options.output or RESULTS / f"gpu-{slug(field.device)}"
    cases = rehearsed(plan()) if options.rehearse else plan()
    tasks: list[Task] = [partial(measure, field, case, results) for case in cases]
    tasks.insert(len(FIRST), partial(step, results, budget, options.rehearse))
    done = 0
    with progress(len(tasks)) as shown:
        for task in budget.spend(tasks):
            field.effort = field.effort._replace(limit=limit(budget))
            try:
                task(shown)
            except Exception as error:  # the next may do better, and there may be no second time
                results["failures"].append(f"{type(error).__name__}: {error}")
                shown.done(results["failures"][-1])
            done += 1
            write(stem, results, page(results))
    draw(results, stem)
    print(f"{done} of {len(tasks)} tasks, {budget.left:.0f} s left: {stem}.json and .md")


if __name__ == "__main__":
    main()
