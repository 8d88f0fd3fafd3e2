"""What a layer launches on a GPU, counted without one: compiled ahead of time for an H100, and read step by step.

On a GPU a loop of XLA's costs what it launches, as long as layers are small. This compiles ``implementation="fused"``
and counts the operations in the body of each loop: a kernel, a copy or a call of a library each is a launch. Those that
compute a single number, as the count of steps, are listed apart.

It needs XLA's plugin for CUDA of jax's own version, and no GPU:

    pip install --no-deps --target PLUGIN jax-cuda13-plugin==VERSION jax-cuda13-pjrt==VERSION
    python -m benchmarks.launches --plugin PLUGIN

What XLA's autotuner would choose on a real GPU may differ: it compares its own kernels with those of cuBLAS there.
"""

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import command
from benchmarks.cases import CELLS, RATE, Size
from benchmarks.record import RESULTS, write
from benchmarks.tables import markdown

SIZE = Size(32, 80, 128, 128)
VARIANTS = ("plain", "mask", "recurrent-dropout", "bfloat16")
LOOPS = {"forward": ("forward",), "training": ("forward of training", "backward")}
"""The loops of each function that is compiled, in their order."""

_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "opt-barrier")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%\S+ = (?P<type>\(.*?\)|\S+) (?P<name>[a-z][a-z0-9-]*)\(")

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 minor: 0 patch: 0 }
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
"""
"""What XLA asks of a device, of NVIDIA's data sheet."""


class Launches(NamedTuple):
    """What one step of a loop launches.

    Attributes:
      arrays: kernels, copies and calls that compute arrays.
      numbers: those that compute a single number.
      kinds: what they are, and how many of each there are in an iteration.
      steps: how many steps there are in an iteration.
    """

    arrays: float
    numbers: float
    kinds: dict[str, int]
    steps: int

    def __str__(self) -> str:
        return f"{self.arrays:g} + {self.numbers:g}" if self.numbers else f"{self.arrays:g}"


def prepare(plugin: Path | None) -> None:
    """To be called ahead of jax: lets it find the plugin, and look for no GPU."""
    os.environ |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "CUDA_VISIBLE_DEVICES": "-1"}
    if plugin is not None:
        sys.path.append(str(plugin))


def count(program: str, steps: int) -> list[Launches]:
    """What each loop of an optimized HLO program launches for a step, of so many steps in all.

    Raises:
      ValueError: for a loop of which XLA does not know how often it runs.
    """
    found: list[Launches] = []
    for loop in re.finditer(r" while\(.*body=%?(?P<body>[\w.-]+).*", program):
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop[0])
        if trips is None:
            raise ValueError(f"expected a loop with a known trip count, got {loop[0][:200]}")
        each = round(steps / int(trips[1]))
        launched = [*_launched(program, loop["body"])]
        numbers = sum(_is_number(kind) for _, kind in launched)
        kinds = Counter(name for name, _ in launched)
        found.append(Launches((len(launched) - numbers) / each, numbers / each, dict(kinds), each))
    return found


def _launched(program: str, computation: str) -> Iterator[tuple[str, str]]:
    """Names and types of the instructions of a computation that launch something."""
    start = program.index(f"\n%{computation} (")
    for line in program[start : program.index("\n}", start)].splitlines():
        match = _INSTRUCTION.match(line)
        # What is asynchronous is counted where it starts.
        if match and match["name"] not in _FREE and not match["name"].endswith(("-done", "-update")):
            yield match["name"], match["type"]


def _is_number(kind: str) -> bool:
    return re.fullmatch(r"\w+\[\](\{.*\})?", kind) is not None


