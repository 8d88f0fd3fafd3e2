"""The one part of an HDF5 file whose damage makes HDF5 loop without end: heaps of strings of variable length.

A collection of such a heap is a list of objects, each as far from the next as its size says. HDF5 follows them without
a check that it moves on, so that a size of 0 in the wrong place, which is all that a file cut short or overwritten with
zeros takes, keeps it there for good. This walks all collections of a file ahead of HDF5.

Source: HDF5 File Format Specification, version 3.0, III.E "Disk Format: Level 1E - Global Heap".
"""

import contextlib
import mmap
import re
from collections.abc import Generator
from typing import Any

from flax_rnn.convert.errors import ConversionError

_SIGNATURE = re.compile(rb"GCOL\x01")
_HEADER = 16  # of a collection, and of an object in it


def check_heaps(source: Any) -> None:
    """Walks every collection in a file.

    Args:
      source: the path of an HDF5 file whose lengths have 8 bytes, or a stream of its content.

    Raises:
      ConversionError: where HDF5 would not get to the end of one.
    """
    with _content(source) as content:
        for found in _SIGNATURE.finditer(content):
            _walk(content, found.start())


def _walk(content: Any, start: int) -> None:
    """Follows the objects of the collection at ``start``, as HDF5 does."""

    def size_at(position: int) -> int:
        return int.from_bytes(content[position + 8 : position + _HEADER], "little")

    end = start + size_at(start)
    if end > len(content):  # other data that look like a signature, or what HDF5 does not read
        return
    position = start + _HEADER
    while position + _HEADER <= end:
        size = size_at(position)
        is_free = content[position : position + 2] == b"\0\0"  # space, the size of which includes its header
        length = size if is_free else _HEADER + (size + 7) // 8 * 8
        if length == 0 or length > end - position:
            raise ConversionError(f"byte {position}: expected an object within a heap, got one of {length} bytes")
        position += length


@contextlib.contextmanager
def _content(source: Any) -> Generator[Any]:
    """What is in a file, without reading all of it at once."""
    if hasattr(source, "getbuffer"):
        with source.getbuffer() as content:
            yield content
        return
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content
