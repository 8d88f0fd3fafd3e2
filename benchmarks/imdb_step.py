"""Time of one training step of the IMDB experiment: ours against Keras on each of its backends, and torch.

The setting is the experiment's default: 80 tokens of 10,000 words, Embedding 128, 128 units with dropout and recurrent
dropout 0.2, Dense 1, Adam, batches of 32. A step is all that a user waits for: batching, forward and backward pass,
update, metrics. Every contestant lives in a process of its own, has the same weights at first, and must give the same
probabilities before anything is timed. The processes then take turns of ``--steps`` steps. torch's layers have no
recurrent dropout, and compute less for it. On a GPU, products of all may be TF32.

    python -m benchmarks.imdb_step --cell all
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.imdb_workloads import BATCH, MAXLEN, NUM_WORDS, WORKLOADS, platform
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown, short
from benchmarks.timing import interleave, machine, stopwatch
from benchmarks.workers import SHARING, WITHOUT_GPU, Worker, WorkerError, exit_on_termination, serve

CELLS = ("lstm", "gru", "simple_rnn")
CONTESTANTS = tuple(WORKLOADS)
STEPS = 20
"""Of a turn."""
TOLERANCES = {"cpu": 1e-4, "gpu": 5e-3}
"""How far probabilities may be from ours; TF32 has three digits."""


def work(contestant: str, cell: str, steps: int) -> None:
    """A worker: ``build`` writes probabilities to a file and compiles, each ``turn`` trains ``steps`` steps."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, NUM_WORDS, (steps * BATCH, MAXLEN)).astype(np.int32)
    labels = rng.integers(0, 2, steps * BATCH).astype(np.float32)
    built: list[Callable[[], Any]] = []

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "turn":
            return {"seconds": stopwatch(built[0]) / steps}
        device = platform(contestant)
        predict, train = WORKLOADS[contestant](cell)
        np.save(request["probabilities"], predict(tokens[:BATCH]))
        built.append(functools.partial(train, tokens, labels))
        first = stopwatch(built[0])
        built[0]()
        return {"first": first, "device": device}

    serve(handle)


def compare(
    cell: str, contestants: list[str], steps: int, rounds: int, jobs: int = 1, limit: float | None = None
) -> dict[str, Any]:
    """Times the contestants on one cell; those that cannot run are listed with the reason.

    Args:
      cell: its name.
      contestants: their names; the first is what the others are compared with.
      steps: of a turn.
      rounds: turns of each.
      jobs: how many of the others get ready at the same time.
      limit: seconds that one may take to get ready, or for a turn.
    """
    workers: dict[str, Worker] = {}
    built: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    environment = dict(SHARING)
    try:
        with tempfile.TemporaryDirectory() as folder:

            def build(name: str) -> None:
                path = Path(folder) / f"{name}.npy"
                arguments = ["--worker", name, "--cell", cell, "--steps", str(steps)]
                workers[name] = Worker("benchmarks.imdb_step", *arguments, environment=environment)
                try:
                    answer = workers[name].ask(limit, do="build", probabilities=str(path))
                    built[name] = answer | {"probabilities": np.load(path)}
                except WorkerError as error:
                    absent[name] = str(error)

            build(contestants[0])
            if contestants[0] not in built:
                raise WorkerError(f"{contestants[0]}: {absent[contestants[0]]}")
            if built[contestants[0]]["device"] == "cpu":
                environment |= WITHOUT_GPU
            with ThreadPoolExecutor(jobs) as pool:
                list(pool.map(build, contestants[1:]))
        absent |= different(built, contestants[0])
        turns = {
            name: lambda name=name: workers[name].ask(limit, do="turn")["seconds"]
            for name in contestants
            if name not in absent
        }
        timings = interleave(turns, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    base = timings[contestants[0]].median
    rows = {
        name: timing.as_json() | {"ratio": timing.median / base, "first_turn_s": built[name]["first"]}
        for name, timing in timings.items()
    }
    device = built[contestants[0]]["device"]
    return {"cell": cell, "steps": steps, "device": device, "contestants": rows, "absent": absent}


def different(built: dict[str, dict[str, Any]], first: str) -> dict[str, str]:
    """Who is not comparable with ``first``, and why: on another platform, or with other probabilities."""
    expected, on_cpu = built[first]["probabilities"], built[first]["device"] == "cpu"
    tolerance, found = TOLERANCES["cpu" if on_cpu else "gpu"], {}
    for name, answer in built.items():
        far = float(np.abs(answer["probabilities"] - expected).max())
        if (answer["device"] == "cpu") != on_cpu:
            found[name] = f"runs on a {'gpu' if on_cpu else 'cpu'} only"
        elif not far <= tolerance:
            found[name] = f"other probabilities than {first}: by {far:.2g}, {tolerance} allowed"
    return found


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for result in results:
        for name, row in result["contestants"].items():
            figures = [short(row[figure]) for figure in ("median_ms", "min_ms", "quartile_1_ms", "quartile_3_ms")]
            rows.append([result["cell"], name, *figures[:2], " to ".join(figures[2:]), f"{row['ratio']:.2f}"])
        rows += [[result["cell"], name, f"did not run: {why}", "", "", ""] for name, why in result["absent"].items()]
    return markdown(["cell", "contestant", "ms a step (median)", "min", "middle half", "times flax_rnn"], rows, 2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("imdb_step", __doc__)
    parser.add_argument("--cell", choices=(*CELLS, "all"), default="lstm", help="[%(default)s]")
    parser.add_argument(
        "--against", nargs="*", choices=CONTESTANTS[1:], default=list(CONTESTANTS[1:3]),
        help="contestants; keras-torch takes seconds a step on a CPU [keras-jax keras-tensorflow]",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=STEPS, help="steps in a turn [%(default)s]")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contestant [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="few and short turns, nothing written")
    parser.add_argument("--output", type=Path, default=RESULTS / "imdb_step", help="of the results, without ending")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison and writes its results."""
    options = parse(arguments)
    if options.worker:
        work(options.worker, options.cell, options.steps)
        return
    exit_on_termination()
    steps, rounds = (5, 2) if options.quick else (options.steps, options.rounds)
    called = command.line("imdb_step", arguments)
    results: list[dict[str, Any]] = []
    for cell in CELLS if options.cell == "all" else (options.cell,):
        results.append(compare(cell, ["flax_rnn", *options.against], steps, rounds))
        print(table(results[-1:]), flush=True)
        if not options.quick:
            everything = {"command": called, "device": results[0]["device"], "machine": machine()}
            write(options.output, everything | {"results": results}, table(results))


if __name__ == "__main__":
    main()
