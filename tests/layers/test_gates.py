"""``gates``: the values by their names, against the oracle, with everything that ``rnn`` takes; and what it refuses."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn
from flax_rnn import Cell, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, gates, rnn
from flax_rnn.cells.lstm import LSTMValues
from flax_rnn.cells.protocol import affine

B, T, D, H = 3, 5, 4, 2
HOLES: Any = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 0]], bool)
CELLS: dict[str, Any] = {
    "simple_rnn": SimpleRNNCell(H),
    "lstm": LSTMCell(H),
    "lstm, other activations": LSTMCell(H, "softsign", recurrent_activation="hard_sigmoid", use_bias=False),
    "gru": GRUCell(H),
    "gru, reset before": GRUCell(H, reset_after=False),
    "stack": StackedRNNCells((LSTMCell(3), GRUCell(H))),
}
NAMES = {SimpleRNNCell: "h", LSTMCell: "ifgoch", GRUCell: "zrnh"}


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def expected(layer: Any, x: np.ndarray, mask: Any = None, state: Any = None, backwards: bool = False) -> Any:
    """What each of the layers computes at each step, as dicts; a masked step repeats the one before it."""
    layers = layer.layers if isinstance(layer, oracle.Stack) else [layer]
    found: list[dict[str, np.ndarray]] = [{} for _ in layers]
    for row in range(len(x)):
        carry: Any = layer.zero_state() if state is None else oracle.row_of(state, row)
        last: list[dict[str, np.ndarray]] = [{} for _ in layers]
        for time, step in enumerate(x[row][::-1] if backwards else x[row]):
            if mask is None or mask[row, time]:
                carry, _ = layer.step(carry, step, row)
                last = [one.seen for one in layers]
            for values, seen in zip(found, last, strict=True):
                for name, value in seen.items():
                    values.setdefault(name, np.zeros((*x.shape[:2], *value.shape)))[row, time] = value
    return tuple(found) if isinstance(layer, oracle.Stack) else found[0]


def as_dicts(values: Any) -> Any:
    """Named tuples as dicts."""
    return values._asdict() if hasattr(values, "_asdict") else tuple(map(as_dicts, values))


def problem(cell: Any) -> tuple[Any, Any, np.ndarray]:
    rng = np.random.default_rng(0)
    return oracle.random_weights(cell, D, rng), oracle.random_state(cell, B, rng), rng.normal(size=(B, T, D))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "holes"])
@pytest.mark.parametrize("name", CELLS)
def test_values_equal_the_oracle(name: str, masked: bool) -> None:
    cell, mask = CELLS[name], HOLES if masked else None
    weights, state, x = problem(cell)
    values = jax.jit(lambda *given: gates(cell, given[0], given[1], initial_state=given[2], mask=mask))(
        weights, x, state
    )
    wanted = expected(oracle.of(cell, weights), x, mask, state)
    oracle.assert_close(as_dicts(values), wanted)
    kinds = zip(getattr(cell, "cells", (cell,)), values if name == "stack" else (values,), strict=True)
    assert all("".join(own._fields) == NAMES[type(one)] for one, own in kinds)


@pytest.mark.usefixtures("x64")
def test_masks_of_dropout_are_in_the_gates() -> None:
    cell = LSTMCell(H, dropout=0.3, recurrent_dropout=0.4)
    weights, _, x = problem(cell)
    key = jax.random.key(3)
    masks = cell.dropout_masks(key, jnp.asarray(x[:, 0]))
    wanted = expected(oracle.of(cell, weights, masks), x)
    oracle.assert_close(gates(cell, weights, x, dropout_key=key)._asdict(), wanted)
    oracle.assert_close(gates(cell, weights, x, dropout_masks=masks)._asdict(), wanted)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", [flax_rnn.CuDNNLSTMCell(H), flax_rnn.CuDNNGRUCell(H)], ids=["lstm", "gru"])
def test_cells_with_weights_of_cudnn(cell: Any) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, (_, shape) in cell.param_specs(D).items()}
    x = rng.normal(size=(B, T, D))
    kind = type(cell).__name__.removeprefix("CuDNN")
    layer = oracle.Layer(kind, jax.tree.map(np.asarray, cell.plain(weights)))
    oracle.assert_close(gates(cell, weights, x, mask=HOLES)._asdict(), expected(layer, x, HOLES))


@pytest.mark.usefixtures("x64")
def test_a_convolution_of_one_pixel_is_an_lstm_of_each_pixel() -> None:
    cell, pixels = flax_rnn.ConvLSTM1DCell(H, 1), 3
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, (_, shape) in cell.param_specs(D).items()}
    x = rng.normal(size=(B, T, pixels, D))
    values = gates(cell, weights, x, mask=HOLES)
    layer = oracle.Layer("LSTMCell", {name: w if name == "bias" else w[0] for name, w in weights.items()})
    for pixel in range(pixels):
        here = jax.tree.map(lambda leaf, pixel=pixel: leaf[:, :, pixel], values._asdict())
        oracle.assert_close(here, expected(layer, x[:, :, pixel], HOLES))


@pytest.mark.usefixtures("x64")
def test_options_are_those_of_rnn() -> None:
    cell = CELLS["lstm"]
    weights, _, x = problem(cell)
    wanted = expected(oracle.of(cell, weights), x, backwards=True)
    turned: dict[str, Any] = {"time_major": True, "go_backwards": True, "implementation": "scan"}
    values = gates(cell, weights, x.swapaxes(0, 1), **turned)
    oracle.assert_close(jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), values)._asdict(), wanted)
    zeros = gates(cell, weights, x, mask=HOLES, zero_output_for_mask=True)
    assert all(not np.asarray(leaf)[~HOLES].any() and np.asarray(leaf)[HOLES].all() for leaf in zeros)
    by_chunks = gates(cell, weights, x, checkpoint_every=2)
    oracle.assert_close(by_chunks, gates(cell, weights, x))


def test_half_precision_shows_the_states_as_they_are_kept() -> None:
    cell = LSTMCell(H, dtype=jnp.bfloat16)
    params = cell.init_params(jax.random.key(0), D)
    x = jnp.ones((B, T, D))
    values = gates(cell, params, x)
    assert values.h.dtype == jnp.bfloat16 and {leaf.dtype for leaf in values[:5]} == {jnp.dtype("float32")}
    outputs, carry = rnn(cell, params, x, implementation="fused", return_sequences=True, return_state=True)
    np.testing.assert_array_equal(outputs, values.h)
    np.testing.assert_array_equal(carry.c, values.c[:, -1])


def test_gates_can_be_differentiated() -> None:
    cell = CELLS["stack"]
    weights, _, x = jax.tree.map(jnp.float32, problem(cell))

    def loss(implementation: str) -> Any:
        def of(weights: Any) -> Any:
            return oracle.weighted_sum(0, gates(cell, weights, x, mask=HOLES, implementation=implementation))

        return jax.grad(of)(weights)

    oracle.assert_close(loss("fused"), loss("scan"), 1e-5)


class Overridden(LSTMCell):
    """An LSTM whose step is another one, so that its gates are not known."""

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = affine) -> Any:
        new, output = super().step(weights, carry, projected, affine)
        return new, 2 * output


@dataclasses.dataclass  # which cannot be hashed
class Counter(Cell):
    """A cell of somebody's own, with a name for what it keeps."""

    def param_specs(self, in_features: int) -> Any:
        return {}

    def output_size(self, in_features: int) -> int:
        return in_features

    def project(self, params: Any, inputs: jax.Array, masks: Any = None, dot: Any = None) -> jax.Array:
        return inputs

    def initial_carry(self, params: Any, projected: jax.Array) -> jax.Array:
        return jnp.zeros_like(projected)

    def explain(self, weights: Any, carry: Any, projected: Any, affine: Any = None) -> Any:
        return carry + projected, projected, {"sum": carry + projected}

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = None) -> Any:
        return self.explain(weights, carry, projected, affine)[:2]


