"""Files of old versions of Keras, laid out by hand; and files that are broken, or meant to do harm."""

import contextlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from flax_rnn.convert import ConversionError, load, load_safetensors, read, save_safetensors, to_cudnn
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


# --- old versions -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("is_whole", [True, False])
def test_cudnn_layers_on_request(path: Path, is_whole: bool) -> None:
    lstm, forward, backward = plain_arrays()
    parts = [
        [*to_cudnn(dict(zip(("kernel", "recurrent_kernel", "bias"), arrays, strict=True))).values()]
        for arrays in (lstm, forward, backward)
    ]
    layers = {
        "cu_dnnlstm_1": named("cu_dnnlstm_1", parts[0]),
        "both": named("both/forward_cu_dnngru", parts[1]) + named("both/backward_cu_dnngru", parts[2]),
    }
    inner = layer("CuDNNGRU", "cu_dnngru")
    configs = [layer("CuDNNLSTM", "cu_dnnlstm_1", units=H), layer("Bidirectional", "both", layer=inner)]
    with h5py.File(path, "w") as file:
        write_legacy(file, layers, config={"class_name": "Sequential", "config": configs} if is_whole else None)
    module = nnx.clone(MODULE)
    names = {"cu_dnnlstm_1": "lstm"}
    with pytest.raises(ConversionError, match=r"layer 'cu_dnnlstm_1': bias: .*pass cudnn=True"):
        load(path, module, names)
    load(path, module, names, cudnn=True)
    check(module, lstm, forward, backward)
    assert read(path)["cu_dnnlstm_1"].class_name == ("CuDNNLSTM" if is_whole else None)


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


# --- broken, and hostile ----------------------------------------------------------------------------------------------


def good(file: Any) -> None:
    # Of fixed length: HDF5 may loop without end over a damaged heap, where strings of variable length are.
    file.create_group("layers/dense/vars").attrs["name"] = np.bytes_(b"dense")
    file["layers/dense/vars/0"] = np.ones((64, 64), "f4")
    file["layers/dense/vars/1"] = np.ones(64, "f4")


def external_link(file: Any) -> None:
    file["layers/other"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: Any) -> None:
    file["layers/dense/vars/2"] = h5py.SoftLink("/layers/dense/vars/0")


def cycle(file: Any) -> None:
    file["layers/dense/again"] = file["layers"]
    file["layers/again"] = file["layers"]


def objects(file: Any) -> None:
    file["layers/dense/vars/2"] = np.array(["text"], h5py.string_dtype())


def references(file: Any) -> None:
    file["layers/dense/vars/2"] = np.array([file["layers"].ref], h5py.ref_dtype)


def compound(file: Any) -> None:
    file["layers/dense/vars/2"] = np.zeros(2, [("a", "f4"), ("b", "f4")])


