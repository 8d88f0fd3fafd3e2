"""The CUDA kernels, run on a CPU by an emulator, against the equations in float64; no GPU is needed, or used.

What this cannot show is what the hardware does otherwise: memory that is seen in another order than it was written,
the last digits, and time.
"""

import dataclasses
import itertools
from typing import Any

import cuda_kernels
import cuda_oracle
import pytest
from cuda_kernels import (
    ACTIVATIONS,
    BACKWARD,
    CELLS,
    ELEMENTS,
    FORWARD,
    KEEP_OUTPUTS,
    KEEP_VALUES,
    MASKED,
    RESETS,
    REVERSE,
    Kernel,
    Kernels,
    Pass,
)
from cuda_problems import ALL, close, compare, differences, problem

from flax_rnn.implementations.cuda.tiles import TILES, Tile

pytestmark = pytest.mark.skipif(cuda_kernels.COMPILER is None, reason="there is no C++ compiler")

both_passes = pytest.mark.parametrize("which", [FORWARD, BACKWARD], ids=["forward", "backward"])


def name(kernel: Any) -> str | None:
    """Of a test."""
    if not isinstance(kernel, Kernel):
        return None
    tile = "-".join(map(str, kernel.tile))
    return f"{kernel.cell}-{kernel.element}-{tile}{'-dropped' * kernel.dropped}-{kernel.activation}"


@dataclasses.dataclass(frozen=True)
class Case:
    cell: str
    element: str
    dropped: bool
    which: Pass
    masked: int
    resets: int
    reverse: int
    keep: int

    @property
    def kernel(self) -> Kernel:
        return Kernel(self.cell, self.element, dropped=self.dropped)


CASES = [
    Case(*values)
    for values in itertools.product(
        CELLS, ELEMENTS, (False, True), (FORWARD, BACKWARD), (0, MASKED), (0, RESETS), (0, REVERSE),
        (0, KEEP_OUTPUTS, KEEP_OUTPUTS | KEEP_VALUES),
    )
]  # fmt: skip


@pytest.mark.each(3, full=3)
@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_the_equations(kernels: Kernels, case: Case) -> None:
    flags = case.masked | case.resets | case.reverse | case.keep
    found = compare(kernels, case.kernel, case.which, 5, 13, flags)
    assert close(found, case.kernel), found


@both_passes
@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (1, 8), (2, 16), (3, 21)])
@pytest.mark.parametrize("kernel", [Kernel("Lstm", "float32", Tile(128, 2, 2)), Kernel("Gru", "bfloat16")], ids=name)
def test_sizes(kernels: Kernels, kernel: Kernel, steps: int, rows: int, which: Pass) -> None:
    found = compare(kernels, kernel, which, steps, rows, ALL)
    assert close(found, kernel), found


# Each activation in both places, together with another one.
ACTIVATED = [
    pytest.param(
        Kernel(cell, "float32", activation=activation, recurrent_activation=ACTIVATIONS[index - 2]),
        marks=() if number == index % 3 else pytest.mark.full,
    )
    for index, activation in enumerate(ACTIVATIONS)
    for number, cell in enumerate(CELLS)
]


@both_passes
@pytest.mark.parametrize("kernel", ACTIVATED, ids=name)
def test_activations(kernels: Kernels, kernel: Kernel, which: Pass) -> None:
    found = compare(kernels, kernel, which, 4, 5, ALL)
    assert close(found, kernel), found


# All tiles that layers have, each with an LSTM and another cell, and others.
LARGE = [(element, tile) for element, tiles in TILES.items() for tile in tiles if tile != Tile(64, 1, 1)]
CLUSTERS = [
    Kernel("Lstm", "bfloat16", Tile(128, 2, 1)),
    Kernel("Gru", "float32", Tile(128, 2, 2), True),
    Kernel("Lstm", "float32", Tile(128, 4, 1), True),
    Kernel("SimpleRnn", "bfloat16", Tile(128, 4, 2)),
    Kernel("Gru", "bfloat16", Tile(128, 4, 4)),
    Kernel("Lstm", "bfloat16", Tile(256, 8, 4)),
    *(
        pytest.param(Kernel(cell, element, tile, dropped=number % 2 == index % 2), marks=pytest.mark.full)
        for index, (element, tile) in enumerate(LARGE)
        for number, cell in enumerate(CELLS)
        if number in (0, 1 + index // 2 % 2)
    ),
]


@both_passes
@pytest.mark.parametrize("kernel", CLUSTERS, ids=name)
def test_tiles(kernels: Kernels, kernel: Kernel, which: Pass) -> None:
    found = compare(kernels, kernel, which, 3, 10, ALL)
    assert close(found, kernel), found


@pytest.mark.parametrize("kernel", [Kernel("Lstm", "bfloat16"), Kernel("Gru", "float32")], ids=name)
def test_gradients_in_place_of_values(kernels: Kernels, kernel: Kernel) -> None:
    found = compare(kernels, kernel, BACKWARD, 4, 11, ALL, in_place=True)
    assert close(found, kernel), found


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("cell", CELLS)
def test_one_pass_after_the_other_is_the_derivative(kernels: Kernels, cell: str, element: str) -> None:
    """Of the equations, from what the forward kernel itself has kept; errors of both passes add up."""
    kernel = Kernel(cell, element, dropped=True)
    operands = problem(kernel, 6, 11, ALL)
    saved = kernels.run(kernel, FORWARD, operands, ALL)
    results = kernels.run(kernel, BACKWARD, {**operands, **saved}, ALL)
    found = differences(results, cuda_oracle.derivative(kernel, operands, ALL), operands)
    assert close({name: value / 2 for name, value in found.items()}, kernel), found
