"""Convolutional LSTMs through files and lists of the installed Keras and back, in both faces."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import flax_rnn.linen as ours_linen
import flax_rnn.nnx as ours_nnx
from flax_rnn import ConvLSTM1DCell, ConvLSTM2DCell, ConvLSTM3DCell, rnn
from flax_rnn.convert import ConversionError, from_cudnn, from_keras, load, save, to_keras
from flax_rnn.time_distributed import time_distributed

keras = pytest.importorskip("keras")
pytest.importorskip("h5py")

B, T, C, F = 2, 3, 2, 3
FORMATS = ["keras", "weights.h5", "h5"]
WINDOWS = {1: (3,), 2: (2, 3), 3: (1, 2, 3)}
SPATIAL = {1: (6,), 2: (5, 6), 3: (3, 4, 5)}
CASES = [(1, None), (2, None), (3, None), (1, "Bidirectional"), (2, "Bidirectional"), (2, "TimeDistributed")]
OPTIONS: dict[str, Any] = {"padding": "same", "return_sequences": True}
LAYERS = {"conv": "ConvLSTM", "logits": "Dense"}


def keras_model(rank: int, wrapper: str | None) -> Any:
    layers = keras.layers
    layer: Any = getattr(layers, f"ConvLSTM{rank}D")
    layer = layer(F, WINDOWS[rank], name="conv" if wrapper is None else None, **OPTIONS)
    layer = layer if wrapper is None else getattr(layers, wrapper)(layer, name="conv")
    inputs = keras.Input(shape(rank, wrapper)[1:])
    model = keras.Model(inputs, layers.Dense(2, name="logits")(layer(inputs)))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.6, w.shape) for w in model.get_weights()])
    return model


def shape(rank: int, wrapper: str | None) -> tuple[int, ...]:
    return (B, *(2,) * (wrapper == "TimeDistributed"), T, *SPATIAL[rank], C)


def run(layer: Any, wrapper: str | None, x: Any) -> Any:
    return time_distributed(layer, x) if wrapper == "TimeDistributed" else layer(x)


class Linen(nn.Module):
    rank: int
    wrapper: str | None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        layer: Any = getattr(ours_linen, f"ConvLSTM{self.rank}D")
        if self.wrapper == "Bidirectional":
            layer = ours_linen.Bidirectional(layer(F, WINDOWS[self.rank], **OPTIONS), name="conv")
        else:
            layer = layer(F, WINDOWS[self.rank], name="conv", **OPTIONS)
        return nn.Dense(2, name="logits")(run(layer, self.wrapper, x))


class NNX(nnx.Module):
    def __init__(self, rank: int, wrapper: str | None):
        rngs = nnx.Rngs(0)
        layer: Any = getattr(ours_nnx, f"ConvLSTM{rank}D")(C, F, WINDOWS[rank], rngs=rngs, **OPTIONS)
        self.conv = ours_nnx.Bidirectional(layer, rngs=rngs) if wrapper == "Bidirectional" else layer
        self.logits = nnx.Linear(2 * F if wrapper == "Bidirectional" else F, 2, rngs=rngs)
        self.wrapper = wrapper

    def __call__(self, x: Any) -> Any:
        return self.logits(run(self.conv, self.wrapper, x))


@pytest.mark.each(1, at_most=3, full=1)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("rank", "wrapper"), CASES)
def test_both_ways(rank: int, wrapper: str | None, name: str, tmp_path: Path) -> None:
    theirs = keras_model(rank, wrapper)
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape(rank, wrapper)), "f4")
    expected = np.asarray(theirs(x))
    path = tmp_path / f"model.{name}"
    theirs.save_weights(path) if name == "weights.h5" else theirs.save(path)

    module = load(path, NNX(rank, wrapper))
    np.testing.assert_allclose(module(x), expected, atol=1e-5)
    linen: Any = Linen(rank, wrapper)
    params = load(path, jax.eval_shape(linen.init, jax.random.key(0), x)["params"])
    np.testing.assert_allclose(linen.apply({"params": params}, x), expected, atol=1e-5)

    layers = LAYERS | {"conv": wrapper or f"ConvLSTM{rank}D"}
    for source in (module, params):
        path.unlink()
        save(path, source, layers, config=theirs.to_json() if name == "keras" else None)
        theirs.set_weights([np.zeros_like(w) for w in theirs.get_weights()])
        theirs.load_weights(path)
        np.testing.assert_array_equal(theirs(x), expected)


CELLS: dict[int, Any] = {1: ConvLSTM1DCell, 2: ConvLSTM2DCell, 3: ConvLSTM3DCell}


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("rank", CELLS)
def test_lists(rank: int) -> None:
    theirs = keras_model(rank, None)
    layer = theirs.get_layer("conv")
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape(rank, None)), "f4")
    expected = np.asarray(layer(x))
    cell = CELLS[rank](F, WINDOWS[rank], padding="same")
    params = from_keras(cell, layer.get_weights())
    np.testing.assert_allclose(rnn(cell, params, x, return_sequences=True), expected, atol=1e-5)
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    layer.set_weights(to_keras(params))
    np.testing.assert_array_equal(layer(x), expected)


def test_lists_of_a_pair_and_of_other_windows() -> None:
    theirs = keras_model(2, "Bidirectional").get_layer("conv").get_weights()
    cell = ConvLSTM2DCell(F, (2, 3))
    pair = from_keras((cell, cell), theirs)
    for ours, array in zip(to_keras(pair), theirs, strict=True):
        np.testing.assert_array_equal(ours, array)
    with pytest.raises(ConversionError, match=r"kernel: expected shape \(3, 2, 2, 12\), got \(2, 3, 2, 12\)"):
        from_keras((ConvLSTM2DCell(F, (3, 2)),) * 2, theirs)
    with pytest.raises(ConversionError, match=r"expected kernel \(\*K, D, g H\) .* got \(2, 3, 2, 12\) and \(3, 12\)"):
        to_keras(pair[0] | {"recurrent_kernel": np.ones((F, 4 * F))})
    with pytest.raises(ConversionError, match=r"bias: expected shape \(12,\), got \(11,\)"):
        to_keras(pair[0] | {"bias": np.ones(4 * F - 1)})
    with pytest.raises(
        ConversionError, match=r"expected kernel \(D, g H\) and recurrent_kernel \(H, g H\), got \(2, 3"
    ):
        from_cudnn(pair[0])


def test_a_stack_is_written_and_read(tmp_path: Path) -> None:
    """Keras has no such stacks in its API; the names are those that its cells would have."""
    rngs = nnx.Rngs(0)
    cells = [ours_nnx.ConvLSTM1DCell(C, F, 3, padding="same", rngs=rngs) for _ in range(1)]
    cells.append(ours_nnx.ConvLSTM1DCell(F, 2, 3, padding="same", rngs=rngs))
    module = nnx.Dict(stack=ours_nnx.RNN(cells, return_sequences=True))
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape(1, None)), "f4")
    expected = module["stack"](x)
    save(tmp_path / "ours.weights.h5", module, {"stack": "RNN"})
    nnx.update(module, jax.tree.map(jnp.zeros_like, nnx.state(module, nnx.Param)))
    load(tmp_path / "ours.weights.h5", module)
    np.testing.assert_array_equal(module["stack"](x), expected)
