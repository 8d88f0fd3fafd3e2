"""The numbers written down in Keras' own tests of its recurrent layers, for its constant weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_rnn import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, bidirectional, rnn
from flax_rnn.cells.protocol import affine, dot

A: Any = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
B: Any = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
C: Any = np.arange(72, dtype=np.float32).reshape(3, 6, 4)
HOLES: Any = np.array([[1, 1, 0, 1], [1, 0, 0, 1]], bool)
RIGHT: Any = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
LEFT: Any = np.array([[0, 1, 1, 1], [0, 0, 1, 1]], bool)
SEQUENCES = {"return_sequences": True}
ZEROS = {"return_sequences": True, "zero_output_for_mask": True}
BACK = {"go_backwards": True}
S4, S2 = np.arange(8, dtype=np.float32).reshape(2, 4), np.arange(4, dtype=np.float32).reshape(2, 2)


def constant(cell: Any, features: int, kernel: float = 0.01, recurrent: float = 0.02, bias: float = 0.03) -> Any:
    """Weights of Keras' tests; the forget bias of an LSTM is 1 where it has ``unit_forget_bias``."""
    fill = jax.nn.initializers.constant
    options = {
        "kernel_initializer": fill(kernel),
        "recurrent_initializer": fill(recurrent),
        "bias_initializer": fill(bias),
    }
    return dataclasses.replace(cell, **options).init_params(jax.random.key(0), features)


