"""The dropout masks of live Keras layers: drawn anew bit for bit, and their effect on outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from flax import nnx

import flax_rnn.nnx
from flax_rnn import DropoutMasks, GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells, rnn
from flax_rnn.cells.conv_lstm import ConvLSTM1DCell
from flax_rnn.keras_dropout import keras_masks

B, T, D, H = 3, 4, 5, 6
CELLS: dict[str, tuple[Any, Any]] = {
    "SimpleRNN": (SimpleRNNCell, keras.layers.SimpleRNN),
    "LSTM": (LSTMCell, keras.layers.LSTM),
    "GRU": (GRUCell, keras.layers.GRU),
}
RATES = {"dropout": (0.4, 0.0), "recurrent": (0.0, 0.3), "both": (0.4, 0.3)}


def random(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def set_random_weights(layer: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=weight.shape) * 0.5 for weight in layer.get_weights()])
    return layer.get_weights()


def params(weights: list[np.ndarray]) -> dict[str, jax.Array]:
    return dict(zip(("kernel", "recurrent_kernel", "bias"), map(jnp.asarray, weights), strict=True))


def record(cell: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where the masks will be that the Keras ``cell`` draws."""
    drawn, create = [], type(cell)._create_dropout_mask

    def spy(self: Any, *args: Any) -> Any:
        mask = create(self, *args)
        if self is cell:
            drawn.extend(mask if isinstance(mask, list) else [mask])
        return mask

    monkeypatch.setattr(type(cell), "_create_dropout_mask", spy)
    return drawn


