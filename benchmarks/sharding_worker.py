"""One process of a layout: it trains the IMDB model on devices of its own and, where there are more, of the others.

    python -m benchmarks.sharding_worker CELL INDEX PROCESSES DEVICES PORT WORDS STEPS UNITS TURN

waits for requests of ``benchmarks.sharding``.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.collectives import exchanged
from benchmarks.imdb_workloads import MAXLEN, NUM_WORDS, RATE, UNITS
from benchmarks.timing import stopwatch
from benchmarks.workers import serve

SUM = "sum"


class Layout(NamedTuple):
    """Processes, and devices of each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        count, what = (self.devices, "device") if self.processes == 1 else (self.processes, "process")
        return f"{count} {what}{('es' if what == 'process' else 's') if count > 1 else ''}"


class Sizes(NamedTuple):
    """Of the model, and how many steps make a turn."""

    words: int = NUM_WORDS
    steps: int = MAXLEN
    units: int = UNITS
    turn: int = 5


def work(cell: str, index: int, layout: Layout, port: int, sizes: Sizes) -> None:
    """``build`` compiles a step for so many rows, a ``turn`` trains, or adds up gradients only."""
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


def main(cell: str, *given: str) -> None:
    """Serves what the command line says."""
    index, processes, devices, port, *sizes = map(int, given)
    work(cell, index, Layout(processes, devices), port, Sizes(*sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