def check(actual: Any, expected: Any) -> None:
    """One number for each row, or for each row and step, stands for equal columns."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if expected.ndim < actual.ndim:
        expected = np.broadcast_to(expected[..., None], actual.shape)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


LSTM_R0, LSTM_R1 = [0.0158891, 0.05552048, 0.11755939, 0.11755939], [0.14185596] + [0.28556206] * 3
GRU_R0, GRU_R1 = [0.03606692, 0.09497581, 0.09497581, 0.19393763], [0.16051409] * 3 + [0.30818558]
RNN_R0, RNN_R1 = [0.0599281, 0.15122814, 0.15122814, 0.32394567], [0.3969304] * 3 + [0.608085]
UNBIASED = {"use_bias": False}
CASES: list[tuple[Any, Any, dict[str, Any], Any]] = [
    (SimpleRNNCell(4), A, {}, [0.405432, 0.73605347]),
    (SimpleRNNCell(4), A, BACK, [0.11144729, 0.5528889]),
    (SimpleRNNCell(4), B, {"initial_state": S4}, [0.33621645, 0.6262637]),
    (SimpleRNNCell(4), B, {"initial_state": S4} | BACK, [0.07344437, 0.43043602]),
    (SimpleRNNCell(4), B, {"mask": HOLES}, [0.32951632, 0.61799484]),
    (SimpleRNNCell(4), B, {"mask": HOLES} | BACK, [0.07376196, 0.43645123]),
    (SimpleRNNCell(2), B, {"mask": HOLES} | SEQUENCES, [RNN_R0, RNN_R1]),
    (SimpleRNNCell(2), B, {"mask": HOLES} | ZEROS, HOLES * [RNN_R0, RNN_R1]),
    (LSTMCell(3), C, {}, [0.6288687, 0.86899155, 0.9460773]),
    (LSTMCell(3), C, BACK, [0.35622165, 0.74789524, 0.8872726]),
    (LSTMCell(3, unit_forget_bias=False), C, {}, [0.57019705, 0.8661914, 0.9459622]),
    (LSTMCell(3, use_bias=False), C, {}, [0.54986924, 0.86226785, 0.9443936]),
    (LSTMCell(2), B, {"initial_state": [S2, S2]}, [[0.20574439, 0.3558822], [0.64930826, 0.66276]]),
    (LSTMCell(2), B, {"initial_state": [S2, S2]} | BACK, [[0.13281618, 0.2790356], [0.5839337, 0.5992567]]),
    (LSTMCell(2), B, {"mask": RIGHT}, [0.11755939, 0.28556206]),
    (LSTMCell(2), B, {"mask": RIGHT} | SEQUENCES, [LSTM_R0, LSTM_R1]),
    (LSTMCell(2), B, {"mask": RIGHT} | ZEROS, RIGHT * [LSTM_R0, LSTM_R1]),
    (LSTMCell(2), B, {"mask": LEFT} | BACK, [0.15341201, 0.3844719]),
    (GRUCell(3), C, {}, [0.5217289, 0.6371659, 0.39384964]),
    (GRUCell(3), C, BACK, [0.24406259, 0.611516, 0.3928808]),
    (GRUCell(3, reset_after=False), C, {}, [0.51447755, 0.6426879, 0.40208298]),
    (GRUCell(3, use_bias=False), C, {}, [0.49988455, 0.64701194, 0.4103359]),
    (GRUCell(2), B, {"initial_state": S2}, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    (GRUCell(2), B, {"initial_state": S2} | BACK, [[0.13486053, 0.23261218], [0.78257304, 0.9691353]]),
    (GRUCell(2), B, {"mask": HOLES}, [0.19393763, 0.30818558]),
    (GRUCell(2), B, {"mask": HOLES} | SEQUENCES, [GRU_R0, GRU_R1]),
    (GRUCell(2), B, {"mask": HOLES} | ZEROS, HOLES * [GRU_R0, GRU_R1]),
    (GRUCell(2), B, {"mask": HOLES} | BACK, [0.11669192, 0.28380975]),
]


@pytest.mark.parametrize(("cell", "x", "options", "expected"), CASES)
def test_one_layer(cell: Any, x: Any, options: dict[str, Any], expected: Any) -> None:
    weights = constant(cell, x.shape[-1])
    for unroll in (False, True):
        output, state = rnn(cell, weights, x, return_state=True, unroll=unroll, **options)
        check(output, expected)
        if not options.get("return_sequences"):
            check(jax.tree.leaves(state)[0], output)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (SimpleRNNCell(4), [0.40559256, 0.7361247]),
        (LSTMCell(4), [0.3124785, 0.6863672]),
        (GRUCell(4), [0.29542392, 0.5885018]),
    ],
)
def test_a_second_call_from_the_state_of_the_first(cell: Any, expected: Any) -> None:
    weights = constant(cell, 4)
    _, state = rnn(cell, weights, A, return_state=True)
    check(rnn(cell, weights, A, initial_state=state), expected)


def both(cell: Any, x: Any, **options: Any) -> Any:
    weights = constant(cell, x.shape[-1])
    return bidirectional((cell, cell), (weights, weights), x, **options)


def pairs(forward: Any, backward: Any) -> np.ndarray:
    """Columns ``f f b b``."""
    return np.stack([forward, forward, backward, backward], -1)


def test_bidirectional_simple_rnn() -> None:
    cell, forward, backward = SimpleRNNCell(2), [0.39687276, 0.7237238], [0.10004295, 0.53391594]
    check(both(cell, A), pairs(forward, backward))
    check(both(cell, A, merge_mode="ave"), [0.24845785, 0.6288199])
    for output, expected in zip(both(cell, A, merge_mode=None), (forward, backward), strict=True):
        check(output, expected)
    weights = constant(cell, 4), constant(cell, 4, kernel=0.03, recurrent=0.02, bias=0.01)
    check(bidirectional((cell, cell), weights, A, merge_mode="mul"), [0.08374989, 0.6740834])


def test_bidirectional_gru() -> None:
    outputs = both(GRUCell(2), A, merge_mode="sum", return_sequences=True)
    check(outputs, [[0.20937867, 0.34462988, 0.40290534], [0.59829646, 0.6734641, 0.6479671]])
    check(both(GRUCell(2), B, mask=HOLES), pairs([0.19393763, 0.30818558], [0.11669192, 0.28380975]))


def test_bidirectional_lstm() -> None:
    cell = LSTMCell(2)
    output, states = both(cell, B, return_state=True)
    check(output, pairs([0.1990008, 0.52335435], [0.12659755, 0.44717982]))
    check(states[0].h, [0.1990008, 0.52335435])
    check(states[0].c, [0.35567185, 1.0492687])
    check(states[1].h, [0.12659755, 0.44717982])
    check(states[1].c, [0.2501858, 0.941473])
    check(both(cell, B, initial_state=states), pairs([0.26234663, 0.6137073], [0.16959146, 0.5381646]))
    output = both(cell, B, initial_state=[[S2, 2 * S2], [3 * S2, 4 * S2]])
    check(output, [[0.20794602, 0.4577124, 0.14046375, 0.48191673], [0.6682636, 0.6711909, 0.60943645, 0.60950446]])


def test_masked_stack_of_lstms() -> None:
    ones = jax.nn.initializers.ones
    stack = StackedRNNCells((LSTMCell(1, kernel_initializer=ones, recurrent_initializer=ones),) * 2)
    mask = jnp.array([[1, 1, 1], [1, 1, 0]], bool)
    output = rnn(stack, stack.init_params(jax.random.key(0), 4), jnp.ones((2, 3, 4)), mask=mask)
    np.testing.assert_allclose(output, [[0.7793], [0.5998]], atol=1e-4)


@dataclasses.dataclass(frozen=True)
class One:
    """Keras' test cell of one state: ``x @ ones + h @ ones``."""

    units: int

    @property
    def num_feature_axes(self) -> int:
        return 1

    @property
    def has_dropout(self) -> bool:
        return False

    def init_params(self, key: Any, in_features: int) -> Any:
        return jnp.ones((in_features, self.units)), jnp.ones((self.units, self.units))

    def output_size(self, in_features: int) -> int:
        return self.units

    def dropout_masks(self, key: jax.Array, inputs: jax.Array) -> Any:
        return None

    def project(self, params: Any, inputs: jax.Array, masks: Any = None, dot: Any = dot) -> jax.Array:
        return dot(inputs, params[0], 1)[0]

    def initial_carry(self, params: Any, projected: jax.Array) -> Any:
        return jnp.zeros_like(projected)

    def prepare(self, params: Any, projected: Any, masks: Any = None) -> jax.Array:
        return params[1]

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = affine) -> tuple[Any, jax.Array]:
        h = affine(carry, weights, projected)
        return h, h