def functions(cell: str, variant: str, size: Size) -> tuple[dict[str, Callable[..., Any]], tuple[Any, ...]]:
    """What is compiled by name, and shapes of its arguments."""
    import jax
    import jax.numpy as jnp

    import flax_rnn
    from benchmarks.contestants import ours

    dtype = jnp.bfloat16 if variant == "bfloat16" else jnp.float32
    dropout = RATE if variant == "recurrent-dropout" else 0.0
    core = ours.CELLS[cell](size.units, recurrent_dropout=dropout, dtype=dtype)
    params = jax.eval_shape(lambda: core.init_params(jax.random.key(0), size.features))
    x = jax.ShapeDtypeStruct(size[:3], dtype)
    mask = jax.ShapeDtypeStruct(size[:2], jnp.bool_) if variant == "mask" else None
    masks = jax.eval_shape(lambda x: core.dropout_masks(jax.random.key(0), x[:, 0]), x)

    def forward(params: Any, x: Any, mask: Any, masks: Any) -> Any:
        return flax_rnn.rnn(
            core, params, x, mask=mask, dropout_masks=masks, return_sequences=True, implementation="fused"
        )

    def training(params: Any, x: Any, mask: Any, masks: Any) -> Any:
        return jax.grad(lambda params, x: jnp.sum(jnp.square(forward(params, x, mask, masks))), (0, 1))(params, x)

    return {"forward": forward, "training": training}, (params, x, mask, masks)


def compile_for(device: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    """The optimized program of ``function`` for a GPU."""
    import jax

    import flax_rnn
    from flax_rnn import runtime

    there = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), arguments)
    with flax_rnn.portable("gpu"):
        lowered = jax.jit(function).lower(*shapes)
    return lowered.compile(compiler_options=runtime.compiler_options("gpu")).as_text() or ""


def h100() -> Any:
    """An H100 to compile for.

    Raises:
      RuntimeError: where there is no plugin for CUDA.
    """
    import jax
    from jax.experimental import topologies

    jax.devices("cpu")
    try:
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    except (NotImplementedError, ValueError, RuntimeError) as error:
        raise RuntimeError(f"XLA's plugin for CUDA cannot be had: {error}") from error


def measure(cells: list[str], variants: list[str], size: Size) -> list[dict[str, Any]]:
    """A row for each loop."""
    device, rows = h100(), []
    for cell in cells:
        for variant in variants:
            compiled, arguments = functions(cell, variant, size)
            for name, function in compiled.items():
                found = count(compile_for(device, function, arguments), size.steps)
                for loop, launches in zip(LOOPS[name], found, strict=True):
                    print(f"{cell}, {variant}, {loop}: {launches}", file=sys.stderr, flush=True)
                    rows.append({"cell": cell, "variant": variant, "loop": loop} | launches._asdict())
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, a line for each cell and variant."""
    loops = [loop for names in LOOPS.values() for loop in names]
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        launches = Launches(*(row[field] for field in Launches._fields))
        lines.setdefault((row["cell"], row["variant"]), {})[row["loop"]] = str(launches)
    return markdown(
        ["cell", "variant", *loops], [[*key, *(of[loop] for loop in loops)] for key, of in lines.items()], 2
    )


def size_of(text: str) -> Size:
    """``B,T,D,H`` of the command line."""
    if size := Size.of(text):
        return size
    raise argparse.ArgumentTypeError(f"expected B,T,D,H, got {text}")


def main() -> None:
    """Compiles, counts, prints and writes ``results/launches-jax-VERSION.json`` and ``.md``."""
    parser = command.parser("launches", __doc__)
    parser.add_argument("--cell", nargs="+", choices=CELLS, default=list(CELLS), help="[all]")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="[all]")
    parser.add_argument("--size", type=size_of, default=SIZE, metavar="B,T,D,H", help="[%(default)s]")
    parser.add_argument("--plugin", type=Path, help="folder of XLA's plugin for CUDA [where jax is]")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON, and write nothing")
    options = parser.parse_args()
    prepare(options.plugin)
    try:
        rows = measure(options.cell, options.variant, options.size)
    except RuntimeError as error:
        sys.exit(f"launches: {error}")
    if options.json:
        print(json.dumps(rows))
        return
    shown, size = table(rows), options.size
    print(shown)
    # Without the folder of the plugin, which is somebody's own.
    given = ["--cell", *options.cell, "--variant", *options.variant, "--size", str(size)]
    results = {"command": command.line("launches", given), "jax": version("jax"), "rows": rows}
    page = (
        f"`{results['command']}`\n\n"
        f"Launches a step with jax {results['jax']}, compiled for an H100, of {size.batch} sequences of {size.steps} "
        f"steps, {size.features} features and {size.units} units; behind the plus those that compute a single number."
        f"\n\n{shown}"
    )
    write(RESULTS / f"launches-jax-{results['jax']}", results, page)


if __name__ == "__main__":
    main()