def assert_bitwise_equal(ours: DropoutMasks, theirs: list[Any]) -> None:
    masks = [*(ours.inputs or ()), *(ours.recurrent or ())]
    assert len(masks) == len(theirs)
    for a, b in zip(masks, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.each(1)
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("name", CELLS)
def test_masks_and_outputs_equal_those_of_keras(name: str, rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = CELLS[name]
    dropout, recurrent_dropout = RATES[rates]
    options = {"dropout": dropout, "recurrent_dropout": recurrent_dropout}
    cell, layer = ours(H, **options), theirs(H, **options, seed=7, return_sequences=True)
    x = random(B, T, D)
    layer.build(x.shape)
    weights = params(set_random_weights(layer))
    drawn, count, outputs = record(layer.cell, monkeypatch), 0, []
    for _ in range(2):
        drawn.clear()
        expected = layer(x, training=True)
        masks, count = keras_masks(cell, 7, jnp.asarray(x[:, 0]), count)
        assert_bitwise_equal(masks, drawn)
        assert layer.cell.seed_generator.state.value.tolist() == [7, count]
        outputs.append(rnn(cell, weights, x, dropout_masks=masks, return_sequences=True))
        np.testing.assert_allclose(outputs[-1], expected, rtol=1e-6, atol=1e-6)
    assert not np.allclose(*outputs, atol=1e-2)


def test_stack_has_a_seed_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ({"dropout": 0.4, "recurrent_dropout": 0.3}, {"dropout": 0.5})
    types = ("LSTM", "GRU")
    sizes = (H, 7)
    stack = StackedRNNCells([CELLS[t][0](n, **o) for t, n, o in zip(types, sizes, options, strict=True)])
    cells = [
        getattr(keras.layers, f"{t}Cell")(n, **o, seed=seed)
        for t, n, o, seed in zip(types, sizes, options, (3, 4), strict=True)
    ]
    layer: Any = keras.layers.RNN(cells, return_sequences=True)
    x = random(B, T, D)
    layer.build(x.shape)
    weights = set_random_weights(layer)
    drawn = [record(cell, monkeypatch) for cell in cells]
    counts: Any = 0
    for _ in range(2):
        for masks in drawn:
            masks.clear()
        expected = layer(x, training=True)
        masks, counts = keras_masks(stack, (3, 4), jnp.asarray(x[:, 0]), counts)
        for own, their in zip(masks, drawn, strict=True):
            assert_bitwise_equal(own, their)
        assert tuple(int(cell.seed_generator.state.value[1]) for cell in cells) == counts
        split = tuple(params(weights[3 * k : 3 * k + 3]) for k in range(2))
        outputs = rnn(stack, split, x, dropout_masks=masks, return_sequences=True)
        np.testing.assert_allclose(outputs, expected, rtol=1e-6, atol=1e-6)


def test_convolutional_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"strides": 2, "dropout": 0.4, "recurrent_dropout": 0.3}
    layer: Any = keras.layers.ConvLSTM1D(H, 3, **options, seed=7)
    x = random(B, T, 9, D)
    layer.build(x.shape)
    weights = params(set_random_weights(layer))
    drawn = record(layer.cell, monkeypatch)
    expected = layer(x, training=True)
    cell = ConvLSTM1DCell(H, 3, **options)
    masks, _ = keras_masks(cell, 7, jnp.asarray(x[:, 0]))
    assert_bitwise_equal(masks, drawn)
    np.testing.assert_allclose(rnn(cell, weights, x, dropout_masks=masks), expected, rtol=1e-5, atol=1e-6)


def test_inference_draws_too() -> None:
    layer: Any = keras.layers.LSTM(H, dropout=0.4, recurrent_dropout=0.3, seed=7)
    x = random(B, T, D)
    layer(x)
    weights = params(set_random_weights(layer))
    cell = LSTMCell(H, dropout=0.4, recurrent_dropout=0.3)
    _, count = keras_masks(cell, 7, jnp.asarray(x[:, 0]))
    masks, _ = keras_masks(cell, 7, jnp.asarray(x[:, 0]), count)
    outputs = rnn(cell, weights, x, dropout_masks=masks)
    np.testing.assert_allclose(outputs, layer(x, training=True), rtol=1e-6, atol=1e-6)


def test_masks_have_the_dtype_of_the_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    layer: Any = keras.layers.LSTM(H, dropout=0.1, recurrent_dropout=0.3, seed=2**32 - 1, dtype="mixed_bfloat16")
    x = random(B, T, D)
    layer.build(x.shape)
    drawn = record(layer.cell, monkeypatch)
    layer(x, training=True)
    cell = LSTMCell(H, dropout=0.1, recurrent_dropout=0.3, dtype=jnp.bfloat16)
    masks, _ = keras_masks(cell, 2**32 - 1, jnp.asarray(x[:, 0]))
    assert_bitwise_equal(masks, drawn)
    assert drawn[0].dtype == jnp.bfloat16


def test_count_may_be_traced() -> None:
    x, stack = jnp.ones((B, D)), StackedRNNCells((GRUCell(H, dropout=0.4, recurrent_dropout=0.3), LSTMCell(H)))
    expected = keras_masks(stack, (7, 8), x, (12, 0))
    result = jax.jit(lambda counts: keras_masks(stack, (7, 8), x, counts))((12, 0))
    assert result[1] == (18, 0)
    assert jax.tree.all(jax.tree.map(np.array_equal, result, expected))


def test_cell_without_dropout_draws_nothing() -> None:
    assert keras_masks(LSTMCell(H), 7, jnp.ones((B, D)), 3) == (None, 3)
    stack = StackedRNNCells((LSTMCell(H), LSTMCell(H)))
    assert keras_masks(stack, (7, 8), jnp.ones((B, D))) == ((None, None), (0, 0))


@pytest.mark.parametrize("pair", ["directions", "cells of a stack"])
def test_cells_of_one_seed_have_masks_of_their_own_unlike_in_keras(pair: str) -> None:
    x, ones = random(B, T, D), jnp.ones((40, 50))
    if pair == "directions":
        layer: Any = keras.layers.Bidirectional(keras.layers.LSTM(D, dropout=0.5, seed=7))
        layer.build(x.shape)
        theirs = layer.forward_layer.cell, layer.backward_layer.cell
        # ``test_dropout`` shows that directions have the keys of this.
        ours = [LSTMCell(D, dropout=0.5).dropout_masks(jax.random.fold_in(jax.random.key(7), k), ones) for k in (0, 1)]
    else:
        theirs = [keras.layers.LSTMCell(D, dropout=0.5, seed=7) for _ in range(2)]
        keras.layers.RNN(theirs).build(x.shape)
        ours = StackedRNNCells([LSTMCell(50, dropout=0.5)] * 2).dropout_masks(jax.random.key(7), ones)
    same = [np.asarray(cell.get_dropout_mask(ones)) for cell in theirs]
    np.testing.assert_array_equal(same[0], same[1])
    first, second = (np.asarray(masks.inputs[0]) for masks in ours if masks and masks.inputs)
    assert 0.4 < np.mean(first == second) < 0.6


def test_a_rate_of_1_is_refused_unlike_in_keras() -> None:
    # Keras drops nothing then in a step, and everything in the fast path of a GRU.
    x, layers = random(B, T, D), keras.layers
    slow: Any = {"use_cudnn": False}
    for layer in (layers.LSTM(H, dropout=1.0), layers.GRU(H, dropout=1.0, **slow)):
        np.testing.assert_array_equal(layer(x, training=True), layer(x))
    assert not np.any(np.asarray(layers.GRU(H, dropout=1.0)(x, training=True)))
    assert layers.LSTM(H, dropout=1.7).dropout == 1
    for rate in (1.0, 1.7):
        with pytest.raises(ValueError, match=r"^dropout: expected a rate in \[0, 1\), got "):
            LSTMCell(H, dropout=rate)


def test_inference_draws_nothing_unlike_in_keras() -> None:
    x = jnp.asarray(random(B, T, D))
    layer: Any = keras.layers.LSTM(H, dropout=0.4, seed=7)
    layer(x)
    assert layer.cell.seed_generator.state.value.tolist() == [7, 1]
    ours, again = (flax_rnn.nnx.LSTM(D, H, dropout=0.4, rngs=nnx.Rngs(0)) for _ in range(2))
    ours(x, training=False)
    np.testing.assert_array_equal(ours(x), again(x))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_every_implementation_drops_inputs_alone_unlike_in_keras(name: str) -> None:
    # Keras' first implementation has a list of masks here, where its fast path expects one.
    ours, theirs = CELLS[name]
    x = random(B, T, D)
    with pytest.raises(ValueError, match="broadcast"):
        theirs(H, dropout=0.4, implementation=1)(x, training=True)
    cell = ours(H, dropout=0.4)
    weights = cell.init_params(jax.random.key(0), D)
    scan, fused = (
        rnn(cell, weights, x, dropout_key=jax.random.key(1), implementation=how) for how in ("scan", "fused")
    )
    np.testing.assert_allclose(scan, fused, atol=1e-6)
    assert np.any(np.asarray(scan) != rnn(cell, weights, x))


def test_errors_name_the_argument() -> None:
    x, cell = jnp.ones((B, D)), LSTMCell(H, dropout=0.5)
    for seed in (-1, 2**32, 0.5, None, True):
        with pytest.raises(ValueError, match=r"seed: expected an integer in \[0, 2\^32\), got "):
            keras_masks(cell, seed, x)
    with pytest.raises(TypeError, match=r"cell: expected a built-in cell of flax_rnn, got str"):
        keras_masks("LSTM", 1, x)  # pyright: ignore[reportArgumentType]
    stack = StackedRNNCells((cell, cell))
    for seeds, counts, name in ((7, 0, "seed"), ((7,), 0, "seed"), ((7, 8), 1, "count"), ((7, 8), (1, 2, 3), "count")):
        with pytest.raises(ValueError, match=rf"{name}: expected one for each of 2 cells, got "):
            keras_masks(stack, seeds, x, counts)
