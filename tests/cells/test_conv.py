"""Convolutional LSTMs: against Keras and the equations in NumPy, derivatives, dropout, composition, errors."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from flax_rnn import DropoutMasks, LSTMCarry, StackedRNNCells, apply_cell, bidirectional, rnn, zero_carry
from flax_rnn.cells.conv_lstm import ConvLSTM1DCell, ConvLSTM2DCell, ConvLSTM3DCell

B, T, C, F = 3, 4, 3, 2
SPATIAL = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
KEY = jax.random.key(11)
HOLES: Any = np.array([[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
LEADING: Any = np.array([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)
SEQUENCES: dict[str, Any] = {"return_sequences": True}
ONE_EACH = [ConvLSTM1DCell(F, 3), ConvLSTM2DCell(F, (3, 2)), ConvLSTM3DCell(F, 2)]
DROPPED: dict[str, Any] = {"dropout": 0.4, "recurrent_dropout": 0.3}

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "1d": (ONE_EACH[0], {}),
    "1d same strided": (ConvLSTM1DCell(F, 4, 2, "same"), SEQUENCES | {"initial_state": True}),
    "1d dilated": (ConvLSTM1DCell(F, 2, dilation_rate=3), SEQUENCES | {"go_backwards": True, "mask": HOLES}),
    "2d": (ONE_EACH[1], SEQUENCES | {"go_backwards": True, "initial_state": True}),
    "2d same strided": (ConvLSTM2DCell(F, 3, (2, 1), "same"), {"mask": LEADING}),
    "2d same dilated": (ConvLSTM2DCell(F, (2, 3), padding="same", dilation_rate=(1, 2)), SEQUENCES | {"mask": LEADING}),
    "2d strided": (ConvLSTM2DCell(F, 2, 2), SEQUENCES | {"mask": HOLES, "initial_state": True}),
    "2d activations": (
        ConvLSTM2DCell(F, 1, activation="softsign", recurrent_activation="hard_sigmoid", use_bias=False),
        SEQUENCES,
    ),
    "3d": (ONE_EACH[2], SEQUENCES | {"mask": HOLES}),
    "3d same strided": (ConvLSTM3DCell(F, (1, 2, 3), (1, 2, 1), "same"), {"go_backwards": True, "initial_state": True}),
}


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem(cell: Any, seed: int = 0, dtype: Any = np.float32) -> tuple[Any, Any, Any]:
    """Random weights with biases, a state, and inputs."""
    rng = np.random.default_rng(seed)

    def draw(like: Any) -> Any:
        return jnp.asarray(rng.normal(0, 0.5, like.shape), dtype)

    x = draw(np.empty((B, T, *SPATIAL[cell.num_feature_axes - 1], C)))
    weights = jax.tree.map(draw, jax.eval_shape(lambda: cell.init_params(KEY, C)))
    return weights, jax.tree.map(draw, zero_carry(cell, x[:, 0].shape)), x


def name_of(cell: Any) -> str:
    return type(cell).__name__


# Keras


def keras_layer(cell: Any, **options: Any) -> Any:
    keras = pytest.importorskip("keras")
    names = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation", "recurrent_activation")
    options |= {name: getattr(cell, name) for name in (*names, "use_bias", "unit_forget_bias", "data_format")}
    return getattr(keras.layers, name_of(cell).removesuffix("Cell"))(**options)


def arrays(weights: dict[str, Any]) -> list[np.ndarray]:
    return [np.asarray(weights[name]) for name in ("kernel", "recurrent_kernel", "bias") if name in weights]


@pytest.mark.each(1, at_most=3)
@pytest.mark.parametrize("case", CASES)
def test_keras(case: str) -> None:
    cell, options = CASES[case]
    weights, state, x = problem(cell)
    mask = options.get("mask")
    state = state if options.get("initial_state") else None
    options = {name: value for name, value in options.items() if name not in ("mask", "initial_state")}
    layer = keras_layer(cell, return_state=True, unroll=mask is not None, **options)
    layer.build(x.shape)
    layer.set_weights(arrays(weights))
    ours = jax.jit(lambda w: rnn(cell, w, x, mask=mask, initial_state=state, return_state=True, **options))(weights)
    oracle.assert_close(ours, jax.jit(lambda x: layer(x, mask=mask, initial_state=state))(x), 2e-6)


def test_masks_need_no_unrolling_unlike_in_keras_on_jax() -> None:
    # Its loop lets the mask (B, 1) meet the output (B, *S', F): an error, or for some S' the wrong numbers.
    cell = ONE_EACH[0]
    weights, _, x = problem(cell)
    with pytest.raises(ValueError, match="Incompatible shapes for broadcasting"):
        keras_layer(cell)(x, mask=HOLES)
    assert np.all(np.isfinite(rnn(cell, weights, x, mask=HOLES)))


@pytest.mark.parametrize("cell", [*ONE_EACH[:2], ConvLSTM3DCell(8, 2, unit_forget_bias=False)], ids=name_of)
def test_weights_start_as_in_keras(cell: Any) -> None:
    layer = keras_layer(cell)
    layer.build((B, T, *SPATIAL[cell.rank], C))
    weights = cell.init_params(KEY, C)
    assert list(weights) == [weight.name for weight in layer.weights]
    assert [w.shape for w in weights.values()] == [w.shape for w in layer.weights]
    assert sum(w.size for w in weights.values()) == layer.count_params()
    np.testing.assert_array_equal(weights["bias"], layer.get_weights()[2])
    window = math.prod(weights["kernel"].shape[:-2])
    limit = math.sqrt(6 / (window * (C + 4 * cell.filters)))
    recurrent = layer.get_weights()[1].shape[-1]
    for kernel, recurrent_kernel, _ in (weights.values(), layer.get_weights()):
        assert 0.8 * limit < np.abs(kernel).max() <= limit
        matrix = np.asarray(recurrent_kernel).reshape(-1, recurrent)
        matrix = matrix if matrix.shape[0] < matrix.shape[1] else matrix.T
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5)


# The equations


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int = 1, same: bool = True, rate: int = 1) -> np.ndarray:
    """``x`` ``(S, C)`` and ``kernel`` ``(K, C, F)`` to ``(S', F)``, one product of a pixel at a time."""
    reach = (len(kernel) - 1) * rate
    size = math.ceil(len(x) / stride) if same else (len(x) - reach - 1) // stride + 1
    left = max((size - 1) * stride + reach + 1 - len(x), 0) // 2 if same else 0
    y = np.zeros((size, kernel.shape[-1]))
    for s in range(size):
        for k, matrix in enumerate(kernel):
            at = s * stride + k * rate - left
            if 0 <= at < len(x):
                y[s] += x[at] @ matrix
    return y


def expected_run(cell: Any, weights: Any, state: Any, x: Any, mask: Any, dropped: Any) -> tuple[np.ndarray, list[Any]]:
    """Outputs ``(B, T, S', F)`` and the final state, row by row and step by step."""
    weights, state, x, dropped = jax.tree.map(lambda a: np.asarray(a, np.float64), (weights, list(state), x, dropped))
    sigmoid = oracle.ACTIVATIONS["sigmoid"]
    rows = []
    for row in range(B):
        h, c = state[0][row], state[1][row]
        outputs, output = [], np.zeros_like(h)
        for t in range(T):
            if mask[row, t]:
                gates = []
                for g in range(4):
                    block = slice(g * F, (g + 1) * F)
                    inputs = convolution(
                        x[row, t] * dropped.inputs[g][row], weights["kernel"][..., block],
                        cell.strides, cell.padding == "same", cell.dilation_rate,
                    )  # fmt: skip
                    recurrent = convolution(h * dropped.recurrent[g][row], weights["recurrent_kernel"][..., block])
                    gates.append(inputs + recurrent + weights["bias"][block])
                i, f, g, o = gates
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                output = h = sigmoid(o) * np.tanh(c)
            outputs.append(output)
        rows.append((np.stack(outputs), h, c))
    outputs, h, c = (np.stack(parts) for parts in zip(*rows, strict=True))
    return outputs, [h, c]


@pytest.mark.each(1, at_most=2)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", ["scan", "fused"])
@pytest.mark.parametrize(
    "cell",
    [
        ConvLSTM1DCell(F, 3, **DROPPED),
        ConvLSTM1DCell(F, 2, 2, "same", **DROPPED),
        ConvLSTM1DCell(F, 4, dilation_rate=2, **DROPPED),
    ],
    ids=["valid", "same strided", "dilated"],
)
def test_layer_with_dropout_equals_the_equations(cell: Any, implementation: str) -> None:
    weights, state, x = problem(cell, dtype=np.float64)
    actual = rnn(
        cell, weights, x, initial_state=state, mask=HOLES, dropout_key=KEY, implementation=implementation,
        return_sequences=True, return_state=True,
    )  # fmt: skip
    masks = cell.dropout_masks(KEY, x[:, 0])
    oracle.assert_close(actual, expected_run(cell, weights, state, x, HOLES, masks))


# Derivatives


def loss(cell: Any, implementation: str, options: dict[str, Any], point: Any) -> Any:
    weights, state, x = point
    result = rnn(
        cell, weights, x, initial_state=state, dropout_key=KEY, return_state=True, implementation=implementation,
        **options,
    )  # fmt: skip
    return oracle.weighted_sum(1, result)


@pytest.mark.each(1, at_most=1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("cell", "options"),
    [
        (ConvLSTM1DCell(F, 3, dilation_rate=2, **DROPPED), SEQUENCES | {"mask": HOLES}),
        (ConvLSTM2DCell(F, (3, 2), 2, "same", use_bias=False), {"mask": LEADING, "go_backwards": True}),
        (ConvLSTM3DCell(F, 2), SEQUENCES),
    ],
    ids=["1d", "2d", "3d"],
)
def test_gradients_are_right_and_the_same_for_every_implementation(cell: Any, options: dict[str, Any]) -> None:
    point = problem(cell, dtype=np.float64)
    scan, fused = (
        jax.jit(jax.value_and_grad(functools.partial(loss, cell, name, options))) for name in ("scan", "fused")
    )
    oracle.assert_close(fused(point), scan(point), 1e-11)
    direction, step = problem(cell, 1, np.float64), 1e-5
    above, below = (fused(jax.tree.map(lambda p, d, s=s: p + s * d, point, direction))[0] for s in (step, -step))
    slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (fused(point)[1], direction)), strict=True))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-7)


