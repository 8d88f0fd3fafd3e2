"""The processor: its name and which vectors it has, as far as the system tells."""

import platform

AVX512, AVX2, NEITHER = "AVX-512", "AVX2", "neither AVX-512 nor AVX2"
UNKNOWN = "an unknown instruction set"
_NEEDED = {
    AVX512: {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},  # the x86-64-v4 that our kernels are built for
    AVX2: {"avx2", "fma"},
}


def name() -> str:
    """In the words of its maker."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def instruction_set(flags: str | None = None) -> str:
    """``AVX512``, ``AVX2``, ``NEITHER`` or ``UNKNOWN``: by ``flags`` with spaces between, or those of this machine."""
    flags = cpuinfo("flags") if flags is None else flags
    if flags is None:
        return UNKNOWN
    return next((found for found, needed in _NEEDED.items() if needed <= {*flags.split()}), NEITHER)


def cpuinfo(field: str) -> str | None:
    """What Linux says in ``field`` of the first core; ``None`` where there is no such thing."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == field
            )
    except (OSError, StopIteration):
        return None
