"""Options that a Keras file tells, and those of the model that its weights go into."""

import json
import pathlib
import warnings
import zipfile
from typing import Any

import h5py
import numpy as np
import pytest
from flax import nnx
from live_keras import keras

import flax_rnn.nnx
from flax_rnn.convert import ConversionError, load

D, H = 3, 2


class Ours(nnx.Module):
    def __init__(self, layer: Any):
        self.layer = layer


def saved(folder: pathlib.Path, layer: Any, keras_version: str | None = None) -> pathlib.Path:
    model = keras.Sequential([keras.Input((None, D)), layer])
    path = folder / "model.keras"
    model.save(path)
    if keras_version is not None:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        metadata = json.loads(content["metadata.json"]) | {"keras_version": keras_version}
        content["metadata.json"] = json.dumps(metadata).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    return path


def layer(kind: str, **options: Any) -> Any:
    return getattr(flax_rnn.nnx, kind)(D, H, **options, rngs=nnx.Rngs(0))


def stack(**options: Any) -> Any:
    rngs = nnx.Rngs(0)
    cells = [flax_rnn.nnx.LSTMCell(D, H, rngs=rngs), flax_rnn.nnx.GRUCell(H, H, **options, rngs=rngs)]
    return flax_rnn.nnx.Bidirectional(flax_rnn.nnx.RNN(cells), rngs=rngs)


def keras_stack(**options: Any) -> Any:
    cells = [keras.layers.LSTMCell(H), keras.layers.GRUCell(H, **options)]
    return keras.layers.Bidirectional(keras.layers.RNN(cells), name="layer")


def keras_layer(kind: str, **options: Any) -> Any:
    return getattr(keras.layers, kind)(H, name="layer", **options)


@pytest.mark.parametrize(
    ("theirs", "ours", "version", "expected"),
    [
        (keras_layer("LSTM"), layer("LSTM"), None, None),
        (keras_layer("LSTM", activation="relu"), layer("LSTM", activation="relu"), None, None),
        (keras_layer("LSTM", activation="relu"), layer("LSTM"), None, "activation: saved with 'relu', the target has"),
        (
            keras_layer("GRU", recurrent_activation="hard_sigmoid"),
            layer("GRU", recurrent_activation="hard_sigmoid"),
            None,
            None,
        ),
        (
            keras_layer("GRU", recurrent_activation="hard_sigmoid"),
            layer("GRU", recurrent_activation="hard_sigmoid"),
            "2.15.0",
            "recurrent_activation: saved with 'hard_sigmoid_keras2', the target has 'hard_sigmoid'",
        ),
        (
            keras_layer("GRU", recurrent_activation="hard_sigmoid"),
            layer("GRU", recurrent_activation="hard_sigmoid_keras2"),
            "2.15.0",
            None,
        ),
        (
            keras_layer("GRU", reset_after=False, use_bias=False),  # without a bias, no shape tells
            layer("GRU", use_bias=False),
            None,
            "reset_after: saved with False, the target has True",
        ),
        (keras_stack(), stack(), None, None),
        (keras_stack(activation="elu"), stack(activation="elu"), None, None),
        (keras_stack(activation="elu"), stack(), None, "activation: saved with 'elu', the target has 'tanh'"),
    ],
)
def test_a_difference_is_told(tmp_path: pathlib.Path, theirs: Any, ours: Any, version: Any, expected: Any) -> None:
    path = saved(tmp_path, theirs, version)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(path, Ours(ours))
    messages = [str(warning.message) for warning in caught if "saved with" in str(warning.message)]
    if expected is None:
        assert messages == []
    else:
        assert messages and all(f"layer 'layer': {expected}" in message for message in messages)
        assert pathlib.Path(caught[-1].filename) == pathlib.Path(__file__)


def test_bad_files_and_names_are_told(tmp_path: pathlib.Path) -> None:
    ours = Ours(layer("LSTM"))
    with pytest.raises(ConversionError, match="names: expected a path or a list of paths for 'layer', got 3"):
        wrong: Any = {"layer": 3}
        load(saved(tmp_path, keras_layer("LSTM")), ours, names=wrong)
    path = tmp_path / "legacy.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"layer"]
        group = file.create_group("layer")
        group.attrs["weight_names"] = [b"kernel:0", b"recurrent_kernel:0", b"bias:0"]
        group["kernel:0"], group["recurrent_kernel:0"] = np.zeros((D, 4 * H), "f4"), np.zeros((H, 4 * H), "f4")
        group["bias:0"] = np.float32(1)
    with pytest.raises(ConversionError, match=r"legacy.h5: layer 'layer': bias: expected shape \(8,\), got \(\)"):
        load(path, ours)
    with h5py.File(path, "a") as file:
        del file["layer/kernel:0"]
        file["layer/kernel:0"] = np.float32(1)
    with pytest.raises(ConversionError, match=r"legacy.h5: layer 'layer': kernel: expected shape \(3, 8\), got \(\)"):
        load(path, ours)
