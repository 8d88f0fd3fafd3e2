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
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import command, pages, units
from benchmarks.collectives import exchanged
from benchmarks.imdb_workloads import MAXLEN, NUM_WORDS, RATE, UNITS
from benchmarks.record import RESULTS, write
from benchmarks.tables import described, markdown, short
from benchmarks.timing import Timing, interleave, machine, stopwatch
from benchmarks.workers import Worker, WorkerError, exit_on_termination, serve

CELLS = ("lstm", "gru", "simple_rnn")
BATCHES = (32, 64, 128)
"""Rows of all devices together."""
SUM = "sum"
LIMIT = 300.0
"""Seconds for one answer."""


class Layout(NamedTuple):
    """Processes, and devices of each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        count, what = (self.devices, "device") if self.processes == 1 else (self.processes, "process")
        return f"{count} {what}{('es' if what == 'process' else 's') if count > 1 else ''}"


LAYOUTS = (Layout(1, 1), Layout(1, 2), Layout(1, 4), Layout(2, 1))
"""The first is what the others are compared with."""


class Sizes(NamedTuple):
    """Of the model, and how many steps make a turn."""

    words: int = NUM_WORDS
    steps: int = MAXLEN
    units: int = UNITS
    turn: int = 5


TINY = Sizes(20, 4, 8, 1)


def work(index: int, layout: Layout, port: int, cell: str, sizes: Sizes) -> None:
    """A worker: ``build`` compiles a step for so many rows, a ``turn`` trains, or adds up gradients only."""
    import jax

    from flax_rnn import runtime

    runtime.keep_memory()
    # XLA has a thread for each device, and those that wait for others block theirs: some have to be left.
    jax.config.update("jax_num_cpu_devices", layout.devices if layout.devices == 1 else 2 * layout.devices)
    turns: dict[str, Callable[[], Any]] = {}

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        what = request["what"]
        if request["do"] == "turn":
            seconds = stopwatch(turns[what])
            # Who has its results may still have to hand on what others wait for, and is stopped behind its answer.
            time.sleep(0.02 * (layout.processes > 1))
            return {"seconds": seconds / sizes.turn}
        if layout.processes > 1 and not turns:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(
                f"127.0.0.1:{port}", layout.processes, index, heartbeat_timeout_seconds=24 * 3600
            )
        devices = [
            device
            for process in range(layout.processes)
            for device in jax.local_devices(process_index=process)[: layout.devices]
        ]
        mesh = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
        if what == SUM:
            turns[what] = _addition(mesh, cell, sizes)
            turns[what]()
            return {}
        turns[what], program = _training(mesh, cell, sizes, int(what))
        turns[what]()
        found = exchanged(program)
        return {"times": dict(found.times), "bytes": dict(found.bytes)}

    serve(handle)


def _model(cell: str, sizes: Sizes) -> Any:
    from flax import nnx

    from experiments.model import Classifier

    return Classifier(
        cell, num_words=sizes.words, embedding=sizes.units, units=sizes.units, dropout=RATE, recurrent_dropout=RATE,
        rngs=nnx.Rngs(0),
    )  # fmt: skip


def _training(mesh: Any, cell: str, sizes: Sizes, rows: int) -> tuple[Callable[[], Any], str]:
    """A turn of training with so many rows in all, and the compiled program."""
    import jax
    import optax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from experiments.training import Batch, compile_steps

    rng = np.random.default_rng(1)
    tokens = rng.integers(1, sizes.words, (rows, sizes.steps)).astype(np.int32)
    batch = Batch(tokens, rng.integers(0, 2, rows).astype(np.float32), np.ones(rows, np.float32))
    own = rows // jax.process_count()
    start = own * jax.process_index()
    divided, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def place() -> Any:
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(divided, leaf[start : start + own], leaf.shape), batch
        )

    fresh, steps = compile_steps(_model(cell, sizes), optax.adam(1e-3, eps=1e-7))
    state: Any = jax.jit(lambda state: state, out_shardings=whole)(fresh)
    program: Any = steps.train
    text = program.lower(state, place()).compile().as_text()

    def turn() -> None:
        nonlocal state
        sums = None
        for _ in range(sizes.turn):
            state, sums = steps.train(state, place())
        jax.block_until_ready((state.params, sums))

    return turn, text


def _addition(mesh: Any, cell: str, sizes: Sizes) -> Callable[[], Any]:
    """A turn of adding up arrays like the gradients of all weights, as many times as a turn has steps."""
    import jax
    import jax.numpy as jnp
    from flax import nnx
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    params = nnx.to_pure_dict(nnx.state(_model(cell, sizes), nnx.Param))
    shapes = [(mesh.size, *leaf.shape) for leaf in jax.tree.leaves(params)]
    make = jax.jit(lambda: [jnp.ones(shape) for shape in shapes], out_shardings=NamedSharding(mesh, P("data")))
    add = jax.jit(jax.shard_map(lambda all: jax.lax.psum(all, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()))
    gradients = make()

    def turn() -> None:
        for _ in range(sizes.turn):
            jax.block_until_ready(add(gradients))

    return turn


class Contestant:
    """The workers of a layout."""

    def __init__(self, layout: Layout, cell: str, sizes: Sizes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = [*map(str, layout), str(port), *map(str, sizes)]
        self.workers = [
            Worker("benchmarks.sharding", "--cell", cell, "--worker", str(index), *given)
            for index in range(layout.processes)
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
    parser.add_argument("--worker", nargs="+", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    if options.worker:
        index, processes, devices, port, *sizes = options.worker
        work(index, Layout(processes, devices), port, options.cell[0], Sizes(*sizes))
        return
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
