"""What a codec makes of a clip: encoded to a true file, decoded from it, compared frame by frame in 8-bit RGB."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from vtok_codec.errors import InputError
from vtok_codec.evaluation.cache import ResultCache, code_identity
from vtok_codec.evaluation.clips import Clip
from vtok_codec.evaluation.codecs import Codec
from vtok_codec.evaluation.fvd import I3D, Features
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.evaluation.metrics import Quality, QualityMeter
from vtok_codec.evaluation.vmaf import LEAST_VMAF_SIDE, VmafMeter
from vtok_codec.media.types import Pixels


@dataclass(frozen=True)
class ClipResult:
    """One clip through one codec at one operating point."""

    clip: str
    width: int
    height: int
    codec: str
    setting: str
    is_anchor: bool
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
            "energy": True,
            "flicker": True,
            "vmaf": self.vmaf,
            "vmaf_neg": self.vmaf,
        }
        return [name for name, taken in groups.items() if taken]

    @property
    def identity(self) -> dict[str, str]:
        taken = {"measures": " ".join(self.names), "code": code_identity()}
        return taken | ({"i3d": self.i3d.sha256} if self.i3d else {})


def evaluate_clip(
    clip: Clip, codec: Codec, measures: Measures, folder: Path, cache: ResultCache
) -> tuple[ClipResult, Features | None]:
    """Encode a clip into a file in `folder`, decode that, and compare; or take the result from the cache.

    The second value is what I3D makes of the decoded clip, where it is given.

    Raises:
        InputError, ModelError, OutputError: the clip cannot be read, or a codec or a measure fails.
    """
    key = {"clip": clip.sha256, "name": clip.name, "codec": codec.name, "setting": codec.setting}
    key |= codec.identity | measures.identity
    known = _from_entry(cache.get(key))
    if known is not None:
        return known
    coded = folder / f"coded{codec.suffix}"
    encoding = codec.encode(clip, coded)
    decoding = codec.decode(coded)
    quality, features = _compare(clip, codec, coded, measures)
    bits = 8 * coded.stat().st_size
    coded.unlink()
    result = ClipResult(
        clip=clip.name,
        width=clip.info.width,
        height=clip.info.height,
        codec=codec.name,
        setting=codec.setting,
        is_anchor=codec.is_anchor,
        frames=clip.frames,
        bits_per_pixel=bits / (clip.frames * clip.info.width * clip.info.height),
        kbit_s=bits / clip.seconds / 1000 if clip.seconds else None,
        quality=quality,
        encode_s=encoding.seconds,
        decode_s=decoding.seconds,
        encode_mib=encoding.peak_mib,
        decode_mib=decoding.peak_mib,
    )
    cache.put(key, {"result": asdict(result), "features": None if features is None else features.tolist()})
    return result, features


def _compare(clip: Clip, codec: Codec, coded: Path, measures: Measures) -> tuple[Quality, Features | None]:
    """Frame by frame, so that memory does not grow with the length; only I3D takes the whole clip."""
    width, height = clip.info.width, clip.info.height
    meter = QualityMeter(measures.structural, measures.lpips)
    kept: list[Pixels] = []
    with ExitStack() as stack:
        vmaf = None
        if measures.vmaf and min(width, height) >= LEAST_VMAF_SIDE:
            vmaf = stack.enter_context(VmafMeter(width, height))
        for source, decoded in zip_longest(clip.pixels(), codec.frames(coded)):
            if (
                source is None
                or decoded is None
                or any(d < s for d, s in zip(decoded.shape, source.shape, strict=True))
            ):
                raise InputError(f"{clip.name} came back from {codec.name} with other frames than it has")
            output = decoded[:height, :width]
            meter.add(source, output)
            if vmaf:
                vmaf.add(source, output)
            if measures.i3d:
                kept.append(output)
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
        width=first.width,
        height=first.height,
        codec=first.codec,
        setting=first.setting,
        is_anchor=first.is_anchor,
        frames=sum(result.frames for result in results),
        bits_per_pixel=math.fsum(result.bits_per_pixel for result in results) / len(results),
        kbit_s=mean([result.kbit_s for result in results]),
        quality=Quality(**means),  # type: ignore[arg-type]
        encode_s=sum(result.encode_s for result in results),
        decode_s=sum(result.decode_s for result in results),
        encode_mib=largest([result.encode_mib for result in results]),
        decode_mib=largest([result.decode_mib for result in results]),
    )


def _from_entry(entry: Mapping[str, Any] | None) -> tuple[ClipResult, Features | None] | None:
    """A kept result; None where there is none, or one of another shape."""
    try:
        row, features = entry["result"], entry["features"]  # type: ignore[index]
        result = ClipResult(**{**row, "quality": Quality(**row["quality"])})
        return result, None if features is None else np.asarray(features, np.float64)
    except (TypeError, KeyError):
        return None
