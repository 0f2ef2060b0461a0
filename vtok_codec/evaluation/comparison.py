"""Pictures for a report: a frame of the source, of vtok and of an anchor at equal file size, with their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vtok_codec.errors import VtokError
from vtok_codec.evaluation.anchors import Anchor, AnchorCodec
from vtok_codec.evaluation.campaign import Evaluation
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.codecs import CodecUnderTest
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.squared_error import SquaredError

_ERROR_GAIN = 4
"""The factor by which errors are enlarged to be visible."""
_LEAST_CRF = 10.0
"""The CRF from which on the anchor's is searched."""
_SEARCH_STEPS = 7
"""The number of bisections in that search."""
SHOWN = (360, 480)
"""The most rows and columns of a frame that a report shows."""


@dataclass(frozen=True)
class Panel:
    """One codec's version of a frame."""

    title: str
    """The codec and its operating point."""
    bits_per_pixel: float | None
    """Bits per pixel of the whole coded clip; None for the source."""
    psnr_db: float | None
    """PSNR of this frame in dB; None for the source."""
    picture: Pixels
    """The frame or its centre, RGB `H W 3`."""
    error: Pixels | None
    """The mean absolute error of the channels times four, as a grey picture; None for the source."""


@dataclass(frozen=True)
class Strip:
    """One frame of a clip in several versions."""

    clip: str
    """The name of the clip."""
    frame: int
    """The number of the frame, counted from 0."""
    panels: tuple[Panel, ...]
    """The versions: the source, vtok, and the anchor if there is one."""


def make_strips(
    evaluation: Evaluation, codecs: Sequence[CodecUnderTest], anchor: Anchor | None, folder: Path
) -> list[Strip]:
    """Make strips of the middle frames of three clips: those with the lowest, the median and the highest PSNR.

    The vtok codec is the middle one of those given. Its PSNR ranks the clips, and the anchor's CRF is chosen for a file
    of about the same size.

    Args:
        evaluation: The results of the codecs.
        codecs: The codecs that were evaluated.
        anchor: The anchor to show; None for none.
        folder: A folder for coded files, which are deleted again.
    """
    own = [codec for codec in codecs if not codec.is_anchor]
    ours = own[(len(own) - 1) // 2]
    results = evaluation.at((ours.name, ours.setting))
    ranked = sorted(results, key=lambda result: result.scores.psnr_db)
    places = sorted({0, (len(ranked) - 1) // 2, len(ranked) - 1}) if ranked else []
    clips = {clip.name: clip for clip in evaluation.clips}
    return [_strip(clips[ranked[place].clip], ours, anchor, folder) for place in places]


def _strip(clip: SourceClip, ours: CodecUnderTest, anchor: Anchor | None, folder: Path) -> Strip:
    """Make the strip of a clip. The anchor is left out where it fails on this clip."""
    number = clip.frames // 2
    source = frame_at(clip.pixels(), number)
    own, size = _panel(clip, ours, number, source, folder)
    panels = [Panel("source", None, None, centre(source), None), own]
    if anchor:
        with suppress(VtokError):
            panels.append(_panel(clip, anchor_of_size(clip, anchor, size, folder), number, source, folder)[0])
    return Strip(clip.name, number, tuple(panels))


def _panel(clip: SourceClip, codec: CodecUnderTest, number: int, source: Pixels, folder: Path) -> tuple[Panel, int]:
    """Encode a clip, and return the codec's version of a frame and the size of the file in bytes."""
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
    """Crop a picture `H W 3` to its centre, with at most as many rows and columns as `shown` says."""
    height, width = (min(most, size) for most, size in zip(shown, picture.shape, strict=False))
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def anchor_of_size(clip: SourceClip, anchor: Anchor, wanted_bytes: int, folder: Path) -> AnchorCodec:
    """Return the anchor at the CRF whose file is the largest that does not exceed the wanted size."""
    target = folder / f"search{anchor.suffix}"

    def size(crf: float) -> int:
        AnchorCodec(anchor, crf).encode(clip, target)
        return target.stat().st_size

    crf = _smallest_fitting(size, wanted_bytes, anchor.largest_crf)
    target.unlink()
    return AnchorCodec(anchor, crf)


def _smallest_fitting(size: Callable[[float], int], wanted: int, largest_crf: float) -> float:
    """Find the lowest CRF whose size does not exceed `wanted` by bisection, or else the highest CRF."""
    low, high = _LEAST_CRF, largest_crf
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        if size(middle) > wanted:
            low = middle
        else:
            high = middle
    return high


def frame_at(frames: Iterator[Pixels], number: int) -> Pixels:
    """Return the frame with a number, counted from 0."""
    return next(islice(frames, number, None))
