"""What a model makes of a clip: encoded to a true file, decoded from it, compared frame by frame in 8-bit RGB."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.encoder import EncodeSettings, encode_video
from vtok_codec.codec.tokenfile import verify
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels


@dataclass(frozen=True)
class ClipResult:
    """One clip at one operating point."""

    clip: str
    model: str
    tokens: int
    frames: int
    bits_per_pixel: float
    """Of the whole file, audio left out."""
    kbit_s: float
    raw_ratio: float
    """Bytes of the token records over those of bare 16-bit tokens."""
    psnr_db: float
    """Of the clip's mean squared error over all frames and channels; infinite for a lossless copy."""
    encode_s: float
    decode_s: float
    """With the time to read the source again and compare."""


class SquaredError:
    """The mean squared error of frames, added up one by one."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, a: Pixels, b: Pixels) -> None:
        """Compare two frames of one size."""
        difference = a.astype(np.int32) - b
        self._sum += float(np.einsum("hwc,hwc->", difference, difference, dtype=np.int64))
        self._count += difference.size

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio for a peak of 255."""
        if not self._count:
            raise ValueError("no frame was compared")
        return 10 * math.log10(255**2 * self._count / self._sum) if self._sum else math.inf


def evaluate_clip(path: Path, tokenizer: Tokenizer, tokens: int) -> ClipResult:
    """Encode a clip into memory as a `.vtk` file, decode that, and compare.

    Raises:
        InputError, ModelError: the clip cannot be read, or the model has fewer tokens.
    """
    file = io.BytesIO()
    started = time.perf_counter()
    with VideoReader(path, audio=False) as reader:
        encode_video(reader.info, reader.events(), tokenizer, EncodeSettings(tokens=tokens), file)
    encoded = time.perf_counter()
    error = SquaredError()
    with VideoReader(path, audio=False) as reader:
        decoded = decode_events(VtkReader(io.BytesIO(file.getvalue())), tokenizer)
        for ours, theirs in zip(_pixels(decoded), _pixels(reader.events()), strict=True):
            error.add(ours, theirs)
    finished = time.perf_counter()
    summary = verify(io.BytesIO(file.getvalue()))
    return ClipResult(
        clip=path.name,
        model=tokenizer.id.name,
        tokens=tokens,
        frames=summary.totals.frames,
        bits_per_pixel=summary.bits_per_pixel,
        kbit_s=8e-3 * summary.file_bytes / summary.duration_s if summary.duration_s else math.nan,
        raw_ratio=summary.token_bytes / (2 * tokens * summary.latent_positions),
        psnr_db=error.psnr_db,
        encode_s=encoded - started,
        decode_s=finished - encoded,
    )


def mean_result(results: Sequence[ClipResult]) -> ClipResult:
    """The mean over clips of each figure; frames and seconds are sums."""

    def mean(values: Iterator[float]) -> float:
        return float(np.mean(list(values)))

    return ClipResult(
        clip=f"mean of {len(results)}",
        model=results[0].model,
        tokens=results[0].tokens,
        frames=sum(result.frames for result in results),
        bits_per_pixel=mean(result.bits_per_pixel for result in results),
        kbit_s=mean(result.kbit_s for result in results),
        raw_ratio=mean(result.raw_ratio for result in results),
        psnr_db=mean(result.psnr_db for result in results),
        encode_s=sum(result.encode_s for result in results),
        decode_s=sum(result.decode_s for result in results),
    )


def _pixels(events: Iterator[object]) -> Iterator[Pixels]:
    return (event.pixels for event in events if isinstance(event, Frame))
