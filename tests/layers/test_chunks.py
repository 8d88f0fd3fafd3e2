"""``checkpoint_every``: the same numbers and gradients, in memory that does not grow with all steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from flax import nnx

import flax_rnn
from flax_rnn import nnx as faces
from flax_rnn.implementations.native import library

B, T, D, H = 3, 11, 2, 4
CELLS: dict[str, Any] = {
    "LSTM": flax_rnn.LSTMCell(H, recurrent_dropout=0.3),
    "GRU": flax_rnn.GRUCell(H),
    "stack": flax_rnn.StackedRNNCells([flax_rnn.SimpleRNNCell(H), flax_rnn.LSTMCell(3)]),
}
# The first row counts nowhere at its start, the second nowhere at its end, the third never.
MASK = np.array([[t > 4 for t in range(T)], [t < 2 for t in range(T)], [False] * T])
RESETS = np.array([[t in (2, 7) for t in range(T)], [t == 8 for t in range(T)], [t == 1 for t in range(T)]])
IMPLEMENTATIONS = ["scan", "fused", "native"]


def skip_without_kernels() -> None:
    if reason := library.absent():
        pytest.skip(reason)


def problem(cell: Any) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    point = oracle.random_weights(cell, D, rng), rng.normal(size=(B, T, D)), oracle.random_state(cell, B, rng)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), point)


@pytest.mark.each(1, full=2)
@pytest.mark.parametrize("marks", ["none", "mask", "mask_to_zero", "resets", "both"])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 11, 20])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CELLS)
def test_numbers_and_gradients_stay(
    name: str, implementation: str, size: int, go_backwards: bool, return_sequences: bool, marks: str
) -> None:
    cell = CELLS[name]
    if implementation == "native":
        skip_without_kernels()
        if marks in ("resets", "both"):
            pytest.skip("the native kernels have no resets")
    options: dict[str, Any] = {
        "return_sequences": return_sequences, "return_state": True, "go_backwards": go_backwards,
        "mask": None if marks in ("none", "resets") else MASK,
        "resets": RESETS if marks in ("resets", "both") else None,
        "zero_output_for_mask": marks == "mask_to_zero", "dropout_key": jax.random.key(3),
    }  # fmt: skip

    def run(implementation: str, size: int | None, *point: Any) -> Any:
        weights, x, state = point
        result = flax_rnn.rnn(
            cell, weights, x, initial_state=state, implementation=implementation, checkpoint_every=size, **options
        )
        return oracle.weighted_sum(4, result), result

    def both(implementation: str, size: int | None) -> Any:
        return jax.jit(jax.grad(functools.partial(run, implementation, size), (0, 1, 2), has_aux=True))(*problem(cell))

    oracle.assert_close(both(implementation, size), both("scan", None), 1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_memory_does_not_grow_with_all_steps(implementation: str) -> None:
    if implementation == "native":
        skip_without_kernels()
    cell = flax_rnn.LSTMCell(32)
    weights = cell.init_params(jax.random.key(0), 2)

    def bytes_of(steps: int, size: int | None) -> int:
        def loss(weights: Any, x: Any) -> jax.Array:
            return flax_rnn.rnn(cell, weights, x, implementation=implementation, checkpoint_every=size).sum()

        compiled = jax.jit(jax.grad(loss)).lower(weights, jnp.zeros((4, steps, 2))).compile()
        found: Any = compiled.memory_analysis()
        return found.temp_size_in_bytes

    assert bytes_of(1600, 40) < bytes_of(1600, None) / 5
    assert bytes_of(1600, 40) < 3 * bytes_of(400, 20)


def test_it_can_be_differentiated_again() -> None:
    weights, x, _ = problem(CELLS["GRU"])

    def second(size: int | None) -> Any:
        def first(x: Any) -> Any:
            return jax.grad(lambda x: (flax_rnn.rnn(CELLS["GRU"], weights, x, checkpoint_every=size) ** 2).sum())(x)

        return jax.jit(jax.grad(lambda x: oracle.weighted_sum(6, first(x))))(x)

    oracle.assert_close(second(3), second(None), 1e-4)


def test_forward_mode_is_refused_by_name() -> None:
    weights, x, _ = problem(CELLS["GRU"])
    with pytest.raises(TypeError) as caught:
        jax.jvp(lambda x: flax_rnn.rnn(CELLS["GRU"], weights, x, implementation="scan", checkpoint_every=3), (x,), (x,))
    assert "checkpoint_every: expected None for forward-mode derivatives, got 3" in caught.value.__notes__


@pytest.mark.parametrize("axis", [0, 1])
def test_layers_have_it(axis: int) -> None:
    layers = [
        faces.Bidirectional(
            faces.GRU(D, H, return_sequences=True, time_major=axis == 0, checkpoint_every=size, rngs=nnx.Rngs(0)),
            rngs=nnx.Rngs(1),
        )
        for size in (None, 4)
    ]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(T, B, D) if axis == 0 else (B, T, D)), jnp.float32)
    (expected, at_once), (actual, in_chunks) = (
        nnx.value_and_grad(lambda layer: oracle.weighted_sum(5, layer(x)))(layer) for layer in layers
    )
    oracle.assert_close(actual, expected, 1e-5)
    oracle.assert_close(jax.tree.leaves(in_chunks), jax.tree.leaves(at_once), 1e-5)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_bad_values(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="checkpoint_every"):
        flax_rnn.SequenceOptions(checkpoint_every=value)
