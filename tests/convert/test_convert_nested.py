"""Keras models in models, with stacks and wrapped layers in them, through files of the installed Keras and back."""

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
from flax_rnn.convert import ConversionError, load, read, save
from flax_rnn.time_distributed import time_distributed

keras = pytest.importorskip("keras")
pytest.importorskip("h5py")

B, N, T, D, H = 2, 2, 5, 4, 3
X = np.random.default_rng(1).normal(size=(B, N, T, D)).astype("f4")
FORMATS = ["keras", "weights.h5", "h5"]
LAYERS = {
    "each": "TimeDistributed", "each/low": "LSTM", "each/inner": "Functional", "each/inner/both": "Bidirectional",
    "each/inner/norm": "BatchNormalization", "each/inner/stack": "RNN", "each/inner/proj": "Dense",
    "augment": "Sequential", "wrapped": "TimeDistributed", "top": "Functional", "top/gru": "GRU", "top/logits": "Dense",
}  # fmt: skip
NAMES = {"each": "encoder", "each/inner": "encoder/core", "top/gru": "gru", "top/logits": "logits"}


def keras_model() -> Any:
    """Sequential and functional models, in each other and in a ``TimeDistributed``."""
    layers = keras.layers
    core_in = keras.Input((T, H))
    both = layers.Bidirectional(layers.GRU(2, return_sequences=True, reset_after=False), name="both")
    cells = [layers.LSTMCell(2), layers.GRUCell(3), layers.LSTMCell(4, use_bias=False)]
    x = layers.BatchNormalization(epsilon=1e-5, name="norm")(both(core_in))
    x = layers.RNN(cells, return_sequences=True, name="stack")(x)
    core = keras.Model(core_in, layers.Dense(H, name="proj")(x), name="inner")
    low = layers.LSTM(H, return_sequences=True, name="low")
    encoder = keras.Sequential([keras.Input((T, D)), low, layers.Dropout(0.5), core], name="encoder")
    augment = keras.Sequential([keras.Input((N, T, H)), layers.GaussianNoise(0.1)], name="augment")
    top_in = keras.Input((N, 4))
    top = keras.Model(top_in, layers.Dense(2, name="logits")(layers.GRU(H, name="gru")(top_in)), name="top")
    inputs = keras.Input((N, T, D))
    x = augment(layers.TimeDistributed(encoder, name="each")(inputs))
    x = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(2)), name="wrapped")(x)
    return keras.Model(inputs, top(x))


