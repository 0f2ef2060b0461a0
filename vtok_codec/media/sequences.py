"""Finds the pictures of an image sequence, such as `frame%04d.png`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import pairwise

from vtok_codec.errors import InputError

_NUMBER = re.compile(r"%(?:0(\d{1,2}))?d")


@dataclass(frozen=True)
class Sequence:
    """An image sequence."""

    first: int
    """The number of the first picture."""
    count: int
    """The number of pictures."""


def find_sequence(pattern: str) -> Sequence:
    """Find the pictures that a pattern names.

    Args:
        pattern: A path whose last part has one `%d` or `%0Nd`, which stands for the number of a picture.

    Raises:
        InputError: The pattern has no such part, names no picture, or a number between the first and the last one is
            missing.
    """
    folder, name = os.path.split(pattern)
    parts = _NUMBER.split(name)
    if len(parts) != 3 or "%" in parts[0] + parts[2]:
        raise InputError(f"{pattern} names no image sequence; give a name with one %d in it, such as frame%04d.png")
    digits = rf"\d{{{parts[1]},}}" if parts[1] else r"\d+"
    wanted = re.compile(f"{re.escape(parts[0])}({digits}){re.escape(parts[2])}")
    try:
        found = [wanted.fullmatch(each) for each in os.listdir(folder or ".")]
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error
    # A number with more zeros than the pattern gives is another name.
    numbers = sorted(int(each[1]) for each in found if each and name % int(each[1]) == each[0])
    if not numbers:
        raise InputError(f"no file is named like {pattern}")
    for number, following in pairwise(numbers):
        if following != number + 1:
            raise InputError(
                f"{os.path.join(folder, name % (number + 1))} is missing, between pictures {number} and {following}"
            )
    return Sequence(numbers[0], len(numbers))
