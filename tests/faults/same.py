"""Whether a training that was interrupted has ended as one that was not."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp


def problem(whole: Path, found: Path, cell: str) -> str | None:
    """What differs between two folders with ``out`` and ``saves``, or ``None``.

    Compared are the file of the weights, all results but for seconds and paths, and in the last save every array to the
    last bit: weights, moments, the counters of random keys.
    """
    name = f"out/{cell}.safetensors"
    if not (found / name).is_file():
        return f"{name} is not there"
    if (whole / name).read_bytes() != (found / name).read_bytes():
        return f"{name} differs"
    if (expected := _results(whole)) != (got := _results(found)):
        return f"results: expected {expected}, got {got}"
    expected, got = (_arrays(folder / "saves" / f"{cell}-0") for folder in (whole, found))
    if {*expected} != {*got}:
        return f"arrays: expected {[*expected]}, got {[*got]}"
    different = [name for name in expected if not np.array_equal(expected[name], got[name], equal_nan=True)]
    return f"arrays {different} differ" if different else None


def _results(folder: Path) -> Any:
    return [
        {name: value for name, value in run.items() if not re.search("second", name)}
        for run in json.loads((folder / "out" / "results.json").read_text())["runs"]
    ]


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    with ocp.CheckpointManager(folder) as manager:
        found: Any = manager.restore(manager.latest_step(), args=ocp.args.Composite(arrays=ocp.args.StandardRestore()))
    return {name: np.asarray(array) for name, array in found.arrays.items()}
