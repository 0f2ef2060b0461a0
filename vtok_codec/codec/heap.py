"""What the C library's heap keeps of freed memory; all of it without effect where that is not glibc."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""
_LARGE_BYTES = 4 << 20


@functools.cache
def keep_large_blocks_apart() -> None:
    """Let every block of 4 MiB or more be pages of its own, which the system has back once it is freed.

    By itself glibc moves that limit up to the largest block that was freed, 32 MiB at most, and takes blocks below it
    from the heap, where they leave holes that the next ones do not quite fit: `encode` at 1280×720 then takes 1286 MiB
    for 10 s and 1384 for 60; so it takes 1163 and 1174 (bench/speed.py). New pages cost 5 to 10 % of its time; a limit
    of 16 MiB costs as much, and memory still grows by 6 % (of single runs by a script that is not kept).
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def trim_heap() -> None:
    """Give back what is free; emptied at each GOP, the heap is never larger than one GOP makes it."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., object] | None:
    function: Callable[..., object] | None = None
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
    return function
