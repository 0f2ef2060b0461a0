"""Memory that is free, back to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give back what the C library keeps of freed memory; elsewhere than with glibc, nothing.

    Chunks come and go in blocks of megabytes among small ones that stay, and leave holes that the next blocks do not
    quite fit: the longer a video, the larger the heap. Emptied at each GOP it is never larger than one GOP makes it.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
