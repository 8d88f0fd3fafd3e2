"""Measured times of our implementations, by device and shape, from which ``implementation="auto"`` may choose.

Of results of ``benchmarks.gpu`` and of ``benchmarks.layers``, it takes the plain cases on a GPU in which one of our
implementations was measured by its name, with the times on the device. Where a case is in several files, the last one
counts.

    python -m benchmarks.choices benchmarks/results/gpu-*.json
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.cases import Case
from benchmarks.contestants import IMPLEMENTATIONS
from benchmarks.record import replace

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "flax_rnn" / "implementations" / "measured.json"

Entry = dict[str, Any]
"""``device``, ``cell``, ``dtype``, ``training``, ``shape`` ``[B, T, D, H]``, ``times_ms`` by name, ``source``."""


def entry(device: str, source: str, row: dict[str, Any]) -> Entry | None:
    """What a row of results says; ``None`` where it is not plain, or none of ours was measured on the device."""
    case, found = Case(**row["case"]), row["contestants"]
    times = {name: round(found[name]["queued_ms"], 4) for name in IMPLEMENTATIONS if "queued_ms" in found.get(name, {})}
    if case.variant != "plain" or not times:
        return None
    return {
        "device": device, "cell": case.cell, "dtype": case.dtype, "training": case.phase == "training",
        "shape": [*case.size], "times_ms": times, "source": source,
    }  # fmt: skip


def entries(files: Iterable[tuple[str, dict[str, Any]]]) -> list[Entry]:
    """Of results with the names of their files.

    Raises:
      ValueError: for results of a CPU, and for those that say nothing about ours.
    """
    found: dict[tuple[Any, ...], Entry] = {}
    for source, results in files:
        if results.get("platform") != "gpu":
            raise ValueError(f"{source}: expected results of a GPU, got {results.get('platform')!r}")
        made = [one for row in results["results"] if (one := entry(results["device"], source, row))]
        if not made:
            raise ValueError(f"{source}: expected a plain case with one of {', '.join(IMPLEMENTATIONS)}, got none")
        for one in made:
            found[one["device"], one["cell"], one["dtype"], one["training"], *one["shape"]] = one
    return [found[key] for key in sorted(found)]


def main(arguments: list[str] | None = None) -> None:
    """Writes the table."""
    parser = command.parser("choices", __doc__)
    parser.add_argument("results", nargs="+", type=Path, help="JSON files")
    parser.add_argument("--output", type=Path, default=TABLE, help="[flax_rnn/implementations/measured.json]")
    options = parser.parse_args(arguments)
    try:
        table = entries((_name(path), json.loads(path.read_text())) for path in options.results)
    except ValueError as error:
        parser.error(str(error))
    lines = ",\n".join(json.dumps(one) for one in table)
    replace(options.output, f"[\n{lines}\n]\n")
    print(f"{len(table)} entries: {options.output}")


def _name(path: Path) -> str:
    """As seen from the root of the project, if it is within."""
    whole = path.resolve()
    return (whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else path).as_posix()


if __name__ == "__main__":
    main()
