"""The library that launches kernels, how XLA comes to know it, and for which GPUs kernels are compiled.

Nothing is looked for until ``absent`` is called. The environment variable ``FLAX_RNN_CUDA_DRIVER`` names a library to
open in place of CUDA's driver, ``libcuda.so.1``.
"""

import ctypes
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flax_rnn.implementations.cuda import builds, compiler
from flax_rnn.implementations.native import library as native

TARGET = "flax_rnn_cuda"
# Raised, here and in launch.cc, whenever the handlers take something else.
INTERFACE = 1

_REBUILD = "install flax_rnn again, in a checkout with `pip install -e .`"

# What is compiled for 8.0 runs on all of 8; for others there are instructions that no other has.
ARCHITECTURES = {"8.0": "sm_80", "8.6": "sm_80", "8.9": "sm_80", "9.0": "sm_90a", "10.0": "sm_100a"}


@functools.cache
def absent() -> str | None:
    """Why no kernel can be launched here, in words; ``None`` if one can, and then XLA knows ``TARGET`` for CUDA."""
    library = _launcher()
    if isinstance(library, str):
        return library
    reason = native.ask(library, "FlaxRnnCudaDriverAbsent", ctypes.c_char_p)
    return reason.decode() if reason else compiler.absent() or _register(library, "FlaxRnnCudaLaunch", "CUDA")


@functools.cache
def absent_on_host() -> str | None:
    """As ``absent``, but XLA knows ``TARGET`` for CPUs: for tests, with a stand-in for the driver."""
    library = _launcher()
    return library if isinstance(library, str) else _register(library, "FlaxRnnCudaLaunchOnHost", "cpu")


def architecture(device: Any) -> str | None:
    """What kernels are compiled for to run on this ``jax.Device``; ``None`` if there are none for it."""
    return ARCHITECTURES.get(getattr(device, "compute_capability", ""))


def here() -> str:
    """What kernels are compiled for to run on the default device; ``""`` if there are none for it."""
    return architecture(jax.devices()[0]) or ""


def has_clusters() -> bool:
    """Whether the default device has clusters of blocks, which Hopper was the first to have."""
    return here() not in ("", "sm_80")


def attributes(
    cubin: bytes, name: str, *, grid: int, block: int, cluster: int, shared: int, scalars: Sequence[int]
) -> dict[str, Any]:
    """What a call of ``TARGET`` is told beside its arrays, in the types that it expects.

    Args:
      cubin: machine code.
      name: of the kernel in it. It takes pointers to all operands, then to all results, then the scalars.
      grid: how many blocks there are, a multiple of ``cluster``.
      block: how many threads each of them has.
      cluster: how many blocks make a cluster.
      shared: bytes of shared memory that each block is given.
      scalars: integers of 32 bits.
    """
    int32: Any = jnp.dtype("int32").type
    sizes = {"grid": grid, "block": block, "cluster": cluster, "shared": shared}
    return {"cubin": cubin, "name": name, "scalars": int32(scalars), **{key: int32(n) for key, n in sizes.items()}}


@functools.cache
def _launcher() -> ctypes.CDLL | str:
    return find(pathlib.Path(__file__).parent)


def find(folder: pathlib.Path) -> ctypes.CDLL | str:
    """The library in ``folder``, or why there is none that can be used."""
    path = folder / "_launch.so"
    if not path.exists():
        return f"the launch of CUDA kernels was not built when flax_rnn was installed: {_REBUILD}"
    try:
        if native.is_cut_off(path):
            raise OSError("the file is cut off")
        library = ctypes.CDLL(str(path.absolute()))
    except OSError as error:
        return f"the launch of CUDA kernels is broken ({path.name}: {error}): {_REBUILD}"
    interface = native.ask(library, "FlaxRnnCudaInterface", ctypes.c_int64)
    if interface != INTERFACE:
        return f"the launch of CUDA kernels is stale (interface {interface}, expected {INTERFACE}): {_REBUILD}"
    digest = builds.digest()
    if digest not in (None, (native.ask(library, "FlaxRnnCudaDigest", ctypes.c_char_p) or b"").decode()):
        return f"the launch of CUDA kernels is stale (compiled from another source): {_REBUILD}"
    return library


def _register(library: ctypes.CDLL, handler: str, platform: str) -> str | None:
    """Tells XLA; why that is not possible, in words, or ``None``."""
    try:
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(getattr(library, handler)), platform=platform)
    except AttributeError:
        return f"the launch of CUDA kernels is broken ({handler} is missing): {_REBUILD}"
    except jax.errors.JaxRuntimeError as error:
        return f"jax refuses the launch of CUDA kernels ({error}): {_REBUILD}"
    return None
