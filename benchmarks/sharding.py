"""What sharding costs: a training step of the IMDB model on 1, 2 and 4 devices of one machine, which is no faster.

All devices share the cores that there are, and one device uses all of them by itself. So a step on more devices has the
same arithmetic and everything that dividing it costs: smaller pieces, threads in each other's way, gradients that are
added up. With as many cores for each device it would be faster; that is not measured here.

The batch is divided over the devices, and the weights are the same everywhere, as in data-parallel training. Devices
are those of one process, or one of each of several processes, joined by ``jax.distributed``. Contestants take turns;
``sum`` is the addition of the gradients by itself. Then three ways to divide the units of a layer over four devices are
compiled, and what they exchange is counted.

    python -m benchmarks.sharding
    python -m benchmarks.sharding --write  # what was measured into docs/scaling-costs.md
"""

import argparse
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import command, pages, units
from benchmarks.record import RESULTS, write
from benchmarks.sharding_worker import SUM, Layout, Sizes
from benchmarks.tables import described, markdown, short
from benchmarks.timing import Timing, interleave, machine
from benchmarks.workers import Worker, WorkerError, exit_on_termination

CELLS = ("lstm", "gru", "simple_rnn")
BATCHES = (32, 64, 128)
"""Rows of all devices together."""
LIMIT = 300.0
"""Seconds for one answer."""
LAYOUTS = (Layout(1, 1), Layout(1, 2), Layout(1, 4), Layout(2, 1))
"""The first is what the others are compared with."""
TINY = Sizes(20, 4, 8, 1)


class Contestant:
    """The workers of a layout."""

    def __init__(self, layout: Layout, cell: str, sizes: Sizes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = [*map(str, layout), str(port), *map(str, sizes)]
        self.workers = [
            Worker("benchmarks.sharding_worker", cell, str(index), *given) for index in range(layout.processes)
        ]

    def ask(self, **request: Any) -> list[dict[str, Any]]:
        """The answers of all."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            return [*pool.map(lambda worker: worker.ask(LIMIT, **request), self.workers)]

    def turn(self, what: str) -> float:
        """Seconds of the last to be done, of a step."""
        return max(answer["seconds"] for answer in self.ask(do="turn", what=what))

    def close(self) -> None:
        """Ends the processes."""
        for worker in self.workers:
            worker.close()


def compare(
    cell: str, layouts: tuple[Layout, ...], batches: tuple[int, ...], sizes: Sizes, rounds: int
) -> dict[str, Any]:
    """Milliseconds by layout and rows, those of the addition, and what is exchanged; who cannot run has a reason."""
    contestants: dict[Layout, Contestant] = {}
    found: dict[Layout, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    turns: dict[str, Callable[[], float]] = {}
    try:
        for layout in layouts:
            one = contestants[layout] = Contestant(layout, cell, sizes)
            try:
                found[layout] = [one.ask(do="build", what=str(rows))[0] for rows in batches][-1]
                one.ask(do="build", what=SUM)
            except WorkerError as error:
                absent[str(layout)] = str(error)
                continue
            for what in (*map(str, batches), SUM):
                turns[f"{layout}: {what}"] = lambda one=one, what=what: one.turn(what)
        timings = interleave(turns, rounds)
    finally:
        for one in contestants.values():
            one.close()
    rows = [
        {"devices": str(layout), "exchanged": found[layout]} | _figures(timings, layouts[0], layout, batches)
        for layout in found
        if str(layout) not in absent
    ]
    return {"cell": cell, "sizes": sizes._asdict(), "contestants": rows, "absent": absent}


def _figures(timings: dict[str, Timing], first: Layout, layout: Layout, batches: tuple[int, ...]) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    for rows in batches:
        timing = timings[f"{layout}: {rows}"]
        steps[str(rows)] = timing.as_json() | {"ratio": timing.median / timings[f"{first}: {rows}"].median}
    return {"step": steps, SUM: timings[f"{layout}: {SUM}"].as_json()}


def table(result: dict[str, Any]) -> str:
    """Of one cell: times, in parentheses those of the first times how much, and what is exchanged."""
    lines: list[list[str]] = []
    for row in result["contestants"]:
        times = [f"{short(one['median_ms'])} ({one['ratio']:.2f})" for one in row["step"].values()]
        size, count = (sum(row["exchanged"][name].values()) for name in ("bytes", "times"))
        lines.append([result["cell"], row["devices"], *times, short(row[SUM]["median_ms"]), f"{count}", f"{size:,}"])
    batches = [*result["contestants"][0]["step"]] if result["contestants"] else []
    for name, why in result["absent"].items():
        lines.append([result["cell"], name, *["-"] * (len(batches) + 2), f"did not run: {why}"])
    columns = [f"{rows} rows, ms" for rows in batches]
    return markdown(["cell", "on", *columns, "sum, ms", "exchanges a step", "bytes"], lines, 2)


def page(everything: dict[str, Any]) -> str:
    """All results in Markdown."""
    return "\n".join(
        [
            f"# What sharding costs\n\n`{everything['command']}`\n",
            f"{described(everything['machine'], ('jax', 'flax', 'optax'))}. All devices share these cores.\n",
            "Milliseconds of a training step by the rows of all devices together, and in parentheses how many times "
            "those of one device:\n",
            *map(table, everything["results"]),
            "What is exchanged where the units of a layer are divided over four devices:\n",
            units.table(everything["units"]),
        ]
    )


def sections(everything: dict[str, Any]) -> dict[str, str]:
    """What the guide has of the results, by the command that it names."""
    measured = "".join(table(result).partition("\n")[2].partition("\n")[2] for result in everything["results"][1:])
    return {
        "python -m benchmarks.sharding": table(everything["results"][0]) + measured,
        "python -m benchmarks.units": units.table(everything["units"]),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("sharding", __doc__)
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=["lstm", "simple_rnn"], help="[lstm simple_rnn]")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contestant [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="a tiny model on two devices, nothing written")
    parser.add_argument("--output", type=Path, default=RESULTS / "sharding", help="of the results, without ending")
    parser.add_argument("--write", action="store_true", help=f"the last results into docs/{pages.SCALING.name}")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    if options.write:
        everything = json.loads(options.output.with_suffix(".json").read_text())
        for called, text in sections(everything).items():
            pages.insert(pages.SCALING, called, text)
        return
    exit_on_termination()
    layouts, batches, sizes, rounds = (
        (LAYOUTS[:2], (4,), TINY, 1) if options.quick else (LAYOUTS, BATCHES, Sizes(), options.rounds)
    )
    results: list[dict[str, Any]] = []
    for cell in options.cell:
        results.append(compare(cell, layouts, batches, sizes, rounds))
        print(table(results[-1]), flush=True)
    if options.quick:
        return
    counted = units.count()
    print(units.table(counted))
    called = command.line("sharding", arguments)
    everything = {"command": called, "machine": machine(), "results": results, "units": counted}
    write(options.output, everything, page(everything))


if __name__ == "__main__":
    main()
