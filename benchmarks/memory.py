"""Temporary memory of a forward and backward pass: our backward passes against the one that JAX derives.

It is what XLA sets aside beside arguments and results, as it says after compiling; nothing is run. Of a training that
is most of what a recurrent layer needs: whatever the backward pass wants to know of each time step. The native kernels
of a CPU have some more of their own, for the weights in another order and for single steps, which is not counted.

    python -m benchmarks.memory --size flashrnn --dtype bfloat16
"""

import argparse
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cases, command
from benchmarks.cases import Case, Size
from benchmarks.contestants.ours import apply
from benchmarks.contestants.with_jax import compiled
from benchmarks.layers import sizes, slug
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown
from benchmarks.timing import machine

SIZES = ("imdb", "small", "medium", "large", "wide", "latency", "flashrnn", "long")
IMPLEMENTATIONS = {"flax-rnn": "auto", "in chunks": "auto", "fused": "fused", "scan": "scan"}
"""Names as among the contestants, the default first; in chunks, it keeps the state of each root-of-T-th step only."""


def temporary(case: Case, name: str) -> int:
    """Bytes, of one of ``IMPLEMENTATIONS``."""
    size = math.isqrt(case.steps) if name == "in chunks" else None
    function = apply(case, IMPLEMENTATIONS[name], checkpoint_every=size)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, jnp.dtype(case.array_dtype)), tree)

    mask = case.mask()
    extras = {
        "mask": None if mask is None else jax.ShapeDtypeStruct(mask.shape, mask.dtype),
        "dropout_key": jax.eval_shape(lambda: jax.random.key(0)) if case.dropout else None,
    }
    arguments = shapes(case.weights()), shapes(case.inputs()), shapes(case.cotangent()), extras
    analysis = compiled(case, function).lower(*arguments).compile().memory_analysis()
    return int(analysis.temp_size_in_bytes)


def measure(case: Case) -> dict[str, Any]:
    """Of each implementation."""
    found = {name: temporary(case, name) for name in IMPLEMENTATIONS}
    return {"case": case.as_json(), "temporary_bytes": found}


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for row in results:
        case, found = Case(**row["case"]), [row["temporary_bytes"][name] for name in IMPLEMENTATIONS]
        words = [case.cell, str(case.size), case.dtype, case.variant]
        rows.append([*words, *(f"{size / 2**20:,.1f}" for size in found), f"{found[-1] / found[0]:.2f}"])
    columns = [f"{name}, MiB" for name in IMPLEMENTATIONS]
    return markdown(["cell", "B,T,D,H", "dtype", "variant", *columns, "scan / flax-rnn"], rows, 4)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.parser("memory", __doc__)
    parser.add_argument("--cell", nargs="+", choices=cases.CELLS, default=list(cases.CELLS), help="[all]")
    parser.add_argument(
        "--size", nargs="+", type=sizes, default=[cases.named(*SIZES)], metavar="SIZE",
        help=f"B,T,D,H or a name: {', '.join(cases.SIZES)} [{' '.join(SIZES)}]",
    )  # fmt: skip
    parser.add_argument("--dtype", nargs="+", choices=cases.DTYPES, default=["float32"], help="[float32]")
    parser.add_argument("--variant", nargs="+", choices=cases.VARIANTS, default=["plain"], help="[plain]")
    parser.add_argument("--quick", action="store_true", help="one tiny size, nothing written")
    parser.add_argument("--output", type=Path, help="of the results, without ending [benchmarks/results/memory-DEVICE]")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = parse(arguments)
    wanted: dict[Size, None] = dict.fromkeys(size for group in options.size for size in group)
    if options.quick:
        wanted = {cases.TINY: None}
    results = []
    for case in cases.product(wanted, options.cell, ["training"], options.dtype, options.variant):
        results.append(measure(case))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(results))
    if options.quick:
        return
    called = command.line("memory", arguments)
    device = jax.devices()[0].device_kind
    stem = options.output or RESULTS / f"memory-{slug(device)}"
    everything = {"command": called, "device": device, "machine": machine(), "results": results}
    write(stem, everything, f"# Memory on {device}\n\n`{called}`\n\n{table(results)}")


if __name__ == "__main__":
    main()