@pytest.mark.each(1, at_most=1)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("implementation", "modes"), [("scan", ("fwd", "rev")), ("fused", ("rev",))])
def test_derivatives_in_both_modes(implementation: str, modes: tuple[str, ...]) -> None:
    cell = ConvLSTM1DCell(F, 3)
    run = jax.jit(functools.partial(loss, cell, implementation, {"mask": HOLES}))
    check_grads(run, (problem(cell, dtype=np.float64),), order=1, modes=modes)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize(("dtype", "implementation"), [(jnp.bfloat16, "fused"), (jnp.float16, "scan")])
def test_half_precision_keeps_the_memory_in_float32(dtype: Any, implementation: str) -> None:
    cell = ConvLSTM2DCell(F, 3, dtype=dtype)
    weights, _, x = problem(cell)

    def run(cell: Any, weights: Any) -> Any:
        result = rnn(cell, weights, x, return_state=True, implementation=implementation)
        return oracle.weighted_sum(1, result), result

    gradients, (output, state) = jax.jit(jax.grad(lambda w: run(cell, w), has_aux=True))(weights)
    assert (output.dtype, state.h.dtype, state.c.dtype) == (dtype, dtype, jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    expected = jax.jit(jax.grad(lambda w: run(ConvLSTM2DCell(F, 3), w), has_aux=True))(weights)
    for actual, right in zip(*map(jax.tree.leaves, ((gradients, output), (expected[0], expected[1][0]))), strict=True):
        assert np.linalg.norm(np.float32(actual) - right) < 0.03 * np.linalg.norm(right)


def test_inputs_are_convolved_ahead_of_the_loop_and_all_at_once() -> None:
    cell = ConvLSTM2DCell(F, 3)
    weights, _, x = problem(cell)
    jaxpr = jax.make_jaxpr(lambda *args: rnn(cell, *args, implementation="scan", **SEQUENCES))(weights, x)
    found = [
        (e.invars[0].aval.shape[0], inside)
        for e, inside in oracle.equations(jaxpr.jaxpr)
        if e.primitive.name == "conv_general_dilated"
    ]
    assert (B * T, False) in found
    assert all(size == B for size, inside in found if inside)
    assert sum(size == B * T for size, _ in found) == 1


@pytest.mark.parametrize("cell", ONE_EACH, ids=name_of)
def test_kernels_have_the_same_order_of_axes_in_both_loops(cell: Any) -> None:
    weights, _, x = problem(cell)
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: rnn(cell, w, x, implementation="fused").sum()))(weights)
    found = [
        e.params["dimension_numbers"].rhs_spec
        for e, inside in oracle.equations(jaxpr.jaxpr)
        if inside and e.primitive.name == "conv_general_dilated"
    ]
    assert len(found) > 4 and len(set(found)) == 1


