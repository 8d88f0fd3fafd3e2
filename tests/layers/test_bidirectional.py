"""Both directions: merge modes, order, masks, states, gradients and errors."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import GRUCell, LayerOptions, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, merge
from flax_rnn.layers.bidirectional import check_directions

B, T, D, H = 3, 4, 3, 2
MASK: Any = np.array([[0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 0]], bool)
CELLS = (LSTMCell(H), GRUCell(H))
MERGES: dict[str | None, Callable[[np.ndarray, np.ndarray], Any]] = {
    "concat": lambda f, b: np.concatenate([f, b], -1),
    "sum": lambda f, b: f + b,
    "ave": lambda f, b: (f + b) / 2,
    "mul": lambda f, b: f * b,
    None: lambda f, b: (f, b),
}


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem(cells: Any = CELLS, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights and states of both directions, and inputs."""
    rng = np.random.default_rng(seed)
    weights = tuple(jax.tree.map(jnp.asarray, oracle.random_weights(cell, D, rng)) for cell in cells)
    return weights, [oracle.random_state(cell, B, rng) for cell in cells], rng.normal(size=(B, T, D))


def expect(
    cells: Any,
    weights: Any,
    states: Any,
    x: np.ndarray,
    merge_mode: str | None,
    go_backwards: bool = False,
    **options: Any,
) -> tuple[Any, Any]:
    zeros = options.get("return_sequences", False)
    results = [
        oracle.run(
            oracle.of(cell, w), x, state,
            go_backwards=backwards, keep_order=True, zero_output_for_mask=zeros, **options,
        )
        for cell, w, state, backwards in zip(cells, weights, states, (go_backwards, not go_backwards), strict=True)
    ]  # fmt: skip
    (forward, forward_state), (backward, backward_state) = results
    return MERGES[merge_mode](forward, backward), (forward_state, backward_state)


@pytest.mark.each(1)
@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"seq_lengths": np.array([2, 0, 4])}], ids=str)
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_outputs_and_states_equal_the_oracle(
    options: dict[str, Any], return_sequences: bool, go_backwards: bool
) -> None:
    weights, states, x = problem()
    options = options | {"return_sequences": return_sequences, "go_backwards": go_backwards}

    @jax.jit
    def run(weights: Any, states: Any, x: Any) -> list[Any]:
        return [
            bidirectional(CELLS, weights, x, initial_state=states, merge_mode=mode, return_state=True, **options)
            for mode in MERGES
        ]

    for result, mode in zip(run(weights, states, x), MERGES, strict=True):
        oracle.assert_close(result, expect(CELLS, weights, states, x, mode, **options))


def test_gradients_equal_the_oracle() -> None:
    def loss(point: Any) -> Any:
        weights, states, x = point
        result = bidirectional(
            CELLS,
            weights,
            x,
            initial_state=states,
            mask=MASK,
            return_sequences=True,
            return_state=True,
            merge_mode="mul",
        )
        return oracle.weighted_sum(1, result)

    point = problem()
    expected = oracle.central_differences(
        lambda p: oracle.weighted_sum(1, expect(CELLS, *p, merge_mode="mul", mask=MASK, return_sequences=True)), point
    )
    oracle.assert_close(jax.jit(jax.grad(loss))(point), expected, 1e-7)


def test_masked_steps_are_zero_in_both_halves() -> None:
    weights, states, x = problem()
    x = np.where(MASK[..., None], x, np.nan)
    run = jax.jit(lambda x: bidirectional(CELLS, weights, x, initial_state=states, mask=MASK, return_sequences=True))
    outputs = np.asarray(run(x))
    assert outputs.shape == (B, T, 2 * H)
    np.testing.assert_array_equal(outputs[~MASK], 0)
    assert np.all(outputs[MASK] != 0)


