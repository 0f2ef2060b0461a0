"""What a codec makes of a clip: encoded to a true file, decoded from it, compared frame by frame in 8-bit RGB."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vtok_codec.errors import InputError
from vtok_codec.evaluation.cache import ResultCache
from vtok_codec.evaluation.codecs import Codec
from vtok_codec.evaluation.fvd import I3D, Features
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.evaluation.metrics import Quality, QualityMeter
from vtok_codec.evaluation.vmaf import VmafMeter
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels, VideoInfo

_MEASURE_VERSION = "1"
"""Changes whenever a figure would come out otherwise."""


@dataclass(frozen=True)
class ClipResult:
    """One clip through one codec at one operating point."""

    clip: str
    codec: str
    setting: str
    frames: int
    bits_per_pixel: float
    """Of the whole file, without audio, over the pixels of the clip."""
    kbit_s: float | None
    quality: Quality
    encode_s: float
    """To read the source, encode it, and write the file."""
    decode_s: float
    """To read the file and decode it to RGB."""
    encode_mib: float | None
    """Peak resident memory while encoding: of the whole process for the models, of FFmpeg for the anchors."""
    decode_mib: float | None

    @property
    def point(self) -> tuple[str, str]:
        """Codec and operating point."""
        return self.codec, self.setting

    def flat(self) -> dict[str, Any]:
        """One row: the figures of quality beside the others."""
        row = asdict(self)
        return row | row.pop("quality")


@dataclass(frozen=True)
class Clip:
    """A clip to measure, and what stays the same for every codec."""

    name: str
    path: Path
    info: VideoInfo
    frames: int
    seconds: float | None
    sha256: str


@dataclass(frozen=True)
class Measures:
    """Which measures to take beside PSNR."""

    structural: bool = True
    """SSIM and MS-SSIM."""
    lpips: LPIPS | None = None
    vmaf: bool = True
    i3d: I3D | None = None

    @property
    def names(self) -> list[str]:
        """The fields of `Quality` that are taken."""
        groups = {
            "psnr_db": True,
            "ssim": self.structural,
            "ms_ssim": self.structural,
            "lpips": self.lpips is not None,
            "flicker": True,
            "vmaf": self.vmaf,
            "vmaf_neg": self.vmaf,
        }
        return [name for name, taken in groups.items() if taken]

    @property
    def identity(self) -> dict[str, str]:
        return {"measures": " ".join([_MEASURE_VERSION, *self.names])}


def open_clip(path: Path, name: str | None = None) -> Clip:
    """Read a clip once, for its size, length and hash.

    Raises:
        InputError: it cannot be read.
    """
    with VideoReader(path, audio=False) as reader:
        times = [(event.pts, event.duration) for event in reader.events() if isinstance(event, Frame)]
        info = reader.info
    ticks = times[-1][0] - times[0][0] + (times[-1][1] or (round(1 / (info.rate * info.time_base)) if info.rate else 0))
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Clip(name or path.name, path, info, len(times), float(ticks * info.time_base) or None, digest)


def evaluate_clip(
    clip: Clip, codec: Codec, measures: Measures, folder: Path, cache: ResultCache
) -> tuple[ClipResult, Features | None]:
    """Encode a clip into a file in `folder`, decode that, and compare; or take the result from the cache.

    The second value is what I3D makes of the decoded clip, where it is given.

    Raises:
        InputError, ModelError, OutputError: the clip cannot be read, or a codec or a measure fails.
    """
    key = {"clip": clip.sha256, "name": clip.name, "codec": codec.name} | codec.identity | measures.identity
    known = cache.get(key) if measures.i3d is None else None
    if known is not None:
        return _from_row(known), None
    coded = folder / f"coded{codec.suffix}"
    encoding = codec.encode(clip.path, clip.info, coded)
    decoding = codec.decode(coded)
    quality, features = _compare(clip, codec, coded, measures)
    bits = 8 * coded.stat().st_size
    coded.unlink()
    result = ClipResult(
        clip=clip.name,
        codec=codec.name,
        setting=codec.setting,
        frames=clip.frames,
        bits_per_pixel=bits / (clip.frames * clip.info.width * clip.info.height),
        kbit_s=bits / clip.seconds / 1000 if clip.seconds else None,
        quality=quality,
        encode_s=encoding.seconds,
        decode_s=decoding.seconds,
        encode_mib=encoding.peak_mib,
        decode_mib=decoding.peak_mib,
    )
    cache.put(key, asdict(result))
    return result, features


def source_features(clip: Clip, i3d: I3D) -> Features:
    """What I3D makes of a clip itself."""
    return i3d.features(list(source_pixels(clip)))


def source_pixels(clip: Clip) -> Iterator[Pixels]:
    """The frames of a clip, `H W 3`."""
    with VideoReader(clip.path, audio=False) as reader:
        for event in reader.events():
            if isinstance(event, Frame):
                yield event.pixels


def _compare(clip: Clip, codec: Codec, coded: Path, measures: Measures) -> tuple[Quality, Features | None]:
    width, height = clip.info.width, clip.info.height
    meter = QualityMeter(measures.structural, measures.lpips)
    kept: list[Pixels] = []
    with ExitStack() as stack:
        vmaf = stack.enter_context(VmafMeter(width, height)) if measures.vmaf else None
        sources = source_pixels(clip)
        try:
            for source, decoded in zip(sources, codec.frames(coded), strict=True):
                output = decoded[:height, :width]
                meter.add(source, output)
                if vmaf:
                    vmaf.add(source, output)
                if measures.i3d:
                    kept.append(output)
        except ValueError as error:
            raise InputError(f"{clip.name} came back from {codec.name} otherwise than it went: {error}") from error
        quality = meter.quality(vmaf.scores() if vmaf else None)
    return quality, measures.i3d.features(kept) if measures.i3d else None


def mean_result(results: Sequence[ClipResult]) -> ClipResult:
    """The mean over clips of each figure; frames and seconds are sums, memory the largest."""
    first = results[0]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def largest(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    means = {f.name: mean([getattr(r.quality, f.name) for r in results]) for f in fields(Quality)}
    return ClipResult(
        clip=f"mean of {len(results)}",
        codec=first.codec,
        setting=first.setting,
        frames=sum(result.frames for result in results),
        bits_per_pixel=math.fsum(result.bits_per_pixel for result in results) / len(results),
        kbit_s=mean([result.kbit_s for result in results]),
        quality=Quality(**means),  # type: ignore[arg-type]
        encode_s=sum(result.encode_s for result in results),
        decode_s=sum(result.decode_s for result in results),
        encode_mib=largest([result.encode_mib for result in results]),
        decode_mib=largest([result.decode_mib for result in results]),
    )


def _from_row(row: Mapping[str, Any]) -> ClipResult:
    return ClipResult(**{**row, "quality": Quality(**row["quality"])})
