"""The compiled kernels: which of the builds this machine can run, and how XLA comes to know it."""

import ctypes
import functools
import pathlib

import jax

FORWARD, BACKWARD = "flax_rnn_forward", "flax_rnn_backward"
INPUTS_GRADIENT, WEIGHTS_GRADIENT = "flax_rnn_inputs_gradient", "flax_rnn_weights_gradient"
_HANDLERS = {
    FORWARD: "FlaxRnnForward",
    BACKWARD: "FlaxRnnBackward",
    INPUTS_GRADIENT: "FlaxRnnInputsGradient",
    WEIGHTS_GRADIENT: "FlaxRnnWeightsGradient",
}
# From the widest vectors to those that every processor has.
_BUILDS = ("_kernels_v4", "_kernels_v3", "_kernels")


@functools.cache
def absent() -> str | None:
    """Why there are no kernels here, in words; ``None`` if there are, and then XLA knows them."""
    folder = pathlib.Path(__file__).parent
    for build in _BUILDS:
        for path in sorted(folder.glob(f"{build}.*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                continue
            library.FlaxRnnSupported.restype = ctypes.c_bool
            if library.FlaxRnnSupported():
                for target, handler in _HANDLERS.items():
                    capsule = jax.ffi.pycapsule(getattr(library, handler))
                    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
                return None
    return "the kernels were not built when flax_rnn was installed, or for other processors"
