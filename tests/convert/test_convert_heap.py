"""Heaps of strings in HDF5 files, whose damage would keep HDF5 busy for good."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_rnn.convert import ConversionError, read
from flax_rnn.convert.heap import check_heaps

h5py = pytest.importorskip("h5py")

NAME = "dense"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file as Keras 3 writes it: names are of variable length."""
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers/dense/vars").attrs["name"] = NAME
        file["layers/dense/vars/0"] = np.ones((2, 3), "f4")
    return path


def damage(path: Path, position: int, value: bytes) -> bytes:
    """The file from the first heap on is the header, 16 bytes, then the object with the name: 16 more and 8 of it."""
    content = bytearray(path.read_bytes())
    start = content.index(b"GCOL") + position
    assert content[start : start + len(value)] != value
    content[start : start + len(value)] = value
    return bytes(content)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (24, bytes(8)),  # the size of the name: its first bytes are then taken for an object
        (24, (96).to_bytes(8, "little")),  # it ends where there is nothing
        (24, (2**64 - 16).to_bytes(8, "little")),  # no further than its own header
        (24, (1 << 40).to_bytes(8, "little")),
        (48, bytes(8)),  # the size of the free space
        (16, bytes(16)),
        (16, bytes(4000)),  # as a disk would have it
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_no_end(path: Path, position: int, value: bytes, is_stream: bool) -> None:
    check_heaps(path)
    content = damage(path, position, value)
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"byte \d+: expected an object within a heap"):
        check_heaps(io.BytesIO(content) if is_stream else path)
    with pytest.raises(ConversionError, match=f"{path}: byte"):
        read(path)


def test_any_byte(path: Path) -> None:
    """Whatever a byte of the heap is: an end, in a process that can be stopped if there is none."""
    code = """
import contextlib, pathlib, sys
from flax_rnn.convert import ConversionError, read
path = pathlib.Path(sys.argv[1])
content = path.read_bytes()
start = content.index(b"GCOL")
count = 0
for position in range(start, start + 56):
    for value in {0, 1, 8, 16, 128, 255} - {content[position]}:
        path.write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
        try:
            read(path)
        except ConversionError:
            count += 1
print(count)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=120, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_many_heaps(path: Path) -> None:
    """A heap is 4096 bytes or as long as a string."""
    names = [f"{'x' * (index % 97)}{index}" for index in range(2000)] + ["y" * 20_000]
    with h5py.File(path, "w") as file:
        for index, name in enumerate(names):
            file.create_group(f"layers/dense_{index}/vars").attrs["name"] = name
            file[f"layers/dense_{index}/vars/0"] = np.ones(1, "f4")
    assert path.read_bytes().count(b"GCOL\x01") > 10
    assert [*read(path)] == names


def test_strings_that_were_replaced(path: Path) -> None:
    for name in ("a longer name than before", "short", NAME):
        with h5py.File(path, "a") as file:
            attributes: Any = file["layers/dense/vars"].attrs
            attributes["name"] = name
            attributes["other"] = "x" * 300
            del attributes["other"]
        assert [*read(path)] == [name]


def test_data_that_look_like_a_heap(path: Path) -> None:
    """All but those that are a whole one."""
    data = np.frombuffer(b"GCOL\x01\0\0\0" + b"\x77" * 24, "f4")
    with h5py.File(path, "a") as file:
        file["layers/dense/vars/1"] = data
    np.testing.assert_array_equal(read(path)[NAME].arrays[1], data)


def test_other_sizes(path: Path) -> None:
    """With lengths of 4 bytes a heap is laid out in another way."""
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(4, 4)
    with h5py.File(h5py.h5f.create(str(path).encode(), fcpl=properties)) as file:
        file.create_group("layers/dense/vars").attrs["name"] = NAME
    with pytest.raises(ConversionError, match=r"expected addresses and lengths of 8 bytes, got \(4, 4\)"):
        read(path)
