"""Stateful layers of both faces: Keras' numbers, pieces against the whole, resets by row, derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors, nnx
from flax import linen as nn

import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face
from flax_rnn.layers.stateful import LayerOptions, reset

B, T, D, H = 3, 6, 4, 2
KEY = jax.random.key(0)
A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
B4 = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
CONSTANT: dict[str, Any] = {
    "kernel_initializer": jax.nn.initializers.constant(0.01),
    "recurrent_initializer": jax.nn.initializers.constant(0.02),
    "bias_initializer": jax.nn.initializers.constant(0.03),
}
# Keras' own tests have the second one of these; a first call goes ahead.
SECOND: dict[str, Any] = {
    "SimpleRNN": [0.40559256, 0.7361247],
    "LSTM": [0.3124785, 0.6863672],
    "GRU": [0.29542392, 0.5885018],
}
ROWS: Any = np.array([True, False, True])


class InLinen:
    """A linen layer that is called as an NNX one, for tests of both."""

    def __init__(self, module: Any, x: Any):
        self.module, self.variables = module, module.init(KEY, x)

    def __call__(self, x: Any, **call: Any) -> Any:
        outputs, kept = self.module.apply(self.variables, x, mutable=["carry"], **call)
        self.variables = self.variables | kept
        return outputs

    def reset_state(self, rows: Any = None) -> None:
        self.variables = linen_face.reset_state(self.variables, rows)


def make(face: str, name: str, x: Any, *args: Any, **options: Any) -> Any:
    if face == "linen":
        return InLinen(getattr(linen_face, name)(*args, **options), x)
    return getattr(nnx_face, name)(x.shape[-1], *args, **options, rngs=nnx.Rngs(0))


def inputs(batch: int = B, steps: int = T) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, steps, D)), jnp.float32)


FACES = pytest.mark.parametrize("face", ["nnx", "linen"])


@FACES
@pytest.mark.parametrize("name", SECOND)
def test_the_second_call_gives_keras_numbers(face: str, name: str) -> None:
    layer = make(face, name, A, 4, stateful=True, **CONSTANT)
    first = layer(A)
    second = np.broadcast_to(np.array(SECOND[name])[:, None], (2, 4))
    assert not np.allclose(first, second, atol=1e-5)
    np.testing.assert_allclose(layer(A), second, atol=1e-6)
    layer.reset_state()
    np.testing.assert_array_equal(layer(A), first)


@FACES
def test_both_directions_keep_their_states_as_in_keras(face: str) -> None:
    if face == "linen":
        layer: Any = InLinen(linen_face.Bidirectional(linen_face.LSTM(2, stateful=True, **CONSTANT)), B4)
    else:
        rngs = nnx.Rngs(0)
        layer = nnx_face.Bidirectional(nnx_face.LSTM(3, 2, stateful=True, rngs=rngs, **CONSTANT), rngs=rngs)
    first = layer(B4)
    expected = [[0.26234663] * 2 + [0.16959146] * 2, [0.6137073] * 2 + [0.5381646] * 2]
    np.testing.assert_allclose(layer(B4), expected, atol=1e-6)
    if face == "linen":
        layer.reset_state()
    else:
        nnx_face.reset_state(layer)
    np.testing.assert_array_equal(layer(B4), first)


@FACES
@pytest.mark.parametrize("options", [{}, {"time_major": True}], ids=str)
def test_pieces_make_a_whole_and_rows_start_anew(face: str, options: dict[str, Any]) -> None:
    x = inputs()
    turn = (lambda a: a.swapaxes(0, 1)) if options else (lambda a: a)
    layer = make(face, "LSTM", x, H, stateful=True, return_sequences=True, return_state=True, **options)
    whole, last = layer(turn(x))
    layer.reset_state()
    pieces = [layer(turn(x[:, :2])), layer(turn(x[:, 2:3])), layer(turn(x[:, 3:]))]
    np.testing.assert_allclose(np.concatenate([turn(p) for p, _ in pieces], 1), turn(whole), atol=1e-6)
    np.testing.assert_allclose(pieces[-1][1].c, last.c, atol=1e-6)

    layer.reset_state(ROWS)
    again, _ = layer(turn(x))
    fresh = turn(whole)
    np.testing.assert_allclose(turn(again)[ROWS], fresh[ROWS], atol=1e-6)
    assert np.abs(turn(again)[1] - fresh[1]).max() > 1e-3, "the row in between goes on"


@FACES
def test_an_initial_state_goes_before_the_kept_one(face: str) -> None:
    x, zeros = inputs(), jnp.zeros((B, H))
    layer = make(face, "GRU", x, H, stateful=True)
    first = layer(x)
    assert np.abs(layer(x) - first).max() > 1e-3
    np.testing.assert_array_equal(layer(x, initial_state=zeros), first)


@FACES
def test_another_number_of_sequences_is_an_error_until_the_state_is_forgotten(face: str) -> None:
    layer = make(face, "LSTM", inputs(), H, stateful=True)
    layer(inputs())
    with pytest.raises(ValueError, match=r"inputs: expected 3 sequences.*reset_state.*got 2"):
        layer(inputs(2))
    layer.reset_state()
    assert layer(inputs(2)).shape == (2, H)
    for rows, error, match in [
        (np.ones(3, bool), ValueError, r"rows: expected shape \(B,\) = \(2,\), got \(3,\)"),
        (np.ones(2, int), TypeError, "rows: expected booleans, got dtype int"),
    ]:
        with pytest.raises(error, match=match):
            layer.reset_state(rows)


@pytest.mark.parametrize("kind", ["LSTM", "stack", "foreign"])
def test_nnx_state_lives_through_transformations(kind: str) -> None:
    rngs, x = nnx.Rngs(0), inputs()
    cells: Any = {
        "LSTM": lambda: nnx_face.LSTMCell(D, H, rngs=rngs),
        "stack": lambda: [nnx_face.GRUCell(D, H, rngs=rngs), nnx_face.LSTMCell(H, H, rngs=rngs)],
        "foreign": lambda: nnx.GRUCell(D, H, rngs=rngs),
    }
    layer = nnx_face.RNN(cells[kind](), stateful=True)
    eager = [layer(x), layer(x), layer(x)]
    layer.reset_state()

    # Once lifted by nnx, once by hand, and once while differentiating.
    np.testing.assert_allclose(nnx.jit(lambda layer, x: layer(x))(layer, x), eager[0], atol=1e-6)
    graphdef, state = nnx.split(layer)

    @jax.jit
    def step(state: Any, x: Any) -> Any:
        layer = nnx.merge(graphdef, state)
        return layer(x), nnx.state(layer)

    outputs, state = step(state, x)
    np.testing.assert_allclose(outputs, eager[1], atol=1e-6)
    nnx.update(layer, state)
    value, gradients = nnx.value_and_grad(lambda layer, x: layer(x).sum())(layer, x)
    np.testing.assert_allclose(value, eager[2].sum(), atol=1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients)), "of weights; states are no parameters"
    assert not any("state" in map(str, path) for path, _ in nnx.to_flat_state(gradients))


def test_no_gradient_flows_into_the_call_before() -> None:
    x = inputs()
    layer = nnx_face.LSTM(D, H, stateful=True, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)

    def second(x: Any, y: Any) -> Any:
        layer = nnx.merge(graphdef, state, copy=True)
        layer(x)
        return layer(y).sum()

    before, now = jax.grad(second, argnums=(0, 1))(x, x)
    assert not np.any(before) and np.any(now)


def test_linen_keeps_states_in_a_collection_of_their_own() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = linen_face.GRU(H, stateful=True, return_sequences=True)(x)
            return linen_face.LSTM(H, stateful=True)(x)

    x = inputs()
    variables = Model().init(KEY, x[:1])
    assert set(variables) == {"params"}, "an example of one sequence leaves no state behind"
    _, kept = Model().apply(variables, x, mutable=["carry"])
    assert jax.tree.map(jnp.shape, kept["carry"]["GRU_0"]["state"]) == (B, H)
    assert set(linen_face.reset_state({**variables, **kept})) == {"params"}
    cleared = linen_face.reset_state({**variables, **kept}, ROWS)["carry"]
    for leaf, old in zip(jax.tree.leaves(cleared), jax.tree.leaves(kept), strict=True):
        assert not np.any(leaf[ROWS]) and np.array_equal(leaf[~ROWS], old[~ROWS]) and np.any(old[ROWS])
    with pytest.raises(errors.ModifyScopeVariableError, match="carry"):
        Model().apply(variables, x)


def test_directions_have_to_agree_and_the_core_has_no_memory() -> None:
    rngs = nnx.Rngs(0)
    forward, backward = nnx_face.GRU(D, H, stateful=True, rngs=rngs), nnx_face.GRU(D, H, go_backwards=True, rngs=rngs)
    with pytest.raises(ValueError, match="backward_layer: expected stateful=True as in the forward layer, got False"):
        nnx_face.Bidirectional(forward, backward_layer=backward)
    assert "stateful" not in LayerOptions(stateful=True).options
    np.testing.assert_array_equal(
        reset((jnp.ones(2), jnp.ones((2, 3))), np.array([True, False]))[1], [[0] * 3, [1] * 3]
    )


def test_states_survive_compiled_calls_unlike_in_keras_on_jax() -> None:
    # ``test_nnx_state_lives_through_transformations`` is of ours.
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input(batch_shape=A.shape), keras.layers.LSTM(4, stateful=True)])
    first, second = (model.predict(A, batch_size=len(A), verbose=0) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.any([np.any(state) for state in model.layers[0].states])
    ours = nnx_face.LSTM(4, 4, stateful=True, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda layer, x: layer(x))
    assert np.any(np.asarray(run(ours, jnp.asarray(A))) != run(ours, jnp.asarray(A)))


def test_pairs_with_masks_return_their_states_unlike_in_keras() -> None:
    # Its layer computes with a generator there. Nor can a state be given to ``reset_state``, as documented.
    keras = pytest.importorskip("keras")
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    layer = keras.layers.Bidirectional(keras.layers.LSTM(2, stateful=True, return_state=True))
    with pytest.raises(TypeError, match="generator"):
        layer(A, mask=mask)
    with pytest.raises(TypeError, match="states"):
        keras.layers.LSTM(2, stateful=True).reset_state(states=[jnp.ones((2, 2))] * 2)
    rngs = nnx.Rngs(0)
    both = nnx_face.Bidirectional(nnx_face.LSTM(4, 2, stateful=True, return_state=True, rngs=rngs), rngs=rngs)
    outputs, (forward, backward) = both(jnp.asarray(A), mask=mask)
    np.testing.assert_array_equal(outputs, np.concatenate([forward.h, backward.h], -1))