# Dropout


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("cell", ONE_EACH, ids=name_of)
def test_every_gate_has_masks_of_every_number(cell: Any) -> None:
    x = jnp.ones((B, *SPATIAL[cell.rank], C))
    output = zero_carry(cell, x.shape).h

    def masks(**rates: float) -> Any:
        return functools.partial(type(cell)(F, cell.kernel_size, **rates).dropout_masks, KEY, x)

    assert masks()() is None
    inputs_only = jax.eval_shape(masks(dropout=0.5))
    assert inputs_only.recurrent is None and [m.shape for m in inputs_only.inputs] == [x.shape] * 4
    assert jax.eval_shape(masks(recurrent_dropout=0.5)).inputs is None
    both = jax.jit(masks(dropout=0.5, recurrent_dropout=0.2))()
    assert [[m.shape for m in part] for part in both] == [[x.shape] * 4, [output.shape] * 4]
    for part, scale in zip(both, (2, 1.25), strict=True):
        np.testing.assert_array_equal(np.unique(np.stack(part)), [0, np.float32(scale)])
        assert not any(np.array_equal(part[0], other) for other in part[1:])
    assert not np.array_equal(both.inputs[0][0], both.inputs[0][1])
    assert np.any(both.inputs[0][..., 0] != both.inputs[0][..., 1]), "channels are not dropped as a whole"