def opaque(file: Any) -> None:
    file["layers/dense/vars/2"] = np.zeros(2, "V3")


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((64,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (64,))
    file.create_virtual_dataset("layers/dense/vars/2", layout)


def external_data(file: Any) -> None:
    file.create_dataset("layers/dense/vars/2", (8,), "u1", external=[("/etc/passwd", 0, 8)])


def compressed(file: Any) -> None:
    file.create_dataset("layers/dense/vars/2", data=np.zeros(1 << 20), compression="gzip")


def unwritten(file: Any) -> None:
    file.create_dataset("layers/dense/vars/2", (1 << 40,), "f4")


def null(file: Any) -> None:
    file["layers/dense/vars/2"] = h5py.Empty("f4")


def group_for_array(file: Any) -> None:
    file.create_group("layers/dense/vars/2")


def number_for_name(file: Any) -> None:
    file["layers/dense/vars"].attrs["name"] = 3


def names_for_name(file: Any) -> None:
    file["layers/dense/vars"].attrs["name"] = ["a", "b"]


def same_names(file: Any) -> None:
    file.create_group("layers/dense_1/vars").attrs["name"] = "dense"
    file["layers/dense_1/vars/0"] = np.ones(1)


HOSTILE: list[tuple[Callable[[Any], None], str]] = [
    (external_link, "expected 'other' in the file itself, got a ExternalLink"),
    (soft_link, "expected '2' in the file itself, got a SoftLink"),
    (cycle, "RecursionError|objects|names, got"),
    (objects, "expected an array of numbers, got dtype object"),
    (references, "expected an array of numbers, got dtype object"),
    (compound, "expected an array of numbers"),
    (opaque, "expected an array of numbers"),
    (virtual, "expected plain data"),
    (external_data, "expected plain data"),
    (compressed, "expected plain data"),
    (unwritten, "expected 4398046511104 bytes of data, got 0"),
    (null, "expected plain data"),
    (group_for_array, "expected an array '2', got a Group"),
    (number_for_name, "expected strings, got dtype int64"),
    (names_for_name, "expected a string in attribute 'name'"),
    (same_names, "expected layers of different names, got 'dense' twice"),
]


@pytest.mark.parametrize(("harm", "message"), HOSTILE, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("is_archive", [False, True])
def test_hostile_hdf5(path: Path, harm: Callable[[Any], None], message: str, is_archive: bool) -> None:
    with h5py.File(path, "w") as file:
        good(file)
    assert len(read(path)["dense"].arrays) == 2
    with h5py.File(path, "a") as file:
        harm(file)
    if is_archive:
        content = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content)
    with pytest.raises(ConversionError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("harm", [external_link, soft_link, objects, virtual, external_data, compressed, unwritten])
def test_hostile_legacy_hdf5(path: Path, harm: Callable[[Any], None]) -> None:
    with h5py.File(path, "w") as file:
        good(file)
        harm(file)
        file.attrs["layer_names"] = [b"layers"]
        file["layers"].attrs["weight_names"] = [b"dense/vars/0", b"dense/vars/2", b"other/x"]
    with pytest.raises(ConversionError):
        read(path)


def test_limits(path: Path) -> None:
    with h5py.File(path, "w") as file:
        good(file)
    size = 4 * (64 * 64 + 64)
    assert len(read(path, max_bytes=size)) == 1
    with pytest.raises(ConversionError, match=f"expected at most max_bytes={size - 1} in total, got more"):
        read(path, max_bytes=size - 1)
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content)
    assert len(read(path)) == 1
    with pytest.raises(ConversionError, match=f"model.weights.h5: expected at most {size} bytes, got {len(content)}"):
        read(path, max_bytes=size)


def test_bombs_and_odd_archives(path: Path) -> None:
    def archive(**members: bytes) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name.replace("_", "."), content)

    config = b"{}"
    archive(config_json=config, model_weights_h5=bytes(65 << 20))
    with pytest.raises(ConversionError, match=r"model\.weights\.h5: expected what Keras writes, got 68157440 from"):
        read(path)
    archive(config_json=b"[" * 200_000, model_weights_h5=b"")
    with pytest.raises(ConversionError, match="expected an intact file of Keras, got RecursionError"):
        read(path)
    for broken in (b"[]", b"{", b"\xff", b"{}"):
        archive(config_json=broken, model_weights_h5=b"none")
        with pytest.raises(ConversionError, match=r"JSON|expected an intact file of Keras"):
            read(path)
    archive(config_json=config)
    with pytest.raises(ConversionError, match=r"expected one 'model\.weights\.h5' in the archive, got"):
        read(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr("config.json", config)
    with pytest.raises(ConversionError, match=r"expected one 'config\.json' in the archive"):
        read(path)


@pytest.mark.parametrize("kind", ["keras3", "legacy", "archive"])
def test_truncated_and_corrupt(path: Path, kind: str) -> None:
    """Every cut, and damage anywhere, gives an error of ours or the arrays; nothing else."""
    with h5py.File(path, "w") as file:
        if kind == "legacy":
            write_legacy(file, {"lstm": named("lstm", plain_arrays()[0])}, config=layer("Sequential", "model"))
        else:
            good(file)
    content = path.read_bytes()
    if kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", content)
        content = path.read_bytes()
    for cut in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(ConversionError, match=str(path)):
            read(path)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 20):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ConversionError):
            read(path, max_bytes=1 << 20)


def test_something_else(path: Path, tmp_path: Path) -> None:
    path.write_text("not a model")
    with pytest.raises(ConversionError, match="expected an intact file of Keras, got OSError"):
        read(path)
    with h5py.File(path, "w") as file:
        file["data"] = np.ones(2)
    with pytest.raises(ConversionError, match=r"expected groups as Keras has them, got \['data'\]"):
        read(path)
    with h5py.File(path, "w") as file:
        write_legacy(file, {"lstm": []})
        file["lstm"].attrs["weight_names"] = [b"missing"]
    with pytest.raises(ConversionError, match="/lstm: expected an array 'missing', got nothing"):
        read(path)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"lstm"]
        file.create_group("lstm")
    with pytest.raises(ConversionError, match="/lstm: expected an attribute 'weight_names'"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing.keras")


def test_cells_that_do_not_match_the_configuration(path: Path) -> None:
    cells = {"class_name": "StackedRNNCells", "config": {"cells": [layer("GRUCell", "a"), layer("LSTMCell", "b")]}}
    config = {"class_name": "Sequential", "config": {"layers": [layer("RNN", "stack", cell=cells)]}}
    with h5py.File(path, "w") as file:
        file.create_group("layers/rnn/vars").attrs["name"] = "stack"
        for key in ("lstm_cell", "lstm_cell_1"):
            file[f"layers/rnn/cell/cells/{key}/vars/0"] = np.ones(1)
    assert len(read(path)["stack"].arrays) == 2
    with pytest.raises(ConversionError, match=r"expected cells \['gru_cell', 'lstm_cell'\], got \['lstm_cell', 'lstm_"):
        read(path, config=json.dumps(config))


def test_bfloat16(path: Path) -> None:
    array = np.arange(3).astype(ml_dtypes.bfloat16)
    with h5py.File(path, "w") as file:
        file.create_group("layers/dense/vars").attrs["name"] = "dense"
        file["layers/dense/vars"].create_dataset("0", data=array).attrs["dtype"] = "bfloat16"
    (read_back,) = read(path)["dense"].arrays
    assert read_back.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read_back, array)


def test_missing_packages(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("h5py", "safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, package, None)
    path.write_bytes(b"")
    for call in (read, load_safetensors, lambda path: save_safetensors(path, {"a": np.ones(1)})):
        with pytest.raises(ImportError, match=r"pip install 'flax_rnn\[convert\]'"):
            call(path)
