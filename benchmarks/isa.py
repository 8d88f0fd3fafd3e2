"""Contestants held to fewer instructions than the processor has, by the environment of their processes.

So a processor with AVX-512 shows what users of one with AVX2 get. Each framework has a variable of its own, which it
reads when it is loaded; one more is for contestants that have to stay away, since their framework has none.

XLA obeys in all that it compiles, but not in the products that it leaves to YNNPACK, which asks the processor itself.
Contestants on JAX are thus too fast rather than too slow. Without YNNPACK they would be held, too, but to another
library for products than users have: ``XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=`` shows how much it matters.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks import processor
from flax_rnn.implementations.native import builds, library

LABELS = {"avx2": processor.AVX2}
"""By what the command line calls them."""
KERNELS = Path(builds.__file__).with_name(builds.file_name("_kernels_v3"))
"""Our build for processors with AVX2."""
_HELD = "BENCHMARKS_ISA"


def environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What holds everybody to AVX2, in addition to ``given``, whose flags of XLA stay."""
    return {
        _HELD: "avx2",
        "XLA_FLAGS": f"{given.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2".strip(),
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "FLAX_RNN_KERNELS": str(KERNELS),
    }


def why_not() -> str | None:
    """Why nobody can be held to AVX2 here, in words, which may be that our kernels are not those of the sources."""
    has = processor.instruction_set()
    if has not in (processor.AVX512, processor.AVX2):
        return f"this processor has {has}"
    loaded = library.load(KERNELS, builds.digest())
    return loaded if isinstance(loaded, str) else None


def narrows() -> bool:
    """Whether the processor has more than AVX2, so that it matters to be held to it."""
    return processor.instruction_set() == processor.AVX512


def is_held(given: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to do with less than the processor has."""
    return _HELD in given and narrows()
