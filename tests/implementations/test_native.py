"""The native kernels against the NumPy oracle and against float64: values, gradients, options, limits, builds."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn
from flax_rnn.implementations.native import kernels, library

pytestmark = pytest.mark.skipif(library.absent() is not None, reason=str(library.absent()))

ALL = {
    "SimpleRNN": flax_rnn.SimpleRNNCell,
    "LSTM": flax_rnn.LSTMCell,
    "GRU": flax_rnn.GRUCell,
    "GRU reset before": lambda units, **options: flax_rnn.GRUCell(units, reset_after=False, **options),
}
DROPOUT: dict[str, dict[str, Any]] = {
    "none": {},
    "inputs": {"dropout": 0.3},
    "state": {"recurrent_dropout": 0.3},
    "both": {"dropout": 0.3, "recurrent_dropout": 0.3},
}
LOOPS: dict[str, dict[str, Any]] = {
    "last": {},
    "all": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "last backwards": {"go_backwards": True},
}


def problem(cell: Any, batch: int, steps: int, features: int, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Weights, inputs, a state, and a mask with holes and an empty row, as NumPy float64 of float32 values."""
    rng = np.random.default_rng(seed)
    weights = oracle.random_weights(cell, features, rng)
    weights = {name: leaf * (0.5 if name != "bias" else 1) for name, leaf in weights.items()}
    state = oracle.random_state(cell, batch, rng)
    mask = rng.random((batch, steps)) < 0.6
    mask[batch // 2] = False
    x = rng.normal(size=(batch, steps, features))
    weights, x, state = jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), (weights, x, state))
    return weights, x, state, mask


def narrow(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def carry(cell: Any, state: Any) -> Any:
    return flax_rnn.LSTMCarry(*state) if isinstance(cell, flax_rnn.LSTMCell) else state[0]


def rnn(cell: Any, weights: Any, x: Any, state: Any, **options: Any) -> Any:
    options = {"implementation": "native", "return_state": True, **options}
    return flax_rnn.rnn(cell, weights, x, initial_state=None if state is None else carry(cell, state), **options)


def masks_of(cell: Any, x: Any) -> Any:
    return cell.dropout_masks(jax.random.key(5), jnp.asarray(x[:, 0], jnp.float32))


@pytest.mark.each(2)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dropout", DROPOUT)
@pytest.mark.parametrize("name", ALL)
def test_values_equal_the_oracle(name: str, dropout: str, masked: bool, loop: str) -> None:
    cell = ALL[name](21, **DROPOUT[dropout])
    weights, x, state, mask = problem(cell, 5, 6, 4)
    options = LOOPS[loop] | ({"mask": mask} if masked else {})
    masks = masks_of(cell, x)
    result = jax.jit(lambda w, x, s: rnn(cell, w, x, s, dropout_masks=masks, **options))(*narrow((weights, x, state)))
    oracle.assert_close(
        jax.tree.leaves(result), jax.tree.leaves(oracle.run(oracle.of(cell, weights, masks), x, state, **options)), 1e-5
    )


@pytest.mark.parametrize(("batch", "steps"), [(13, 9), (3, 2)], ids=["packed", "as they lie"])
@pytest.mark.parametrize("name", ALL)
def test_gates_with_masks_of_their_own_in_whole_tiles(name: str, batch: int, steps: int) -> None:
    cell = ALL[name](64, **DROPOUT["both"])
    weights, x, state, mask = problem(cell, batch, steps, 6)
    weights["recurrent_kernel"] *= 0.25
    masks = masks_of(cell, x)
    options: dict[str, Any] = {"mask": mask, "return_sequences": True}
    weights, x, state = narrow((weights, x, state))
    result = jax.jit(lambda w, x, s: rnn(cell, w, x, s, dropout_masks=masks, **options))(weights, x, state)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (weights, x, state))
    expected = oracle.run(oracle.of(cell, wide[0], masks), wide[1], wide[2], **options)
    oracle.assert_close(jax.tree.leaves(result), jax.tree.leaves(expected), 1e-5)


