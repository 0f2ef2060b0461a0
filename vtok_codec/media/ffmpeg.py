"""Helpers for calls into FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def reason(error: Exception) -> str:
    """Return the error message of FFmpeg or of the operating system, without error number and file name."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def kept_priority() -> Iterator[None]:
    """Give the calling thread back the scheduling that it has now when the block ends.

    Where it may, SVT-AV1 makes the thread that opens it a real-time one, which then starves all others of the machine.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)
