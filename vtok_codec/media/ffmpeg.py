"""Helpers for FFmpeg that the reader and the writer share."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """Return the error message of FFmpeg or of the operating system, without error number and file name."""
    return getattr(error, "strerror", None) or str(error)
