"""What CUDA's kernels take of a GPU, as the compiler says, which needs none: registers, and shared memory.

    python -m benchmarks.kernels

It compiles every kernel for every architecture: each cell, and each tile of each dtype, forward and backward, with and
without dropout masks of the state, with the activations of Keras' defaults. NVRTC comes with jax[cuda13], or

    pip install --no-deps --target FOLDER nvidia-cuda-nvrtc
    FLAX_RNN_NVRTC=FOLDER/nvidia/cu13/lib/libnvrtc.so.13 python -m benchmarks.kernels
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any, NamedTuple

from benchmarks import command
from benchmarks.cases import CELLS
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown
from flax_rnn.implementations.cuda import cache, compiler
from flax_rnn.implementations.cuda.kernels import Kernel, macros
from flax_rnn.implementations.cuda.library import ARCHITECTURES
from flax_rnn.implementations.cuda.tiles import TILES, Tile

PASSES = {False: "forward", True: "backward"}


class Case(NamedTuple):
    """A kernel that is compiled.

    Attributes:
      architecture: for what.
      kernel, backward, dropped: see ``kernels.macros``.
    """

    architecture: str
    kernel: Kernel
    backward: bool
    dropped: bool

    def measure(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """The row of this kernel, compiled from ``texts``; see ``cache.sources``."""
        defined = macros(self.kernel, self.backward, self.dropped)
        options = cache.arguments(self.architecture, tuple(defined.items()))
        (found,) = compiler.report(texts, options).values()
        print(f"{self}: {found.registers} registers, {found.spilled} bytes spilled", file=sys.stderr, flush=True)
        shared = int(defined["BYTES"]) + found.shared
        sizes = {"threads": self.kernel.tile.threads, "shared": shared}
        return self.key | sizes | {"registers": found.registers, "spilled": found.spilled}

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from the others."""
        kernel, which = self.kernel, PASSES[self.backward]
        own = {"architecture": self.architecture, "dtype": kernel.dtype, **kernel.tile._asdict()}
        return own | {"cell": kernel.cell, "pass": which, "dropped": self.dropped}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.key.items())


def cases(architectures: Iterable[str] = tuple(dict.fromkeys(ARCHITECTURES.values()))) -> list[Case]:
    """All kernels that there are for these."""
    tiles = [(dtype, tile) for dtype, of in TILES.items() for tile in of]
    both = False, True
    return [
        Case(architecture, Kernel(cell, dtype, tile, "tanh", "sigmoid", False), backward, dropped)
        for (dtype, tile), architecture in product(tiles, architectures)
        if architecture != "sm_80" or tile.cluster == 1  # which has no clusters
        for cell, backward, dropped in product(CELLS, both, both)
    ]


def measure(some: Iterable[Case]) -> list[dict[str, Any]]:
    """A row for each, several at once: the compiler holds no lock of Python's."""
    texts = cache.sources()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(lambda case: case.measure(texts), some)]


def most_registers(threads: int) -> int:
    """That each of so many threads of a block can have: there are 65,536 of them, and 8 are given at a time."""
    return min(255, 65536 // threads // 8 * 8)


def sizes(rows: Sequence[dict[str, Any]]) -> str:
    """The tiles as Markdown."""
    tiles = dict.fromkeys((row["dtype"], Tile(*(row[field] for field in Tile._fields))) for row in rows)
    header = ["dtype", "units", "cluster", "split", "threads", "registers"]
    lines = [[dtype, *map(str, tile), str(tile.threads), str(most_registers(tile.threads))] for dtype, tile in tiles]
    return markdown(header, lines, 1)


def registers(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each kernel, with a column for each architecture; nothing in it where there is no such kernel."""
    there = {row["architecture"] for row in rows}
    architectures = [name for name in dict.fromkeys(ARCHITECTURES.values()) if name in there]
    names = "dtype", "units", "cluster", "threads", "cell", "pass"
    kernels: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kernels.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    lines: list[list[str]] = []
    for kernel, of in kernels.items():
        # Which is the same for all architectures.
        shared = {row["dropped"]: f"{row['shared']:,}" for row in of}
        columns = [_both(_used(row) for row in of if row["architecture"] == name) for name in architectures]
        lines.append([*kernel, *columns, _both(shared.values())])
    return markdown([*names, *architectures, "shared memory"], lines, len(names))


def _used(row: dict[str, Any]) -> str:
    return f"{row['registers']} ({row['spilled']} bytes spilled)" if row["spilled"] else str(row["registers"])


def _both(values: Iterable[str]) -> str:
    """Without dropout masks, and with them."""
    return " / ".join(values) or "-"


def page(results: dict[str, Any]) -> str:
    """All of it as Markdown."""
    rows = results["rows"]
    spilling = sum(row["spilled"] > 0 for row in rows)
    return (
        f"# CUDA's kernels\n\n`{results['command']}`\n\n"
        f"What NVRTC {results['nvrtc']} says of {len(rows)} kernels, of which {spilling or 'none'} "
        f"{'spill' if spilling > 1 else 'spills'} registers to memory. No GPU was asked.\n\n"
        "## Tiles\n\n"
        "Blocks of a cluster, warps that share 16 units, threads of a block, and registers that each can have.\n\n"
        f"{sizes(rows)}\n"
        "## Kernels\n\n"
        "Registers of a thread by architecture, and bytes of shared memory of a block; before the slash without masks "
        f"for dropout of the state, behind it with them.\n\n{registers(rows)}"
    )


def main() -> None:
    """Compiles, prints and writes ``results/kernels.json`` and ``.md``."""
    command.parser("kernels", __doc__).parse_args()
    if reason := compiler.absent():
        sys.exit(f"kernels: {reason}")
    version = ".".join(map(str, compiler.version()))
    results = {"command": command.line("kernels", []), "nvrtc": version, "rows": measure(cases())}
    shown = page(results)
    print(shown)
    write(RESULTS / "kernels", results, shown)


if __name__ == "__main__":
    main()
