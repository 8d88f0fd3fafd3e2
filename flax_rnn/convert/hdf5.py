"""HDF5 files from untrusted sources: reading that stays within the file, and within a limit of memory.

Links that lead elsewhere, data that lie elsewhere, compressed or computed data, and objects are refused: Keras writes
none of them.

What is left to trust is the HDF5 library: that it survives whatever its own structures are. ``heap`` knows of what it
does not. A wrong length of a string has it take up to 4 GiB of memory, and seconds, before it says so.
"""

import collections
import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Generator
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_rnn.convert.errors import ConversionError, require

MAX_BYTES = 4 << 30
"""How much is read of one file, unless the caller says otherwise."""

_MAX_OBJECTS = 200_000  # more than any model has; links may form cycles
_MAX_ATTRIBUTE = 64 << 10  # HDF5's own limit, by which Keras cuts long lists into pieces

# What h5py, zipfile, json and NumPy raise for files that are not what they should be.
_ERRORS = (
    OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, EOFError, RecursionError,
    OverflowError, NotImplementedError, MemoryError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextlib.contextmanager
def errors_name(path: Any) -> Generator[None]:
    """Whatever goes wrong inside is a ``ConversionError`` that names the file; a missing file stays an ``OSError``."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except ConversionError as error:
        raise ConversionError(f"{os.fspath(path)}: {error}") from error
    except _ERRORS as error:
        raise ConversionError(
            f"{os.fspath(path)}: expected an intact file of Keras, got {type(error).__name__}: {error}"
        ) from error


def parse_json(where: str, text: Any) -> dict[str, Any]:
    """The object that ``text`` describes."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ConversionError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


class Reader:
    """Reads an open ``h5py.File``, up to ``max_bytes`` of data and attributes."""

    def __init__(self, file: Any, max_bytes: int):
        self.file = file
        self._h5py = require("h5py")
        self._max_bytes = max_bytes
        self._bytes_left = max_bytes
        self._objects_left = _MAX_OBJECTS

    def is_group(self, parent: Any, path: str) -> bool:
        """Whether ``parent`` has a group ``path``."""
        node = self._find(parent, path)
        return isinstance(node, self._h5py.Group)

    def group(self, parent: Any, path: str) -> Any:
        """The group ``path`` within ``parent``."""
        node = self._find(parent, path)
        if not isinstance(node, self._h5py.Group):
            raise ConversionError(f"{parent.name}: expected a group {path!r}, got {_kind(node)}")
        return node

    def array(self, parent: Any, path: str) -> np.ndarray:
        """The numbers of the dataset ``path`` within ``parent``; bfloat16 is recognised by Keras' marks."""
        data: Any = self._find(parent, path)
        if not isinstance(data, self._h5py.Dataset):
            raise ConversionError(f"{parent.name}: expected an array {path!r}, got {_kind(data)}")
        dtype, where = data.dtype, f"{data.name}"
        bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None and dtype.subdtype is None
        if dtype.kind not in "fiub" and not bfloat16:
            raise ConversionError(f"{where}: expected an array of numbers, got dtype {dtype}")
        if data.shape is None or data.is_virtual or data.external or data.id.get_create_plist().get_nfilters():
            raise ConversionError(f"{where}: expected plain data, got empty, virtual, external or compressed ones")
        size = int(np.prod(data.shape, dtype=object)) * dtype.itemsize
        if data.id.get_storage_size() < size:
            raise ConversionError(f"{where}: expected {size} bytes of data, got {data.id.get_storage_size()}")
        self._spend(where, size)
        array = data[()] if data.shape else np.asarray(data[()])
        return array.view(jnp.bfloat16) if bfloat16 else array

    def members(self, group: Any) -> list[str]:
        """The names in a group."""
        if len(group) > self._objects_left:
            raise ConversionError(f"{group.name}: expected at most {_MAX_OBJECTS} objects, got more")
        return list(group)

    def text(self, group: Any, name: str) -> str | None:
        """An attribute that is a string."""
        value = self._attribute(group, name)
        if value is None:
            return None
        if isinstance(value, np.ndarray) and value.size != 1:
            raise ConversionError(f"{group.name}: expected a string in attribute {name!r}, got shape {value.shape}")
        return _decode(value.item() if isinstance(value, np.ndarray | np.generic) else value)

    def texts(self, group: Any, name: str) -> list[str]:
        """An attribute that is a list of different strings; where it is long, in pieces ``name0``, ``name1``, ..."""
        pieces = [name] if name in group.attrs else []
        while not pieces or pieces[0] != name:
            piece = f"{name}{len(pieces)}"
            if piece not in group.attrs:
                break
            pieces.append(piece)
        if not pieces:
            raise ConversionError(f"{group.name}: expected an attribute {name!r}, got {sorted(group.attrs)[:20]}")
        values = [_decode(value) for piece in pieces for value in np.ravel(self._attribute(group, piece))]
        if twice := [value for value, count in collections.Counter(values).items() if count > 1]:
            raise ConversionError(f"{group.name}: expected no string twice in attribute {name!r}, got {twice[:20]}")
        return values

    def _attribute(self, group: Any, name: str) -> Any:
        if name not in group.attrs:
            return None
        attribute = group.attrs.get_id(name)
        if 0 in attribute.shape:  # whose dtype and size say nothing
            return np.empty(0, "S1")
        dtype = attribute.dtype
        where = f"{group.name}: attribute {name!r}"
        size = attribute.get_storage_size()
        if self._h5py.check_string_dtype(dtype) is None and dtype.kind != "S":
            raise ConversionError(f"{where}: expected strings, got dtype {dtype}")
        if size > _MAX_ATTRIBUTE:
            raise ConversionError(f"{where}: expected at most {_MAX_ATTRIBUTE} bytes, got {size}")
        return group.attrs[name]

    def _find(self, parent: Any, path: str) -> Any:
        """The object at ``path``, or ``None``; every step has to be a link that cannot leave the file."""
        node = parent
        for part in filter(None, path.split("/")):
            self._objects_left -= 1
            if self._objects_left < 0:
                raise ConversionError(f"{parent.name}: expected at most {_MAX_OBJECTS} objects, got more")
            link = node.get(part, getlink=True) if isinstance(node, self._h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, self._h5py.HardLink):
                raise ConversionError(f"{node.name}: expected {part!r} in the file itself, got a {type(link).__name__}")
            node = node[part]
        return node

    def _spend(self, where: str, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise ConversionError(f"{where}: expected at most max_bytes={self._max_bytes} in total, got more")


def _decode(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise ConversionError(f"expected a string in an attribute, got {type(value).__name__}")
    return str(value)


def _kind(node: Any) -> str:
    return "nothing" if node is None else f"a {type(node).__name__}"