def test_masks_are_those_of_the_documented_keys_and_do_not_change_over_time() -> None:
    cell = ConvLSTM2DCell(F, 2, strides=2, **DROPPED)
    weights, state, x = problem(cell)
    masks = cell.dropout_masks(KEY, x[:, 0])
    assert isinstance(masks, DropoutMasks)
    expected: Any = state
    output: Any = None
    step = jax.jit(functools.partial(apply_cell, cell, weights, masks=masks))
    for t in range(T):
        expected, output = step(expected, x[:, t])
    actual = rnn(cell, weights, x, initial_state=state, dropout_key=KEY, return_state=True)
    oracle.assert_close(actual, (output, expected), 1e-6)
    assert np.any(rnn(cell, weights, x, initial_state=state) != output)


# Composition


def test_a_stack_equals_its_layers_one_after_the_other() -> None:
    cells = (ConvLSTM2DCell(4, (3, 2), strides=(1, 2)), ConvLSTM2DCell(F, 3, padding="same"))
    stack = StackedRNNCells(cells)
    x = problem(cells[0])[2]
    weights = jax.tree.map(lambda w: w + 0.1, stack.init_params(KEY, C))
    options: dict[str, Any] = SEQUENCES | {"mask": HOLES, "return_state": True}
    below = jax.jit(lambda x: rnn(cells[0], weights[0], x, **options))(x)
    above = jax.jit(lambda x: rnn(cells[1], weights[1], x, **options))(below[0])
    outputs, states = jax.jit(lambda w: rnn(stack, w, x, **options))(weights)
    # Below the top of a stack, outputs of masked steps differ, which must not matter.
    oracle.assert_close((outputs, states), (above[0], (below[1], above[1])), 1e-6)
    step = jax.jit(functools.partial(apply_cell, stack, weights))
    by_hand: Any = zero_carry(stack, x[:, 0].shape)
    for t in range(T):
        by_hand, output = step(by_hand, x[:, t])
        np.testing.assert_allclose(output[2], outputs[2, t], rtol=1e-6, atol=1e-6)  # no step of it is masked


def test_both_directions_are_merged_along_the_filters() -> None:
    cell = ConvLSTM1DCell(F, 3)
    (weights, _, x), (other, _, _) = problem(cell), problem(cell, 1)
    both = bidirectional((cell, cell), (weights, other), x, **SEQUENCES)
    forward = rnn(cell, weights, x, **SEQUENCES)
    backward = rnn(cell, other, x, go_backwards=True, keep_order=True, **SEQUENCES)
    oracle.assert_close(both, jnp.concatenate([forward, backward], -1), 1e-6)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("cell", ONE_EACH, ids=name_of)
