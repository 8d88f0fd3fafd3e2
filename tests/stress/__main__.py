"""The native kernels where programs are hard on them: threads, forks, transformations, odd arrays, many calls.

python -m tests.stress [--size 1000] [--only PART ...]   writes results.json and results.md here

Other parts stay there as they are if they are of the same size, sources, versions and machine.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import processor, record
from flax_rnn.implementations.native import builds
from tests.stress.problems import Row

PARTS = ("threads", "transformations", "arrays", "forks", "memory")
SECONDS = 1800
"""After which a part hangs."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.stress", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--size", type=int, default=1000, help="how much: calls at once (1000), ten times as many in a row"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results"), help="without its ending")
    parser.add_argument("--worker", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        for row in importlib.import_module(f"tests.stress.{chosen.worker}").run(chosen.size):
            print(json.dumps(row), flush=True)
        return 0
    failed = 0
    for part in chosen.only:
        everything = whole(chosen.output, setting(chosen.size), {part: {"rows": rows_of(part, chosen.size)}})
        record.write(chosen.output, everything, page(everything))
        failed += failures(everything["parts"][part])
    return int(failed > 0)


def setting(size: int) -> dict[str, Any]:
    """What figures depend on."""
    return {
        "size": size, "processor": processor.name(), "instructions": processor.instruction_set(),
        "cores": os.cpu_count(), "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy")}, "sources": builds.digest(),
        "library": Path(os.environ.get("FLAX_RNN_KERNELS", "installed")).name,
    }  # fmt: skip


def whole(output: Path, setting: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """These parts, and those that an earlier run of the same setting left there."""
    path = output.with_name(f"{output.name}.json")
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if all(before.get(name) == value for name, value in setting.items()):
        parts = {**before["parts"], **parts}
    return {
        **setting,
        "failed": sum(map(failures, parts.values())),
        "parts": {part: parts[part] for part in PARTS if part in parts},
    }


def failures(part: dict[str, Any]) -> int:
    """What failed of what is promised."""
    return sum(Row(*row).failed or 0 for row in part["rows"])


def rows_of(part: str, size: int) -> list[Any]:
    """The rows of a part, from a process of its own, whose death is one more row."""
    command = [sys.executable, "-m", "tests.stress", "--worker", part, "--size", str(size)]
    environment = {"JAX_NUM_CPU_DEVICES": "4", "XLA_FLAGS": "--xla_backend_optimization_level=0", **os.environ}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    if process.returncode:
        rows.append(Row(f"the process of {part} ended with {process.returncode}", 1, 1))
    for row in rows:
        print(f"{part}: {row[0]}: {row[1]} tried, {row[2]} failed{row[3] and f' ({row[3]})'}", flush=True)
    return rows


def page(everything: dict[str, Any]) -> str:
    """The results in Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in everything["versions"].items())
    lines = [
        "# The native kernels under stress", "",
        f"Written by `python -m tests.stress --size {everything['size']}` on {everything['processor']} "
        f"({everything['instructions']}, {everything['cores']} cores), with Python {everything['python']}, {versions}, "
        f"and the library `{everything['library']}`.", "",
        f"Failed: {everything['failed']}. Results are compared bit for bit with those of one thread and one call. ",
        "Nothing is promised where a dash stands for the failures.", "",
    ]  # fmt: skip
    for part, found in everything["parts"].items():
        about = (importlib.import_module(f"tests.stress.{part}").__doc__ or "").strip()
        lines += [f"## {part.capitalize()}", "", about, "", "| what | tried | failed | |", "|---|---:|---:|---|"]
        for what, tried, failed, note in found["rows"]:
            lines.append(f"| {what} | {tried} | {'-' if failed is None else failed} | {note} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