@pytest.mark.each(1)
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("batch", "steps", "features", "units"),
    [
        *[(1, 1, 1, 1), (2, 3, 5, 16), (13, 2, 17, 33), (64, 4, 3, 64), (3, 140, 8, 70)],
        *[(5, 2, 7, 128), (3, 2, 6, 48)],  # whose matrices are read where they lie
        (2, 9, 9, 256),  # whose units threads divide
        (2, 3, 5, 640),  # whose matrices are too large for a cache
    ],
    ids=lambda n: str(n),
)
def test_every_size(name: str, batch: int, steps: int, features: int, units: int, use_bias: bool) -> None:
    cell = ALL[name](units, use_bias=use_bias)
    weights, x, _, _ = problem(cell, batch, steps, features)
    weights = {
        name: leaf / (units**0.5 if leaf.ndim == 2 and "bias" not in name else 1) for name, leaf in weights.items()
    }
    weights = jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), weights)

    def loss(how: str, weights: Any, x: Any) -> Any:
        result = rnn(cell, weights, x, None, implementation=how, return_sequences=True)
        return oracle.weighted_sum(2, result), result

    with jax.enable_x64():
        exact = jax.jit(jax.grad(lambda *a: loss("scan", *a), (0, 1), has_aux=True))(weights, x)
    ours = jax.jit(jax.grad(lambda *a: loss("native", *a), (0, 1), has_aux=True))(*narrow((weights, x)))
    for a, e in zip(*map(jax.tree.leaves, (ours, exact)), strict=True):
        assert np.linalg.norm(a - e) <= 1e-5 * np.linalg.norm(e) + 1e-7


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("dropout", DROPOUT)
@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_those_in_float64(name: str, dropout: str, loop: str) -> None:
    """With respect to weights, inputs, initial state and dropout masks, with and without a mask."""
    cell = ALL[name](21, **DROPOUT[dropout])
    weights, x, state, mask = problem(cell, 5, 6, 4)
    masks = masks_of(cell, x)

    def loss(how: str, weights: Any, x: Any, state: Any, masks: Any, mask: Any) -> Any:
        return oracle.weighted_sum(
            1, rnn(cell, weights, x, state, dropout_masks=masks, mask=mask, implementation=how, **LOOPS[loop])
        )

    gradient = jax.jit(jax.grad(loss, (1, 2, 3, 4)), static_argnums=0)
    for steps_used in (None, mask):
        with jax.enable_x64():
            # No mask is one of all steps, for which nothing is compiled again.
            exact = gradient("scan", weights, x, state, masks, np.ones_like(mask) if steps_used is None else mask)
            ours = gradient("native", *narrow((weights, x, state)), masks, steps_used)
        for a, e in zip(*map(jax.tree.leaves, (ours, exact)), strict=True):
            assert np.linalg.norm(a - e) <= 2e-5 * np.linalg.norm(e) + 1e-7


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_central_differences_of_the_oracle(name: str) -> None:
    cell = ALL[name](5)
    weights, x, state, mask = problem(cell, 3, 4, 3)

    def expect(point: Any) -> Any:
        weights, x, state = point
        return oracle.weighted_sum(1, oracle.run(oracle.of(cell, weights), x, state, mask, return_sequences=True))

    def loss(point: Any) -> Any:
        outputs, last = rnn(cell, *point, mask=mask, return_sequences=True)
        return oracle.weighted_sum(1, (outputs, jax.tree.leaves(last)))

    point = (weights, x, state)
    oracle.assert_close(jax.grad(loss)(narrow(point)), oracle.central_differences(expect, point), 2e-5)


ACTIVATIONS: dict[Any, Any] = {
    name: function for name, function in oracle.ACTIVATIONS.items() if name is None or name in kernels.ACTIVATIONS
}


SMOOTH = ("tanh", "sigmoid", "softsign")


