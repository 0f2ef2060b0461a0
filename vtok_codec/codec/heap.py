"""What the C library's heap keeps of freed memory; without effect where that is not glibc."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def trim_heap() -> None:
    """Give back what is free.

    Blocks that stay (states, frames) leave holes between them that the next ones do not quite fit. Emptied at each
    chunk, the heap is never larger than one chunk makes it, and it costs no time that shows
    (60 frames of 1920×1080, emptied at each chunk or at each GOP: single runs by a script that is not kept).
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    function: Callable[[int], int] | None = None
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return function
