"""Layers with CuDNN's weights and plain ones, each from files of the other, in both faces."""

import json
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
h5py = pytest.importorskip("h5py")

B, N, T, D, H = 2, 2, 4, 3, 2
X = jnp.asarray(np.random.default_rng(1).normal(size=(B, N, T, D)), "f4")
NAMES = {"part": ""}
"""The layers are ``part/low`` and ``part/both``, of a model in a model, and ``each``, in a ``TimeDistributed``."""


def keras_model(kind: str, **options: Any) -> Any:
    """The plain layers in the installed Keras, which has no others."""
    layers, cls = keras.layers, getattr(keras.layers, kind)
    low = cls(H, return_sequences=True, name="low", **options)
    both = layers.Bidirectional(cls(H, return_sequences=True, **options), name="both")
    part = keras.Sequential([keras.Input((N, 2 * H)), low, both], name="part")
    each = layers.TimeDistributed(layers.Bidirectional(cls(H, **options)), name="each")
    model = keras.Sequential([keras.Input((N, T, D)), each, part])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.6, w.shape) for w in model.get_weights()])
    return model


class NNX(nnx.Module):
    def __init__(self, kind: str):
        rngs, cls = nnx.Rngs(0), getattr(ours_nnx, kind)
        self.each = ours_nnx.Bidirectional(cls(D, H, rngs=rngs), rngs=rngs)
        self.low = cls(2 * H, H, return_sequences=True, rngs=rngs)
        self.both = ours_nnx.Bidirectional(cls(H, H, return_sequences=True, rngs=rngs), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.both(self.low(time_distributed(self.each, x)))


class Linen(nn.Module):
    kind: str

    @nn.compact
    def __call__(self, x: Any) -> Any:
        cls: Any = getattr(ours_linen, self.kind)
        x = time_distributed(ours_linen.Bidirectional(cls(H), name="each"), x)
        x = cls(H, return_sequences=True, name="low")(x)
        return ours_linen.Bidirectional(cls(H, return_sequences=True), name="both")(x)


def loaded(api: str, kind: str, path: Path, **options: Any) -> tuple[Any, Any]:
    """A model with the weights of a file, and its outputs."""
    if api == "nnx":
        module = load(path, NNX(kind), NAMES, **options)
        return module, module(X)
    linen = Linen(kind)
    shapes = jax.eval_shape(linen.init, jax.random.key(0), X)["params"]
    params = load(path, shapes, NAMES, **options)
    return params, linen.apply({"params": params}, X)


def plain_and_cudnn(kind: str) -> dict[str, str]:
    """Classes of the layers, as ``save`` takes them."""
    return {"each": "TimeDistributed", "part": "Sequential", "part/low": kind, "part/both": "Bidirectional"}


def cudnn_blocks(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The three arrays of a plain cell as Keras 2's CuDNN layers keep them; written out number by number."""
    kernel, recurrent, bias = (np.asarray(array) for array in arrays)
    gates = kernel.shape[1] // H
    stored, turned = np.empty_like(kernel), np.empty_like(recurrent)
    features = len(kernel)
    for gate in range(gates):
        flat = [kernel[row, gate * H + unit] for unit in range(H) for row in range(features)]
        stored[:, gate * H : (gate + 1) * H] = np.reshape(flat, (features, H))
        for row in range(H):
            turned[row, gate * H : (gate + 1) * H] = [recurrent[unit, gate * H + row] for unit in range(H)]
    # Any halves with the right sum will do for an LSTM.
    halves = [*bias] if gates == 3 else [0.25 * bias, 0.75 * bias]
    return [stored, turned, np.concatenate(halves)]


@pytest.fixture(params=["LSTM", "GRU"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.each(1)
@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_a_file_of_cudnn_layers(api: str, kind: str, is_whole: bool, tmp_path: Path) -> None:
    """As Keras 2 wrote it, into plain layers and into its own."""
    theirs = keras_model(kind)
    expected = theirs(X)
    weights = theirs.get_weights()
    cells = [cudnn_blocks(weights[index : index + 3]) for index in range(0, len(weights), 3)]
    names = ["each/forward", "each/backward", "part/low", "part/both/forward", "part/both/backward"]
    config = json.loads(theirs.to_json().replace(f'"class_name": "{kind}"', f'"class_name": "CuDNN{kind}"'))
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        root: Any = file.create_group("model_weights") if is_whole else file
        if is_whole:
            file.attrs["model_config"] = json.dumps(config)
        root.attrs["layer_names"] = [b"each", b"part"]
        for layer in ("each", "part"):
            arrays = {
                f"{name}/{leaf}:0": array
                for name, cell in zip(names, cells, strict=True)
                for leaf, array in zip(("kernel", "recurrent_kernel", "bias"), cell, strict=True)
                if name.startswith(layer)
            }
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group[name] = array
    text = None if is_whole else json.dumps(config)
    layers = read(path, config=text)
    assert {name: layer.class_name for name, layer in layers.items()} == {
        "each": "TimeDistributed", "part/low": f"CuDNN{kind}", "part/both": "Bidirectional"
    }  # fmt: skip
    _, outputs = loaded(api, f"CuDNN{kind}", path, config=text)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    _, outputs = loaded(api, kind, path, config=text, cudnn=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    with pytest.raises(ConversionError, match=r"layer '.*': bias: expected .*of a CuDNN layer; pass cudnn=True"):
        loaded(api, kind, path, config=text)


@pytest.mark.each(1, at_most=2, full=2)
@pytest.mark.parametrize("name", ["keras", "weights.h5", "h5"])
@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_a_file_of_plain_layers(api: str, kind: str, name: str, tmp_path: Path) -> None:
    """Into layers with CuDNN's weights, and from them back into Keras."""
    theirs = keras_model(kind)
    expected = np.asarray(theirs(X))
    path = tmp_path / f"model.{name}"
    theirs.save_weights(path) if name == "weights.h5" else theirs.save(path)
    config = theirs.to_json()
    with pytest.raises(ConversionError, match=r"layer '.*': bias: expected .*of a CuDNN layer; pass cudnn=True"):
        loaded(api, f"CuDNN{kind}", path, config=config)
    source, outputs = loaded(api, f"CuDNN{kind}", path, config=config, cudnn=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)

    text = config if name == "keras" else None
    save(path, source, plain_and_cudnn(kind), NAMES, cudnn=True, config=text)
    theirs.set_weights([np.zeros_like(w) for w in theirs.get_weights()])
    theirs.load_weights(path)
    np.testing.assert_allclose(theirs(X), expected, atol=1e-6)

    save(path, source, plain_and_cudnn(f"CuDNN{kind}"), NAMES, config=text)
    _, same = loaded(api, f"CuDNN{kind}", path, config=config)
    np.testing.assert_array_equal(same, outputs)
    with pytest.raises(ConversionError, match="pass cudnn=True"):
        loaded(api, kind, path, config=config)


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_what_cudnn_does_not_have(api: str, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    keras_model("GRU", reset_after=False).save(path)
    with pytest.raises(ConversionError, match=r"layer 'each'.*\(2, 6\), of a GRU with reset_after=True as CuDNNGRU is"):
        loaded(api, "CuDNNGRU", path, cudnn=True)
    keras_model("LSTM", use_bias=False).save(path)
    with pytest.raises(ConversionError, match=r"layer 'each': expected 6 arrays .*bias \(16,\).*, got 4 of shapes"):
        loaded(api, "CuDNNLSTM", path, cudnn=True)
    keras_model("LSTM").save(path)
    with pytest.raises(ConversionError, match=r"layer 'each': kernel: expected shape \(3, 6\), got \(3, 8\)"):
        loaded(api, "CuDNNGRU", path, cudnn=True)
