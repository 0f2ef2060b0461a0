"""What a run gathers between two entries of its log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class LogWindow:
    """The steps of a run since the last entry of its log. Time counts from its creation."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._losses: list[dict[str, float]] = []
        self._pixels = 0
        self._waited_s = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time that the block takes as waiting for a batch."""
        asked = time.monotonic()
        yield
        self._waited_s += time.monotonic() - asked

    def add(self, losses: dict[str, float], pixels: int) -> None:
        """Add a step, with its losses by name and the pixels of its batch."""
        self._losses.append(losses)
        self._pixels += pixels

    def means(self) -> dict[str, float]:
        """Return the mean of each loss over the steps that have it; some losses begin later than others.

        A step where it is not a number does not have it.
        """
        values: dict[str, list[float]] = {}
        for losses in self._losses:
            for key, value in losses.items():
                values.setdefault(key, []).extend([] if math.isnan(value) else [value])
        return {key: sum(given) / len(given) if given else math.nan for key, given in values.items()}

    def mpixel_s(self) -> float:
        """Return the megapixels per second that the steps took in."""
        return self._pixels / 1e6 / (time.monotonic() - self._begun)

    def share_waited(self) -> float:
        """Return the share of the time that was spent waiting for batches."""
        return self._waited_s / (time.monotonic() - self._begun)
