"""The cells: one step against the oracle in values and gradients, weights, dtypes and errors."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.test_util import check_grads

from flax_rnn import DropoutMasks, GRUCell, LSTMCarry, LSTMCell, SimpleRNNCell, apply_cell, zero_carry

B, D, H = 2, 3, 2
CELLS = [
    SimpleRNNCell(H),
    SimpleRNNCell(H, "relu", use_bias=False),
    SimpleRNNCell(H, None),
    LSTMCell(H),
    LSTMCell(H, "softsign", recurrent_activation="hard_sigmoid"),
    LSTMCell(H, "relu", recurrent_activation="hard_sigmoid_keras2", use_bias=False),
    LSTMCell(H, "linear", recurrent_activation="tanh"),
    GRUCell(H),
    GRUCell(H, reset_after=False),
    GRUCell(H, use_bias=False),
    GRUCell(H, "softsign", recurrent_activation="hard_sigmoid", reset_after=False, use_bias=False),
    GRUCell(H, "relu", recurrent_activation="hard_sigmoid_keras2"),
]
ONE_EACH = [SimpleRNNCell(H), LSTMCell(H), GRUCell(H), GRUCell(H, reset_after=False)]


def describe(cell: Any) -> str:
    values = [type(cell).__name__, cell.activation, getattr(cell, "recurrent_activation", "")]
    flags = ["" if cell.use_bias else "no_bias", "" if getattr(cell, "reset_after", True) else "reset_before"]
    return "-".join(str(v) for v in values + flags if v != "")


def problem(cell: Any, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, state and inputs."""
    rng = np.random.default_rng(seed)
    return oracle.random_weights(cell, D, rng), oracle.random_state(cell, B, rng), rng.normal(size=(B, D))


