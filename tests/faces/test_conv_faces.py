"""Convolutional LSTMs as modules of both faces: against Keras, weights, dropout, stacks, both directions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_rnn.linen as linen_face
import flax_rnn.nnx as nnx_face

B, T, C, F = 2, 3, 3, 2
SPATIAL = {1: (7,), 2: (5, 6), 3: (4, 3, 5)}
KEY = jax.random.key(0)
MASK: Any = np.array([[1, 0, 1], [0, 1, 0]], bool)
FACES = pytest.mark.parametrize("face", ["nnx", "linen"])
RANKS = pytest.mark.parametrize("rank", [1, 2, 3])


def inputs(rank: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(rank).normal(size=(B, T, *SPATIAL[rank], C)), jnp.float32)


def weights(rank: int, size: int = 2, channels: int = C, filters: int = F) -> dict[str, Any]:
    rng, window = np.random.default_rng(7), (size,) * rank
    shapes = {
        "kernel": (*window, channels, 4 * filters),
        "recurrent_kernel": (*window, filters, 4 * filters),
        "bias": (4 * filters,),
    }
    return {name: jnp.asarray(rng.normal(0, 0.4, shape), jnp.float32) for name, shape in shapes.items()}


def layer(face: str, rank: int, params: dict[str, Any], *args: Any, **options: Any) -> Any:
    """The layer with these weights, as a function; in linen they are under ``cell``."""
    cls = getattr(nnx_face if face == "nnx" else linen_face, f"ConvLSTM{rank}D")
    if face == "linen":
        module = cls(*args, **options)
        shapes = jax.eval_shape(lambda: module.init(KEY, inputs(rank)))["params"]["cell"]
        assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
        return lambda x, rngs=None, **call: module.apply({"params": {"cell": params}}, x, rngs=rngs, **call)
    module = cls(C, *args, **options, rngs=nnx.Rngs(0))
    assert {name: value.shape for name, value in nnx.to_pure_dict(nnx.state(module.cell, nnx.Param)).items()} == {
        name: value.shape for name, value in params.items()
    }
    nnx.update(module.cell, params)
    return module


@pytest.mark.each(1)
@FACES
@RANKS
@pytest.mark.parametrize(
    "options",
    [{"padding": "same", "return_sequences": True}, {"strides": 2, "go_backwards": True, "activation": "softsign"}],
    ids=str,
)
def test_numbers_are_those_of_keras(face: str, rank: int, options: dict[str, Any]) -> None:
    keras = pytest.importorskip("keras")
    x, params = inputs(rank), weights(rank)
    theirs = getattr(keras.layers, f"ConvLSTM{rank}D")(F, 2, **options)
    theirs.build(x.shape)
    theirs.set_weights([np.asarray(params[name]) for name in ("kernel", "recurrent_kernel", "bias")])
    ours = layer(face, rank, params, F, 2, **options)
    np.testing.assert_allclose(ours(x), theirs(x), atol=2e-6)


@FACES
def test_arguments_may_be_given_as_in_keras(face: str) -> None:
    x, params = inputs(2), weights(2)
    by_position, by_name = (
        layer(face, 2, params, F, 2, 1, "same"),
        layer(face, 2, params, filters=F, kernel_size=2, padding="same"),
    )
    assert by_position(x).shape == (B, *SPATIAL[2], F)
    np.testing.assert_array_equal(by_position(x, mask=MASK), by_name(x, mask=MASK))
    for args, match in [((0, 2), "filters: expected a positive integer, got 0"), ((F, 0), "kernel_size: expected")]:
        with pytest.raises(ValueError, match=match):
            layer(face, 2, params, *args)
    with pytest.raises(ValueError, match="inputs: expected at least 4 axes"):
        by_name(x[0, 0])
    with pytest.raises(ValueError, match="inputs: expected 3 features in the last axis, got 2"):
        by_name(x[..., :2])


@FACES
def test_dropout_is_active_in_training_alone(face: str) -> None:
    x = inputs(1)
    run = layer(face, 1, weights(1), F, 2, dropout=0.5, recurrent_dropout=0.5)
    plain = layer(face, 1, weights(1), F, 2)(x)
    keys: Any = ({"dropout": jax.random.key(1)}, {"dropout": jax.random.key(2)})
    if face == "nnx":
        keys = tuple(one["dropout"] for one in keys)
    first, second, again = (run(x, training=True, rngs=key) for key in (*keys, keys[0]))
    np.testing.assert_array_equal(run(x, training=False), plain)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != second) and np.any(first != plain)


@FACES
def test_stacks_change_the_spatial_axes_and_drop_accordingly(face: str) -> None:
    """Every cell of a stack gets masks of its own sizes, also where the stack takes single steps."""
    sizes: dict[str, Any] = {"dropout": 0.5, "recurrent_dropout": 0.5}
    x = inputs(2)
    if face == "nnx":
        rngs = nnx.Rngs(0)
        cells = [
            nnx_face.ConvLSTM2DCell(C, F, 2, rngs=rngs, **sizes),
            nnx_face.ConvLSTM2DCell(F, 4, 3, rngs=rngs, **sizes),
        ]
        stack: Any = nnx_face.StackedRNNCells(cells)
        whole = nnx_face.RNN(stack)(x)
        carry = stack.initialize_carry(x[:, 0].shape)
        carry, step = stack(carry, x[:, 0])
    else:
        make: Any = linen_face.StackedRNNCells
        stack = make((linen_face.ConvLSTM2DCell(F, 2, **sizes), linen_face.ConvLSTM2DCell(4, 3, **sizes)))
        rnn: Any = linen_face.RNN
        run = rnn(stack, deterministic=False)
        variables = run.init({"params": KEY, "dropout": KEY}, x)
        whole = run.apply(variables, x, rngs={"dropout": KEY})
        carry = stack.initialize_carry(KEY, x[:, 0].shape)
        carry, step = stack.clone(deterministic=False).apply(
            {"params": variables["params"]["cell"]}, carry, x[:, 0], rngs={"dropout": KEY}
        )
    assert whole.shape == step.shape == (B, 2, 3, 4)
    assert [leaf.shape for leaf in jax.tree.leaves(carry)] == [(B, 4, 5, F)] * 2 + [(B, 2, 3, 4)] * 2


def test_both_directions_are_those_of_keras() -> None:
    keras = pytest.importorskip("keras")
    x = inputs(1)
    options: dict[str, Any] = {"padding": "same", "return_sequences": True}
    theirs = keras.layers.Bidirectional(keras.layers.ConvLSTM1D(F, 2, **options))
    theirs.build(x.shape)
    forward, backward = weights(1), jax.tree.map(lambda leaf: -leaf[::-1], weights(1))
    names = ("kernel", "recurrent_kernel", "bias")
    theirs.set_weights([np.asarray(params[name]) for params in (forward, backward) for name in names])
    module: Any = linen_face.Bidirectional(linen_face.ConvLSTM1D(F, 2, **options))
    params = {"forward_layer": {"cell": forward}, "backward_layer": {"cell": backward}}
    np.testing.assert_allclose(module.apply({"params": params}, x, mask=None), theirs(x), atol=2e-6)
    both = nnx_face.Bidirectional(nnx_face.ConvLSTM1D(C, F, 2, rngs=nnx.Rngs(0), **options), rngs=nnx.Rngs(1))
    nnx.update(both, params)
    np.testing.assert_allclose(both(x), theirs(x), atol=2e-6)
