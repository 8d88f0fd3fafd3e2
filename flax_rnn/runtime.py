"""What the program around the layers can do for their speed: XLA's options, and how the C library keeps memory.

Neither can be done by a layer: jax takes compiler options at the outermost ``jax.jit`` only, and the memory is the
process' own.
"""

import ctypes
import functools
from typing import Any

import jax

MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**30),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""What ``keep_memory`` sets: by glibc's environment variable for it, its number in ``malloc.h`` and the value."""


def compiler_options(platform: str | None = None) -> dict[str, Any]:
    """Options that suit recurrent layers, for ``jax.jit(..., compiler_options=...)`` of the outermost function.

    On a CPU, vectors as wide as the processor has. On a GPU, command buffers for whatever XLA can put into them, loops
    included. Compiled ahead of time for an H100, all that an iteration of a loop launches is one command buffer, which
    is launched as one, and the loop goes over them on the host (``XLA_FLAGS=--xla_dump_to=DIR`` writes it as
    ``*thunk_sequence_after_thunk_passes.txt``). Whether a loop becomes one as a whole is up to the driver; that, and
    what it gains, only a GPU can tell.

    Args:
      platform: ``"cpu"``, ``"gpu"`` or another one, for which there are none; by default that of ``jax``.
    """
    match platform or jax.default_backend():
        case "cpu":
            return {"xla_cpu_prefer_vector_width": 512}
        case "gpu" | "cuda":
            kinds = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
            return {"xla_gpu_enable_command_buffer": kinds, "xla_gpu_graph_min_graph_size": 1}
        case _:
            return {}


@functools.cache
def keep_memory() -> bool:
    """Lets the process keep the memory that it frees, rather than return it to the system, where that can be set.

    XLA allocates what a function needs anew for each call on a CPU. The C library gets large blocks from the system,
    whose pages are cleared when they are first touched; training a layer on long sequences may take longer for that
    than for its arithmetic. With this, memory that was used once is used again, and the process stays as large as it
    has ever been. It holds for the whole process, for whatever else there is in it, too.

    To be called before jax computes anything: threads that have allocated before keep to pools of their own, which are
    too small for large blocks.

    Returns:
      Whether it is done, which is so with glibc, and so on most Linux systems. On others there is nothing to set.

    Source: ``mallopt(3)``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(parameter, value) for parameter, value in MALLOC.values()])
