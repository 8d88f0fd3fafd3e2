"""That what the CUDA kernels are compared with is right itself."""

import cuda_oracle
import numpy as np
import pytest
from cuda_kernels import ACTIVATIONS, CELLS, KEEP_OUTPUTS, KEEP_VALUES, MASKED, REVERSE, Kernel
from cuda_problems import ALL, problem
from oracle import Layer, assert_close
from oracle import run as run_row_by_row

from flax_rnn.implementations.cuda.tiles import Tile


def small(cell: str, activation: str, dropped: bool = True) -> Kernel:
    """One that is never compiled."""
    other = ACTIVATIONS[ACTIVATIONS.index(activation) - 2]
    return Kernel(cell, "bfloat16", Tile(5, 1, 1), dropped, activation, other)


@pytest.mark.parametrize("reverse", [0, REVERSE])
@pytest.mark.parametrize("cell", CELLS)
def test_the_equations_are_those_of_the_oracle_that_goes_row_by_row(cell: str, reverse: int) -> None:
    kernel, flags = small(cell, "softsign"), MASKED | reverse | KEEP_OUTPUTS | KEEP_VALUES
    operands = problem(kernel, 6, 4, flags)
    gates, units = CELLS[cell].gates, kernel.tile.units
    bias = np.zeros((2, gates * units))
    bias[1, 2 * units :] = operands.get("bias", 0)
    layer = Layer(
        f"{cell.upper() if cell != 'SimpleRnn' else 'SimpleRNN'}Cell",
        {"kernel": np.eye(gates * units), "recurrent_kernel": operands["recurrent"], "bias": bias},
        kernel.activation,
        kernel.recurrent_activation,
        recurrent_masks=[*operands["dropped"]],
    )
    state = [operands[name] for name in ("h0", "c0") if name in operands]
    _, last = run_row_by_row(
        layer, operands["x"], state, operands["mask"] > 0, time_major=True, go_backwards=bool(reverse)
    )
    results = cuda_oracle.forward(kernel, operands, flags)
    assert_close([results[name] for name in ("h", "c") if name in results], last)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_the_gradients_are_derivatives_of_the_equations(cell: str, activation: str) -> None:
    kernel = small(cell, activation)
    operands = problem(kernel, 4, 6, ALL)
    saved = cuda_oracle.forward(kernel, operands, ALL)
    results = cuda_oracle.backward(kernel, {**operands, **saved}, ALL)
    expected = cuda_oracle.derivative(kernel, operands, ALL)
    assert results.keys() == expected.keys()
    assert_close([results[name] for name in expected], [*expected.values()])