def random_arrays(like: list[Any], seed: int = 0) -> list[np.ndarray]:
    """Random ones; a variance among them has to be positive."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.2, 1.2, np.shape(array)) * rng.choice([-1, 1]) for array in like]


class Core(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        forward = ours_nnx.GRU(H, 2, reset_after=False, return_sequences=True, rngs=rngs)
        self.both = ours_nnx.Bidirectional(forward, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        cells = [
            ours_nnx.LSTMCell(4, 2, rngs=rngs),
            ours_nnx.GRUCell(2, 3, rngs=rngs),
            ours_nnx.LSTMCell(3, 4, use_bias=False, rngs=rngs),
        ]
        self.stack = ours_nnx.RNN(cells, return_sequences=True)
        self.proj = nnx.Linear(4, H, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.proj(self.stack(self.norm(self.both(x))))


class Encoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.low = ours_nnx.LSTM(D, H, return_sequences=True, rngs=rngs)
        self.core = Core(rngs)

    def __call__(self, x: Any) -> Any:
        return self.core(self.low(x))


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.encoder = Encoder(rngs)
        self.wrapped = ours_nnx.Bidirectional(ours_nnx.LSTM(H, 2, rngs=rngs), rngs=rngs)
        self.gru = ours_nnx.GRU(4, H, rngs=rngs)
        self.logits = nnx.Linear(H, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.logits(self.gru(time_distributed(self.wrapped, time_distributed(self.encoder, x))))


def random_model(seed: int = 2) -> Model:
    module = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    leaves, structure = jax.tree.flatten(state)
    rng = np.random.default_rng(seed)
    nnx.update(module, structure.unflatten(jnp.asarray(rng.uniform(0.1, 1, a.shape), a.dtype) for a in leaves))
    return module


@pytest.fixture(scope="module")
def theirs() -> Any:
    model = keras_model()
    norm = model.get_layer("each").layer.get_layer("inner").get_layer("norm")
    model.set_weights(random_arrays(model.get_weights()))
    norm.set_weights([np.abs(array) for array in norm.get_weights()])
    return model


def write(model: Any, path: Path) -> str | None:
    """Saves a model of Keras; what else is needed to read it."""
    is_weights = path.name.endswith("weights.h5")
    model.save_weights(path) if is_weights else model.save(path)
    return model.to_json() if is_weights else None


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", FORMATS)
def test_load(theirs: Any, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{name}"
    config = write(theirs, path)
    assert [*read(path, config=config)] == [
        "each/low", "each/inner/both", "each/inner/norm", "each/inner/stack", "each/inner/proj", "wrapped", "top/gru",
        "top/logits",
    ]  # fmt: skip
    module = load(path, random_model(), NAMES, config=config)
    np.testing.assert_allclose(module(X), theirs(X), atol=1e-5)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", FORMATS)
def test_frozen_layers(theirs: Any, name: str, tmp_path: Path) -> None:
    """A legacy file has what is frozen last, in whatever layer it is."""
    frozen = keras_model()
    frozen.set_weights(theirs.get_weights())
    core = frozen.get_layer("each").layer.get_layer("inner")
    core.get_layer("both").forward_layer.trainable = False
    core.get_layer("stack").cell.cells[0].trainable = False
    frozen.get_layer("wrapped").layer.forward_layer.trainable = False
    path = tmp_path / f"model.{name}"
    config = write(frozen, path)
    module = load(path, random_model(), NAMES, config=config)
    np.testing.assert_allclose(module(X), theirs(X), atol=1e-5)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", [*FORMATS, "keras with their config"])
def test_save(name: str, tmp_path: Path) -> None:
    """What the installed Keras makes of our files."""
    module = random_model()
    theirs = keras_model()
    path = tmp_path / f"ours.{name.split()[0]}"
    config = theirs.to_json()
    save(path, module, LAYERS, NAMES, config=config if path.suffix == ".keras" else None)
    if name == "keras with their config":
        theirs = keras.models.load_model(path)
    else:
        theirs.load_weights(path)
    np.testing.assert_allclose(theirs(X), module(X), atol=1e-5)
    again = load(path, random_model(3), NAMES, config=config)
    np.testing.assert_array_equal(again(X), module(X))


@pytest.mark.full
def test_save_several_models_of_a_class(tmp_path: Path) -> None:
    """They are told apart by their order."""

    def part(name: str) -> Any:
        return keras.Sequential(
            [keras.Input((T, D)), keras.layers.GRU(D, return_sequences=True, name="gru")], name=name
        )

    theirs = keras.Sequential([keras.Input((T, D)), part("b"), part("a"), keras.layers.GRU(D, name="gru")])
    rngs = nnx.Rngs(0)
    module = nnx.Dict(
        first=ours_nnx.GRU(D, D, return_sequences=True, rngs=rngs),
        second=ours_nnx.GRU(D, D, return_sequences=True, rngs=rngs),
        last=ours_nnx.GRU(D, D, rngs=rngs),
    )
    layers = {"b": "Sequential", "b/gru": "GRU", "a": "Sequential", "a/gru": "GRU", "gru": "GRU"}
    names = {"b/gru": "first", "a/gru": "second", "gru": "last"}
    expected = module["last"](module["second"](module["first"](X[0])))
    for suffix in ("weights.h5", "h5"):
        save(tmp_path / f"ours.{suffix}", module, layers, names)
        theirs.set_weights([np.zeros_like(array) for array in theirs.get_weights()])
        theirs.load_weights(tmp_path / f"ours.{suffix}")
        np.testing.assert_allclose(theirs(X[0]), expected, atol=1e-5)


def test_save_long_lists(tmp_path: Path) -> None:
    """A list of names may be longer than an attribute of HDF5."""
    names = [f"{'x' * 500}{index}" for index in range(70)]
    inner = keras.Sequential([keras.Input((1,)), *(keras.layers.Dense(1, name=name) for name in names)], name="inner")
    theirs = keras.Sequential([keras.Input((1,)), inner])
    expected = random_arrays(theirs.get_weights())
    pairs = zip(names, expected[::2], expected[1::2], strict=True)
    source = {name: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)} for name, kernel, bias in pairs}
    layers = {"inner": "Sequential"} | {f"inner/{name}": "Dense" for name in names}
    save(tmp_path / "ours.h5", source, layers, {"inner": ""})
    theirs.load_weights(tmp_path / "ours.h5")
    for array, weight in zip(expected, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(weight, array, rtol=1e-6)


def test_save_names_models(tmp_path: Path) -> None:
    with pytest.raises(
        ConversionError, match=r"the class of every model that has layers, got none of \['each/inner'\]"
    ):
        save(tmp_path / "x.h5", random_model(), {n: c for n, c in LAYERS.items() if n != "each/inner"}, NAMES)
    assert not list(tmp_path.iterdir())


# linen takes cells for parts of the module that builds them.
STACK_NAMES: dict[str, Any] = {"inner/stack": ["LSTMCell_0", "GRUCell_0", "LSTMCell_1"], "inner/low": "lowest"}


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = ours_linen.LSTM(H, return_sequences=True, name="lowest")(x)
        cells = ours_linen.LSTMCell(2), ours_linen.GRUCell(3, reset_after=False), ours_linen.LSTMCell(4, use_bias=False)
        rnn: Any = ours_linen.RNN
        x = rnn(cells, return_sequences=True, name="stack")(x)
        return nn.Dense(2, name="logits")(x)


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", FORMATS)
def test_linen(name: str, tmp_path: Path) -> None:
    """There and back, with the cells of a stack in places of their own."""
    layers = keras.layers
    cells = [layers.LSTMCell(2), layers.GRUCell(3, reset_after=False), layers.LSTMCell(4, use_bias=False)]
    low = layers.LSTM(H, return_sequences=True, name="low")
    stack = layers.RNN(cells, return_sequences=True, name="stack")
    inner = keras.Sequential([keras.Input((T, D)), low, stack], name="inner")
    theirs = keras.Sequential([keras.Input((T, D)), inner, layers.Dense(2, name="logits")])
    theirs.set_weights(random_arrays(theirs.get_weights()))
    x, expected = X[0], np.asarray(theirs(X[0]))
    path = tmp_path / f"model.{name}"
    config = write(theirs, path)
    module: Any = LinenModel()
    params = load(path, jax.eval_shape(module.init, jax.random.key(0), x)["params"], STACK_NAMES, config=config)
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)
    kinds = {"inner": "Sequential", "inner/low": "LSTM", "inner/stack": "RNN", "logits": "Dense"}
    save(path, params, kinds, STACK_NAMES, config=theirs.to_json() if name == "keras" else None)
    theirs.set_weights([np.zeros_like(array) for array in theirs.get_weights()])
    theirs.load_weights(path)
    np.testing.assert_array_equal(theirs(x), expected)