def any_masks(cell: Any, which: str) -> Any:
    """Masks of arbitrary numbers, which tell apart more than zeros and ones would."""
    rng: Any = np.random.default_rng(7)
    if which == "none":
        return None
    if which == "shared":
        return DropoutMasks(inputs=(rng.normal(size=(B, D)),))
    gates = range(cell.num_gates)
    recurrent = tuple(rng.normal(size=(B, H)) for _ in gates)
    return DropoutMasks(tuple(rng.normal(size=(B, D)) for _ in gates) if which == "per_gate" else None, recurrent)


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.each(1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "which"),
    [(cell, "none") for cell in CELLS] + [(c, w) for c in ONE_EACH for w in ("shared", "per_gate", "recurrent")],
    ids=lambda value: value if isinstance(value, str) else describe(value),
)
def test_step_and_its_gradients_equal_the_oracle(cell: Any, which: str) -> None:
    masks = any_masks(cell, which)

    def loss(point: Any) -> Any:
        weights, state, x = point
        state, output = apply_cell(cell, weights, state, x, masks)
        return oracle.weighted_sum(1, state, output), (state, output)

    def expected_loss(point: Any) -> float:
        weights, state, x = point
        return oracle.weighted_sum(1, *expected_step(weights, state, x))

    def expected_step(weights: Any, state: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
        output, state = oracle.run(oracle.of(cell, weights, masks), x[:, None], state)
        return state, output

    point = problem(cell)
    gradients, step = jax.jit(jax.grad(loss, has_aux=True))(point)
    oracle.assert_close(step, expected_step(*point))
    oracle.assert_close(gradients, oracle.central_differences(expected_loss, point), 1e-7)


@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
def test_weights_may_be_numpy_arrays(cell: Any) -> None:
    weights, state, x = jax.tree.map(np.float32, problem(cell))
    expected = apply_cell(cell, jax.tree.map(jnp.asarray, weights), state, x)
    oracle.assert_close(apply_cell(cell, weights, state, x), expected, 1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
def test_forward_and_reverse_derivatives_agree(cell: Any) -> None:
    step = jax.jit(lambda weights, state, x: apply_cell(cell, weights, state, x))
    check_grads(step, problem(cell), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
def test_float32_step_equals_the_oracle(cell: Any) -> None:
    weights, state, x = problem(cell)
    weights, state, x = jax.tree.map(jnp.float32, (weights, state, x))
    new, output = apply_cell(cell, weights, state, x)
    expected, expected_state = oracle.run(oracle.of(cell, weights), np.asarray(x)[:, None], state)
    assert {leaf.dtype for leaf in jax.tree.leaves((new, output))} == {jnp.dtype("float32")}
    oracle.assert_close((output, new), (expected, expected_state), 1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("cls", [SimpleRNNCell, LSTMCell, GRUCell])
def test_half_precision_keeps_integrated_state_in_float32(cls: Any, dtype: Any) -> None:
    cell = cls(H, dtype=dtype)
    rng = np.random.default_rng(3)
    weights = jax.tree.map(jnp.float32, oracle.random_weights(cell, D, rng))
    x = rng.normal(size=(B, D))
    carry, output = zero_carry(cell, (B, D)), None
    for _ in range(3):
        carry, output = apply_cell(cell, weights, carry, jnp.float32(x))
        assert output.dtype == dtype
    expected, expected_carry = oracle.run(oracle.of(cell, weights), np.repeat(x[:, None], 3, 1))
    oracle.assert_close((output, carry), (expected, expected_carry), 0.04 if dtype == jnp.bfloat16 else 0.005)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(carry)]
    assert dtypes == {SimpleRNNCell: [dtype], LSTMCell: [dtype, jnp.float32], GRUCell: [jnp.float32]}[cls]
    assert {leaf.dtype for leaf in jax.tree.leaves(cell.init_params(jax.random.key(0), D))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
@pytest.mark.parametrize(
    ("inputs", "weights", "dtype", "output"),
    [
        ("float32", "float32", None, "float32"),
        ("bfloat16", "float32", None, "float32"),
        ("bfloat16", "bfloat16", None, "bfloat16"),
        ("int32", "float32", None, "float32"),
        ("float32", "float64", None, "float64"),
        ("float64", "float32", "float32", "float32"),
        ("float32", "float32", "float16", "float16"),
    ],
)
@pytest.mark.usefixtures("x64")
def test_dtype_of_the_output(cell: Any, inputs: str, weights: str, dtype: str | None, output: str) -> None:
    cell = dataclasses.replace(cell, dtype=dtype, param_dtype=weights)
    params = jax.eval_shape(lambda: cell.init_params(jax.random.key(0), D))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(weights)}
    x = jax.ShapeDtypeStruct((B, D), inputs)
    carry = jax.eval_shape(lambda p, x: cell.initial_carry(p, cell.project(p, x)), params, x)
    new, y = jax.eval_shape(lambda p, c, x: apply_cell(cell, p, c, x), params, carry, x)
    assert y.dtype == output
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), carry)


@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
@pytest.mark.parametrize("carry_dtype", [jnp.bfloat16, jnp.float32])
def test_a_step_keeps_the_dtype_of_the_carry(cell: Any, carry_dtype: Any) -> None:
    weights, state, x = jax.tree.map(jnp.float32, problem(cell))
    new, output = apply_cell(cell, weights, jax.tree.map(lambda a: a.astype(carry_dtype), state), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(carry_dtype)}
    assert output.dtype == jnp.float32


@pytest.mark.parametrize("cell", ONE_EACH, ids=describe)
def test_precision_reaches_every_product(cell: Any) -> None:
    def precisions(precision: Any) -> set[Any]:
        precise = dataclasses.replace(cell, precision=precision)
        jaxpr = jax.make_jaxpr(lambda *point: apply_cell(precise, *point))(*jax.tree.map(jnp.float32, problem(cell)))
        dots = [e for e, _ in oracle.equations(jaxpr.jaxpr) if e.primitive.name == "dot_general"]
        assert len(dots) >= 2
        return {dot.params["precision"] for dot in dots}

    highest = jax.lax.Precision.HIGHEST
    assert precisions("highest") == {(highest, highest)}
    assert precisions(None) == {None}


def test_weights_have_the_shapes_of_keras() -> None:
    def shapes(cell: Any) -> dict[str, tuple[int, ...]]:
        weights = jax.eval_shape(lambda: cell.init_params(jax.random.key(0), 5))
        return {name: leaf.shape for name, leaf in weights.items()}

    assert shapes(SimpleRNNCell(3)) == {"kernel": (5, 3), "recurrent_kernel": (3, 3), "bias": (3,)}
    assert shapes(LSTMCell(3)) == {"kernel": (5, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
    assert shapes(GRUCell(3)) == {"kernel": (5, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)}
    assert shapes(GRUCell(3, reset_after=False)) == {"kernel": (5, 9), "recurrent_kernel": (3, 9), "bias": (9,)}
    assert shapes(LSTMCell(3, use_bias=False)) == {"kernel": (5, 12), "recurrent_kernel": (3, 12)}
    assert list(LSTMCell(3).init_params(jax.random.key(0), 5)) == ["kernel", "recurrent_kernel", "bias"]
    lstm = jax.eval_shape(lambda: LSTMCell(128).init_params(jax.random.key(0), 128))
    assert sum(leaf.size for leaf in lstm.values()) == 131_584


@pytest.mark.parametrize(("cell", "gates"), [(SimpleRNNCell(32), 1), (LSTMCell(32), 4), (GRUCell(32), 3)])
def test_initial_weights(cell: Any, gates: int) -> None:
    weights = cell.init_params(jax.random.key(4), 24)
    limit = math.sqrt(6 / (24 + gates * 32))
    largest = float(jnp.abs(weights["kernel"]).max())
    assert 0.99 * limit < largest <= limit
    rows = weights["recurrent_kernel"] @ weights["recurrent_kernel"].T
    np.testing.assert_allclose(rows, np.eye(32), atol=1e-5)
    expected = np.zeros(weights["bias"].shape)
    if isinstance(cell, LSTMCell):
        expected[32:64] = 1
    np.testing.assert_array_equal(weights["bias"], expected)
    other = cell.init_params(jax.random.key(5), 24)
    assert not np.allclose(weights["kernel"], other["kernel"])
    assert not np.allclose(weights["recurrent_kernel"], other["recurrent_kernel"])


def test_unit_forget_bias_replaces_only_the_forget_gate() -> None:
    key = jax.random.key(0)
    bias = LSTMCell(2, bias_initializer=jax.nn.initializers.constant(0.3)).init_params(key, 3)["bias"]
    np.testing.assert_allclose(bias, [0.3, 0.3, 1, 1, 0.3, 0.3, 0.3, 0.3])
    bias = LSTMCell(2, bias_initializer="ones", unit_forget_bias=False).init_params(key, 3)["bias"]
    np.testing.assert_allclose(bias, np.ones(8))
    bias = LSTMCell(2, bias_initializer="zeros", unit_forget_bias=False).init_params(key, 3)["bias"]
    np.testing.assert_allclose(bias, np.zeros(8))


@pytest.mark.parametrize("cell", CELLS, ids=describe)
def test_a_cell_can_be_built_from_attributes(cell: Any) -> None:
    assert type(cell).of(cell) == cell
    assert type(cell).of(cell) is not cell
    assert hash(type(cell).of(cell)) == hash(cell)


def test_zero_carry() -> None:
    carry = zero_carry(LSTMCell(3, dtype=jnp.bfloat16), (2, 5))
    assert isinstance(carry, LSTMCarry)
    assert (carry.h.dtype, carry.c.dtype) == (jnp.bfloat16, jnp.float32)
    for leaf in carry:
        np.testing.assert_array_equal(np.asarray(leaf, np.float32), np.zeros((2, 3)))
    assert zero_carry(GRUCell(3), (4, 5)).shape == (4, 3)


@pytest.mark.parametrize("cls", [SimpleRNNCell, LSTMCell, GRUCell])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"units": 0}, ValueError, r"units: expected a positive integer, got 0"),
        ({"units": -3}, ValueError, r"units: expected a positive integer, got -3"),
        ({"units": 2.0}, ValueError, r"units: expected a positive integer, got 2\.0"),
        ({"units": True}, ValueError, r"units: expected a positive integer, got True"),
        ({"dropout": 1.0}, ValueError, r"dropout: expected a rate in \[0, 1\), got 1\.0"),
        ({"dropout": -0.1}, ValueError, r"^dropout: expected a rate in \[0, 1\), got -0\.1"),
        ({"dropout": float("nan")}, ValueError, r"^dropout: expected a rate in \[0, 1\), got nan"),
        ({"recurrent_dropout": 1.7}, ValueError, r"recurrent_dropout: expected a rate in \[0, 1\), got 1\.7"),
        ({"recurrent_dropout": "0.5"}, ValueError, r"recurrent_dropout: expected a rate in \[0, 1\), got '0\.5'"),
        ({"activation": "than"}, ValueError, r"activation: unknown activation 'than'; known are .*tanh"),
        ({"activation": 3}, TypeError, r"activation: expected a name, a callable or None, got 3"),
        ({"kernel_initializer": "glorot"}, ValueError, r"kernel_initializer: unknown initializer 'glorot'"),
        ({"recurrent_initializer": 1.0}, TypeError, r"recurrent_initializer: expected a name or a callable, got 1\.0"),
        ({"bias_initializer": None}, TypeError, r"bias_initializer: expected a name or a callable, got None"),
    ],
)
def test_hyper_parameter_errors(cls: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cls(**{"units": 3} | options)


@pytest.mark.parametrize("cls", [LSTMCell, GRUCell])
def test_recurrent_activation_errors(cls: Any) -> None:
    with pytest.raises(ValueError, match=r"recurrent_activation: unknown activation 'sigmod'"):
        cls(3, recurrent_activation="sigmod")


def test_step_errors() -> None:
    cell = LSTMCell(H)
    weights, state, x = jax.tree.map(jnp.float32, problem(cell))
    with pytest.raises(ValueError, match=r"inputs: expected 3 features in the last axis, got 4"):
        apply_cell(cell, weights, state, jnp.ones((B, 4)))
    with pytest.raises(TypeError, match=r"inputs: expected real numbers, got dtype complex64"):
        apply_cell(cell, weights, state, x.astype(jnp.complex64))
    with pytest.raises(ValueError, match=r"carry: expected LSTMCarry\(h=float32\(2, 2\), .*got float32\(2, 2\)"):
        apply_cell(cell, weights, state[0], x)
    with pytest.raises(ValueError, match=r"in_features: expected a positive integer, got 0"):
        cell.init_params(jax.random.key(0), 0)


class Shorter(LSTMCell):
    """A projection of its own, of other shapes."""

    def project(self, params: Any, inputs: Any, masks: Any = None, dot: Any = None) -> Any:
        return tuple(gate[..., : self.units] for gate in super().project(params, inputs, masks))


class Doubled(Shorter):
    def project(self, params: Any, inputs: Any, masks: Any = None, dot: Any = None) -> Any:
        return tuple(gate.astype(jnp.bfloat16) for gate in super().project(params, inputs, masks))


@pytest.mark.parametrize("cell", [*CELLS, Shorter(H), Doubled(H), LSTMCell(H, dtype=jnp.bfloat16)], ids=describe)
def test_what_is_like_a_projection_is(cell: Any) -> None:
    weights = cell.init_params(jax.random.key(0), D)
    for x in (jnp.ones((B, D)), jnp.ones((B, D), jnp.bfloat16), jnp.ones((2, B, D))):
        shapes = (jax.eval_shape(of, weights, x) for of in (cell.project, cell.projected_like))
        assert jax.tree.leaves(next(shapes)) == jax.tree.leaves(next(shapes))
    with pytest.raises(ValueError, match=f"inputs: expected .*{D}.*, got"):
        cell.projected_like(weights, jnp.ones((B, D + 1)))
    with pytest.raises(TypeError, match="inputs: expected"):
        cell.projected_like(weights, jnp.ones((B, D), bool))
