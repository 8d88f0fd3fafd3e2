"""Stacks of cells: as one cell against the oracle, under the time loop, weights and errors."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from flax_rnn import (
    DropoutMasks,
    GRUCell,
    LSTMCarry,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    apply_cell,
    rnn,
    zero_carry,
)

B, T, D = 2, 4, 3
STACK = StackedRNNCells((LSTMCell(2), GRUCell(3), SimpleRNNCell(2)))
NESTED = StackedRNNCells((StackedRNNCells((SimpleRNNCell(2), LSTMCell(3))), GRUCell(2)))
MASK: Any = np.array([[0, 1, 0, 1], [1, 1, 1, 0]], bool)


@pytest.fixture(autouse=True)
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem(cell: Any, features: int = D) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    weights = jax.tree.map(jnp.asarray, oracle.random_weights(cell, features, rng))
    return weights, oracle.random_state(cell, B, rng), rng.normal(size=(B, T, features))


def any_masks() -> Any:
    """Arbitrary numbers: one input mask at the bottom, then none, then masks of both kinds."""
    rng: Any = np.random.default_rng(1)
    return (
        DropoutMasks(inputs=(rng.normal(size=(B, D)),)),
        DropoutMasks(recurrent=tuple(rng.normal(size=(B, 3)) for _ in range(3))),
        DropoutMasks((rng.normal(size=(B, 3)),), (rng.normal(size=(B, 2)),)),
    )


@pytest.mark.parametrize("masks", [None, any_masks()], ids=["plain", "dropout"])
def test_step_and_its_gradients_equal_the_oracle(masks: Any) -> None:
    def loss(point: Any) -> Any:
        new, output = apply_cell(STACK, *point, masks=masks)
        return oracle.weighted_sum(1, output, new), (output, new)

    def expected(point: Any) -> Any:
        weights, state, x = point
        return oracle.run(oracle.of(STACK, weights, masks), x[:, None], state)

    weights, state, x = problem(STACK)
    point = weights, state, x[:, 0]
    gradients, step = jax.jit(jax.grad(loss, has_aux=True))(point)
    oracle.assert_close(step, expected(point))
    differences = oracle.central_differences(lambda p: oracle.weighted_sum(1, *expected(p)), point)
    oracle.assert_close(gradients, differences, 1e-7)


@pytest.mark.each(1)
@pytest.mark.parametrize(
    "options",
    [
        {"mask": MASK},
        {"mask": MASK, "return_sequences": True, "zero_output_for_mask": True, "go_backwards": True},
        {"seq_lengths": np.array([0, 3]), "return_sequences": True},
    ],
)
@pytest.mark.parametrize(
    "cell", [NESTED, StackedRNNCells((LSTMCell(2),)), StackedRNNCells((GRUCell(2),))], ids=["nested", "lstm", "gru"]
)
def test_nested_stacks_and_stacks_of_one_cell(cell: Any, options: dict[str, Any]) -> None:
    weights, state, x = problem(cell)
    run = jax.jit(lambda w, s, x: rnn(cell, w, x, initial_state=s, return_state=True, **options))
    oracle.assert_close(run(weights, state, x), oracle.run(oracle.of(cell, weights), x, state, **options))


def test_running_layer_by_layer_is_running_step_by_step() -> None:
    """The stack as a cell, in a scan written here, against ``rnn``, which runs one layer after the other."""
    weights, _, x = problem(STACK)

    def by_steps(x: Any) -> Any:
        carry = zero_carry(STACK, (B, D), x.dtype)
        carry = jax.tree.map(lambda leaf: leaf.astype(x.dtype), carry)
        return jax.lax.scan(lambda c, x: apply_cell(STACK, weights, c, x), carry, x.swapaxes(0, 1))

    carry, outputs = jax.jit(by_steps)(x)
    expected = jax.jit(lambda x: rnn(STACK, weights, x, return_sequences=True, return_state=True))(x)
    oracle.assert_close((outputs.swapaxes(0, 1), carry), expected, 1e-12)


def test_carries_have_the_types_of_their_cells() -> None:
    weights, _, x = problem(STACK)
    _, carry = jax.eval_shape(lambda x: rnn(STACK, weights, x, return_state=True), x)
    for state in (carry, zero_carry(STACK, (B, D))):
        assert isinstance(state, tuple)
        assert isinstance(state[0], LSTMCarry)
        assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(B, 2), (B, 2), (B, 3), (B, 2)]


def test_weights_are_those_of_the_cells_from_keys_of_their_own() -> None:
    cell = StackedRNNCells((GRUCell(3), GRUCell(3), LSTMCell(4, use_bias=False)))
    weights = cell.init_params(jax.random.key(0), 3)
    assert [{name: leaf.shape for name, leaf in layer.items()} for layer in weights] == [
        {"kernel": (3, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)},
        {"kernel": (3, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)},
        {"kernel": (3, 16), "recurrent_kernel": (4, 16)},
    ]
    for name in ("kernel", "recurrent_kernel"):
        assert not np.any(weights[0][name] == weights[1][name])


def test_properties() -> None:
    assert (STACK.output_size(7), STACK.num_feature_axes, STACK.has_dropout) == (2, 1, False)
    assert STACK.input_sizes(7) == [7, 2, 3]
    assert StackedRNNCells((LSTMCell(2), GRUCell(3, recurrent_dropout=0.1))).has_dropout
    cells: Any = [LSTMCell(2), GRUCell(3)]
    assert StackedRNNCells(cells) == StackedRNNCells((LSTMCell(2), GRUCell(3)))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"cells: expected at least one cell, got none"):
        StackedRNNCells(())
    wrong: Any = (LSTMCell(2), "gru")
    with pytest.raises(TypeError, match=r"cells\[1\]: expected a recurrent cell, got 'gru'"):
        StackedRNNCells(wrong)
    weights, state, x = problem(STACK)
    with pytest.raises(ValueError, match=r"carry: expected \(LSTMCarry\(.*they differ at carry\[1\]\)"):
        apply_cell(STACK, weights, [state[0], state[2], state[2]], x[:, 0])
    with pytest.raises(ValueError, match=r"inputs: expected 3 features in the last axis, got 5"):
        apply_cell(STACK, weights, state, jnp.ones((B, 5)))
    nested_weights, nested_state, _ = problem(NESTED)
    nested_state[0][1][1] = np.ones((B, 9))
    with pytest.raises(ValueError, match=r"^initial_state\[0\]\[1\]: .*they differ at initial_state\[0\]\[1\]\.c\)"):
        rnn(NESTED, nested_weights, x, initial_state=nested_state)
