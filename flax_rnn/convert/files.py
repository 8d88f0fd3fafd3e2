"""Saved Keras models, as mappings from the names of layers to their weights.

Three kinds of files: ``.weights.h5`` of Keras 3; ``.keras``, an archive of one and the model's configuration; and the
legacy ``.h5`` of Keras 1 to 3 and tf-keras. What a file is, its content says. Nothing in it is executed:
configurations are read as data.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Generator, Iterator
from typing import Any

from flax_rnn.convert.errors import ConversionError, require
from flax_rnn.convert.hdf5 import MAX_BYTES, Reader, errors_name, parse_json
from flax_rnn.convert.heap import check_heaps
from flax_rnn.convert.layouts import CONTAINERS, Config, LayerWeights, read_keras3, read_legacy
from flax_rnn.convert.torch_files import is_torch

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"

_MAX_CONFIG = 64 << 20
_BOMB_FLOOR, _BOMB_RATIO = 64 << 20, 100  # Keras does not compress at all


def read(
    path: str | os.PathLike[str], *, config: str | None = None, max_bytes: int = MAX_BYTES
) -> dict[str, LayerWeights]:
    """The layers of a saved Keras model that have weights.

    Args:
      path: of a ``.weights.h5``, ``.keras`` or legacy ``.h5`` file.
      config: what ``to_json()`` of the model returns, for files that are of weights alone. The order of the cells in a
        stack of several classes, and in legacy files the layers of nested models, are in nothing else.
      max_bytes: the most to read of it; files of untrusted sources may be much smaller than what they contain.

    Returns:
      ``LayerWeights`` by name, in the order of the model where the file has it. The name of a layer of a nested model
      is a path, ``"encoder/lstm"``; where a legacy file has no configuration, a nested model is one entry.

    Raises:
      ConversionError: for files that are broken, too large, or something else, and for links that leave the file.
      OSError: if there is no such file.
    """
    with errors_name(path):
        if is_torch(pathlib.Path(path)):
            raise ConversionError("expected a file of Keras, got one of torch or safetensors; load_torch reads it")
        if zipfile.is_zipfile(path):
            return _read_archive(path, max_bytes)
        with _open(os.fspath(path), max_bytes) as reader:
            return _read_hdf5(reader, parse_json("config", config) if config else {})


def _read_hdf5(reader: Reader, config: Config) -> dict[str, LayerWeights]:
    version = next(filter(None, (reader.text(group, "keras_version") for group in _roots(reader))), None)
    return _versioned(_read_layers(reader, config), version or config.get("keras_version"))


def _roots(reader: Reader) -> Iterator[Any]:
    yield reader.file
    if reader.is_group(reader.file, "model_weights"):
        yield reader.group(reader.file, "model_weights")


def _versioned(layers: dict[str, LayerWeights], version: Any) -> dict[str, LayerWeights]:
    known = version if isinstance(version, str) else None
    return {name: dataclasses.replace(layer, keras_version=known) for name, layer in layers.items()}


def _read_layers(reader: Reader, config: Config) -> dict[str, LayerWeights]:
    if "layer_names" in reader.file.attrs or "layer_names0" in reader.file.attrs:
        return read_legacy(reader, config)
    if reader.is_group(reader.file, "model_weights"):
        return read_legacy(reader, config)
    if any(reader.is_group(reader.file, name) for name in (*CONTAINERS, "vars")):
        return read_keras3(reader, config)
    raise ConversionError(f"expected groups as Keras has them, got {reader.members(reader.file)[:20]}")


def _read_archive(path: str | os.PathLike[str], max_bytes: int) -> dict[str, LayerWeights]:
    with zipfile.ZipFile(path) as archive:
        config = parse_json(CONFIG, _member(archive, CONFIG, min(max_bytes, _MAX_CONFIG)))
        weights = _member(archive, WEIGHTS, max_bytes)
        names = archive.namelist()
        metadata = parse_json(METADATA, _member(archive, METADATA, _MAX_CONFIG)) if METADATA in names else {}
    with _open(io.BytesIO(weights), max_bytes) as reader:
        return _versioned(read_keras3(reader, config), metadata.get("keras_version"))


def _member(archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """The content of one file of an archive, unless it is larger than it should be."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        got = [info.filename for info in archive.infolist()][:20]
        raise ConversionError(f"expected one {name!r} in the archive, got {got}")
    (info,) = found
    if info.file_size > max_bytes:
        raise ConversionError(f"{name}: expected at most {max_bytes} bytes, got {info.file_size}")
    if info.file_size > max(_BOMB_FLOOR, _BOMB_RATIO * info.compress_size):
        raise ConversionError(
            f"{name}: expected what Keras writes, got {info.file_size} from {info.compress_size} bytes"
        )
    with archive.open(info) as member:
        return member.read(info.file_size)


@contextlib.contextmanager
def _open(source: Any, max_bytes: int) -> Generator[Reader]:
    with require("h5py").File(source, "r") as file:
        if (sizes := file.id.get_create_plist().get_sizes()) != (8, 8):
            raise ConversionError(f"expected addresses and lengths of 8 bytes, got {sizes}")
        check_heaps(source)
        yield Reader(file, max_bytes)