@pytest.mark.parametrize("activation", [*ACTIVATIONS], ids=str)
def test_activations_are_exact_everywhere(activation: Any) -> None:
    """To a few units in the last place, from denormals to infinity; and their derivatives."""
    cell = flax_rnn.SimpleRNNCell(1, activation, use_bias=False)
    points = np.concatenate([[0, 1e-30, 1e-8, 1e-3], np.logspace(-2, 3, 4001), [1e30, np.inf]]).astype(np.float32)
    points = np.concatenate([points, -points])
    weights = narrow({"kernel": np.ones((1, 1)), "recurrent_kernel": np.zeros((1, 1))})
    run = jax.jit(lambda x: flax_rnn.rnn(cell, weights, x[:, None, None], implementation="native")[:, 0])
    wide = points.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = ACTIVATIONS[activation](wide).astype(np.float32)
        finite = np.isfinite(wide) & (np.abs(wide) < 1e9)
        step = np.maximum(np.abs(wide), 1e-3) * 1e-6
        slope = (ACTIVATIONS[activation](wide + step) - ACTIVATIONS[activation](wide - step)) / (2 * step)
    known = ~np.isnan(expected)  # inf / inf
    np.testing.assert_allclose(
        run(points)[known], expected[known], rtol=6e-7, atol=1e-37 if activation in SMOOTH else 6e-8
    )
    gradient = jax.grad(lambda x: run(x).sum())(points[finite])
    kink = np.abs(wide[finite]) < 1e-8
    for corner in (2.5, 3):
        kink |= np.abs(np.abs(wide[finite]) - corner) < 1e-4
    np.testing.assert_allclose(gradient[~kink], slope[finite][~kink], rtol=1e-4, atol=2e-6)
    assert np.isnan(run(jnp.full(1, jnp.nan))).all()


