"""Files of old versions of Keras, laid out by hand, and the checks of their lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from flax_rnn.convert import ConversionError, load, read
from flax_rnn.nnx import GRU, LSTM, Bidirectional

h5py = pytest.importorskip("h5py")

D, H = 3, 2
Layers = dict[str, list[tuple[str, np.ndarray]]]


def random_arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes))
    return [rng.normal(0, 0.6, shape).astype("f4") for shape in shapes]


def write_legacy(file: Any, layers: Layers, chunks: int = 1, config: Any = None, encode: Any = str.encode) -> None:
    """A file as Keras 1 and 2 write it; a whole model's where there is a ``config``."""
    root = file
    if config is not None:
        file.attrs["model_config"] = json.dumps(config).encode()
        root = file.create_group("model_weights")
    root.attrs["layer_names"] = [encode(name) for name in layers]
    for name, weights in layers.items():
        group = root.create_group(name)
        names = [encode(weight) for weight, _ in weights]
        if chunks == 1:
            group.attrs["weight_names"] = names
        else:
            for index, part in enumerate(np.array_split(names, chunks)):
                group.attrs[f"weight_names{index}"] = part.tolist()
        for weight, array in weights:
            group.create_dataset(weight, data=array)


def named(prefix: str, arrays: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    names = ["kernel", "recurrent_kernel", "bias"]
    return [(f"{prefix}/{name}:0", array) for name, array in zip(names, arrays, strict=True)]


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {"name": name, **config}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


class Model(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.lstm = LSTM(D, H, rngs=rngs)
        self.both = Bidirectional(GRU(D, H, rngs=rngs), rngs=rngs)


MODULE = Model()


def plain_arrays() -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    lstm = random_arrays((D, 4 * H), (H, 4 * H), (4 * H,))
    gru = random_arrays((D, 3 * H), (H, 3 * H), (2, 3 * H), (D, 3 * H), (H, 3 * H), (2, 3 * H))
    return lstm, gru[:3], gru[3:]


def check(module: Model, lstm: list[np.ndarray], forward: list[np.ndarray], backward: list[np.ndarray]) -> None:
    cells = module.lstm.cell, module.both.forward_layer.cell, module.both.backward_layer.cell
    for cell, arrays in zip(cells, (lstm, forward, backward), strict=True):
        for ours, theirs in zip(cell.params.values(), arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("encode", [str.encode, str], ids=["bytes", "str"])
@pytest.mark.parametrize("chunks", [1, 2])
def test_keras_2(path: Path, chunks: int, encode: Any) -> None:
    lstm, forward, backward = plain_arrays()
    directions = named("both/forward_gru", forward) + named("both/backward_gru", backward)
    with h5py.File(path, "w") as file:
        write_legacy(
            file, {"dropout": [], "lstm": named("lstm/lstm_cell", lstm), "both": directions}, chunks, encode=encode
        )
    module = nnx.clone(MODULE)
    load(path, module)
    check(module, lstm, forward, backward)
    assert [*read(path)] == ["lstm", "both"]


def test_keras_1(path: Path) -> None:
    lstm = random_arrays((D, 4 * H), (H, 4 * H), (4 * H,))
    weights = []
    for gate, index in (("i", 0), ("c", 2), ("f", 1), ("o", 3)):
        for letter, array in zip("WUb", lstm, strict=True):
            weights.append((f"lstm_1_{letter}_{gate}", np.split(array, 4, -1)[index]))
    dense = random_arrays((H, 1), (1,))
    with h5py.File(path, "w") as file:
        layers = {"lstm_1": weights, "dense_1": [("dense_1_W", dense[0]), ("dense_1_b", dense[1])]}
        write_legacy(file, layers, config={"class_name": "Sequential", "config": [layer("LSTM", "lstm_1")]})
    params = {"cell": dict(zip(("kernel", "recurrent_kernel", "bias"), map(np.zeros_like, lstm), strict=True))}
    target = {"lstm_1": params, "dense_1": {"kernel": dense[0] * 0, "bias": dense[1] * 0}}
    loaded = load(path, target)
    for ours, theirs in zip(loaded["lstm_1"]["cell"].values(), lstm, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded["dense_1"]["kernel"], dense[0])


def test_nested_models(path: Path) -> None:
    """Their weights are in one list, told apart by the names of layers in it."""
    lstm, dense = random_arrays((D, 4 * H), (H, 4 * H), (4 * H,)), random_arrays((H, 1), (1,))
    weights = [*named("inner/low", lstm), ("out/kernel:0", dense[0]), ("out/bias:0", dense[1])]
    inner = layer("Model", "inner", layers=[layer("LSTM", "low"), layer("Dense", "out")])
    config = {"class_name": "Model", "config": {"layers": [inner]}}
    with h5py.File(path, "w") as file:
        write_legacy(file, {"inner": weights}, config=config)
    layers = read(path)
    assert {name: (len(w.arrays), w.class_name) for name, w in layers.items()} == {
        "inner/low": (3, "LSTM"),
        "inner/out": (2, "Dense"),
    }
    with h5py.File(path, "w") as file:
        write_legacy(file, {"inner": weights})
    assert [*read(path)] == ["inner"]
    assert [*read(path, config=json.dumps(config))] == [*layers]
    with h5py.File(path, "w") as file:
        write_legacy(file, {"inner": [*weights, ("stray/kernel:0", dense[0])]}, config=config)
    with pytest.raises(ConversionError, match=r"expected 'stray/kernel:0' to name one of the layers \['low', 'out'\]"):
        read(path)


def test_names_that_occur_twice(path: Path) -> None:
    """The outer model, whose name comes first in Keras 3, may have that of a layer in the inner one."""
    dense = random_arrays((H, 1), (1,))
    inner = layer("Sequential", "inner", layers=[layer("Dense", "out"), layer("Dense", "same")])
    config = {"class_name": "Functional", "config": {"name": "same", "layers": [inner]}}
    weights = [(f"same/inner/{name}/kernel", dense[0]) for name in ("out", "same")]
    with h5py.File(path, "w") as file:
        write_legacy(file, {"inner": weights}, config=config)
    assert {name: len(layer.arrays) for name, layer in read(path).items()} == {"inner/out": 1, "inner/same": 1}


def test_one_place_for_two_layers(path: Path) -> None:
    kernel = np.ones((2, 2), "f4")
    with h5py.File(path, "w") as file:
        write_legacy(file, {name: [(f"{name}/kernel:0", kernel)] for name in ("a", "b")})
    with pytest.raises(ConversionError, match="layer 'b': expected a place of its own, got c again"):
        load(path, {"c": {"kernel": kernel}}, {"a": "c", "b": "c"})


@pytest.mark.parametrize("has_config", [True, False])
def test_frozen_directions_are_put_in_order(path: Path, has_config: bool) -> None:
    """Keras writes what is frozen last."""
    _, forward, backward = plain_arrays()
    weights = named("both/backward_gru", backward) + named("both/forward_gru", forward)
    config = {"class_name": "Sequential", "config": [layer("Bidirectional", "both")]}
    with h5py.File(path, "w") as file:
        write_legacy(file, {"both": weights}, config=config if has_config else None)
    np.testing.assert_array_equal(read(path)["both"].arrays[0], forward[0])


def test_frozen_cells_are_put_in_order(path: Path) -> None:
    lstm = random_arrays((D, 4 * D), (D, 4 * D), (4 * D,))
    weights = named("stack/lstm_cell_8", lstm) + named("stack/lstm_cell_7", [-array for array in lstm])
    cells = {
        "class_name": "StackedRNNCells",
        "config": {"cells": [layer("LSTMCell", f"lstm_cell_{k}") for k in (7, 8)]},
    }
    config = {"class_name": "Sequential", "config": [layer("RNN", "stack", cell=cells)]}
    with h5py.File(path, "w") as file:
        write_legacy(file, {"stack": weights}, config=config)
    np.testing.assert_array_equal(read(path)["stack"].arrays[0], -lstm[0])


def test_keras_2_13(path: Path) -> None:
    lstm = random_arrays((D, 4 * H), (H, 4 * H), (4 * H,))
    with h5py.File(path, "w") as file:
        for index, array in enumerate(lstm):
            file[f"_layer_checkpoint_dependencies/lstm_1/cell/vars/{index}"] = array
        file.create_group("_layer_checkpoint_dependencies/lstm_1/vars")
    (arrays,) = (layer.arrays for layer in read(path).values())
    for ours, theirs in zip(arrays, lstm, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_many_arrays_stay_in_order(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for k in range(12):
            file.create_group(f"layers/dense_{k}/vars" if k else "layers/dense/vars").attrs["name"] = f"d{k}"
            for index in range(12):
                file[f"layers/dense_{k}/vars/{index}" if k else f"layers/dense/vars/{index}"] = np.full(1, index, "f4")
    layers = read(path)
    assert [*layers] == [f"d{k}" for k in range(12)]
    assert [float(array[0]) for array in layers["d11"].arrays] == [*range(12)]


@pytest.mark.parametrize("chunks", [1, 2])
def test_lists_that_are_not_those_of_the_arrays(path: Path, chunks: int) -> None:
    """What is in no list has no known place; what is listed twice would have two."""
    weights = named("lstm", plain_arrays()[0])
    with h5py.File(path, "w") as file:
        write_legacy(file, {"lstm": weights}, chunks)
    assert len(read(path)["lstm"].arrays) == 3
    with h5py.File(path, "a") as file:
        file["lstm/lstm/more/bias:0"] = np.ones(2)
    with pytest.raises(ConversionError, match=r"/lstm: .*weight_names, got \['lstm/lstm/more/bias:0'\] besides"):
        read(path)
    with h5py.File(path, "a") as file:
        del file["lstm/lstm/more"], file["lstm/lstm/bias:0"]
    with pytest.raises(ConversionError, match="/lstm: expected an array 'lstm/bias:0', got nothing"):
        read(path)
    with h5py.File(path, "a") as file:
        file.move("lstm/lstm/kernel:0", "lstm/lstm/kernel:1")
    with pytest.raises(ConversionError, match=r"got \['lstm/lstm/kernel:1'\] besides"):
        read(path)
    with h5py.File(path, "w") as file:
        write_legacy(file, {"lstm": weights}, chunks)
        names = [b"lstm/kernel:0", b"lstm/recurrent_kernel:0", b"lstm/kernel:0", b"lstm/bias:0"]
        for index, piece in enumerate(np.array_split(names, chunks)):
            file["lstm"].attrs["weight_names" if chunks == 1 else f"weight_names{index}"] = piece.tolist()
    with pytest.raises(ConversionError, match=r"no string twice in attribute 'weight_names', got \['lstm/kernel:0'\]"):
        read(path)


def test_names_with_slashes(path: Path) -> None:
    """The group of one layer is then in that of another; Keras 1 and 2 had such names."""
    (outer,), (inner,) = random_arrays((2, 2)), [np.ones((1, 2), "f4")]
    with h5py.File(path, "w") as file:
        layers = {"block": [("block/kernel:0", outer)], "block_2": [("block_2/kernel:0", inner)]}
        write_legacy(file, layers)
        file.attrs["layer_names"] = [b"block", b"block/conv"]
        file.move("block_2", "block/conv")
    arrays = {name: layer.arrays[0] for name, layer in read(path).items()}
    np.testing.assert_array_equal(arrays.pop("block"), outer)
    np.testing.assert_array_equal(arrays.pop("block/conv"), inner)
    assert not arrays


@pytest.mark.parametrize("wrapper", ["Bidirectional", "TimeDistributed"])
def test_frozen_parts_of_wrapped_layers_are_put_in_order(path: Path, wrapper: str) -> None:
    cells = {"class_name": "StackedRNNCells", "config": {"cells": [layer("LSTMCell", name) for name in ("low", "top")]}}
    config = {"class_name": "Sequential", "config": [layer(wrapper, "outer", layer=layer("RNN", "rnn", cell=cells))]}
    directions = ["forward_rnn", "backward_rnn"] if wrapper == "Bidirectional" else ["rnn"]
    order = [f"outer/{direction}/{cell}/kernel:0" for direction in directions for cell in ("low", "top")]
    arrays = {name: np.full((1, 1), index, "f4") for index, name in enumerate(order)}
    with h5py.File(path, "w") as file:
        write_legacy(file, {"outer": [(name, arrays[name]) for name in reversed(order)]}, config=config)
    assert [int(array.item()) for array in read(path)["outer"].arrays] == [*range(len(order))]
