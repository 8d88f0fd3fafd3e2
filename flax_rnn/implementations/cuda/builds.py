"""The library that launches kernels: setup.py compiles it, and ``library`` loads it.

setup.py runs this file by itself, since it cannot import the package.
"""

import hashlib
import pathlib
import sys

SOURCE = pathlib.Path(__file__).parent / "launch" / "launch.cc"

# jax runs on NVIDIA's GPUs under Linux only.
OPTIONS: dict[str, tuple[str, ...]] = {"_launch": ()} if sys.platform == "linux" else {}


def digest() -> str | None:
    """Of what the library is compiled from; ``None`` where the source is not there, as in a wheel."""
    if not SOURCE.exists():
        return None
    return hashlib.sha256(pathlib.Path(__file__).read_bytes() + SOURCE.read_bytes()).hexdigest()
