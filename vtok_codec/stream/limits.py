"""Limits that hold unless a caller raises them. This module imports nothing, so that reading help stays quick."""

MAX_TOKEN_BYTES = 1 << 29
"""The largest size in bytes of an array of tokens: some ten minutes of 1080p video."""