def test_time_major() -> None:
    weights, _, x = problem()

    def run(x: Any, mask: Any, time_major: bool) -> Any:
        return bidirectional(CELLS, weights, x, mask=mask, return_sequences=True, time_major=time_major)

    batch_major = jax.jit(run, static_argnums=2)(x, MASK, False)
    time_major = jax.jit(run, static_argnums=2)(x.swapaxes(0, 1), MASK.T, True)
    np.testing.assert_array_equal(time_major, batch_major.swapaxes(0, 1))


def test_stacks_run_in_both_directions() -> None:
    cells = (StackedRNNCells((LSTMCell(H), SimpleRNNCell(H))), StackedRNNCells((GRUCell(3), GRUCell(H))))
    weights, states, x = problem(cells)
    options: dict[str, Any] = {"mask": MASK, "return_sequences": True}
    run = jax.jit(lambda w, s, x: bidirectional(cells, w, x, initial_state=s, return_state=True, **options))
    oracle.assert_close(run(weights, states, x), expect(cells, weights, states, x, "concat", **options))


def test_returned_states_can_be_passed_back() -> None:
    weights, _, x = problem()
    run = jax.jit(lambda x, s: bidirectional(CELLS, weights, x, initial_state=s, return_state=True))
    _, states = run(x, None)
    expected = expect(CELLS, weights, [[states[0].h, states[0].c], [states[1]]], x, "concat")
    oracle.assert_close(run(x, states), expected)


def test_directions_drop_independently() -> None:
    # One step and equal weights: without dropout both directions give the same, with one mask for both they would too.
    cell = SimpleRNNCell(50, "linear", dropout=0.5)
    weights = cell.init_params(jax.random.key(0), 20)
    run = jax.jit(
        lambda k: bidirectional((cell, cell), (weights, weights), jnp.ones((4, 1, 20)), dropout_key=k, merge_mode=None)
    )
    forward, backward = run(None)
    np.testing.assert_array_equal(forward, backward)
    forward, backward = run(jax.random.key(1))
    assert np.mean(np.asarray(forward) == np.asarray(backward)) < 0.01


@pytest.mark.parametrize("mode", MERGES)
def test_merge(mode: str | None) -> None:
    rng = np.random.default_rng(0)
    forward, backward = rng.normal(size=(2, 3, 4, 5))
    oracle.assert_close(merge(jnp.asarray(forward), jnp.asarray(backward), mode), MERGES[mode](forward, backward))


def test_errors() -> None:
    weights, states, x = problem()
    message = r"merge_mode: expected one of \('concat', 'sum', 'ave', 'mul', None\), got 'avg'"
    with pytest.raises(ValueError, match=message):
        bidirectional(CELLS, weights, x, merge_mode="avg")
    with pytest.raises(ValueError, match=message):
        merge(x, x, "avg")
    with pytest.raises(ValueError, match=r"initial_state: expected a pair .*, got list of length 3"):
        bidirectional(CELLS, weights, x, initial_state=[*states, states[0]])
    with pytest.raises(ValueError, match=r"initial_state: expected a pair .*, got ndarray"):
        bidirectional(CELLS, weights, x, initial_state=np.ones((B, H)))
    with pytest.raises(ValueError, match=r"initial_state: expected LSTMCarry\(.*, got \[float64\(3, 2\)\]"):
        bidirectional(CELLS, weights, x, initial_state=states[::-1])
    for name in ("return_sequences", "return_state", "time_major", "stateful", "unroll"):
        with pytest.raises(ValueError, match=rf"expected {name}=True as in the forward layer, got False"):
            check_directions(LayerOptions(**dict[str, Any]({name: True})), LayerOptions(go_backwards=True))
    with pytest.raises(ValueError, match=r"expected go_backwards=False, opposite to the forward layer, got True"):
        check_directions(LayerOptions(go_backwards=True), LayerOptions(go_backwards=True))
    check_directions(LayerOptions(go_backwards=True, unroll=2), LayerOptions(keep_order=True, unroll=2))
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\) = \(3, 4\), got \(4, 3\)"):
        bidirectional(CELLS, weights, x, mask=MASK.T)
