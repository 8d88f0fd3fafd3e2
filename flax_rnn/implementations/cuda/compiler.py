"""CUDA C++ to machine code, with the NVRTC that ``jax[cuda12]`` and ``jax[cuda13]`` install.

It needs no GPU, no ``nvcc``, and none of CUDA's headers. The environment variable ``FLAX_RNN_NVRTC`` names a library
to load in place of the installed one.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

_INSTALL = "install jax[cuda13] or jax[cuda12], or name a library in FLAX_RNN_NVRTC"

# How NVIDIA's packages for a version of CUDA call their folder, newest first.
_FOLDERS = {13: "cu13", 12: "cuda_nvrtc"}

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


class CompilationError(RuntimeError):
    """The compiler refuses a source or an option; its whole log is a note of the exception."""


class Resources(NamedTuple):
    """What a kernel takes.

    Attributes:
      registers: of each thread.
      spilled: bytes that each thread writes to memory and reads from it, for want of registers.
      shared: bytes of shared memory of each block, without what is asked for at the launch.
    """

    registers: int
    spilled: int
    shared: int


def absent() -> str | None:
    """Why there is no compiler here, in words; ``None`` if there is one."""
    found = _nvrtc()
    return found if isinstance(found, str) else None


def version() -> tuple[int, int]:
    """That of the compiler, ``(13, 0)`` for instance."""
    nvrtc, major, minor = _library(), ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def compile(source_files: Mapping[str, str], options: Sequence[str]) -> bytes:
    """The machine code, a "cubin".

    Args:
      source_files: texts by their names; the one whose name ends in ``.cu`` is compiled, the others it may include.
      options: NVRTC's; one of them has to name a real architecture, ``--gpu-architecture=sm_90a`` for instance.
    """
    return _compile(source_files, options)[0]


def report(source_files: Mapping[str, str], options: Sequence[str]) -> dict[str, Resources]:
    """What each kernel takes, by its name, if it is compiled so."""
    log = _compile(source_files, (*options, "--ptxas-options=-v"))[1]
    found: dict[str, Resources] = {}
    for kernel in _KERNEL.finditer(log):
        shared = re.search(r"(\d+) bytes smem", kernel["rest"])
        spilled = int(kernel["stores"]) + int(kernel["loads"])
        found[kernel["name"]] = Resources(int(kernel["registers"]), spilled, int(shared[1]) if shared else 0)
    return found


def _compile(source_files: Mapping[str, str], options: Sequence[str]) -> tuple[bytes, str]:
    """The machine code, and the log."""
    nvrtc = _library()
    (main,) = (name for name in source_files if name.endswith(".cu"))
    headers = [name for name in source_files if name != main]
    program = ctypes.c_void_p()
    texts = _strings([source_files[name] for name in headers])
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source_files[main].encode(), main.encode(), len(headers), texts, _strings(headers)
    )
    _check(nvrtc, created)
    try:
        result = nvrtc.nvrtcCompileProgram(program, len(options), _strings(options))
        log = _output(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        _check(nvrtc, result, log)
        return _output(nvrtc, program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _output(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, kind: str) -> bytes:
    """What has come of a program: NVRTC has a function for its size, and one for its content."""
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc[f"nvrtcGet{kind}Size"](program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc[f"nvrtcGet{kind}"](program, content))
    return content.raw


def _check(nvrtc: ctypes.CDLL, result: int, log: str = "") -> None:
    """Raises the first error of the log, or else what the result means."""
    if result == 0:
        return
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    first = next((line for line in log.splitlines() if "error" in line), nvrtc.nvrtcGetErrorString(result).decode())
    error = CompilationError(f"the kernels cannot be compiled: {first}")
    if log:
        error.add_note(log)
    raise error


def _strings(texts: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def _library() -> ctypes.CDLL:
    """The compiler, which has to be there."""
    found = _nvrtc()
    if isinstance(found, str):
        raise CompilationError(found)
    return found


@functools.cache
def _nvrtc() -> ctypes.CDLL | str:
    """The first library that can be used, or why there is none."""
    reasons: list[str] = []
    for path in _paths():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            reasons.append(str(error))
            continue
        if hasattr(library, "nvrtcGetCUBIN"):
            return library
        reasons.append(f"{path} is no NVRTC, or an old one")
    return f"there is no NVRTC to compile the kernels ({'; '.join(reasons)}): {_INSTALL}"


def _paths() -> Iterator[str]:
    """Where NVRTC may be, in the order in which to try; a name without a folder is the loader's matter."""
    if chosen := os.environ.get("FLAX_RNN_NVRTC"):
        yield chosen
        return
    spec = importlib.util.find_spec("nvidia")
    places = (spec.submodule_search_locations or ()) if spec else ()
    # That of jax's own CUDA first: a driver may be too old for what comes out of a newer one.
    for cuda in sorted(_FOLDERS, key=lambda cuda: importlib.util.find_spec(f"jax_cuda{cuda}_plugin") is None):
        for place in places:
            with contextlib.suppress(OSError):
                yield from map(str, sorted(pathlib.Path(place, _FOLDERS[cuda], "lib").glob("libnvrtc.so.*")))
    yield from (f"libnvrtc.so.{cuda}" for cuda in _FOLDERS)
