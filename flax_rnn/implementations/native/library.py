"""The compiled kernels: which of the builds this machine can run, and how XLA comes to know it.

A library has to have been compiled from the sources beside it, or, where there are none, for the same interface.

The environment variable ``FLAX_RNN_KERNELS`` names a library to load in place of the installed ones, of whatever
sources: one that was compiled with a sanitizer, say.
"""

import ctypes
import functools
import os
import pathlib
import struct
from typing import Any

import jax

from flax_rnn.implementations.native import builds

FORWARD, BACKWARD = "flax_rnn_forward", "flax_rnn_backward"
INPUTS_GRADIENT, WEIGHTS_GRADIENT = "flax_rnn_inputs_gradient", "flax_rnn_weights_gradient"
_HANDLERS = {
    FORWARD: "FlaxRnnForward",
    BACKWARD: "FlaxRnnBackward",
    INPUTS_GRADIENT: "FlaxRnnInputsGradient",
    WEIGHTS_GRADIENT: "FlaxRnnWeightsGradient",
}
# Raised, here and in library.cc, whenever one of them takes or returns something else.
INTERFACE = 2

_REBUILD = "install flax_rnn again, in a checkout with `pip install -e .`"


@functools.cache
def absent() -> str | None:
    """Why there are no kernels here, in words; ``None`` if there are, and then XLA knows them."""
    library = find(pathlib.Path(__file__).parent)
    if isinstance(library, str):
        return library
    for target, handler in _HANDLERS.items():
        try:
            jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, handler)), platform="cpu")
        except AttributeError:
            return f"the kernels are broken ({handler} is missing): {_REBUILD}"
        except jax.errors.JaxRuntimeError as error:
            return f"jax refuses the kernels ({error}): {_REBUILD}"
    return None


def find(folder: pathlib.Path) -> ctypes.CDLL | str:
    """The first library in ``folder`` that can be used, or why there is none."""
    if chosen := os.environ.get("FLAX_RNN_KERNELS"):
        return load(pathlib.Path(chosen), None)
    digest, reasons = builds.digest(), []
    for build in builds.OPTIONS:
        path = folder / builds.file_name(build)
        if path.exists():
            library = load(path, digest)
            if not isinstance(library, str):
                return library
            reasons.append(library)
    return "; ".join(dict.fromkeys(reasons)) or "the kernels were not built when flax_rnn was installed"


def load(path: pathlib.Path, digest: str | None) -> ctypes.CDLL | str:
    """The library at ``path``, or what is wrong with it; it has to be of this digest if one is given."""
    try:
        if is_cut_off(path):
            raise OSError("the file is cut off")
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        return f"the kernels are broken ({path.name}: {error}): {_REBUILD}"
    interface = ask(library, "FlaxRnnInterface", ctypes.c_int64)
    if interface != INTERFACE:
        return f"the kernels are stale (interface {interface}, expected {INTERFACE}): {_REBUILD}"
    if digest not in (None, (ask(library, "FlaxRnnDigest", ctypes.c_char_p) or b"").decode()):
        return f"the kernels are stale (compiled from other sources): {_REBUILD}"
    if not ask(library, "FlaxRnnSupported", ctypes.c_bool):
        return "the kernels were built for other processors"
    return library


def ask(library: ctypes.CDLL, name: str, kind: type) -> Any:
    """What the function of this name returns; ``None`` if there is none."""
    function = getattr(library, name, None)
    if function is None:
        return None
    function.restype = kind
    return function()


def is_cut_off(path: pathlib.Path) -> bool:
    """Whether an ELF file lacks its end, which is the table of its sections: loading it would end the process."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:5] != b"\x7fELF\x02":
        return False
    (table,), (size, count) = struct.unpack_from("Q", header, 40), struct.unpack_from("HH", header, 58)
    return path.stat().st_size < table + size * count
