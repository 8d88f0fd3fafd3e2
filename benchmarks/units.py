"""Three ways to divide the units of a layer over four devices: what a training step of each exchanges.

Nothing is run: programs are compiled for virtual devices of the processor, and what they exchange is counted.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.cases import Size
from benchmarks.collectives import exchanged
from benchmarks.tables import markdown

DEVICES = 4
SIZE = Size(32, 80, 128, 128)
PLAIN = "columns of the plain layer, {}"
WAYS = (PLAIN.format("native"), PLAIN.format("fused"), "units, as in examples/tensor_parallel.py")


def count(size: Size = SIZE) -> list[dict[str, Any]]:
    """A row for each cell and way, from a process of its own, in which there are as many devices."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.units", *map(str, size)], cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def measure(size: Size) -> Iterator[dict[str, Any]]:
    """As ``count``, in this process."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import flax_rnn
    from examples import tensor_parallel

    mesh = jax.make_mesh((1, DEVICES), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:DEVICES])
    for make in (flax_rnn.LSTMCell, flax_rnn.GRUCell):
        cell = make(size.units)
        weights = cell.init_params(jax.random.key(0), size.features)
        x = jax.device_put(jnp.ones(size[:3]), NamedSharding(mesh, P("data")))
        sequences = functools.partial(flax_rnn.rnn, cell, return_sequences=True)
        columns = tensor_parallel.place(mesh, weights)
        by_units = tensor_parallel.place(mesh, tensor_parallel.by_units(cell, weights))
        runs = (
            (functools.partial(sequences, implementation="native"), columns),
            (functools.partial(sequences, implementation="fused"), columns),
            (functools.partial(tensor_parallel.layer, mesh, cell, return_sequences=True), by_units),
        )
        for way, (run, placed) in zip(WAYS, runs, strict=True):
            loss = lambda weights, x, run=run: jnp.sum(jnp.square(run(weights, x)))  # noqa: E731
            step = jax.jit(jax.grad(loss, (0, 1)))
            compiled = step.lower(placed, x).compile()
            found = exchanged(compiled.as_text() or "")
            gradients = step(placed, x)[0]
            held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(gradients))
            yield {
                "cell": make.__name__, "size": str(size), "way": way, "times": dict(found.times),
                "bytes": dict(found.bytes), "gradients": held,
            }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each row."""
    lines = [
        [
            row["cell"], row["size"], row["way"], *(f"{row['times'].get(kind, 0)}" for kind in _COLUMNS),
            f"{sum(row['times'].values()) - sum(row['times'].get(kind, 0) for kind in _COLUMNS)}",
            f"{sum(row['bytes'].values()):,}", f"{row['gradients']:,}",
        ]
        for row in rows
    ]  # fmt: skip
    header = ["cell", "B,T,D,H", "divided", *_COLUMNS, "others", "bytes", "bytes of gradients on a device"]
    return markdown(header, lines, 3)


_COLUMNS = ("all-gather", "reduce-scatter", "all-reduce")


def main() -> None:
    """Prints the rows as JSON."""
    import jax

    jax.config.update("jax_num_cpu_devices", 2 * DEVICES)
    print(json.dumps([*measure(Size(*map(int, sys.argv[1:])))]))


if __name__ == "__main__":
    main()