def test_what_is_masked_may_be_nan_and_what_is_not_is_seen() -> None:
    cell = flax_rnn.LSTMCell(7, dropout=0.2, recurrent_dropout=0.2)
    weights, x, _, mask = narrow(problem(cell, 5, 6, 4)[:3]) + (problem(cell, 5, 6, 4)[3],)  # noqa: RUF005

    def loss(weights: Any, x: Any) -> Any:
        return flax_rnn.rnn(cell, weights, x, mask=mask, dropout_key=jax.random.key(1), implementation="native").sum()

    clean = jax.value_and_grad(loss, (0, 1))(weights, x)
    dirty = jax.value_and_grad(loss, (0, 1))(weights, jnp.where(mask[..., None], x, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    assert jnp.isnan(loss(weights, jnp.where(mask[..., None], jnp.nan, x)))


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", ALL)
def test_it_can_be_differentiated_again(name: str) -> None:
    cell = ALL[name](3, recurrent_dropout=0.2)
    weights, x, state, mask = problem(cell, 2, 3, 2)
    masks = masks_of(cell, x)

    def loss(how: str, weights: Any, x: Any, state: Any) -> Any:
        return (
            oracle.weighted_sum(1, rnn(cell, weights, x, state, mask=mask, dropout_masks=masks, implementation=how))
            ** 2
        )

    twice = jax.jit(jax.jacrev(jax.grad(lambda *a: loss("native", *a), (0, 1, 2)), (0, 1, 2)))(
        *narrow((weights, x, state))
    )
    with jax.enable_x64():
        exact = jax.jit(jax.hessian(lambda *a: loss("scan", *a), (0, 1, 2)))(weights, x, state)
    for a, e in zip(*map(jax.tree.leaves, (twice, exact)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-3 * np.abs(e).max() + 1e-6)


def unstacked(tree: Any) -> list[Any]:
    """A tree of three arrays each as three trees."""
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(3)]


def test_transformations() -> None:
    """Under vmap over weights and inputs, checkpoint, and a scan over calls, the numbers are the same."""
    cell = flax_rnn.GRUCell(6)
    weights, x, _, _ = problem(cell, 3, 4, 5)
    many = narrow(jax.tree.map(lambda leaf: np.stack([leaf, -leaf, 2 * leaf]), (weights, x)))

    def loss(how: str, weights: Any, x: Any) -> Any:
        return jnp.sin(flax_rnn.rnn(cell, weights, x, return_sequences=True, implementation=how)).sum()

    reference = jax.value_and_grad(lambda *a: loss("scan", *a), (0, 1))
    plain = [reference(*one) for one in zip(*(unstacked(tree) for tree in many), strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *plain)
    ours = lambda *a: loss("native", *a)  # noqa: E731
    mapped = jax.jit(jax.vmap(jax.value_and_grad(ours, (0, 1))))(*many)
    again = jax.vmap(jax.value_and_grad(jax.checkpoint(ours), (0, 1)))(*many)
    scanned = jax.lax.scan(lambda c, a: (c, jax.value_and_grad(ours, (0, 1))(*a)), 0, many)[1]
    for result in (mapped, again, scanned):
        oracle.assert_close(result, expected, 1e-5)


def test_an_empty_batch() -> None:
    cell = flax_rnn.LSTMCell(4)
    weights = narrow(problem(cell, 1, 1, 3)[0])
    outputs, gradient = jax.value_and_grad(
        lambda w: flax_rnn.rnn(cell, w, jnp.zeros((0, 5, 3)), implementation="native").sum()
    )(weights)
    assert outputs == 0
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), gradient)


@pytest.mark.parametrize(("batch", "units"), [(33, 40), (2, 256)])  # threads divide rows, and units
def test_the_same_bits_each_time_and_from_many_threads(batch: int, units: int) -> None:
    cell = flax_rnn.LSTMCell(units, dropout=0.1, recurrent_dropout=0.1)
    weights, x, _, _ = narrow(problem(cell, batch, 20, 9)[:3]) + (None,)  # noqa: RUF005
    step = jax.jit(
        jax.value_and_grad(
            lambda w: flax_rnn.rnn(cell, w, x, dropout_key=jax.random.key(0), implementation="native").sum()
        )
    )
    first = step(weights)
    with ThreadPoolExecutor(8) as threads:
        for other in threads.map(lambda _: step(weights), range(40)):
            jax.tree.map(np.testing.assert_array_equal, other, first)


def test_what_is_not_needed_takes_no_memory() -> None:
    cell = flax_rnn.LSTMCell(32)
    weights, x, _, _ = narrow(problem(cell, 16, 64, 32)[:3]) + (None,)  # noqa: RUF005
    sequence = 16 * 64 * 32 * 4

    def temporary(function: Any) -> int:
        analysis: Any = jax.jit(function).lower(weights, x).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary(lambda w, x: flax_rnn.rnn(cell, w, x, implementation="native")) < sequence
    outputs = lambda w, x: flax_rnn.rnn(cell, w, x, return_sequences=True, implementation="native").sum()  # noqa: E731
    # h, c, four gates, their gradients in the same place, and the ones that come in.
    assert temporary(jax.grad(outputs)) < 7.5 * sequence


def test_what_it_refuses() -> None:
    cell = flax_rnn.LSTMCell(4)
    weights, x, _, _ = narrow(problem(cell, 2, 3, 5)[:3]) + (None,)  # noqa: RUF005
    for name, wrong in {"kernel": (5, 12), "recurrent_kernel": (3, 16), "bias": (12,)}.items():
        with pytest.raises(ValueError, match=f"params: expected {name} of shape"):
            flax_rnn.rnn(cell, weights | {name: jnp.ones(wrong)}, x, implementation="native")
    with pytest.raises(ValueError, match=r"params: expected recurrent_kernel of shape \(4, 16\), got \(3, 16\)"):
        flax_rnn.rnn(cell, weights | {"recurrent_kernel": jnp.ones((3, 16))}, x, implementation="native")
    with pytest.raises(ValueError, match="float32, not float64"), jax.enable_x64():
        flax_rnn.rnn(
            cell, jax.tree.map(lambda w: w.astype(np.float64), weights), np.ones((2, 3, 5)), implementation="native"
        )
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: flax_rnn.rnn(cell, weights, x, implementation="native"), (x,), (x,))
    dropped = flax_rnn.DropoutMasks(None, (jnp.ones((2, 4)),) * 3)
    with pytest.raises(ValueError, match="dropout_masks: recurrent: expected a tuple of 1 or 4 masks, got 3"):
        flax_rnn.rnn(cell, weights, x, dropout_masks=dropped, implementation="native")
    dropped = flax_rnn.DropoutMasks((jnp.ones((3, 5)),), None)
    with pytest.raises(ValueError, match=r"dropout_masks: inputs: expected masks of shape \(2, 5\), got \(3, 5\)"):
        flax_rnn.rnn(cell, weights, x, dropout_masks=dropped, implementation="native")


class Mine(flax_rnn.LSTMCell):
    """A cell that may do something else."""


