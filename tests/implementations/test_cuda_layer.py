"""Layers with ``implementation="cuda"`` against the NumPy oracle and float64: XLA's call, launch, and kernels on a CPU.

``cuda_device`` makes this machine one with a GPU, as far as that is possible.
"""

import itertools
from typing import Any

import cuda_device
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cuda_device import assert_close, dropped, exact, gradients, marks, narrow, problem

import flax_rnn
from flax_rnn.implementations.native.kernels import ACTIVATIONS

gpu = cuda_device.gpu
pytestmark = [cuda_device.needed, pytest.mark.usefixtures("gpu")]

CELLS = {"LSTM": flax_rnn.LSTMCell, "GRU": flax_rnn.GRUCell, "SimpleRNN": flax_rnn.SimpleRNNCell}
DTYPES = ("float32", "bfloat16")
LOOPS: dict[str, dict[str, Any]] = {
    "all": {"return_sequences": True},
    "last": {},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "in order": {"return_sequences": True, "go_backwards": True, "keep_order": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "last backwards": {"go_backwards": True},
    "chunks": {"return_sequences": True, "checkpoint_every": 4},
}
# How many masks of the inputs and of the state; `None` for one of each gate.
DROPOUT: dict[str, Any] = {
    "none": None,
    "inputs": (1, 0),
    "state": (0, None),
    "one for all gates": (1, 1),
    "each gate": (None, None),
}


def rnn(how: str, cell: Any, weights: Any, x: Any, state: Any, masks: Any = None, **options: Any) -> Any:
    options = {"implementation": how, "return_state": True, **options}
    return flax_rnn.rnn(cell, weights, x, initial_state=state, dropout_masks=masks, **options)


def assert_gradients(cell: Any, plain: Any, arguments: Any, **options: Any) -> None:
    """Results and gradients are those of ``plain``, an equal cell without a dtype, in float64."""
    expected = exact(gradients, lambda *some: rnn("scan", plain, *some, **options), *arguments)
    result = jax.eval_shape(lambda *some: rnn("cuda", cell, *some, **options), *narrow(arguments))
    assert_close(gradients(lambda *some: rnn("cuda", cell, *some, **options), *narrow(arguments)), expected, cell.dtype)
    assert result[0].dtype == cell.dtype


@pytest.mark.each(1)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_values_equal_the_oracle(name: str, dtype: str, loop: str) -> None:
    """Also where masked inputs are NaN."""
    cell, options = CELLS[name](21, dtype=dtype), LOOPS[loop]
    weights, x, state = problem(cell)
    mask, _ = marks()
    dirty = narrow((weights, np.where(mask[..., None], x, np.nan), state))
    found = jax.jit(lambda *some: rnn("cuda", cell, *some, mask=mask, **options))(*dirty)
    options = {name: value for name, value in options.items() if name != "checkpoint_every"}
    expected = oracle.run(oracle.of(cell, weights), x, jax.tree.leaves(state), mask, **options)
    assert_close(found, expected, dtype)


@pytest.mark.each(2, at_most=8, full=2)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("reset", [True, False], ids=["resets", ""])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", ""])
@pytest.mark.parametrize("dropout", DROPOUT)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_those_in_float64(
    name: str, dtype: str, dropout: str, masked: bool, reset: bool, loop: str
) -> None:
    """With respect to weights, inputs, initial state and dropout masks."""
    cell, plain = CELLS[name](21, dtype=dtype), CELLS[name](21)
    options = dict(LOOPS[loop])
    for is_there, what, steps in zip((masked, reset), ("mask", "resets"), marks(), strict=True):
        if is_there:
            options[what] = steps
    masks = None
    if counts := DROPOUT[dropout]:
        inputs, states = (cell.num_gates if count is None else count for count in counts)
        masks = dropped(cell, inputs, states)
    assert_gradients(cell, plain, (*problem(cell), masks), **options)


SIZES = {
    "a unit": (1, (3,), 2),
    "a step": (21, (5,), 1),
    "a full tile": (64, (9,), 3),
    "no batch axis": (21, (), 4),
    "two batch axes": (21, (2, 5), 4),
    "more than a block": (65, (3,), 3),
}


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("start", [True, False], ids=["from a state", "from zeros"])
@pytest.mark.parametrize("use_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size(size: str, name: str, dtype: str, use_bias: bool, start: bool) -> None:
    """Tiles have more units and rows than layers, and clusters of blocks share some."""
    units, batch, steps = SIZES[size]
    cell, plain = (CELLS[name](units, use_bias=use_bias, dtype=one) for one in (dtype, None))
    weights, x, state = problem(cell, batch, steps)
    options: dict[str, Any] = {"return_sequences": True}
    if len(batch) > 1:
        options["mask"], options["resets"] = marks(batch, steps)
    assert_gradients(cell, plain, (weights, x, state if start else None), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [flax_rnn.CuDNNLSTMCell, flax_rnn.CuDNNGRUCell])
def test_cells_with_weights_as_cudnn_has_them(kind: Any, dtype: str) -> None:
    assert_gradients(kind(21, dtype=dtype), kind(21), problem(kind(21)), mask=marks()[0], return_sequences=True)


# Each is once the one, and once the other.
PAIRS = [*itertools.pairwise((*ACTIVATIONS, ACTIVATIONS[0]))]


@pytest.mark.each(1)
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_activation(pair: tuple[str, str], name: str) -> None:
    """In float32: where a derivative jumps, rounding to fewer digits leads to the other side of it."""
    options = dict(zip(("activation", "recurrent_activation"), pair[: 1 if name == "SimpleRNN" else 2], strict=False))
    cell, plain = (CELLS[name](5, dtype=one, **options) for one in ("float32", None))
    weights, x, state = problem(cell, (3,), 4)
    # So that nothing grows where neither has bounds.
    weights = {name: leaf / (4 if name == "recurrent_kernel" else 2) for name, leaf in weights.items()}
    assert_gradients(cell, plain, (weights, x, state), return_sequences=True)


@pytest.mark.parametrize(("activation", "same"), [(None, "linear"), (jnp.tanh, "tanh")], ids=["none", "a function"])
def test_other_names_of_activations(activation: Any, same: str) -> None:
    cells = [flax_rnn.GRUCell(3, one, dtype="float32") for one in (activation, same)]
    found, expected = (rnn("cuda", cell, *narrow(problem(cell))) for cell in cells)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
