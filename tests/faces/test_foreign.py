"""Cells of Flax, and of users, in the layers of both faces, alone and in stacks; and constants."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx
from flax import linen as nn

import flax_rnn
import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face
from flax_rnn import choose
from flax_rnn.nnx.foreign import view

B, T, D, H = 3, 5, 4, 2
KEY = jax.random.key(0)
MASK: Any = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
X = jnp.asarray(np.random.default_rng(1).normal(size=(B, T, D)), jnp.float32)
MEMORY = jnp.asarray(np.random.default_rng(2).normal(size=(B, 3)), jnp.float32)
# Type checkers take their first argument to be `deterministic`.
LinenRNN: Any = linen_face.RNN
FlaxLinenRNN: Any = nn.RNN
FlaxNnxRNN: Any = nnx.RNN
FACES = pytest.mark.parametrize("face", ["nnx", "linen"])


class Reader(nnx.Module):
    """A cell whose output is neither like its carry nor a part of it, and that reads a constant."""

    num_feature_axes = 1

    def __init__(self, rngs: nnx.Rngs):
        self.mix, self.out = nnx.Linear(D + H + 3, H, rngs=rngs), nnx.Linear(H, 3, rngs=rngs)

    def initialize_carry(self, input_shape: Any, rngs: Any = None) -> Any:
        return {"h": jnp.zeros((*input_shape[:-1], H)), "count": jnp.zeros(input_shape[:-1])}

    def __call__(self, carry: Any, inputs: Any, constants: Any) -> Any:
        h = jnp.tanh(self.mix(jnp.concatenate([inputs, carry["h"], constants], -1)))
        return {"h": h, "count": carry["count"] + 1}, self.out(h) + carry["count"][:, None]


class LinenReader(nn.Module):
    """The same in linen."""

    @property
    def num_feature_axes(self) -> int:
        return 1

    @nn.nowrap
    def initialize_carry(self, rng: Any, input_shape: Any) -> Any:
        return {"h": jnp.zeros((*input_shape[:-1], H)), "count": jnp.zeros(input_shape[:-1])}

    @nn.compact
    def __call__(self, carry: Any, inputs: Any, constants: Any) -> Any:
        h = jnp.tanh(nn.Dense(H, name="mix")(jnp.concatenate([inputs, carry["h"], constants], -1)))
        return {"h": h, "count": carry["count"] + 1}, nn.Dense(3, name="out")(h) + carry["count"][:, None]


class Reads:
    """Whether reading the memory changed what came out, step by step in NumPy."""

    def __init__(self, params: Any):
        flat = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.mix, self.out = flat["mix"], flat["out"]

    def run(self, x: Any, mask: Any, memory: Any) -> tuple[Any, Any]:
        outputs, h, count = np.zeros((B, T, 3)), np.zeros((B, H)), np.zeros(B)
        for row in range(B):
            last = np.zeros(3)
            for t in range(T):
                if mask[row, t]:
                    z = np.concatenate([x[row, t], h[row], memory[row]])
                    h[row] = np.tanh(z @ self.mix["kernel"] + self.mix["bias"])
                    last = h[row] @ self.out["kernel"] + self.out["bias"] + count[row]
                    count[row] += 1
                outputs[row, t] = last
        return outputs, {"h": h, "count": count}


def randomized(tree: Any) -> Any:
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), tree)


def reader(face: str, **options: Any) -> tuple[Any, Any]:
    """``((x, mask, memory) -> what the layer returns, parameters)`` of a layer with a reader above nothing."""
    if face == "nnx":
        layer = nnx_face.RNN(Reader(nnx.Rngs(0)), **options)
        nnx.update(layer, randomized(nnx.state(layer, nnx.Param)))
        params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))["cell"]
        return (lambda x, mask, memory: layer(x, mask=mask, constants=memory)), params
    layer = LinenRNN(LinenReader(), **options)
    variables = randomized(layer.init(KEY, X, constants=MEMORY))
    return (lambda x, mask, memory: layer.apply(variables, x, mask=mask, constants=memory)), variables["params"]["cell"]


@pytest.mark.each(1, at_most=1)
@FACES
def test_cells_whose_output_is_unlike_their_carry_and_constants(face: str) -> None:
    run, params = reader(face, return_sequences=True, return_state=True)
    outputs, carry = run(X, MASK, MEMORY)
    expected, state = Reads(params).run(np.asarray(X), MASK, np.asarray(MEMORY))
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    chex.assert_trees_all_close(carry, jax.tree.map(jnp.float32, state), atol=1e-5)

    # Constants have gradients, and those of rows without a step are zero.
    gradient = jax.grad(lambda memory: (run(X, MASK, memory)[0] ** 2).sum())(MEMORY)
    for index in [(0, 1), (1, 2)]:
        shift = np.zeros(MEMORY.shape)
        shift[index] = 1e-5
        above, below = (Reads(params).run(np.asarray(X), MASK, np.asarray(MEMORY) + s)[0] for s in (shift, -shift))
        np.testing.assert_allclose(gradient[index], ((above**2).sum() - (below**2).sum()) / 2e-5, rtol=1e-3)
    assert not np.any(gradient[2])


@pytest.mark.each(1)
@FACES
@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"])
def test_flax_cells_give_what_they_give_in_flax(face: str, name: str) -> None:
    lengths = jnp.array([5, 2, 3])
    if face == "nnx":
        cell = getattr(nnx, name)(D, H, rngs=nnx.Rngs(0))
        nnx.update(cell, randomized(nnx.state(cell, nnx.Param)))
        carry, expected = FlaxNnxRNN(cell, return_carry=True)(X, seq_lengths=lengths)
        outputs, ours = nnx_face.RNN(cell, return_sequences=True, return_state=True)(X, seq_lengths=lengths)
    else:
        cell = getattr(nn, name)(H)
        layer = LinenRNN(cell, return_sequences=True, return_state=True)
        variables = randomized(layer.init(KEY, X))
        carry, expected = FlaxLinenRNN(cell, return_carry=True).apply(variables, X, seq_lengths=lengths)
        outputs, ours = layer.apply(variables, X, seq_lengths=lengths)
    chex.assert_trees_all_close(ours, carry, atol=1e-6)
    valid = np.arange(T) < np.asarray(lengths)[:, None]
    np.testing.assert_allclose(outputs[valid], expected[valid], atol=1e-6)


def test_stacks_of_ours_and_others_in_nnx() -> None:
    rngs = nnx.Rngs(0)
    cells = [nnx_face.LSTMCell(D, 3, rngs=rngs), nnx.GRUCell(3, 4, rngs=rngs), nnx_face.GRUCell(4, H, rngs=rngs)]
    stack = nnx_face.RNN(cells, return_sequences=True, return_state=True)
    nnx.update(stack, randomized(nnx.state(stack, nnx.Param)))
    below, first = nnx_face.RNN(cells[0], return_sequences=True, return_state=True)(X)
    second, middle = FlaxNnxRNN(cells[1], return_carry=True)(below)
    expected, last = nnx_face.RNN(cells[2], return_sequences=True, return_state=True)(middle)
    outputs, carries = stack(X)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    chex.assert_trees_all_close(carries, (first, second, last), atol=1e-6)
    # The stack is a cell itself.
    cell: Any = stack.cell
    carry = cell.initialize_carry((B, D))
    chex.assert_trees_all_equal_shapes(carry, carries)
    np.testing.assert_allclose(cell(carry, X[:, 0])[1], expected[:, 0], atol=1e-6)
    gradients = nnx.grad(lambda stack: (stack(X, mask=MASK)[0] ** 2).sum())(stack)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_stacks_of_ours_and_others_in_linen() -> None:
    cells = (LinenReader(), linen_face.LSTMCell(3), nn.GRUCell(H))
    stack = LinenRNN(cells, return_sequences=True)
    variables = randomized(stack.init(KEY, X, constants=MEMORY))
    assert set(variables["params"]["cell"]) == {"cells_0", "cells_1", "cells_2"}
    x: Any = X
    for index, cell in enumerate(cells):
        params = {"params": {"cell": variables["params"]["cell"][f"cells_{index}"]}}
        constants = {"constants": MEMORY} if index == 0 else {}
        x = LinenRNN(cell, return_sequences=True).apply(params, x, **constants)
    np.testing.assert_allclose(stack.apply(variables, X, constants=MEMORY), x, atol=1e-6)


def test_dropout_in_a_linen_cell_is_constant_over_time() -> None:
    class Dropping(LinenReader):
        @nn.compact
        def __call__(self, carry: Any, inputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return carry, nn.Dropout(0.5, deterministic=False)(inputs)

    layer, ones = LinenRNN(Dropping(), return_sequences=True), jnp.ones((B, T, 50))
    outputs = [np.asarray(layer.apply({}, ones, rngs={"dropout": jax.random.key(seed)})) for seed in (0, 1)]
    assert 0.3 < (outputs[0] == 0).mean() < 0.7
    np.testing.assert_array_equal(outputs[0], outputs[0][:, :1].repeat(T, 1))
    assert np.any(outputs[0] != outputs[1]) and np.any(outputs[0][0] != outputs[0][1])
    with pytest.raises(errors.InvalidRngError, match="dropout"):
        layer.apply({}, ones)


def test_what_would_be_lost_is_an_error() -> None:
    class Counting(Reader):
        def __init__(self, rngs: nnx.Rngs):
            super().__init__(rngs)
            self.steps = nnx.Variable(jnp.zeros(()))

        def __call__(self, carry: Any, inputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            self.steps[...] += 1
            return carry, inputs

    class Growing(Reader):
        def __call__(self, carry: Any, inputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return {"h": jnp.zeros((B, H + 1)), "count": carry["count"]}, inputs

    rngs, ours = nnx.Rngs(0), nnx_face.LSTMCell(D, H, rngs=nnx.Rngs(0))
    for match, call in [
        ("cell: expected one whose steps change none of its variables, but Counting changed steps", Counting),
        ("the carry that Growing returns: expected .*they differ at .*h", Growing),
    ]:
        with pytest.raises(ValueError, match=match):
            nnx_face.RNN(call(rngs))(X)
    for layer in (nnx_face.RNN(ours), nnx_face.RNN([ours, nnx.GRUCell(H, H, rngs=rngs)])):
        with pytest.raises(ValueError, match="constants: expected None for a cell that takes none"):
            layer(X, constants=MEMORY)
    with pytest.raises(ValueError, match="backward_layer: expected one, since new weights of a GRUCell"):
        nnx_face.Bidirectional(nnx_face.RNN(nnx.GRUCell(D, H, rngs=rngs)), rngs=rngs)


@FACES
def test_both_directions_of_others(face: str) -> None:
    if face == "nnx":
        rngs = nnx.Rngs(0)
        cells = nnx.GRUCell(D, H, rngs=rngs), nnx.SimpleCell(D, 3, rngs=rngs)
        forward, backward = nnx_face.RNN(cells[0]), nnx_face.RNN(cells[1], go_backwards=True)
        outputs = nnx_face.Bidirectional(forward, backward_layer=backward)(X)
        expected = jnp.concatenate([FlaxNnxRNN(cells[0])(X)[:, -1], FlaxNnxRNN(cells[1], reverse=True)(X)[:, -1]], -1)
    else:
        layer: Any = linen_face.Bidirectional(LinenRNN(nn.GRUCell(H)))
        variables = randomized(layer.init(KEY, X))
        params = variables["params"]
        forward, backward = ({"params": params[f"{name}_layer"]} for name in ("forward", "backward"))
        runs = FlaxLinenRNN(nn.GRUCell(H)), FlaxLinenRNN(nn.GRUCell(H), reverse=True)
        expected = jnp.concatenate([runs[0].apply(forward, X)[:, -1], runs[1].apply(backward, X)[:, -1]], -1)
        outputs: Any = layer.apply(variables, X)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_the_rule_of_selection_says_why_others_are_scanned() -> None:
    cell = view(nnx.GRUCell(D, H, rngs=nnx.Rngs(0)))
    choice = choose(cell.core)
    assert choice.implementation == "scan" and "does not show its products" in choice.reason
    scan, fused = (
        jax.grad(
            lambda x, how=how: (flax_rnn.rnn(cell.core, cell.params, x, mask=MASK, implementation=how) ** 2).sum()
        )(X)
        for how in ("scan", "fused")
    )
    np.testing.assert_allclose(fused, scan, atol=1e-6)