@pytest.mark.parametrize(
    ("cell", "options", "reason"),
    [
        (flax_rnn.LSTMCell(2, "gelu"), {}, "no activation 'gelu'"),
        (flax_rnn.GRUCell(2, recurrent_activation=jnp.sin), {}, "no recurrent_activation"),
        (flax_rnn.LSTMCell(2, precision="BF16_BF16_F32"), {}, "precision 'BF16_BF16_F32'"),
        (Mine(2), {}, "no native kernel for Mine"),
        (flax_rnn.ConvLSTM1DCell(2, 3), {}, "no native kernel for ConvLSTM1DCell"),
        (flax_rnn.LSTMCell(2), {"dtype": np.float64}, "float32, not float64"),
        (flax_rnn.LSTMCell(2), {"resets": True}, "no resets"),
    ],
)
def test_the_rule_says_what_keeps_it_from_the_kernels(cell: Any, options: Any, reason: str) -> None:
    choice = flax_rnn.choose(cell, **options)
    assert choice.implementation != "native" and (reason in choice.reason or choice.implementation == "scan")
    with pytest.raises(ValueError, match="implementation: 'native' cannot be had"):
        flax_rnn.choose(cell, "native", **options)


@pytest.mark.parametrize(
    "cell",
    [flax_rnn.LSTMCell(2, jnp.tanh), flax_rnn.GRUCell(2, None), flax_rnn.CuDNNLSTMCell(2), flax_rnn.CuDNNGRUCell(2)],
    ids=["tanh itself", "linear", "CuDNNLSTM", "CuDNNGRU"],
)
def test_the_rule_takes_them_where_it_can(cell: Any) -> None:
    assert flax_rnn.choose(cell) == ("native", "it is the first to be taken of native, fused, scan")
    assert flax_rnn.choose(cell, "native", sharded=True) == ("native", "asked for")


@pytest.mark.each(1)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ALL)
def test_fewer_digits_are_rounded_when_all_is_done(name: str, dtype: Any) -> None:
    """Outputs, states and gradients are those of float64 within the digits of the dtype, and have XLA's dtypes."""
    cell = ALL[name](7, dtype=dtype)
    weights, x, _, mask = problem(cell, 3, 5, 6)
    weights, x = jax.tree.map(lambda leaf: np.asarray(leaf, dtype).astype(np.float64), (weights, x))

    def run(cell: Any, how: str, weights: Any, x: Any) -> Any:
        def loss(weights: Any, x: Any) -> Any:
            result = rnn(cell, weights, x, None, mask=mask, return_sequences=True, implementation=how)
            return oracle.weighted_sum(2, jax.tree.map(lambda leaf: leaf.astype(x.dtype), result)), result

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights, x)

    with jax.enable_x64():
        exact = run(ALL[name](7), "scan", weights, x)
    assert flax_rnn.choose(cell, dtype=dtype).implementation == "native"
    gradients, result = run(cell, "native", *narrow((weights, x)))
    oracle.assert_close((gradients, result), exact, 4 * float(jnp.finfo(dtype).eps))
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, result)
    assert dtypes == jax.tree.map(lambda leaf: leaf.dtype, run(cell, "scan", *narrow((weights, x)))[1])


def test_without_kernels_and_on_other_platforms_it_is_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = flax_rnn.LSTMCell(2)
    monkeypatch.setattr(library, "absent", lambda: "they were not built")
    reason = "it is the first to be taken of native, fused, scan; not native, since they were not built"
    assert flax_rnn.choose(cell) == ("fused", reason)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert flax_rnn.choose(cell).implementation == "fused"


def test_what_is_exported_has_to_ask_for_xla() -> None:
    cell = flax_rnn.LSTMCell(4)
    weights, x = narrow(problem(cell, 2, 3, 5)[:2])

    def exported(how: str) -> Any:
        function = jax.jit(lambda w, x: flax_rnn.rnn(cell, w, x, implementation=how))
        return jax.export.export(function)(weights, x)

    with pytest.raises(ValueError, match="flax_rnn_forward"):
        exported("auto")
    outputs = exported("fused").call(weights, x)
    np.testing.assert_allclose(outputs, flax_rnn.rnn(cell, weights, x), atol=1e-6)
