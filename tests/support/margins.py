"""Memory for functions that are not in Python, which shows when they reach beyond it."""

import ctypes
from typing import Any

import numpy as np


class Buffer:
    """An array between margins; all that has no content is NaN."""

    MARGIN = 1 << 16  # bytes, as many as some rows of a large layer have

    def __init__(self, shape: tuple[int, ...], dtype: Any, content: Any = None):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._bytes = np.full(size + 2 * self.MARGIN, 0xFF, np.uint8)
        self.array = self._bytes[self.MARGIN : self.MARGIN + size].view(dtype).reshape(shape)
        if content is not None:
            self.array[...] = content
        self._before = self._bytes.copy()

    @property
    def pointer(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._bytes.ctypes.data + self.MARGIN)

    def changed(self, within_too: bool) -> bool:
        same = self._bytes == self._before
        return not (same.all() if within_too else same[: self.MARGIN].all() and same[-self.MARGIN :].all())