def test_a_step_that_was_overridden_is_the_one_that_is_taken() -> None:
    cell: Any = Overridden(H)
    weights, _, x = jax.tree.map(jnp.float32, problem(LSTMCell(H)))
    outputs = rnn(cell, weights, x, return_sequences=True)
    oracle.assert_close(outputs, 2 * gates(LSTMCell(H), weights, x).h, 1e-5)
    stack: Any = StackedRNNCells((cell,))
    carry = flax_rnn.zero_carry(stack, (B, D))
    oracle.assert_close(flax_rnn.apply_cell(stack, (weights,), carry, x[:, 0])[1], outputs[:, 0], 1e-5)


def test_a_cell_of_ones_own_names_what_it_likes() -> None:
    x = jnp.ones((B, T, D))
    np.testing.assert_array_equal(gates(Counter(), {}, x)["sum"], jnp.cumsum(x, 1))
    stack: Any = StackedRNNCells((LSTMCell(H), Counter()))
    below, above = gates(stack, stack.init_params(jax.random.key(0), D), x)
    assert isinstance(below, LSTMValues)
    np.testing.assert_allclose(above["sum"], jnp.cumsum(below.h, 1), rtol=1e-6)


def test_errors_name_the_argument() -> None:
    cell: Any = LSTMCell(H)
    params, x = cell.init_params(jax.random.key(0), D), jnp.ones((B, T, D))
    silent: Any = Overridden(H)
    for one in (silent, StackedRNNCells((LSTMCell(H), silent))):
        with pytest.raises(TypeError, match=r"cell: expected one that names its values by `explain`, got Overridden"):
            gates(one, params, x)
    for name in ("return_sequences", "return_state"):
        with pytest.raises(TypeError, match=f"{name}: not expected, since gates and states of all steps are returned"):
            gates(cell, params, x, **{name: True})
    with pytest.raises(TypeError, match="cell: expected a recurrent cell, got 'lstm'"):
        gates("lstm", params, x)  # pyright: ignore
    with pytest.raises(ValueError, match="no native kernel"):
        gates(cell, params, x, implementation="native")
    with pytest.raises(ValueError, match="mask: expected shape"):
        gates(cell, params, x, mask=HOLES[:2])
    with pytest.raises(ValueError, match="params: expected entries"):
        gates(cell, {"kernel": params["kernel"]}, x)
