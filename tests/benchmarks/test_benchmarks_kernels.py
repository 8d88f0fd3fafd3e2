"""What CUDA's kernels take of a GPU: that none of them needs more registers than there are, and what was written down.

A kernel that does keeps a part of the recurrent weights in memory, and reads it again at each step.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import kernels
from flax_rnn.implementations.cuda import compiler
from flax_rnn.implementations.cuda.tiles import TILES

needs_nvrtc = pytest.mark.skipif(compiler.absent() is not None, reason=str(compiler.absent()))

RESULTS = json.loads((kernels.RESULTS / "kernels.json").read_text())
ROWS: list[dict[str, Any]] = RESULTS["rows"]
LARGEST = [(dtype, tile) for dtype, of in TILES.items() for tile in of[-2:]]


def spilling(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["spilled"]]


@needs_nvrtc
def test_the_largest_kernels_fit() -> None:
    some = [case for case in kernels.cases(["sm_90a"]) if case.kernel.cell == "lstm" and case.dropped]
    rows = kernels.measure(case for case in some if (case.kernel.dtype, case.kernel.tile) in LARGEST)
    assert len(rows) == 2 * len(LARGEST) and not spilling(rows)


@pytest.mark.full
@needs_nvrtc
def test_kernels_fit_and_are_those_of_the_table() -> None:
    """Of those for a Hopper, all that have few registers left, and of the others each fifth."""
    hopper = [row for row in ROWS if row["architecture"] == "sm_90a"]
    some = [
        (case, row)
        for number, (case, row) in enumerate(zip(kernels.cases(["sm_90a"]), hopper, strict=True))
        if number % 5 == 0 or row["registers"] > 0.95 * kernels.most_registers(row["threads"])
    ]
    rows = kernels.measure(case for case, _ in some)
    assert not spilling(rows)
    if RESULTS["nvrtc"] == ".".join(map(str, compiler.version())):
        assert rows == [row for _, row in some], "run python -m benchmarks.kernels again"


def test_the_table_has_all_kernels_and_none_spills() -> None:
    expected = [case.key for case in kernels.cases()]
    assert [{field: row[field] for field in expected[0]} for row in ROWS] == expected
    assert not spilling(ROWS)
    assert all(row["registers"] <= kernels.most_registers(row["threads"]) for row in ROWS)
    assert kernels.page(RESULTS) == (kernels.RESULTS / "kernels.md").read_text()


def test_the_page_tells_what_spills_and_what_there_is_not() -> None:
    case = kernels.cases(["sm_80"])[0]
    sizes = {"threads": 128, "shared": 2304, "registers": 255, "spilled": 0}
    rows = [case.key | sizes, case.key | sizes | {"dropped": True, "shared": 9216, "spilled": 8}]
    other = case.key | sizes | {"units": 512, "architecture": "sm_90a"}
    page = kernels.page({"command": "python -m this", "nvrtc": "13.5", "rows": [*rows, other]})
    assert "NVRTC 13.5 says of 3 kernels, of which 1 spills" in page
    assert "| bfloat16 | 64 | 1 | 128 | lstm | forward | 255 / 255 (8 bytes spilled) | - | 2,304 / 9,216 |" in page
    assert "| bfloat16 | 512 | 1 | 128 | lstm | forward | - | 255 | 2,304 |" in page


def test_without_a_compiler_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels"], capture_output=True, text=True,
        env=os.environ | {"FLAX_RNN_NVRTC": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 1 and "kernels: there is no NVRTC to compile the kernels" in done.stderr