class Two(One):
    """Keras' test cell of two states, whose output is their sum; both read the first of them.

    One of its products is its own, the other one comes from the loop.
    """

    def initial_carry(self, params: Any, projected: jax.Array) -> Any:
        return jnp.zeros_like(projected), jnp.zeros_like(projected)

    def step(self, weights: Any, carry: Any, projected: Any, affine: Any = affine) -> tuple[Any, jax.Array]:
        first, second = affine(carry[0], weights, projected), projected + carry[0] @ weights
        return (first, second), first + second


def run(cell: Any, x: Any, state: Any = None, **options: Any) -> Any:
    return rnn(cell, cell.init_params(None, x.shape[-1]), x, initial_state=state, return_state=True, **options)


def test_custom_cells() -> None:
    short, long, ones = np.ones((1, 2, 3), np.float32), np.ones((2, 3, 2), np.float32), np.ones((2, 2), np.float32)
    outputs, state = run(One(2), short, **SEQUENCES)
    check(outputs, [[3, 9]])
    check(state, [9])
    check(run(One(2), long, ones)[0], [22, 22])
    check(run(One(2), short, state)[0], [45])
    check(run(One(2), A, **BACK)[0], [202, 538])
    check(run(One(2), A, run(One(2), A)[1])[0], [954, 3978])
    check(run(One(2), B, mask=RIGHT, **SEQUENCES)[0], [[3, 18, 57, 57], [39, 126, 126, 126]])

    outputs, states = run(Two(2), short, **SEQUENCES)
    check(outputs, [[6, 18]])
    check(states, [[9], [9]])
    output, other = run(Two(2), long, [ones, ones])
    check(output, [44, 44])
    check(other, [[22, 22], [22, 22]])
    output, states = run(Two(2), short, states)
    check(output, [90])
    check(states, [[45], [45]])
    # The output is twice the first state: the held output is carried as such, and not taken from the state.
    check(run(Two(2), B, mask=RIGHT, **SEQUENCES)[0], [[6, 36, 114, 114], [78, 252, 252, 252]])


@pytest.mark.parametrize(
    ("cell", "sequences", "below", "above", "second"),
    [
        (One, [[18, 156, 786], [162, 1020, 4386]], [158, 782], [786, 4386], [34092, 173196]),
        (Two, [[72, 624, 3144], [648, 4080, 17544]], [158, 782], [1572, 8772], [136368, 692784]),
    ],
)
def test_stacks_of_custom_cells(cell: Any, sequences: Any, below: Any, above: Any, second: Any) -> None:
    stack = StackedRNNCells((cell(3), cell(2)))
    weights = stack.init_params(jax.random.key(0), 4)
    outputs, states = rnn(stack, weights, A, return_sequences=True, return_state=True)
    check(outputs, sequences)
    for layer, expected in zip(states, (below, above), strict=True):
        for leaf in jax.tree.leaves(layer):
            check(leaf, expected)
    check(rnn(stack, weights, A, initial_state=states), second)


OWN: Any = (Two(3), One(2))


@pytest.mark.parametrize("cell", [One(2), Two(2), StackedRNNCells(OWN)], ids=["One", "Two", "stack"])
def test_gradients_of_custom_cells(cell: Any) -> None:
    """Those of the loop's own backward pass are those that jax finds."""
    rng = np.random.default_rng(0)
    weights = jax.tree.map(
        lambda a: jnp.float32(rng.normal(size=a.shape) * 0.5), cell.init_params(jax.random.key(0), 3)
    )
    x = jnp.float32(rng.normal(size=(2, 4, 3)))
    cotangent = rng.normal(size=(2, 4, 2))

    def loss(weights: Any, x: Any, implementation: str) -> Any:
        outputs, state = rnn(
            cell, weights, x, mask=HOLES, implementation=implementation, return_sequences=True, return_state=True
        )
        return (outputs * cotangent).sum() + sum((leaf**3).sum() for leaf in jax.tree.leaves(state))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    for ours, expected in zip(
        jax.tree.leaves(gradient(weights, x, "fused")), jax.tree.leaves(gradient(weights, x, "scan")), strict=True
    ):
        assert np.any(np.asarray(expected) != 0)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
