"""The codecs that are compared, behind one interface: ours at an operating point, and FFmpeg's at a CRF."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import imageio_ffmpeg

from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.encoder import EncodeSettings, check_stickiness, encode_video
from vtok_codec.codec.loading import decoder_file
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.evaluation.clips import Clip
from vtok_codec.evaluation.usage import Cost, measured, run_measured
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, Pixels
from vtok_codec.registry import DETERMINISTIC

_MATRIX_RGB = 0
"""Of ISO/IEC 23091-2."""
_LEFT_SITED = ("h264", "hevc", "mpeg2video", "mpeg4")
"""Codecs whose chroma lies left unless marked otherwise."""


class Codec(Protocol):
    """A codec at one operating point."""

    @property
    def name(self) -> str:
        """The codec: one curve of a plot."""

    @property
    def setting(self) -> str:
        """The operating point: one point of that curve."""

    @property
    def suffix(self) -> str:
        """Of the files that it writes."""

    @property
    def description(self) -> str:
        """What a reader should know of it."""

    @property
    def identity(self) -> dict[str, str]:
        """All that its results depend on, apart from the clip."""

    @property
    def is_anchor(self) -> bool:
        """Whether it is there to be compared with."""

    def encode(self, clip: Clip, target: Path) -> Cost:
        """Encode the video of a clip, without audio, into a file."""

    def decode(self, coded: Path) -> Cost:
        """Decode a file to RGB and throw the frames away."""

    def frames(self, coded: Path) -> Iterator[Pixels]:
        """The decoded frames, 8-bit RGB `H W 3`; at least as large as the clip's."""


@dataclass(frozen=True)
class VtokCodec:
    """A model that writes so many tokens a position, decoded by itself or by a diffusion decoder."""

    tokenizer: Tokenizer
    tokens: int
    name: str
    stickiness: float = 0.0
    diffusion: DiffusionDecoder | None = None
    suffix = ".vtk"
    is_anchor = False

    @property
    def setting(self) -> str:
        tokens = f"{self.tokens} token{'s' if self.tokens > 1 else ''}"
        return f"{tokens}, δ {self.stickiness:g}" if self.stickiness else tokens

    @property
    def description(self) -> str:
        placement = self.tokenizer.placement
        weights = self.tokenizer.id.weights_sha256[:12]
        where = f"{placement.device}, {placement.dtype}".replace("torch.", "")
        if self.diffusion:
            weights += f" decoded by {self.diffusion.weights_sha256[:12]} in {self.diffusion.steps} steps"
        return f"{self.name}: weights {weights}, {where}; seconds without start-up, memory of the whole process"

    @property
    def identity(self) -> dict[str, str]:
        placement = self.tokenizer.placement
        return {
            "weights": self.tokenizer.id.weights_sha256,
            "tokens": str(self.tokens),
            "stickiness": str(self.stickiness),
            "placement": f"{placement.device} {placement.dtype}",
        } | (self.diffusion.identity if self.diffusion else {})

    def encode(self, clip: Clip, target: Path) -> Cost:
        settings = EncodeSettings(tokens=self.tokens, stickiness=self.stickiness)
        with measured() as cost, VideoReader(clip.path, audio=False) as reader, target.open("wb") as stream:
            summary = encode_video(reader.info, reader.events(), self.tokenizer, settings, stream)
        if summary.failure:
            raise summary.failure
        return cost

    def warm_up(self) -> None:
        """Code a small picture, so that what torch sets up at first use is in nobody's time."""
        self.tokenizer.warm_up()
        if self.diffusion:
            self.diffusion.warm_up()

    def decode(self, coded: Path) -> Cost:
        with measured() as cost:
            for _ in self.frames(coded):
                pass
        return cost

    def frames(self, coded: Path) -> Iterator[Pixels]:
        with coded.open("rb") as stream:
            for event in decode_events(VtkReader(stream), self.diffusion or self.tokenizer):
                if isinstance(event, Frame):
                    yield event.pixels


@dataclass(frozen=True)
class Anchor:
    """An encoder of FFmpeg: its usual preset, and the leanest file that holds its stream."""

    name: str
    title: str
    suffix: str
    options: tuple[str, ...]
    crfs: tuple[float, ...]
    """From the largest file to the smallest: on small pictures they span the models' rates and qualities."""


# Elementary streams, without the encoder's own advertisement in them: no codec pays for a container or a signature.
ANCHORS = {
    anchor.name: anchor
    for anchor in (
        Anchor(
            "x264",
            "x264, medium",
            ".h264",
            ("-c:v", "libx264", "-preset", "medium", "-bsf:v", "filter_units=remove_types=6"),
            (22, 29, 36, 43, 50),
        ),
        Anchor(
            "x265",
            "x265, medium",
            ".hevc",
            ("-c:v", "libx265", "-preset", "medium", "-x265-params", "log-level=error:info=0"),
            (22, 29, 36, 43, 50),
        ),
        Anchor(
            "av1",
            "SVT-AV1, preset 6",
            ".obu",
            ("-c:v", "libsvtav1", "-preset", "6", "-svtav1-params", "lp=2"),
            (30, 39, 48, 57, 63),
        ),
    )
}


