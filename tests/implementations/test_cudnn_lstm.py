"""cuDNN's LSTM, with a twin in the place of its calls, against the NumPy oracle and against float64."""

import sys
from typing import Any

import cudnn_twin
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cudnn_twin import Twin
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import flax_rnn
from flax_rnn.implementations.cudnn import call

twin = cudnn_twin.twin
pytestmark = pytest.mark.usefixtures("twin")

B, T, D, H = 3, 5, 3, 2
RIGHT: Any = np.arange(T) < np.array([[3], [5], [1]])
HOLES: Any = np.array([[0, 1, 0, 1, 1], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0]], bool)
EMPTY: Any = HOLES & np.array([[True], [False], [True]])
FULL = pytest.mark.full
MASKS: dict[str, Any] = {
    "none": {},
    "right": {"mask": RIGHT},
    "lengths": {"seq_lengths": np.array([3, 0, 9])},
    "left": {"mask": RIGHT[:, ::-1]},
    "holes": {"mask": HOLES},
    "an empty row": {"mask": EMPTY},
    "all empty": {"mask": np.zeros((B, T), bool)},
}
LOOPS: dict[str, dict[str, Any]] = {
    "last": {},
    "all": {"return_sequences": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "zeros backwards": {"return_sequences": True, "go_backwards": True, "zero_output_for_mask": True},
    "in order": {"return_sequences": True, "go_backwards": True, "keep_order": True},
    "last backwards": {"go_backwards": True},
}


def problem(cell: Any, batch: tuple[int, ...] = (B,), seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, inputs and a state, as NumPy float64 of float32 values."""
    rng = np.random.default_rng(seed)
    plain = flax_rnn.LSTMCell(cell.units, use_bias=cell.use_bias)
    weights = oracle.random_weights(plain, D, rng)
    if isinstance(cell, flax_rnn.CuDNNLSTMCell):
        weights["bias"] = rng.normal(size=8 * cell.units)
    state = flax_rnn.LSTMCarry(*rng.normal(size=(2, *batch, cell.units)))
    x = rng.normal(size=(*batch, T, D))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), (weights, x, state))


def narrow(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def rnn(cell: Any, weights: Any, x: Any, state: Any, how: str = "cudnn", **options: Any) -> Any:
    return flax_rnn.rnn(cell, weights, x, initial_state=state, implementation=how, **{"return_state": True, **options})


def loss(cell: Any, how: str, weights: Any, x: Any, state: Any, **options: Any) -> Any:
    result = rnn(cell, weights, x, state, how, **options)
    return oracle.weighted_sum(1, result), result


def both(cell: Any, point: Any, **options: Any) -> tuple[Any, Any]:
    """Gradients and results of ours, and of the plain loop in float64."""

    def run(how: str, *point: Any) -> Any:
        return jax.jit(jax.grad(lambda *a: loss(cell, how, *a, **options), (0, 1, 2), has_aux=True))(*point)

    with jax.enable_x64():
        exact = run("scan", *point)
    return run("cudnn", *narrow(point)), exact


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("masked", MASKS)
def test_values_and_gradients_equal_the_oracle(masked: str, loop: str) -> None:
    """Also where masked inputs are NaN."""
    cell, options = flax_rnn.LSTMCell(H), {**MASKS[masked], **LOOPS[loop]}
    point = problem(cell)
    used = options.get("mask", np.ones((B, T), bool))
    if "seq_lengths" in options:
        used = np.arange(T) < options["seq_lengths"][:, None]
    dirty = (point[0], np.where(used[..., None], point[1], np.nan), point[2])
    gradients, result = jax.jit(
        jax.grad(lambda *point: loss(cell, "cudnn", *point, **options), (0, 1, 2), has_aux=True)
    )(*narrow(dirty))

    def expect(point: Any) -> Any:
        weights, x, state = point
        return oracle.run(oracle.of(cell, weights), x, [*state], **options)

    oracle.assert_close(result, expect(point), 1e-5)
    differences = oracle.central_differences(lambda point: oracle.weighted_sum(1, expect(point)), point)
    oracle.assert_close(gradients, differences, 3e-5)


@pytest.mark.parametrize(
    ("cell", "batch", "options"),
    [
        (flax_rnn.LSTMCell(H, use_bias=False), (2, B), {"mask": np.stack([HOLES, EMPTY]), "return_sequences": True}),
        (flax_rnn.CuDNNLSTMCell(H), (B,), {"mask": EMPTY, "return_sequences": True, "checkpoint_every": 2}),
        pytest.param(flax_rnn.LSTMCell(H), (), {"mask": HOLES[0], "return_sequences": True}, marks=FULL),
        pytest.param(
            flax_rnn.LSTMCell(H), (B,), {"mask": EMPTY, "go_backwards": True, "checkpoint_every": 2}, marks=FULL
        ),
    ],
    ids=["no bias, two axes", "CuDNNLSTM in chunks", "no batch axis", "chunks backwards"],
)
def test_values_and_gradients_equal_those_in_float64(cell: Any, batch: Any, options: Any) -> None:
    ours, exact = both(cell, problem(cell, batch), **options)
    oracle.assert_close(ours, exact, 1e-5)


def test_dropout_of_inputs_and_its_gradient() -> None:
    cell = flax_rnn.LSTMCell(H, dropout=0.4)
    weights, x, state = problem(cell)
    masks = np.random.default_rng(1).normal(size=(B, D))

    def run(how: str, masks: Any, weights: Any, x: Any, state: Any) -> Any:
        dropped = flax_rnn.DropoutMasks((masks,))
        return loss(cell, how, weights, x, state, dropout_masks=dropped, mask=HOLES)

    gradient = jax.jit(jax.grad(run, (1, 2, 3), has_aux=True), static_argnums=0)
    with jax.enable_x64():
        exact = gradient("scan", masks, weights, x, state)
    oracle.assert_close(gradient("cudnn", *narrow((masks, weights, x, state))), exact, 1e-5)


def test_time_major_and_stacks() -> None:
    """In a stack each cell has a call of its own."""
    stack = flax_rnn.StackedRNNCells((flax_rnn.LSTMCell(4), flax_rnn.LSTMCell(H)))
    rng = np.random.default_rng(0)
    weights, x = oracle.random_weights(stack, D, rng), rng.normal(size=(T, B, D))
    options: dict[str, Any] = {"time_major": True, "mask": HOLES.T, "return_sequences": True, "return_state": True}
    result = flax_rnn.rnn(stack, narrow(weights), narrow(x), implementation="cudnn", **options)
    options.pop("return_state")
    oracle.assert_close(result, oracle.run(oracle.of(stack, weights), x, **options), 1e-5)


@pytest.mark.parametrize("mapped", ["inputs", pytest.param("weights and inputs", marks=FULL)])
def test_under_vmap(mapped: str) -> None:
    """One after the other, with gradients, jitted or not."""
    cell = flax_rnn.LSTMCell(H)
    point = narrow(problem(cell))
    axes = (0 if mapped == "weights and inputs" else None, 0, 0)
    many = tuple(
        point[i] if axis is None else jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, leaf / 2]), point[i])
        for i, axis in enumerate(axes)
    )

    def one(how: str, *point: Any) -> Any:
        return jax.value_and_grad(lambda *a: loss(cell, how, *a, mask=HOLES), (0, 1, 2), has_aux=True)(*point)

    expected = jax.jit(jax.vmap(lambda *a: one("scan", *a), axes))(*many)
    oracle.assert_close(jax.jit(jax.vmap(lambda *a: one("cudnn", *a), axes))(*many), expected, 1e-5)


@pytest.mark.full
def test_it_can_be_differentiated_again() -> None:
    """In float32 by XLA; of all arrays."""
    cell = flax_rnn.LSTMCell(H)
    point = problem(cell)

    def squared(how: str, *point: Any) -> Any:
        return loss(cell, how, *point, mask=EMPTY, go_backwards=True, return_sequences=True)[0] ** 2

    def second(how: str) -> Any:
        def gradient(point: Any) -> Any:
            return oracle.weighted_sum(3, jax.grad(lambda *a: squared(how, *a), (0, 1, 2))(*point))

        return jax.jit(jax.grad(gradient))

    with jax.enable_x64():
        exact = second("scan")(point)
    for a, e in zip(*map(jax.tree.leaves, (second("cudnn")(narrow(point)), exact)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4 * np.abs(e).max() + 1e-6)


def test_without_jit() -> None:
    cell = flax_rnn.LSTMCell(H)
    point = problem(cell)
    expected = oracle.run(oracle.of(cell, point[0]), point[1], [*point[2]], HOLES)
    with jax.disable_jit():
        oracle.assert_close(rnn(cell, *narrow(point), mask=HOLES), expected, 1e-5)


@pytest.mark.parametrize(
    ("precision", "default", "passed_on"),
    [
        (None, None, "HIGH"),
        ("default", None, "HIGH"),
        (jax.lax.Precision.HIGH, "highest", "HIGH"),
        ("tensorfloat32", None, "HIGH"),
        ("highest", None, "HIGHEST"),
        (jax.lax.Precision.HIGHEST, "default", "HIGHEST"),
        ("float32", None, "HIGHEST"),
        (None, "float32", "HIGHEST"),
        (None, "tensorfloat32", "HIGH"),
        (None, "bfloat16", "HIGH"),
    ],
    ids=str,
)
def test_precision_decides_about_tf32(twin: Twin, precision: Any, default: Any, passed_on: str) -> None:
    cell = flax_rnn.LSTMCell(2, precision=precision)
    weights = jax.eval_shape(lambda: cell.init_params(jax.random.key(0), D))
    run = jax.grad(lambda w, x: flax_rnn.rnn(cell, w, x, implementation="cudnn").sum())
    with jax.default_matmul_precision(default), jax.disable_jit():
        jax.eval_shape(run, weights, jax.ShapeDtypeStruct((1, 2, D), jnp.float32))
    assert [call["name"] for call in twin.calls] == ["forward", "backward"]
    assert {call["precision"] for call in twin.calls} == {jax.lax.Precision[passed_on]}


def test_weights_lie_as_cudnn_has_them() -> None:
    """Our bias is that of the inputs."""
    rng = np.random.default_rng(0)
    cells = [oracle.random_weights(flax_rnn.LSTMCell(H), D, rng) for _ in range(2)]
    del cells[1]["bias"]
    arrays = cudnn_twin.unpacked(call.flat(narrow(cells)), D, H, 1, 2)
    for end, weights in zip(("_l0", "_l0_reverse"), cells, strict=True):
        for name, expected in (
            ("weight_ih", weights["kernel"].T),
            ("weight_hh", weights["recurrent_kernel"].T),
            ("bias_ih", weights.get("bias", np.zeros(4 * H))),
            ("bias_hh", np.zeros(4 * H)),
        ):
            np.testing.assert_array_equal(arrays[name + end], np.float32(expected))


def primitives(**options: Any) -> set[str]:
    """The names of what a layer and its gradients are made of."""
    cell = flax_rnn.LSTMCell(H)

    def run(*point: Any) -> Any:
        return loss(cell, "cudnn", *point, return_sequences=True, **options)

    jaxpr = jax.make_jaxpr(jax.grad(run, (0, 1, 2), has_aux=True))(*narrow(problem(cell)))
    return {equation.primitive.name for equation, _ in oracle.equations(jaxpr.jaxpr)}


def test_steps_are_gathered_where_there_is_a_mask_and_never_scattered(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(x: Any, h_0: Any, c_0: Any, w: Any, *_: Any, **fixed: Any) -> Any:
        return (jnp.zeros((*x.shape[:2], H)), h_0, c_0), (x, h_0, c_0, w)

    # Calls that are made of nothing.
    monkeypatch.setattr(cudnn_twin.rnn, "lstm_fwd", forward)
    monkeypatch.setattr(cudnn_twin.rnn, "lstm_bwd", lambda residuals, **fixed: (*residuals, None))
    with jax.disable_jit():
        assert not {"gather", "sort", "scatter", "scatter-add", "scatter_add"} & primitives()
        found = primitives(mask=HOLES)
    assert {"gather", "sort"} < found and not {name for name in found if "scatter" in name}


def test_within_shard_map_each_device_calls_for_its_rows(twin: Twin) -> None:
    cell = flax_rnn.LSTMCell(6)
    weights, x, state = narrow(problem(cell, (4,)))
    mask = np.concatenate([HOLES, RIGHT[:1]])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def run(how: str, weights: Any, x: Any, state: Any, mask: Any) -> Any:
        result = rnn(cell, weights, x, state, how, mask=mask)
        return jnp.sum(result[0] ** 2) + jnp.sum(jnp.sin(result[1].c))

    def sharded(weights: Any, *rows: Any) -> Any:
        return jax.lax.psum(run("cudnn", weights, *rows), "data")

    local = jax.shard_map(sharded, mesh=mesh, in_specs=(P(), P("data"), P("data"), P("data")), out_specs=P())
    ours = jax.jit(jax.value_and_grad(local, (0, 1, 2)))(weights, x, state, mask)
    plain = jax.jit(jax.value_and_grad(lambda *a: run("scan", *a), (0, 1, 2)))(weights, x, state, mask)
    oracle.assert_close(ours, plain, 1e-5)
    assert [call["hidden_size"] for call in twin.of("forward")] != []


class Mine(flax_rnn.LSTMCell):
    """A cell that may do something else."""


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (flax_rnn.LSTMCell(2), {"dtype": jnp.bfloat16}, "jax calls cuDNN in float32, not bfloat16"),
        (flax_rnn.LSTMCell(2), {"dtype": jnp.float16}, "jax calls cuDNN in float32, not float16"),
        (flax_rnn.LSTMCell(2), {"dtype": np.float64}, "jax calls cuDNN in float32, not float64"),
        (flax_rnn.LSTMCell(2), {"resets": True}, "cuDNN has no resets"),
        (flax_rnn.LSTMCell(2), {"sharded": True}, "within jax.shard_map over all of its axes"),
        (flax_rnn.LSTMCell(2), {"shape": (0, 5)}, "cuDNN needs a row"),
        (flax_rnn.LSTMCell(2, recurrent_dropout=0.1), {"training": True}, "no dropout masks of the state"),
        (flax_rnn.GRUCell(2), {}, "of cuDNN, jax calls the LSTM only, which is no GRUCell"),
        (Mine(2), {}, "which is no Mine"),
        (flax_rnn.LSTMCell(2, "relu"), {}, "cuDNN's activation is 'tanh', not 'relu'"),
        (flax_rnn.LSTMCell(2, recurrent_activation="hard_sigmoid"), {}, "recurrent_activation is 'sigmoid', not 'hard"),
        (flax_rnn.LSTMCell(2, precision="BF16_BF16_F32"), {}, "in float32 or TF32, not with precision 'BF16_BF16_F32'"),
    ],
)
def test_what_it_refuses(cell: Any, options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"implementation: 'cudnn' cannot be had: .*{reason}"):
        flax_rnn.choose(cell, "cudnn", **options)


def test_what_keeps_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that a layer gets, what has to run elsewhere, another platform, a jax without it; and forward mode."""
    cell = flax_rnn.LSTMCell(H, recurrent_dropout=0.2)
    weights, x, state = narrow(problem(cell))
    assert flax_rnn.choose(cell, "cudnn") == ("cudnn", "asked for")
    drops: list[dict[str, Any]] = [
        {"dropout_key": jax.random.key(0)},
        {"dropout_masks": flax_rnn.DropoutMasks((jnp.ones((B, D)),) * 4)},
    ]
    for options in drops:
        with pytest.raises(ValueError, match="none of the inputs for each gate"):
            rnn(cell, weights, x, state, **options)
    with pytest.raises(ValueError, match="bound to this machine"), flax_rnn.portable():
        rnn(cell, weights, x, state)
    with pytest.raises(TypeError, match="forward-mode") as caught:
        jax.jvp(lambda x: rnn(cell, weights, x, state)[0], (x,), (x,))
    assert "implementation: expected \"scan\" for forward-mode derivatives, got 'cudnn'" in caught.value.__notes__[0]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "jax.experimental.rnn", None)
        with pytest.raises(ValueError, match=r"this jax has no jax\.experimental\.rnn"):
            rnn(cell, weights, x, state)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="cuDNN is for NVIDIA's GPUs, and the default backend is 'cpu'"):
        rnn(cell, weights, x, state)
