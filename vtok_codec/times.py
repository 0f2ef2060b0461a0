"""Times as people write them."""

from __future__ import annotations

import math


def parse_seconds(text: str) -> float:
    """Parse a time: seconds, or hours, minutes and seconds as ffmpeg writes them (`90.5`, `1:30.5`, `00:01:30.5`).

    Raises:
        ValueError: It is no time, or below 0.
    """
    *larger, last = text.strip().split(":")
    parts = [*map(int, larger), float(last)]
    time = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    if len(larger) > 2 or not all(part >= 0 for part in parts) or not math.isfinite(time):
        raise ValueError(f"{text!r} is no time")
    return float(time)
