"""Models of the installed Keras, through its own files into ours and back."""

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
from flax_rnn.convert.layouts import snake_case

keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
to_snake_case = pytest.importorskip("keras.src.utils.naming").to_snake_case

B, T, D, H, WORDS = 3, 5, 4, 3, 11
KEY = jax.random.key(0)
TOKENS: Any = np.array([[4, 2, 0, 9, 0], [1, 0, 0, 0, 0], [3, 5, 10, 7, 8]])
FORMATS = ["keras", "weights.h5", "h5"]
LAYERS = {"embedding": "Embedding", "both": "Bidirectional", "top": "GRU", "logits": "Dense"}


def keras_model() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((T,), dtype="int32"),
            layers.Embedding(WORDS, D, mask_zero=True, name="embedding"),
            layers.Dropout(0.1),
            layers.Bidirectional(layers.LSTM(H, return_sequences=True), name="both"),
            layers.GRU(H, name="top"),
            layers.Dense(2, name="logits"),
        ]
    )


def trained(seed: int = 0) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras_model()
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.6, w.shape) for w in model.get_weights()])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(rng.integers(0, WORDS, (8, T)), rng.integers(0, 2, 8), epochs=2, verbose=0)
    return model


class NNXModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(WORDS, D, rngs=rngs)
        self.both = ours_nnx.Bidirectional(ours_nnx.LSTM(D, H, return_sequences=True, rngs=rngs), rngs=rngs)
        self.top = ours_nnx.GRU(2 * H, H, rngs=rngs)
        self.logits = nnx.Linear(H, 2, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        mask = jnp.asarray(tokens) != 0
        x: Any = self.both(self.embedding(jnp.asarray(tokens)), mask=mask)
        return self.logits(self.top(x, mask=mask))


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        mask = jnp.asarray(tokens) != 0
        x = nn.Embed(WORDS, D, name="embedding")(jnp.asarray(tokens))
        x = ours_linen.Bidirectional(ours_linen.LSTM(H, return_sequences=True), name="both")(x, mask=mask)
        return nn.Dense(2, name="logits")(ours_linen.GRU(H, name="top")(x, mask=mask))


def randomized(tree: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.6, leaf.shape), leaf.dtype), tree)


def linen_params(module: nn.Module, *inputs: Any) -> Any:
    return randomized(jax.eval_shape(module.init, KEY, *inputs)["params"])


def run_linen(module: nn.Module, params: Any, inputs: Any) -> Any:
    return module.apply({"params": params}, inputs)


def nnx_model(cls: Any) -> Any:
    """A model with random weights, without the time to initialize them."""
    module = nnx.eval_shape(lambda: cls(nnx.Rngs(0)))
    nnx.update(module, randomized(nnx.state(module, nnx.Param)))
    return module


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Path]]:
    """A trained model, and the files of it."""
    model = trained()
    folder = tmp_path_factory.mktemp("saved")
    paths = {name: folder / f"model.{name}" for name in FORMATS}
    model.save(paths["keras"])
    model.save(paths["h5"])
    model.save_weights(paths["weights.h5"])
    return model, paths


@pytest.mark.each(1, at_most=1)
@pytest.mark.parametrize("name", FORMATS)
def test_one_call_loads_a_trained_model(saved: Any, name: str) -> None:
    model, paths = saved
    expected = np.asarray(model(TOKENS))
    module = nnx_model(NNXModel)
    assert load(paths[name], module) is module
    np.testing.assert_allclose(module(TOKENS), expected, atol=1e-5)
    shapes = jax.eval_shape(lambda: linen_params(LinenModel(), TOKENS))
    params = load(paths[name], shapes)
    np.testing.assert_allclose(run_linen(LinenModel(), params, TOKENS), expected, atol=1e-5)
    without_mask = np.asarray(model(np.where(TOKENS == 0, 1, TOKENS)))
    assert np.abs(without_mask - expected).max() > 1e-2


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_save(saved: Any, api: str, tmp_path: Path) -> None:
    """What live Keras makes of our files: weights into a model, and a model that it builds itself."""
    model, _ = saved
    if api == "nnx":
        source: Any = nnx_model(NNXModel)
        expected = source(TOKENS)
    else:
        source = linen_params(LinenModel(), TOKENS)
        expected = run_linen(LinenModel(), source, TOKENS)
    save(tmp_path / "ours.weights.h5", source, LAYERS)
    theirs = keras_model()
    theirs.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_allclose(theirs(TOKENS), expected, atol=1e-5)
    save(tmp_path / "ours.keras", source, LAYERS, config=model.to_json())
    theirs = keras.models.load_model(tmp_path / "ours.keras")
    np.testing.assert_allclose(theirs(TOKENS), expected, atol=1e-5)
    for file in ("ours.weights.h5", "ours.keras"):
        again = load(tmp_path / file, jax.eval_shape(lambda: linen_params(LinenModel(), TOKENS)))
        np.testing.assert_array_equal(run_linen(LinenModel(), again, TOKENS), expected)


# --- other models and layers ------------------------------------------------------------------------------------------


def test_names_of_groups() -> None:
    """As Keras derives them from the names of its classes."""
    classes = [name for name in dir(keras.layers) if name[0].isupper()]
    assert len(classes) > 100
    for name in [*classes, "Functional", "CuDNNLSTM", "Package>LSTM"]:
        assert snake_case(name) == to_snake_case(name.rpartition(">")[2]), name