@dataclass(frozen=True)
class AnchorCodec:
    """One of FFmpeg's encoders at a CRF, in 8-bit 4:2:0."""

    anchor: Anchor
    crf: float
    is_anchor = True

    @property
    def name(self) -> str:
        return self.anchor.name

    @property
    def setting(self) -> str:
        return f"crf {self.crf:g}"

    @property
    def description(self) -> str:
        return f"{self.name}: {self.anchor.title}, 8-bit 4:2:0, its own keyframe interval, bare elementary stream"

    @property
    def suffix(self) -> str:
        return self.anchor.suffix

    @property
    def identity(self) -> dict[str, str]:
        return {"ffmpeg": ffmpeg_version(), "options": " ".join(self.anchor.options), "crf": f"{self.crf:g}"}

    def encode(self, clip: Clip, target: Path) -> Cost:
        info = clip.info
        # The rotation stays a mark, as in a .vtk. A frame is a frame, whatever its time.
        source = ["-noautorotate", "-i", str(clip.path.resolve()), "-map", f"0:{clip.stream}"]
        kept = ["-fps_mode", "passthrough", "-pix_fmt", "yuv420p"]
        filters = []
        if info.color.matrix == _MATRIX_RGB:
            filters.append("scale=out_color_matrix=bt601:out_range=tv")
            kept += ["-colorspace", "smpte170m", "-color_range", "tv"]
        right, below = info.width % 2, info.height % 2
        if right or below:
            # Halved chroma needs even sides; whole chroma, that padding does not lose a column of it.
            filters += ["format=yuv444p", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
            filters += [f"fillborders=right={right}:bottom={below}:mode=smear"]
        if filters:
            kept += ["-vf", ",".join(filters)]
        if clip.codec not in _LEFT_SITED or filters:
            # What FFmpeg converts to 4:2:0 itself, or reads without a mark, lies centred; H.264 would be read as left.
            kept += ["-chroma_sample_location", "center"]
        coding = [*self.anchor.options, "-crf", f"{self.crf:g}"]
        return run_measured([*_ffmpeg(), *source, *kept, *coding, str(target.resolve())])

    def decode(self, coded: Path) -> Cost:
        return run_measured(
            [*_ffmpeg(), "-i", str(coded.resolve()), "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"]
        )

    def frames(self, coded: Path) -> Iterator[Pixels]:
        with VideoReader(coded, audio=False) as reader:
            for frame in reader.frames():
                yield frame.pixels


def model_codecs(
    tokenizers: Sequence[Tokenizer],
    counts: Sequence[int],
    stickinesses: Sequence[float] = (0.0,),
    decoders: Sequence[str] = (DETERMINISTIC,),
) -> list[VtokCodec]:
    """Each model with each number of tokens, each stickiness and each decoder that is for it, under names that differ.

    A decoder is written as for `pixel_decoder`, a diffusion decoder with its steps after a colon: `ddim:2`.

    Raises:
        SettingError: a model has fewer tokens, a stickiness is out of range, or the deterministic decoder is given
            steps.
        ModelError: a model has the name of an anchor, or a decoder is for none of the models.
    """
    for delta in stickinesses:
        check_stickiness(delta)
    codecs = []
    for tokenizer, decoder, diffusion in _pairs(tokenizers, decoders):
        name = tokenizer.id.name
        if name in ANCHORS:
            raise ModelError(f"a model must not be called {name}; rename its file")
        if [other.id.name for other in tokenizers].count(name) > 1:
            name += f"-{tokenizer.id.weights_sha256[:8]}"
        titled = f"{name} {_short(decoder, decoders)}" if diffusion else name
        for count in counts:
            if not 1 <= count <= tokenizer.max_tokens:
                raise SettingError(f"tokens {count}: {name} has 1 to {tokenizer.max_tokens} tokens")
            codecs += [VtokCodec(tokenizer, count, titled, delta, diffusion) for delta in stickinesses]
    return codecs


def _pairs(
    tokenizers: Sequence[Tokenizer], decoders: Sequence[str]
) -> list[tuple[Tokenizer, str, DiffusionDecoder | None]]:
    """Each model with each decoder that is for it; None for its own."""
    pairs = []
    refusals: dict[str, ModelError] = {}
    for tokenizer in tokenizers:
        for decoder in decoders:
            try:
                pairs.append((tokenizer, decoder, _diffusion(tokenizer, decoder)))
            except ModelError as error:
                refusals[decoder] = error
    for decoder, refusal in refusals.items():
        if decoder not in {paired for _, paired, _ in pairs}:
            raise refusal
    return pairs


def _diffusion(tokenizer: Tokenizer, decoder: str) -> DiffusionDecoder | None:
    name, _, steps = decoder.partition(":")
    if name == DETERMINISTIC:
        if steps:
            raise SettingError(f"decoder {decoder}: the deterministic decoder has no steps")
        return None
    if steps and not steps.isdecimal():
        raise SettingError(f"decoder {decoder}: write the steps as a number, such as ddim:2")
    return DiffusionDecoder(decoder_file(tokenizer, name), tokenizer, int(steps) if steps else None)


def _short(decoder: str, decoders: Sequence[str]) -> str:
    """A decoder's name without its folder, where that tells it from the others."""
    names = [Path(other).name for other in decoders]
    return Path(decoder).name if names.count(Path(decoder).name) == 1 else decoder


def anchor_codecs(name: str, crfs: tuple[float, ...] | None = None) -> list[AnchorCodec]:
    """An anchor at each of its CRFs.

    Raises:
        SettingError: it is unknown.
    """
    if name not in ANCHORS:
        raise SettingError(f"no anchor {name!r}; choose from {', '.join(ANCHORS)}")
    anchor = ANCHORS[name]
    return [AnchorCodec(anchor, crf) for crf in crfs or anchor.crfs]


@cache
def ffmpeg_version() -> str:
    """The first line that FFmpeg says of itself."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _ffmpeg() -> list[str]:
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y"]
