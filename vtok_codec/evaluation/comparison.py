"""Pictures that show what figures do not: source, ours, and an anchor's at equal size, with their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vtok_codec.errors import VtokError
from vtok_codec.evaluation.campaign import Evaluation
from vtok_codec.evaluation.clips import Clip
from vtok_codec.evaluation.codecs import Anchor, AnchorCodec, Codec
from vtok_codec.evaluation.metrics import SquaredError
from vtok_codec.media.types import Pixels

_ERROR_GAIN = 4
_CRF_RANGE = (10.0, 51.0)
_SEARCH_STEPS = 7
SHOWN = (360, 480)
"""Most rows and columns of a frame that a page shows."""


@dataclass(frozen=True)
class Panel:
    """One codec's version of a frame."""

    title: str
    bits_per_pixel: float | None
    """Of the whole coded clip; None for the source."""
    psnr_db: float | None
    """Of this frame."""
    picture: Pixels
    error: Pixels | None
    """Mean |difference| of the channels, four times as large, grey; None for the source."""


@dataclass(frozen=True)
class Strip:
    """One frame of a clip in several versions."""

    clip: str
    frame: int
    panels: tuple[Panel, ...]


def make_strips(evaluation: Evaluation, codecs: Sequence[Codec], anchor: Anchor | None, folder: Path) -> list[Strip]:
    """The middle frame, its centre if it is large, of the clips with the lowest, the middle and the highest PSNR.

    Ours is the codec nearest to the middle of those given that are no anchors; the anchor's file is about as large.
    """
    own = [codec for codec in codecs if not codec.is_anchor]
    ours = own[(len(own) - 1) // 2]
    results = evaluation.at((ours.name, ours.setting))
    ranked = sorted(results, key=lambda result: result.quality.psnr_db)
    places = sorted({0, (len(ranked) - 1) // 2, len(ranked) - 1}) if ranked else []
    clips = {clip.name: clip for clip in evaluation.clips}
    return [_strip(clips[ranked[place].clip], ours, anchor, folder) for place in places]


def _strip(clip: Clip, ours: Codec, anchor: Anchor | None, folder: Path) -> Strip:
    """Without the anchor where it fails on this clip."""
    number = clip.frames // 2
    source = frame_at(clip.pixels(), number)
    own, size = _panel(clip, ours, number, source, folder)
    panels = [Panel("source", None, None, centre(source), None), own]
    if anchor:
        with suppress(VtokError):
            panels.append(_panel(clip, _of_size(clip, anchor, size, folder), number, source, folder)[0])
    return Strip(clip.name, number, tuple(panels))


def _panel(clip: Clip, codec: Codec, number: int, source: Pixels, folder: Path) -> tuple[Panel, int]:
    """A codec's version of a frame, and the bytes of its file."""
    coded = folder / f"strip{codec.suffix}"
    codec.encode(clip, coded)
    size = coded.stat().st_size
    height, width = source.shape[:2]
    picture = frame_at(codec.frames(coded), number)[:height, :width]
    coded.unlink()
    error = SquaredError()
    error.add(source, picture)
    difference = np.abs(picture.astype(np.int16) - source).mean(2) * _ERROR_GAIN
    grey = np.repeat(np.clip(difference, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    bits_per_pixel = 8 * size / (clip.frames * clip.info.width * clip.info.height)
    shown = (centre(image) for image in (picture, grey))
    return Panel(f"{codec.name}, {codec.setting}", bits_per_pixel, error.psnr_db, *shown), size


def centre(picture: Pixels, shown: tuple[int, int] = SHOWN) -> Pixels:
    """The middle of a picture, at most so many rows and columns of it."""
    height, width = (min(most, size) for most, size in zip(shown, picture.shape, strict=False))
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _of_size(clip: Clip, anchor: Anchor, wanted_bytes: int, folder: Path) -> AnchorCodec:
    """The anchor at the CRF whose file is the largest one not above the wanted size."""
    target = folder / f"search{anchor.suffix}"

    def size(crf: float) -> int:
        AnchorCodec(anchor, crf).encode(clip, target)
        return target.stat().st_size

    crf = _smallest_fitting(size, wanted_bytes)
    target.unlink()
    return AnchorCodec(anchor, crf)


def _smallest_fitting(size: Callable[[float], int], wanted: int) -> float:
    """By bisection: the lowest CRF whose size does not exceed `wanted`, or the highest CRF there is."""
    low, high = _CRF_RANGE
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        if size(middle) > wanted:
            low = middle
        else:
            high = middle
    return high


def frame_at(frames: Iterator[Pixels], number: int) -> Pixels:
    """Frame `number` of those that come, from 0 on."""
    return next(islice(frames, number, None))
