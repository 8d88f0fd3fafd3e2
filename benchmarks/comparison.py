"""One case and all contestants: built, compared, and only then timed, in turns.

Who cannot take part, or gives other numbers, is listed with the reason.
"""

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from benchmarks.cases import TOLERANCES, Case
from benchmarks.contestants import PRODUCTS
from benchmarks.timing import Timing, interleave
from benchmarks.workers import SHARING, WITHOUT_GPU, Worker, WorkerError

_LONG = 0.25  # seconds of a call, next to which it does not matter that a worker has to wake up


class Effort(NamedTuple):
    """How much time is spent.

    Attributes:
      rounds: turns of each contestant.
      turn: seconds that a turn takes if calls are short; it has as many calls as fit, and one at least.
      budget: seconds of a contestant in a case, after which it has no more turns.
      limit: seconds that a contestant may take to build a case, or for one turn.
      jobs: how many get ready at the same time; several disturb what each measures of its own compilation, and the
        trials by which XLA chooses among products on a GPU.
      queued: whether to time calls that are waited for together on a CPU, too, as is done on a GPU.
    """

    rounds: int = 12
    turn: float = 0.1
    budget: float = 4.0
    limit: float = 180.0
    jobs: int = 1
    queued: bool = False


class Asked(Protocol):
    """A ``Worker``, or what acts as one in a test."""

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        """See ``Worker``."""
        ...

    def close(self) -> None:
        """See ``Worker``."""
        ...


def start(name: str, environment: Mapping[str, str]) -> Asked:
    """The process of the contestant ``name``."""
    return Worker("benchmarks.contestants", name, environment=environment)


class Field:
    """The contestants' processes, each started when it is first asked, and again after it was lost.

    Args:
      names: the contestants; the first is what the others are compared with.
      effort: whose ``limit`` holds.
      start: makes of a name and an environment what can be asked.
      environment: variables for all of them.

    Attributes:
      environment: these, and those that are always set.
    """

    def __init__(
        self,
        names: Sequence[str],
        effort: Effort,
        start: Callable[[str, Mapping[str, str]], Asked] = start,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.names = tuple(names)
        self.effort = effort
        self._start = start
        self._workers: dict[str, Asked] = {}
        self._refusals: dict[str, str | None] = {}
        self.environment = SHARING | dict(environment or {})
        about = self.ask(self.names[0], do="about")
        self.platform, self.device = about["platform"], about["device"]
        if self.platform == "cpu":
            self.environment |= WITHOUT_GPU

    def ask(self, name: str, **request: Any) -> dict[str, Any]:
        """The answer of one contestant; raises ``WorkerError``."""
        if name not in self._workers:
            self._workers[name] = self._start(name, self.environment)
        try:
            return self._workers[name].ask(self.effort.limit, **request)
        except WorkerError as error:
            if error.died:
                self._workers.pop(name).close()
            raise

    def refusal(self, name: str) -> str | None:
        """Why a contestant takes part in no case; found out once, and its process ends."""
        if name not in self._refusals:
            try:
                platform = self.ask(name, do="about")["platform"]
                self._refusals[name] = None if platform == self.platform else f"runs on a {platform} only"
            except WorkerError as error:
                self._refusals[name] = str(error)
            if self._refusals[name] is not None and name in self._workers:
                self._workers.pop(name).close()
        return self._refusals[name]

    def peak(self, dtype: str) -> float:
        """Operations in a second that large matrix products reach on this machine.

        On a CPU in whichever framework is best; on a GPU in the first, since XLA would try out many more there.
        """
        reached = []
        for name in [*filter(self.names.__contains__, PRODUCTS)] or self.names[:1]:
            if self.refusal(name):
                continue
            try:
                reached.append(self.ask(name, do="peak", dtype=dtype)["flops"])
            except WorkerError:  # which each case will tell
                continue
            if self.platform == "gpu":
                break
        return max(reached)

    def gather(self) -> None:
        """Starts all processes, as many at a time as get ready together, so that the first case need not."""
        with ThreadPoolExecutor(self.effort.jobs) as pool:
            list(pool.map(self.refusal, self.names))

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


def compare(field: Field, case: Case, peak: float, report: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """The row of one case, ready for JSON; ``report`` is told whose turn it is."""
    built: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference, waiting = Path(folder) / "reference.npz", [*field.names]

        def build(name: str) -> None:
            report(name)
            try:
                built[name] = _build(field, name, case, reference)
            except WorkerError as error:
                absent[name] = str(error)

        while waiting and not reference.exists():
            build(waiting.pop(0))
        with ThreadPoolExecutor(field.effort.jobs) as pool:
            list(pool.map(build, waiting))
    built = {name: built[name] for name in field.names if name in built}  # in order, whoever was ready first
    absent = {name: absent[name] for name in field.names if name in absent}
    report("all, in turns")
    on_device = _time(field, "queue", built, absent) if field.platform == "gpu" or field.effort.queued else {}
    timings = _time(field, "turn", built, absent)
    medians = {name: (on_device or timings)[name].median for name in timings}
    rows = {
        name: timing.as_json()
        | ({"queued_ms": 1e3 * on_device[name].median} if on_device else {})
        | figures(case, medians[name], peak, medians.get(field.names[0]))
        | {"compile_s": max(built[name]["first"] - built[name]["warm"], 0), "differences": built[name]["differences"]}
        | ({"note": built[name]["note"]} if built[name]["note"] else {})
        for name, timing in timings.items()
    }
    taken = built.get(field.names[0], {}).get("chosen")
    return {"case": case.as_json(), "flops": case.flops, "auto": taken, "contestants": rows, "absent": absent}


def figures(case: Case, seconds: float, peak: float, base: float | None) -> dict[str, Any]:
    """What follows from the time of a call, on the device where that is known."""
    return {
        "us_per_step": 1e6 * seconds / case.steps,
        "sequences_per_s": case.batch / seconds,
        "gflops": 1e-9 * case.flops / seconds,
        "percent_of_peak": 100 * case.flops / seconds / peak,
        "ratio": None if base is None else seconds / base,
    }


def _build(field: Field, name: str, case: Case, reference: Path) -> dict[str, Any]:
    """Lets a contestant get ready; refuses one that runs elsewhere, or whose numbers are wrong."""
    if reason := field.refusal(name):
        raise WorkerError(reason)
    answer = field.ask(name, do="build", case=case.as_json(), reference=str(reference))
    tolerance = TOLERANCES[case.dtype]
    wrong = {part: far for part, far in answer["differences"].items() if not far <= tolerance}
    if wrong:
        parts = ", ".join(f"{part} by {far:.2g}" for part, far in wrong.items())
        raise WorkerError(f"other numbers than {field.names[0]}: {parts} of their norm, {tolerance} allowed")
    return answer


def _time(field: Field, do: str, built: Mapping[str, dict[str, Any]], absent: dict[str, str]) -> dict[str, Timing]:
    """Turns of all that are ``built``, of calls that are waited for, or ``do="queue"``, as seldom as possible.

    Whoever fails becomes ``absent``, and the others start over.
    """

    def turn(name: str) -> float:
        warm = built[name]["warm"]
        calls = min(max(round(field.effort.turn / warm), 1), 1000)
        try:
            return field.ask(name, do=do, warm_up=1 if warm < _LONG else 0, calls=calls)["seconds"]
        except WorkerError as error:
            absent[name] = str(error)
            raise

    while True:
        turns = {name: functools.partial(turn, name) for name in built if name not in absent}
        try:
            return interleave(turns, field.effort.rounds, field.effort.budget)
        except WorkerError:
            continue
