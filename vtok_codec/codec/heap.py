"""Returns freed memory to the operating system where the C library is glibc; has no effect elsewhere."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable


def trim_heap() -> None:
    """Return the free memory of the heap to the operating system.

    Long-lived blocks, such as states and frames, leave holes in the heap that later blocks do not quite fit. A call
    before each chunk keeps the heap from growing beyond what one chunk needs, and takes no noticeable time.
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
