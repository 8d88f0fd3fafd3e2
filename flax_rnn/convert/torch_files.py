"""State dicts of torch, wherever they are."""

import os
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from flax_rnn.convert.errors import ConversionError
from flax_rnn.convert.safetensors import read_arrays

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_KERAS_SUFFIXES = (".h5", ".hdf5", ".keras")


def state_of(source: Any) -> dict[str, Any]:
    """The arrays of a state dict, a torch module or a file by name; those of dicts within it are joined by dots.

    Raises:
      ConversionError: for something else, and for files that are broken or hold more than tensors.
      OSError: if there is no such file.
    """
    if isinstance(source, str | os.PathLike):
        source = _read(pathlib.Path(source))
    elif hasattr(source, "state_dict"):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise ConversionError(
            f"state: expected a state dict, a torch module or the path of a file, got {type(source).__name__}"
        )
    return dict(_flat("", source))


def is_torch(path: pathlib.Path) -> bool:
    """Whether a file is one of torch, or of safetensors."""
    if path.suffix in _SUFFIXES:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def check_prefix(source: str, names: Iterable[str], prefix: str) -> None:
    """Raises ``ConversionError``, with the prefixes that there are, if no name begins with ``prefix``."""
    names = [*names]
    if not prefix or any(name.startswith(prefix) for name in names):
        return
    existing = sorted({"".join(name.rpartition(".")[:2]) for name in names})
    raise ConversionError(f"{source}: prefix: expected one of {existing[:30]}, or a part of it, got {prefix!r}")


def _read(path: pathlib.Path) -> Any:
    with path.open("rb"):
        pass  # an OSError for a missing file, of whatever kind that of the library is
    if path.suffix in _KERAS_SUFFIXES:
        raise ConversionError(f"{path}: expected a file of torch or safetensors, got one of Keras; load reads it")
    if path.suffix == ".safetensors":
        return read_arrays(path)
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"torch: expected to be installed, to read {path}; pip install torch") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: broken archives, pickles of more than tensors, scripted models
        reason = str(error).partition("\n")[0]
        raise ConversionError(f"{path}: expected a file of tensors alone, got {reason}") from error


def _flat(prefix: str, tree: Mapping[Any, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        elif hasattr(value, "shape"):
            yield f"{prefix}{name}", value