def test_a_subclassed_model(tmp_path: Path) -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embed = keras.layers.Embedding(WORDS, D, name="embedding")
            self.parts = [keras.layers.LSTM(H, name="lstm"), keras.layers.Dense(2, name="logits")]

        def call(self, x: Any) -> Any:
            return self.parts[1](self.parts[0](self.embed(x)))

    model = Model()
    model(TOKENS)
    model.save_weights(tmp_path / "model.weights.h5")
    layers = read(tmp_path / "model.weights.h5")
    assert {*layers} == {"embedding", "lstm", "logits"}
    for mine, theirs in zip(layers["lstm"].arrays, model.parts[0].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_batch_normalization(tmp_path: Path) -> None:
    """In nnx; linen has its statistics in another collection than its parameters."""
    layer = keras.layers.BatchNormalization(epsilon=1e-5, name="norm")
    model = keras.Sequential([keras.Input((D,)), layer])
    layer.set_weights([np.random.default_rng(index).uniform(0.5, 2, D) for index in range(4)])
    model.save(tmp_path / "model.keras")
    module = load(tmp_path / "model.keras", nnx.Dict(norm=nnx.BatchNorm(D, rngs=nnx.Rngs(0))))
    x = np.random.default_rng(9).normal(size=(B, D)).astype("f4")
    np.testing.assert_allclose(module["norm"](x, use_running_average=True), model(x), atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_bfloat16(name: str, tmp_path: Path) -> None:
    layers = keras.layers
    # No orthogonal start: on JAX Keras has none of bfloat16, and silently builds the model without further weights.
    model = keras.Sequential(
        [keras.Input((T, D)), layers.GRU(H, name="gru", dtype="bfloat16", recurrent_initializer="zeros")]
    )
    path = tmp_path / f"model.{name}"
    model.save_weights(path) if name == "weights.h5" else model.save(path)
    module = nnx.Dict(gru=ours_nnx.GRU(D, H, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    load(path, module)
    expected = [np.asarray(w) for w in model.layers[0].get_weights()]
    for ours, theirs in zip(module["gru"].cell.params.values(), expected, strict=True):
        assert ours.dtype == jnp.bfloat16 == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    save(tmp_path / "ours.weights.h5", module, {"gru": "GRU"})
    model.set_weights([np.zeros_like(w) for w in expected])
    model.load_weights(tmp_path / "ours.weights.h5")
    for ours, theirs in zip(model.layers[0].get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_strict(saved: Any) -> None:
    model, paths = saved
    module = nnx_model(NNXModel)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    for names, message in [
        ({"both": "top"}, r"layer 'both': expected \d+ arrays .*kernel \(6, 9\).*, got 6 of shapes"),
        ({"logits": "head"}, r"for every layer, found none for \['logits \(at head\)'\].*logits/kernel"),
        ({"nothing": "top"}, r"names: expected names of layers with weights.*got \['nothing'\]"),
    ]:
        with pytest.raises(ConversionError, match=message):
            load(paths["keras"], module, names)
    after = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, after, before)

    module.extra = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ConversionError, match=r"every parameter, found none for \['extra/bias', 'extra/kernel'\]"):
        load(paths["keras"], module)
    load(paths["keras"], module, strict=False)
    np.testing.assert_allclose(module(TOKENS), model(TOKENS), atol=1e-5)
    logits = {"logits": nnx.to_pure_dict(nnx.state(nnx_model(NNXModel), nnx.Param))["logits"]}
    with pytest.raises(ConversionError, match="embedding"):
        load(paths["keras"], logits)
    np.testing.assert_array_equal(
        load(paths["keras"], logits, strict=False)["logits"]["kernel"], model.layers[-1].get_weights()[0]
    )
    with pytest.raises(ConversionError, match="found none for"):
        load(paths["keras"], {"other": logits}, strict=False)


def test_shapes_and_targets(saved: Any) -> None:
    _, paths = saved
    params = linen_params(LinenModel(), TOKENS)
    wrong = params | {"logits": {"kernel": jnp.ones((H, 5)), "bias": jnp.ones(5)}}
    with pytest.raises(ConversionError, match=r"layer 'logits': kernel: expected shape \(3, 5\), got \(3, 2\)"):
        load(paths["h5"], wrong)
    unknown = params | {"logits": {"scales": jnp.ones(2)}}
    with pytest.raises(ConversionError, match=r"target: logits: expected the parameters of a layer known here"):
        load(paths["h5"], unknown)
    integers = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.int32), params)
    with pytest.raises(ConversionError, match="floating-point numbers, got dtype int32"):
        load(paths["h5"], integers)
    with pytest.raises(ConversionError, match=r"a dict of parameters or an nnx\.Module, got int"):
        load(paths["h5"], 3)
    with pytest.raises(ConversionError, match="expected an array at top, got NoneType"):
        load(paths["h5"], params | {"top": None})
    low = load(paths["h5"], jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(low))


def test_save_errors(tmp_path: Path) -> None:
    params = linen_params(LinenModel(), TOKENS)
    path = tmp_path / "ours.weights.h5"
    for layers, message in [
        (LAYERS | {"more": "Dense"}, "expected parameters of layer 'more' at more, found none"),
        ({"top": "GRU"}, r"one layer for every parameter, found none or several for \['.*both/forward_layer/"),
    ]:
        with pytest.raises(ConversionError, match=message):
            save(path, params, layers)
    with pytest.raises(ConversionError, match=r"expected it to end with \.weights\.h5, \.h5 or \.keras"):
        save(tmp_path / "ours.hdf5", params, LAYERS)
    with pytest.raises(ConversionError, match=r"config: expected it for \.keras"):
        save(tmp_path / "ours.keras", params, LAYERS)
    assert not list(tmp_path.iterdir())
