"""Goals of an encoding: a size or a quality, and the search for the settings that reach it. Nothing here imports torch.

The settings form a ladder of models and numbers of tokens, each rung of which gives larger files and better pictures
than the one before. Between two rungs, the cost of a bit (`EncodeSettings.rdo`) moves size and quality steadily.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vtok_codec.codec.quality_presets import COARSE_MODEL
from vtok_codec.errors import SettingError
from vtok_codec.registry import DEFAULT_MODEL

LADDER: tuple[tuple[str, int], ...] = (
    (COARSE_MODEL, 1),
    (COARSE_MODEL, 2),
    (DEFAULT_MODEL, 1),
    (DEFAULT_MODEL, 2),
    (DEFAULT_MODEL, 3),
    (DEFAULT_MODEL, 4),
)
"""The models and their tokens per position, from the smallest file to the best picture."""
_USUAL_RDO = 0.02
"""The cost of a bit that all quality presets have."""
_LEAST_RDO, _HIGH_RDO, _MOST_RDO = 0.001, 0.1, 0.5
"""Costs of a bit: the least; one above which the next rung down is better; and the most that is tried."""
_MOST_TRIALS = 6
"""The most trials between two costs that enclose the goal."""
_SIZE_MARGIN = 0.05
"""How far below its goal a size may stay, as a share of it."""
_PSNR_MARGIN = 0.2
"""How far above its goal a PSNR may be, in dB."""


@dataclass(frozen=True)
class Point:
    """The settings that a search chooses."""

    model: str
    """The name of a shipped model or the path of a weights file."""
    tokens_per_position: int
    """Tokens per latent position."""
    rdo: float
    """What a bit costs; see `EncodeSettings.rdo`."""


@dataclass(frozen=True)
class Outcome:
    """What an encoding with the settings of a `Point` gave."""

    video_bytes: int
    """The size of the file without the audio packets."""
    audio_bytes: int
    """The size of the audio records."""
    seconds: float
    """The duration of the video."""
    pixels: int
    """The pixels of all its frames."""
    psnr_db: float | None
    """The PSNR of the decoded video in dB; None if it was not measured."""

    @property
    def bits_per_pixel(self) -> float:
        """The bits per pixel without the audio."""
        return 8 * self.video_bytes / self.pixels


@dataclass(frozen=True)
class Goal:
    """What a file shall be."""

    text: str
    """The goal as the user gave it, for messages."""
    value: Callable[[Outcome], float]
    """Measures an outcome. More bits give a larger value."""
    low: float
    """The least value that is close enough."""
    high: float
    """The largest value that is close enough."""
    limits_size: bool
    """Whether `high` must not be exceeded. Otherwise, `low` must be reached."""
    shown: Callable[[Outcome], str]
    """Says what an outcome reached."""
    counts_sound: bool = False
    """Whether the sound is part of what `value` measures."""

    @property
    def needs_psnr(self) -> bool:
        """Whether `value` reads the PSNR."""
        return not self.limits_size

    def met(self, value: float) -> bool:
        """Whether a value keeps the promise, although it may be farther off than is close enough."""
        return value <= self.high if self.limits_size else value >= self.low


def size_goal(size: int, text: str) -> Goal:
    """A file, audio included, of at most `size` bytes."""

    def value(outcome: Outcome) -> float:
        return math.log2(outcome.video_bytes + outcome.audio_bytes)

    def shown(outcome: Outcome) -> str:
        return f"{outcome.video_bytes + outcome.audio_bytes} bytes"

    return Goal(text, value, math.log2(size * (1 - _SIZE_MARGIN)), math.log2(size), True, shown, counts_sound=True)


def bitrate_goal(bits_per_second: float, text: str) -> Goal:
    """A video, without its audio, of at most so many bits per second."""

    def rate(outcome: Outcome) -> float:
        if not outcome.seconds:
            raise SettingError(f"{text}: a still image has no duration; give a size")
        return 8 * outcome.video_bytes / outcome.seconds

    low, high = math.log2(bits_per_second * (1 - _SIZE_MARGIN)), math.log2(bits_per_second)
    return Goal(text, lambda outcome: math.log2(rate(outcome)), low, high, True, lambda o: f"{rate(o):.0f} bits/s")


def psnr_goal(psnr_db: float, text: str) -> Goal:
    """A video whose PSNR, over all frames and channels, is at least `psnr_db`."""

    def value(outcome: Outcome) -> float:
        assert outcome.psnr_db is not None
        return outcome.psnr_db

    return Goal(text, value, psnr_db, psnr_db + _PSNR_MARGIN, False, lambda outcome: f"{value(outcome):.2f} dB")


Measure: TypeAlias = "Callable[[Point], float]"
"""Encodes with the settings of a point and measures the outcome (`Goal.value`)."""


def search(ladder: Sequence[tuple[str, int]], measure: Measure, goal: Goal) -> Point:
    """Find the settings that reach a goal, with the fewest bits if it is a quality.

    Args:
        ladder: Models and tokens per position, from the smallest file to the best picture.
        measure: Encodes and measures. It is called about ten times, and never twice with the same point.
        goal: The goal.

    Returns:
        The settings that come closest. They miss the goal (`Goal.met`) only if all settings do.
    """
    tried = _Tried(ladder, measure)
    rung = _first_rung(tried, len(ladder), goal)
    below = rung - 1
    if rung == len(ladder) and not goal.limits_size:
        below = max(range(len(ladder)), key=lambda number: tried.value(number, _USUAL_RDO))
    spans = [(rung, _HIGH_RDO, _USUAL_RDO), (below, _USUAL_RDO, _LEAST_RDO), (rung, _MOST_RDO, _HIGH_RDO)]
    for number, poor, rich in spans:
        if not 0 <= number < len(ladder):
            continue
        if tried.value(number, poor) <= goal.high and tried.value(number, rich) >= goal.low:
            tried.approach(number, poor, rich, goal)
            break
    return tried.best(goal)


def _first_rung(tried: _Tried, rungs: int, goal: Goal) -> int:
    """Return the first rung whose value at the usual cost of a bit is not below the goal, or the number of rungs.

    Sizes rise from rung to rung; a quality need not, as on flat pictures, so that rungs are tried one after another.
    """

    def reaches(rung: int) -> bool:
        return tried.value(rung, _USUAL_RDO) >= goal.low

    if goal.limits_size:
        return bisect_left(range(rungs), True, key=reaches)
    return next(filter(reaches, range(rungs)), rungs)


class _Tried:
    """The points that were tried, with their values."""

    def __init__(self, ladder: Sequence[tuple[str, int]], measure: Measure) -> None:
        self._ladder, self._measure = ladder, measure
        self._values: dict[Point, float] = {}

    def value(self, rung: int, rdo: float) -> float:
        """Return the value at a point, which is measured if that has not been done."""
        point = Point(*self._ladder[rung], rdo)
        if point not in self._values:
            self._values[point] = self._measure(point)
        return self._values[point]

    def approach(self, rung: int, poor: float, rich: float, goal: Goal) -> None:
        """Try costs of a bit between two that enclose the goal, until one is close enough."""
        for _ in range(_MOST_TRIALS):
            ends = self.value(rung, poor), self.value(rung, rich)
            if any(goal.low <= value <= goal.high for value in ends):
                return
            share = ((goal.low + goal.high) / 2 - ends[0]) / (ends[1] - ends[0])
            # Not too close to an end, so that both ends move.
            share = min(max(share, 0.1), 0.9)
            middle = poor ** (1 - share) * rich**share
            if self.value(rung, middle) > goal.high:
                rich = middle
            else:
                poor = middle

    def best(self, goal: Goal) -> Point:
        """Return the point that keeps the promise and comes closest, or else the one that misses it least."""

        def rank(point: Point) -> tuple[bool, float]:
            value = self._values[point]
            return not goal.met(value), abs(value - (goal.high if goal.limits_size else goal.low))

        return min(self._values, key=rank)
