"""The builds of the kernels, one for each kind of processor: setup.py compiles them, and ``library`` loads one.

setup.py runs this file by itself, since it cannot import the package.
"""

import hashlib
import pathlib
import platform
import sys

SOURCES = pathlib.Path(__file__).parent / "src"

# The compiler's options, from the widest vectors to those that every processor has.
_OF_X86: dict[str, tuple[str, ...]] = {
    "_kernels_v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "_kernels_v3": ("-march=x86-64-v3",),
}
OPTIONS = {**(_OF_X86 if platform.machine() in ("x86_64", "AMD64") else {}), "_kernels": ()}


def file_name(build: str) -> str:
    """The library of a build; no tag of Python's is in it, since it uses nothing of Python."""
    return build + (".dll" if sys.platform == "win32" else ".so")


def digest() -> str | None:
    """Of what the libraries are compiled from; ``None`` where the sources are not there, as in a wheel."""
    sources = sorted(path for path in SOURCES.glob("*") if path.suffix in (".h", ".cc"))
    if not sources:
        return None
    content = hashlib.sha256()
    for path in (pathlib.Path(__file__), *sources):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()