def test_time_major_lengths_and_vmap(cell: Any) -> None:
    weights, _, x = problem(cell)
    lengths = np.array([2, 4, 0])
    run = jax.jit(lambda x: rnn(cell, weights, x, seq_lengths=lengths, return_state=True, **SEQUENCES))
    outputs, states = run(x)
    assert outputs.shape[:2] == (B, T) and outputs.shape[-1] == cell.output_size(C)
    time_major = rnn(cell, weights, x.swapaxes(0, 1), seq_lengths=lengths, time_major=True, **SEQUENCES)
    oracle.assert_close(time_major.swapaxes(0, 1), outputs, 1e-6)
    twice = jax.vmap(run)(jnp.stack([x, 2 * x]))
    for index, factor in enumerate((1, 2)):
        oracle.assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], twice), run(factor * x), 1e-6)
    np.testing.assert_array_equal(outputs[2], 0)
    np.testing.assert_array_equal(states.c[2], 0)


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_a_step_takes_any_number_of_batch_axes(batch: tuple[int, ...]) -> None:
    cell = ConvLSTM2DCell(F, 2)
    weights, state, x = problem(cell)
    carry, output = apply_cell(cell, weights, state, x[:, 0])
    widen = lambda leaf: leaf[0] if batch == () else jnp.stack([leaf, leaf])  # noqa: E731
    actual = apply_cell(cell, weights, jax.tree.map(widen, state), widen(x[:, 0]))
    oracle.assert_close(actual, jax.tree.map(widen, (carry, output)), 1e-6)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_batches_stay_sharded(axis_type: AxisType) -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    cell = ConvLSTM2DCell(F, 3, **DROPPED)
    weights, _, x = problem(cell)
    x = jnp.concatenate([x, 2 * x, 3 * x[:2]])
    run = jax.jit(lambda x: rnn(cell, weights, x, dropout_key=KEY, return_state=True, **SEQUENCES))
    expected = run(x)
    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, P("data"))
        actual = run(jax.device_put(x, sharding))
        for leaf in jax.tree.leaves(actual):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    oracle.assert_close(jax.device_get(actual), jax.device_get(expected), 1e-5)


# Errors


def test_cells_compare_and_hash_by_value() -> None:
    assert ConvLSTM2DCell(F, 3) == ConvLSTM2DCell(F, 3) != ConvLSTM2DCell(F, (3, 2))
    assert hash(ConvLSTM2DCell(F, 3)) == hash(ConvLSTM2DCell(F, 3))
    assert ConvLSTM2DCell.of(ONE_EACH[1]) == ONE_EACH[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "filters: expected a positive integer, got 0"),
        ({"kernel_size": (3,)}, r"kernel_size: expected a positive integer or a tuple of 2 of them, got \(3,\)"),
        ({"kernel_size": [3, 3]}, r"kernel_size: .* a tuple of 2 of them, got \[3, 3\]"),
        ({"strides": 0}, "strides: expected a positive integer .*, got 0"),
        ({"dilation_rate": (1, 0)}, r"dilation_rate: .*, got \(1, 0\)"),
        ({"padding": "causal"}, "padding: expected 'valid' or 'same', got 'causal'"),
        ({"data_format": "channels_first"}, "data_format: expected 'channels_last' .*, got 'channels_first'"),
        ({"dropout": 1.0}, r"dropout: expected a rate in \[0, 1\), got 1.0"),
        ({"recurrent_activation": "no"}, "recurrent_activation: "),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"filters": F, "kernel_size": 3} | options
    with pytest.raises(ValueError, match=message):
        ConvLSTM2DCell(**arguments)


def test_inputs_and_states_are_checked() -> None:
    cell = ConvLSTM2DCell(F, 3)
    weights, state, x = problem(cell)
    with pytest.raises(ValueError, match=r"inputs: expected at least 4 axes \(\*batch, T, ...\), got .*5, 6, 3"):
        rnn(cell, weights, x[0, 0])
    with pytest.raises(ValueError, match=r"inputs: expected 2 spatial axes and the channels last, got shape \(6, 3\)"):
        apply_cell(cell, weights, state, x[0, 0, 0])
    with pytest.raises(ValueError, match="inputs: expected 3 features in the last axis, got 2"):
        rnn(cell, weights, x[..., :2])
    with pytest.raises(ValueError, match=r"inputs: expected spatial axes of at least \(3, 3\), got \(5, 2\)"):
        rnn(cell, weights, x[..., :2, :])
    with pytest.raises(TypeError, match="inputs: expected real numbers, got dtype bool"):
        rnn(cell, weights, x > 0)
    same = LSTMCarry(*(jnp.zeros((B, 5, 6, F)) for _ in range(2)))
    with pytest.raises(ValueError, match=r"initial_state: expected LSTMCarry\(h=float32\(3, 3, 4, 2\), .*"):
        rnn(cell, weights, x, initial_state=same)
