"""Measures a codec on a clip: encodes it to a file, decodes the file, and compares the frames in 8-bit RGB."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from vtok_codec.errors import InputError
from vtok_codec.evaluation.anchors import ffmpeg_version
from vtok_codec.evaluation.cache import ResultCache, code_identity
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.codecs import CodecUnderTest
from vtok_codec.evaluation.frechet import FeatureNetwork, Features
from vtok_codec.evaluation.scores import ScoreMeter, Scores
from vtok_codec.evaluation.vmaf import LEAST_VMAF_SIDE, VmafMeter
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS, lpips_sha256

NetworkFeatures: TypeAlias = dict[str, list[Features]]
"""The features of a video by the names of the networks' distances."""


@dataclass(frozen=True)
class ClipResult:
    """The results of one codec at one operating point on one clip."""

    clip: str
    """The name of the clip."""
    width: int
    """The width of the video in pixels."""
    height: int
    """The height of the video in pixels."""
    codec: str
    """The name of the codec."""
    setting: str
    """The name of the operating point."""
    is_anchor: bool
    """Whether the codec is an anchor."""
    frames: int
    """The number of frames."""
    bits_per_pixel: float
    """Bits per pixel of the whole coded file, which holds no audio. Padding does not count as pixels."""
    kbit_s: float | None
    """Kilobits (1000 bits) per second of the whole coded file; None for a still image."""
    scores: Scores
    """The measures of quality."""
    encode_s: float
    """Seconds of wall-clock time to read the source, encode it and write the file."""
    decode_s: float
    """Seconds of wall-clock time to read the file and decode it to RGB."""
    encode_mib: float | None
    """Peak resident memory in MiB while encoding, of this whole process for a model and of FFmpeg for an anchor; None
    where the system does not report it."""
    decode_mib: float | None
    """Peak resident memory in MiB while decoding, counted like `encode_mib`."""

    @property
    def point(self) -> tuple[str, str]:
        """The names of the codec and of its operating point."""
        return self.codec, self.setting

    def flat(self) -> dict[str, Any]:
        """Return all values as one row, with the fields of `scores` next to the others."""
        row = asdict(self)
        return row | row.pop("scores")


@dataclass(frozen=True)
class Measures:
    """What to measure. PSNR, gradient energy and flicker are always measured."""

    structural: bool = True
    """Whether to measure SSIM and MS-SSIM."""
    lpips: LPIPS | None = None
    """The network for LPIPS; None to leave LPIPS out."""
    vmaf: bool = True
    """Whether to measure VMAF and VMAF-NEG."""
    networks: tuple[FeatureNetwork, ...] = ()
    """The networks for Fréchet distances between all sources and all outputs."""

    @property
    def names(self) -> list[str]:
        """The fields of `Scores` that are measured."""
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
        """Everything that results depend on, apart from the clip and the codec."""
        taken = {"measures": " ".join(self.names), "code": code_identity(), "ffmpeg": ffmpeg_version()}
        if self.lpips:
            taken["lpips"] = lpips_sha256()
        return taken | {network.name: network.identity for network in self.networks}


def evaluate_clip(
    clip: SourceClip, codec: CodecUnderTest, measures: Measures, folder: Path, cache: ResultCache, alone: bool = True
) -> tuple[ClipResult, NetworkFeatures]:
    """Measure a codec on a clip, or take the result from the cache.

    Args:
        clip: The clip.
        codec: The codec at one operating point.
        measures: What to measure.
        folder: A folder for the coded file, which is deleted again.
        cache: Earlier results. A new result is added.
        alone: Whether nothing else is measured at the same time. If not, times and memory are not those of the codec,
            and the result is not taken for one that was measured alone.

    Returns:
        The result, and the features of the decoded clip.

    Raises:
        InputError, ModelError, OutputError: The clip cannot be read, or the codec or a measure fails.
    """
    key = {"clip": clip.sha256, "name": clip.name, "codec": codec.name, "setting": codec.setting}
    key |= codec.identity | measures.identity
    shared = key if alone else key | {"shared": "yes"}
    known = _from_entry(cache.get(key)) or _from_entry(cache.get(shared))
    if known is not None:
        return known
    coded = folder / f"coded-{threading.get_ident()}{codec.suffix}"
    encoding = codec.encode(clip, coded)
    decoding = codec.decode(coded)
    scores, features = _compare(clip, codec, coded, measures)
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
        scores=scores,
        encode_s=encoding.seconds,
        decode_s=decoding.seconds,
        encode_mib=encoding.peak_mib,
        decode_mib=decoding.peak_mib,
    )
    kept = {name: [vector.tolist() for vector in vectors] for name, vectors in features.items()}
    cache.put(shared, {"result": asdict(result), "features": kept})
    return result, features


def _compare(
    clip: SourceClip, codec: CodecUnderTest, coded: Path, measures: Measures
) -> tuple[Scores, NetworkFeatures]:
    """Compare a coded file with its clip, and compute the features of the decoded clip.

    Frames are compared one by one, so that memory does not grow with the length. Only networks need the whole clip.
    """
    width, height = clip.info.width, clip.info.height
    meter = ScoreMeter(measures.structural, measures.lpips)
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
            if measures.networks:
                kept.append(output)
        scores = meter.scores(vmaf.scores() if vmaf else None)
    return scores, {network.name: network.features(kept) for network in measures.networks}


def mean_result(results: Sequence[ClipResult]) -> ClipResult:
    """Average the results of one codec at one operating point over clips.

    A measure that some of the clips do not have, such as VMAF of small pictures, has no mean, since that would not be
    the quality at the mean rate. Frames are summed up, and of memory the maximum is taken. The size is that of the
    first clip.
    """
    first = results[0]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    def largest(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    means = {f.name: mean([getattr(r.scores, f.name) for r in results]) for f in fields(Scores)}
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
        scores=Scores(**means),  # type: ignore[arg-type]
        encode_s=math.fsum(result.encode_s for result in results) / len(results),
        decode_s=math.fsum(result.decode_s for result in results) / len(results),
        encode_mib=largest([result.encode_mib for result in results]),
        decode_mib=largest([result.decode_mib for result in results]),
    )


def _from_entry(entry: Mapping[str, Any] | None) -> tuple[ClipResult, NetworkFeatures] | None:
    """Convert a cache entry to a result and features; None if there is no entry, or it has other fields."""
    try:
        row, features = entry["result"], entry["features"]  # type: ignore[index]
        result = ClipResult(**{**row, "scores": Scores(**row["scores"])})
        return result, {name: [np.asarray(each, np.float64) for each in vectors] for name, vectors in features.items()}
    except (TypeError, KeyError, AttributeError):
        return None
