"""Compiled kernels, kept on disk, so that a process does not compile what one before it has.

They are in ``$FLAX_RNN_CACHE``, or else ``$XDG_CACHE_HOME/flax_rnn``, or else ``~/.cache/flax_rnn``. A file is named by
all that it is made of, and begins with a checksum of what follows. Where it is damaged, or nothing can be written, the
kernel is compiled.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources

from flax_rnn.implementations.cuda import compiler

SOURCES = resources.files("flax_rnn.implementations.cuda") / "src"


@functools.cache
def cubin(architecture: str, macros: tuple[tuple[str, str | int], ...]) -> bytes:
    """The machine code of ``kernel.cu``.

    Args:
      architecture: ``sm_90a``, for instance.
      macros: names and values that are defined ahead of it.
    """
    texts, options = sources(), arguments(architecture, macros)
    place = folder()
    path = None if place is None else place / f"{_key(texts, options)}.cubin"
    code = None if path is None else _read(path)
    if code is None:
        code = compiler.compile(texts, options)
        if path is not None:
            _write(path, code)
    return code


def sources() -> dict[str, str]:
    """The texts of ``kernel.cu`` and of all that it may include, by their names."""
    files = [file for file in SOURCES.iterdir() if file.name == "kernel.cu" or file.name.endswith(".cuh")]
    return {file.name: file.read_text() for file in sorted(files, key=lambda file: file.name)}


def arguments(architecture: str, macros: Sequence[tuple[str, str | int]]) -> tuple[str, ...]:
    """The compiler's options."""
    return "--std=c++17", f"--gpu-architecture={architecture}", *(f"-D{name}={value}" for name, value in macros)


def folder() -> pathlib.Path | None:
    """Where the files are; ``None`` if there is no such place."""
    if chosen := os.environ.get("FLAX_RNN_CACHE"):
        return pathlib.Path(chosen)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(caches, "flax_rnn")
    with contextlib.suppress(RuntimeError):
        return pathlib.Path.home() / ".cache" / "flax_rnn"
    return None


def _key(texts: Mapping[str, str], options: Sequence[str]) -> str:
    """Of all that a kernel is made of."""
    return hashlib.sha256(json.dumps([compiler.version(), options, texts], sort_keys=True).encode()).hexdigest()


def _read(path: pathlib.Path) -> bytes | None:
    """What is kept in this file; ``None`` if there is none, or if it is not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, code = content[:32], content[32:]
    return code if checksum == hashlib.sha256(code).digest() else None


def _write(path: pathlib.Path, code: bytes) -> None:
    """All at once, since others may read it; does nothing where that is not possible."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent)
        stack.callback(pathlib.Path(name).unlink, missing_ok=True)
        with open(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(name, path)
