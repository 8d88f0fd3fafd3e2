"""Microseconds of a step of CUDA's kernels by themselves, on a GPU, for each tile: what ``tiles.py`` goes by.

    python -m benchmarks.kernel_steps --dtype bfloat16 --cell lstm

Forward is what inference runs, kept what training does, which keeps the values of the gates, and backward the gradient.
Launches are in the times, divided among the steps. What XLA adds for a layer is not; see benchmarks.gpu.

--once runs the kernels with few steps, and times nothing, for tools that watch a program:

    compute-sanitizer --tool memcheck python -m benchmarks.kernel_steps --once
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import command
from benchmarks.cases import CELLS, RATE
from benchmarks.layers import slug
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown
from benchmarks.timing import interleave, machine, queued
from flax_rnn.implementations.cuda import kernels, library
from flax_rnn.implementations.cuda.kernels import Kernel, Operands
from flax_rnn.implementations.cuda.tiles import TILES, Tile

OPTIONS = ("plain", "mask", "recurrent-dropout")
CALLS, ROUNDS = 20, 5
"""Calls that are waited for together, and how often."""

Calls = dict[str, Callable[[], Any]]
"""By pass; each starts a call and returns what to wait for."""


class Case(NamedTuple):
    """What is timed.

    Attributes:
      kernel: which one.
      option: one of ``OPTIONS``.
      rows, steps: of the sequences.
    """

    kernel: Kernel
    option: str
    rows: int
    steps: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from the others."""
        own = {"cell": self.kernel.cell, "dtype": self.kernel.dtype, **self.kernel.tile._asdict()}
        return own | {"rows": self.rows, "option": self.option}


def cases(cells: Sequence[str], dtypes: Sequence[str], options: Sequence[str], rows: int, steps: int) -> list[Case]:
    """All tiles of these."""
    return [
        Case(Kernel(cell, dtype, tile, "tanh", "sigmoid", False), option, rows, steps)
        for dtype in dtypes
        for tile, cell, option in product(TILES[dtype], cells, options)
        if tile.cluster == 1 or library.has_clusters()
    ]


def calls(case: Case) -> Calls:
    """The passes, with random weights and inputs with which states neither vanish nor blow up."""
    kernel, rng = case.kernel, np.random.default_rng(0)
    units, lstm, gru = kernel.tile.units, kernel.cell == "lstm", kernel.cell == "gru"

    def normal(*shape: int, scale: float = 1.0, dtype: str = "float32") -> jax.Array:
        return jnp.asarray(rng.normal(0, scale, shape), dtype)

    sequence, state = (case.steps, case.rows), (case.rows, units)
    kept = rng.random((kernel.gates, *state)) >= RATE
    operands = Operands(
        normal(*sequence, kernel.gates * units, dtype=kernel.dtype),
        normal(units, kernel.gates * units, scale=0.5 * units**-0.5, dtype=kernel.dtype),
        normal(units, scale=0.1) if gru else None,
        jnp.asarray(kept / (1 - RATE), kernel.dtype) if case.option == "recurrent-dropout" else None,
        normal(*state, scale=0.5), normal(*state, scale=0.5) if lstm else None,
        jnp.asarray(rng.random(sequence) < 0.8) if case.option == "mask" else None, None,
    )  # fmt: skip
    d_outputs, d_h = normal(*sequence, units, dtype=kernel.dtype), normal(*state)
    forward = jax.jit(lambda operands: kernels.forward(kernel, operands, True, False))
    keeping = jax.jit(lambda operands: kernels.forward(kernel, operands, True, True))
    backward = jax.jit(
        lambda operands, saved: kernels.backward(kernel, operands, saved, d_outputs, d_h, d_h if lstm else None)
    )
    saved, *_ = keeping(operands)
    return {
        "forward": lambda: forward(operands),
        "kept": lambda: keeping(operands),
        "backward": lambda: backward(operands, saved),
    }


def measure(some: Sequence[Case], once: bool) -> Iterator[dict[str, Any]]:
    """A row for each, with microseconds of a step by pass, or without times."""
    for case in some:
        passes = calls(case)
        for call in passes.values():  # compiles
            jax.block_until_ready(call())
        times: dict[str, float] = {}
        if not once:
            turns = {
                name: lambda call=call: queued(call, jax.block_until_ready, CALLS) for name, call in passes.items()
            }
            found = interleave(turns, ROUNDS)
            times = {name: 1e6 * timing.median / case.steps for name, timing in found.items()}
        row = case.key | {"microseconds": times}
        print(*row.values(), file=sys.stderr, flush=True)
        yield row


def page(results: dict[str, Any]) -> str:
    """Everything as Markdown."""
    passes = "forward", "kept", "backward"
    lines = [
        [str(row[name]) for name in ("cell", "dtype", *Tile._fields, "rows", "option")]
        + [f"{row['microseconds'][name]:.2f}" for name in passes]
        for row in results["rows"]
    ]
    table = markdown(["cell", "dtype", *Tile._fields, "rows", "option", *passes], lines, 2)
    return (
        f"# A step of CUDA's kernels on {results['device']}\n\n`{results['command']}`\n\n"
        f"Microseconds, of {results['steps']} steps in one launch.\n\n{table}"
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("kernel_steps", __doc__)
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=list(CELLS), help="[all]")
    parser.add_argument("--dtype", nargs="+", choices=TILES, default=list(TILES), help="[all]; float32 is TF32")
    parser.add_argument("--option", nargs="+", choices=OPTIONS, default=list(OPTIONS), help="[all]")
    parser.add_argument("--rows", type=int, default=32, help="[%(default)s]")
    parser.add_argument("--steps", type=int, default=320, help="[%(default)s]")
    parser.add_argument("--once", action="store_true", help="13 rows of 5 steps, and no times")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes ``results/kernel-steps-DEVICE.json`` and ``.md``."""
    options = parse(arguments)
    if reason := library.absent() or (None if library.here() else "there are no CUDA kernels for this device"):
        sys.exit(f"kernel_steps: {reason}")
    rows, steps = (13, 5) if options.once else (options.rows, options.steps)
    found = [*measure(cases(options.cell, options.dtype, options.option, rows, steps), options.once)]
    if options.once:
        return
    device = jax.devices()[0].device_kind
    results = {
        "command": command.line("kernel_steps", arguments), "device": device, "machine": machine(), "steps": steps,
        "rows": found,
    }  # fmt: skip
    shown = page(results)
    print(shown)
    write(RESULTS / f"kernel-steps-{slug(device)}", results, shown)


if __name__ == "__main__":
    main()
