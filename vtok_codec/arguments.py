"""Checks of what callers of the Python API give, so that a wrong type is told like a wrong value."""

from __future__ import annotations

import operator
from typing import Any

from vtok_codec.errors import SettingError


def as_integer(value: Any, name: str) -> int:
    """Return a whole number, of whichever integer type.

    Raises:
        SettingError: It is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise SettingError(f"{name} must be a whole number, not {value!r}") from None


def as_integers(value: Any, name: str) -> list[int]:
    """Return whole numbers as a list.

    Raises:
        SettingError: The value is not a list of them, or anything like one.
    """
    try:
        numbers = list(value)
    except TypeError:
        raise SettingError(f"{name} must be a list of whole numbers, not {value!r}") from None
    return [as_integer(number, name) for number in numbers]


def as_number(value: Any, name: str, what: str = "a number") -> float:
    """Return a number as a float.

    Args:
        value: What a caller gave.
        name: The name of the argument, for the message.
        what: What it must be, for the message.

    Raises:
        SettingError: It is none.
    """
    # Text is no number here, though `float` would take it.
    if isinstance(value, str | bytes):
        raise SettingError(f"{name} must be {what}, not {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(f"{name} must be {what}, not {value!r}") from None


def as_seconds(value: Any, name: str) -> float:
    """Return a time in seconds as a float.

    Raises:
        SettingError: It is no number.
    """
    return as_number(value, name, "seconds")


def as_size(value: Any) -> tuple[int, int]:
    """Return the height and the width of a picture.

    Raises:
        SettingError: The value is not two whole numbers.
    """
    try:
        height, width = value
    except (TypeError, ValueError):
        raise SettingError(f"size must be the height and the width, not {value!r}") from None
    return as_integer(height, "the height of size"), as_integer(width, "the width of size")
