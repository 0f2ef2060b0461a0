"""When a run ends, and its learning rate until then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

_FINAL_RATE = 0.02
"""The learning rate at the end of the cosine schedule, as a fraction of its peak."""


@dataclass(frozen=True)
class Budget:
    """When a run ends: after a number of steps or minutes, or when it is asked to. Whichever comes first ends it."""

    steps: int | None = None
    """The number of steps; None sets no limit."""
    minutes: float | None = None
    """Minutes with the set-up and without the last validation; None sets no limit."""
    ends: Callable[[], bool] = lambda: False
    """Returns whether the run is asked to end after its step. It then saves and does not validate."""

    def progress(self, step: int, seconds: float, setup_seconds: float = 0.0) -> float:
        """Return the fraction of the stage that is done, 0…1.

        Args:
            step: The steps that were taken.
            seconds: The seconds that have passed, with the set-up.
            setup_seconds: Those of the set-up, in which nothing was learned: 0 is where training begins.
        """
        by_steps = step / self.steps if self.steps else 0.0
        by_time = 0.0
        if self.minutes:
            left = 60 * self.minutes - setup_seconds
            by_time = (seconds - setup_seconds) / left if left > 0 else 1.0
        return min(1.0, max(by_steps, by_time))


def rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Return the learning rate as a fraction of its peak: a linear warm-up times a cosine over the stage."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / warmup_steps) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)
