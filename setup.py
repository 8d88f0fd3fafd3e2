"""The native kernels, once for each kind of processor; where they cannot be compiled, the package does without."""

import platform
from pathlib import Path

import jax
from setuptools import Extension, setup

SOURCES = Path("flax_rnn/implementations/native/src")
# flax_rnn.implementations.native.library takes the first that the processor can run.
BUILDS = {"_kernels": []}
if platform.machine() in ("x86_64", "AMD64"):
    BUILDS |= {
        "_kernels_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        "_kernels_v3": ["-march=x86-64-v3"],
    }

setup(
    ext_modules=[
        Extension(
            f"flax_rnn.implementations.native.{name}",
            [str(SOURCES / "handlers.cc")],
            include_dirs=[jax.ffi.include_dir()],
            depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
            extra_compile_args=["-std=gnu++17", "-O3", "-g0", "-Wno-psabi", *flags],
            language="c++",
            optional=True,
        )
        for name, flags in BUILDS.items()
    ]
)
