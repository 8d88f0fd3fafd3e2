"""Files that are broken, or meant to do harm."""

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
from test_convert_legacy import layer, named, plain_arrays, write_legacy

from flax_rnn.convert import ConversionError, load_safetensors, read, save_safetensors

h5py = pytest.importorskip("h5py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.h5"


def good(file: Any) -> None:
    # Of fixed length: a damaged length of another string has HDF5 take gigabytes of memory for it.
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
    (group_for_array, r"expected an array '(dense/vars/)?2', got a Group"),
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


@pytest.mark.parametrize(
    ("harm", "message"),
    [case for case in HOSTILE if case[0] not in (number_for_name, names_for_name, same_names, cycle)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_hostile_legacy_hdf5(path: Path, harm: Callable[[Any], None], message: str) -> None:
    with h5py.File(path, "w") as file:
        good(file)
        file.attrs["layer_names"] = [b"layers"]
        file["layers"].attrs["weight_names"] = [b"dense/vars/0", b"dense/vars/1"]
    assert len(read(path)["layers"].arrays) == 2
    with h5py.File(path, "a") as file:
        harm(file)
        if "2" in file["layers/dense/vars"]:
            file["layers"].attrs["weight_names"] = [f"dense/vars/{index}".encode() for index in range(3)]
    with pytest.raises(ConversionError, match=message):
        read(path)


def test_a_cycle_in_a_legacy_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        good(file)
        file.attrs["layer_names"] = [b"layers"]
        file["layers"].attrs["weight_names"] = [b"dense/vars/0", b"dense/vars/1"]
        cycle(file)
    with pytest.raises(ConversionError, match=r"RecursionError|objects|in weight_names"):
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
