"""Both directions in one call of cuDNN, with a twin in its place: the core and the faces, and when there are two."""

from typing import Any

import cudnn_twin
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from cudnn_twin import Twin
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

twin = cudnn_twin.twin
pytestmark = pytest.mark.usefixtures("twin")

B, T, D, H = 3, 4, 3, 2
HOLES: Any = np.array([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
MERGES: dict[str | None, Any] = {
    "concat": lambda f, b: np.concatenate([f, b], -1),
    "mul": lambda f, b: f * b,
    None: lambda f, b: (f, b),
}


def problem(units: int = H) -> tuple[Any, Any, Any]:
    """Weights, inputs and states of both directions, as NumPy float64 of float32 values."""
    rng, cell = np.random.default_rng(0), flax_rnn.LSTMCell(units)
    weights = tuple(oracle.random_weights(cell, D, rng) for _ in range(2))
    states = tuple(flax_rnn.LSTMCarry(*rng.normal(size=(2, B, units))) for _ in range(2))
    x = rng.normal(size=(B, T, D))
    return jax.tree.map(lambda leaf: leaf.astype(np.float32).astype(np.float64), (weights, x, states))


def narrow(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def run(cells: Any, weights: Any, x: Any, states: Any, how: str = "cudnn", **options: Any) -> Any:
    return flax_rnn.bidirectional(
        cells, weights, x, initial_state=states, return_state=True, implementation=how, **options
    )


def expect(weights: Any, x: Any, states: Any, merge_mode: Any, go_backwards: bool, **options: Any) -> Any:
    zeros, cell = options.get("return_sequences", False), flax_rnn.LSTMCell(weights[0]["recurrent_kernel"].shape[0])
    pairs = zip(weights, states, (go_backwards, not go_backwards), strict=True)
    results = [
        oracle.run(
            oracle.of(cell, own), x, [*state], go_backwards=backwards, keep_order=True, zero_output_for_mask=zeros,
            **options,
        )
        for own, state, backwards in pairs
    ]  # fmt: skip
    return MERGES[merge_mode](results[0][0], results[1][0]), (results[0][1], results[1][1])


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("merge_mode", MERGES)
@pytest.mark.parametrize("options", [{}, {"mask": HOLES}, {"seq_lengths": np.array([2, 0, 4])}], ids=str)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_values_and_gradients_equal_the_oracle(
    twin: Twin, options: Any, return_sequences: bool, go_backwards: bool, merge_mode: Any
) -> None:
    cells = (flax_rnn.LSTMCell(H), flax_rnn.LSTMCell(H))
    options = {**options, "return_sequences": return_sequences, "go_backwards": go_backwards, "merge_mode": merge_mode}
    point = problem()

    def loss(point: Any) -> Any:
        result = run(cells, *point, **options)
        return oracle.weighted_sum(1, result), result

    gradients, result = jax.jit(jax.grad(loss, has_aux=True))(narrow(point))
    assert all(call["bidirectional"] for call in twin.calls)
    oracle.assert_close(result, expect(*point, **options), 1e-5)
    differences = oracle.central_differences(lambda point: oracle.weighted_sum(1, expect(*point, **options)), point)
    oracle.assert_close(gradients, differences, 3e-5)


@pytest.mark.full
def test_second_derivatives_of_both() -> None:
    """Those of the weights of both directions, with a mask."""
    cells, (weights, x, states) = (flax_rnn.LSTMCell(H),) * 2, problem()

    def second(how: str) -> Any:
        def first(weights: Any, x: Any) -> Any:
            result = run(cells, weights, x, jax.tree.map(x.dtype.type, states), how, mask=HOLES, return_sequences=True)
            return oracle.weighted_sum(1, result) ** 2

        return jax.jit(jax.grad(lambda *a: oracle.weighted_sum(2, jax.grad(first, (0, 1))(*a)), (0, 1)))

    with jax.enable_x64():
        exact = second("scan")(weights, x)
    for a, e in zip(*map(jax.tree.leaves, (second("cudnn")(*narrow((weights, x))), exact)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4 * np.abs(e).max() + 1e-6)


MASKS = [jnp.ones((B, D)) * 0.5, jnp.ones((B, D)) * 2]
DROPPED = [flax_rnn.DropoutMasks((mask,)) for mask in MASKS]
PAIR = (flax_rnn.LSTMCell(H, dropout=0.5), flax_rnn.LSTMCell(H, dropout=0.5))


@pytest.mark.parametrize(
    ("cells", "options", "calls"),
    [
        (PAIR, {}, [True]),
        (PAIR, {"mask": HOLES, "return_sequences": True}, [True]),
        (PAIR, {"dropout_masks": (DROPPED[0], DROPPED[0])}, [True]),
        (PAIR, {"dropout_masks": DROPPED}, [False, False]),
        (PAIR, {"dropout_key": jax.random.key(0)}, [False, False]),
        (PAIR, {"checkpoint_every": 2}, [False, False]),
        ((flax_rnn.LSTMCell(H), flax_rnn.LSTMCell(H + 1)), {}, [False, False]),
        ((flax_rnn.LSTMCell(H), flax_rnn.LSTMCell(H, precision="highest")), {}, [False, False]),
        ((flax_rnn.LSTMCell(H), flax_rnn.LSTMCell(H, use_bias=False)), {}, [True]),
        ((flax_rnn.LSTMCell(H), flax_rnn.CuDNNLSTMCell(H)), {}, [True]),
        ((flax_rnn.StackedRNNCells(PAIR), flax_rnn.StackedRNNCells(PAIR)), {}, [False] * 4),
    ],
    ids=[
        *("plain", "masked", "the same masks of dropout", "others", "drawn ones", "chunks", "units", "precision"),
        *("biases", "kinds of weights", "stacks"),
    ],
)
def test_there_is_one_call_where_there_can_be(twin: Twin, cells: Any, options: Any, calls: list[bool]) -> None:
    """Without gradients; chunks are traced twice each."""
    weights = tuple(cell.init_params(jax.random.key(index), D) for index, cell in enumerate(cells))
    x = narrow(problem()[1])

    def both(how: str) -> Any:
        with jax.disable_jit("checkpoint_every" not in options):
            return jax.eval_shape(
                lambda: flax_rnn.bidirectional(cells, weights, x, implementation=how, return_state=True, **options)
            )

    assert both("cudnn") == both("scan")
    found = [call["bidirectional"] for call in twin.of("forward")]
    assert found == calls if "checkpoint_every" not in options else {*found} == {False}


def test_numbers_of_pairs_that_differ_or_drop() -> None:
    """One call and two have the same numbers, with cells of other weights, and masks of dropout in common."""
    cells = (flax_rnn.LSTMCell(H, dropout=0.5), flax_rnn.CuDNNLSTMCell(H))
    weights = (problem()[0][0], problem()[0][1] | {"bias": np.random.default_rng(3).normal(size=8 * H)})

    def loss(how: str, weights: Any, x: Any, mask: Any) -> Any:
        masks = flax_rnn.DropoutMasks((mask,))
        return oracle.weighted_sum(1, run(cells, weights, x, None, how, dropout_masks=(masks, masks), mask=HOLES))

    gradient = jax.jit(jax.value_and_grad(loss, (1, 2, 3)), static_argnums=0)
    arguments = narrow((weights, problem()[1], np.arange(B * D).reshape(B, D)))
    oracle.assert_close(gradient("cudnn", *arguments), gradient("scan", *arguments), 1e-5)


def in_nnx(layer: str, units: int, how: str, x: Any, **options: Any) -> list[Any]:
    one = getattr(flax_rnn.nnx, layer)(D, units, rngs=nnx.Rngs(0), implementation=how, **options)
    pair = flax_rnn.nnx.Bidirectional(one, rngs=nnx.Rngs(1))
    return [one(x, mask=HOLES), pair(x, mask=HOLES)]


def in_linen(layer: str, units: int, how: str, x: Any, **options: Any) -> list[Any]:
    one = getattr(flax_rnn.linen, layer)(units, implementation=how, **options)
    modules = one, flax_rnn.linen.Bidirectional(one)
    return [module.apply(module.init(jax.random.key(0), x, mask=HOLES), x, mask=HOLES) for module in modules]


@pytest.mark.each(1)
@pytest.mark.parametrize("layer", ["LSTM", "CuDNNLSTM"])
@pytest.mark.parametrize(("face", "units"), [(in_nnx, 5), (in_linen, 6)])
def test_the_faces_reach_it(twin: Twin, face: Any, units: int, layer: str) -> None:
    """One call for a layer, one for a pair; numbers are those of the plain loop."""
    x = narrow(problem()[1])
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    ours = face(layer, units, "cudnn", x, **options)
    assert [call["bidirectional"] for call in twin.calls] == [False, True]
    oracle.assert_close(ours, face(layer, units, "scan", x, **options), 1e-5)
