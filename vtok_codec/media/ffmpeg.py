"""What the reader and the writer share of FFmpeg's ways."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """What FFmpeg or the system says went wrong, without number and file name."""
    return getattr(error, "strerror", None) or str(error)
