"""Random problems for the CUDA kernels, and what they make of them beside what the equations do."""

from typing import Any

import cuda_oracle
import numpy as np
from cuda_kernels import (
    BACKWARD,
    FORWARD,
    KEEP_OUTPUTS,
    KEEP_VALUES,
    MASKED,
    RESETS,
    REVERSE,
    Edits,
    Kernel,
    Kernels,
    Pass,
)

Arrays = dict[str, Any]

ALL = MASKED | RESETS | REVERSE | KEEP_OUTPUTS | KEEP_VALUES
# The largest difference, as a part of the largest number of an array; 0.0055 and 0.0012 have been seen. It comes from
# rounding: factors of products have 8 digits as bfloat16 and 11 as TF32, what is kept in bfloat16 has 8, too.
TOLERANCES = {"bfloat16": 1e-2, "float32": 2e-3}


def problem(kernel: Kernel, steps: int, rows: int, flags: int) -> Arrays:
    """What goes into both passes: random operands, and the gradients of outputs and of the last state.

    Row 1 has no step, and the last one all of them without a reset; row 0 is reset at both ends.
    """
    rng = np.random.default_rng(0)
    scales = {"recurrent": kernel.tile.units**-0.5, "h0": 0.5, "bias": 0.5}
    arrays = kernel.arrays(steps, rows)
    names = ["x", "recurrent", "h0", "d_h", "d_outputs"]
    names += {"Lstm": ["c0", "d_c"], "Gru": ["bias"], "SimpleRnn": []}[kernel.cell]
    operands: Arrays = {
        name: rounded(rng.normal(0, scales.get(name, 1.0), arrays[name][0]), arrays[name][1]) for name in names
    }
    if kernel.element == "float32":
        operands["recurrent"] = tf32(operands["recurrent"])
    if kernel.dropped:
        operands["dropped"] = (rng.random(arrays["dropped"][0]) < 0.6) * 1.625  # of few digits
    if flags & MASKED:
        operands["mask"] = rng.integers(0, 2, (steps, rows), np.uint8)
        operands["mask"][:, 1:2], operands["mask"][:, -1] = 0, 1
    if flags & RESETS:
        operands["resets"] = (rng.random((steps, rows)) < 0.2).astype(np.uint8)
        operands["resets"][:, -1], operands["resets"][[0, -1], 0] = 0, 1
    if not flags & KEEP_OUTPUTS:
        del operands["d_outputs"]
    return operands


def kept(kernel: Kernel, operands: Arrays, flags: int) -> Arrays:
    """With what a forward pass leaves for the backward pass, in the numbers in which it does."""
    saved = cuda_oracle.forward(kernel, operands, flags)
    arrays = kernel.arrays(*saved["outputs"].shape[:2])
    return operands | {name: rounded(saved[name], arrays[name][1]) for name in BACKWARD.operands if name in saved}


def compare(
    kernels: Kernels,
    kernel: Kernel,
    which: Pass,
    steps: int,
    rows: int,
    flags: int,
    edits: Edits | None = None,
    in_place: bool = False,
) -> dict[str, float]:
    """How far a kernel is from the equations, for each of its results."""
    operands = problem(kernel, steps, rows, flags)
    if which == BACKWARD:
        operands = kept(kernel, operands, flags)
    oracle = cuda_oracle.forward if which == FORWARD else cuda_oracle.backward
    results = kernels.run(kernel, which, operands, flags, edits, in_place)
    return differences(results, oracle(kernel, operands, flags), operands)


def differences(results: Arrays, expected: Arrays, operands: Arrays) -> dict[str, float]:
    """Of each array, as a part of its largest number; nobody reads the values of masked steps."""
    found: dict[str, float] = {}
    for name, array in results.items():
        difference = np.abs(array.astype(np.float64) - expected[name])
        if name == "values" and "mask" in operands:
            difference = np.where(operands["mask"][:, :, None], difference, 0)
        if array.size:
            found[name] = float(difference.max() / (np.abs(expected[name]).max() or 1.0))
    return found


def close(found: dict[str, float], kernel: Kernel) -> bool:
    """Where a number is NaN, so is the difference, and they are not."""
    return all(difference < TOLERANCES[kernel.element] for difference in found.values())


def rounded(array: Any, dtype: Any) -> Any:
    """To the nearest number of another type."""
    return array.astype(dtype).astype(np.float64)


def tf32(array: Any) -> Any:
    """To the nearest of 11 digits."""
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x1000) & 0xFFFFE000).view(np.float32).astype(np.float64)
