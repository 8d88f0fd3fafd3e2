"""Time of a training step of several seeds of the IMDB experiment: all at once, by jax.vmap, or one after the other.

The setting is the experiment's default but for the number of units, which is that of the embedding, too. Either way a
turn trains every seed for ``--steps`` steps, with batches of its own, and the two take turns. Compilation is listed
apart; one after the other, each seed compiles.

    python -m benchmarks.imdb_sweep
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.record import RESULTS, write
from benchmarks.tables import described, markdown, short
from benchmarks.timing import interleave, machine, stopwatch
from experiments import imdb, options, seeds
from experiments.model import LAYERS, build
from experiments.optimizers import optimizer
from experiments.reviews import Split
from experiments.training import train_steps
from flax_rnn import runtime

WAYS: tuple[str, str] = ("one after the other", "at once")


def trainer(cell: str, numbers: Sequence[int], chosen: argparse.Namespace, data: Split) -> Callable[[], Any]:
    """Trains the seeds at once for a pass over ``data``, each time it is called."""
    models = [build(cell, number, chosen) for number in numbers]
    state, steps = seeds.compile_all(models, optimizer(chosen, len(data.labels)))

    def train() -> None:
        nonlocal state
        for after, _ in train_steps(steps, state, seeds.epoch(data, chosen.batch_size, numbers, 0, 0)):
            state = after

    return train


def compare(cell: str, units: int, number: int, steps: int, rounds: int) -> dict[str, Any]:
    """Times both ways with so many seeds."""
    chosen = imdb.parse([f"--units={units}", f"--embedding={units}"])
    rng = np.random.default_rng(0)
    size = steps * chosen.batch_size
    tokens = rng.integers(1, chosen.num_words, (size, chosen.maxlen)).astype(np.int32)
    data = Split(tokens, rng.integers(0, 2, size).astype(np.float32))
    alone = [trainer(cell, [seed], chosen, data) for seed in range(number)]
    parts = dict(zip(WAYS, (alone, [trainer(cell, range(number), chosen, data)]), strict=True))

    def turn(way: str) -> float:
        return stopwatch(lambda: [part() for part in parts[way]])

    first = {way: turn(way) for way in WAYS}
    timings = interleave({way: lambda way=way: turn(way) / steps for way in WAYS}, rounds)
    base = timings[WAYS[0]].median
    rows = {
        way: timing.as_json() | {"ratio": timing.median / base, "compile_s": first[way] - steps * timing.median}
        for way, timing in timings.items()
    }
    return {"cell": cell, "units": units, "seeds": number, "steps": steps, "ways": rows}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for result in results:
        for way, row in result["ways"].items():
            figures = [short(row[name]) for name in ("median_ms", "min_ms", "quartile_1_ms", "quartile_3_ms")]
            rows.append(
                [
                    result["cell"], str(result["units"]), str(result["seeds"]), way, *figures[:2],
                    " to ".join(figures[2:]), f"{row['ratio']:.2f}", f"{row['compile_s']:.1f}",
                ]
            )  # fmt: skip
    header = ["cell", "units", "seeds", "way", "ms a step of all", "min", "middle half", "ratio", "compile s"]
    return markdown(header, rows, 1)


def brief(results: Sequence[dict[str, Any]]) -> str:
    """A line for each case: both times of a step of all, and both of compilation."""
    rows = []
    for result in results:
        turns, once = (result["ways"][way] for way in WAYS)
        steps = f"{short(turns['median_ms'])} / {short(once['median_ms'])} ({once['ratio']:.2f})"
        compiling = f"{turns['compile_s']:.0f} / {once['compile_s']:.0f}"
        rows.append([result["cell"], str(result["units"]), str(result["seeds"]), steps, compiling])
    return markdown(["cell", "units", "seeds", "ms a step of all (ratio)", "compilation, s"], rows, 1)


def page(everything: dict[str, Any]) -> str:
    """The whole file of results as a page."""
    results = everything["results"]
    parts = [f"`{everything['command']}`", f"{described(everything['machine'])}."]
    parts += [f"{' / '.join(WAYS).capitalize()}:", brief(results) + "\nAll figures:", table(results)]
    return "\n\n".join(["# Several seeds of the IMDB experiment", *parts])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser, count = command.parser("imdb_sweep", __doc__), options.count
    parser.add_argument("--cell", choices=(*LAYERS, "all"), default="all", help="[%(default)s]")
    parser.add_argument("--units", type=count(), nargs="+", default=[8, 32, 128], help="sizes [8 32 128]")
    parser.add_argument("--seeds", type=count(2), nargs="+", default=[4], help="numbers of seeds [4]")
    parser.add_argument("--steps", type=count(), default=10, help="steps in a turn [%(default)s]")
    parser.add_argument("--rounds", type=count(), default=12, help="turns of each [%(default)s]")
    parser.add_argument("--output", type=Path, default=RESULTS / "imdb_sweep", help="of the results, without ending")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison and writes its results."""
    chosen = parse(arguments)
    runtime.keep_memory()
    results: list[dict[str, Any]] = []
    for cell in LAYERS if chosen.cell == "all" else (chosen.cell,):
        for units in chosen.units:
            for number in chosen.seeds:
                results.append(compare(cell, units, number, chosen.steps, chosen.rounds))
                print(table(results[-1:]), flush=True)
                everything = {"command": command.line("imdb_sweep", arguments), "machine": machine()}
                everything |= {"results": results}
                write(chosen.output, everything, page(everything))


if __name__ == "__main__":
    main()
