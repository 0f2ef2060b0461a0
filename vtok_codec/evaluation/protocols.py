"""Prepares clips with the sizes, lengths and frame rates of published evaluation protocols.

Since the clips are the user's own, the figures cannot be compared with those in the papers. Where a paper leaves a
choice open, this module takes the first frames of a clip and crops its centre. PSNR follows from the mean squared error
of a whole clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vtok_codec.errors import InputError, SettingError
from vtok_codec.evaluation.clips import SourceClip, open_clip
from vtok_codec.media.formats import output_settings
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import DEFAULT_RATE, Frame, Pixels, VideoInfo
from vtok_codec.media.writer import VideoWriter

_TICK_TOLERANCE = Fraction(1, 10)
"""By what part of a tick a frame may be late and still be shown at it, since some files round times to milliseconds."""


@dataclass(frozen=True)
class Protocol:
    """A way to prepare clips: their first frames, scaled by their short side and cropped to a square at the centre."""

    name: str
    """The name that users choose the protocol by."""
    source: str
    """The paper, and where it describes the protocol."""
    frames: int
    """The number of frames."""
    sides: tuple[int, ...]
    """The sides of the squares in pixels. Each clip is measured at each of them."""
    rate: Fraction | None = None
    """Frames per second to resample to, by taking the frame that is shown at each tick; None to keep all frames."""


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("vidtok", "VidTok, section 4.1 and Table 1", frames=17, sides=(256,), rate=Fraction(30)),
        Protocol("onevae", "OneVAE, section 4.1", frames=33, sides=(512,)),
        Protocol("cdt", "CDT, section 4.1", frames=17, sides=(256, 720)),
        Protocol("onedva", "One-DVA, section 4.1", frames=17, sides=(256,), rate=Fraction(24)),
    )
}
"""All protocols by name."""


def open_groups(
    paths: Sequence[Path], protocol: str | None, folder: Path
) -> tuple[dict[str, list[SourceClip]], list[str]]:
    """Open clips, and prepare them if a protocol is given.

    Args:
        paths: The files.
        protocol: The name of a protocol; None to measure whole clips as they are.
        folder: A folder for the prepared clips.

    Returns:
        The clips of each group by its title, and notes for the user. Results are averaged per group; a protocol has one
        group for each of its sides.

    Raises:
        SettingError: There is no such protocol.
        InputError: Two clips have the same name, or a clip cannot be used.
    """
    names = [path.name for path in paths]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two clips have the name {min(doubled)}; rename one, so that the figures can be told apart")
    if protocol is None:
        return {"whole clips": [open_clip(path) for path in paths]}, []
    if protocol not in PROTOCOLS:
        raise SettingError(f"no protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[protocol]
    groups: dict[str, list[SourceClip]] = {}
    notes = [f"{chosen.source}: {chosen.frames} frames; the clips are yours, so the figures are not those of the paper"]
    for side in chosen.sides:
        title = f"{protocol}, {chosen.frames}x{side}x{side}"
        groups[title], enlarged = [], 0
        for number, path in enumerate(paths):
            prepared = folder / f"{number}-{side}.mkv"
            enlarged += prepare_clip(path, chosen, side, prepared)
            groups[title].append(open_clip(prepared, path.name))
        if enlarged:
            notes.append(f"{title}: {enlarged} of {len(paths)} clips had to be enlarged, which makes them easier")
    return groups, notes


def prepare_clip(clip: Path, protocol: Protocol, side: int, target: Path) -> bool:
    """Prepare a clip by a protocol, and write it as a lossless file that every codec can read.

    Args:
        clip: The file of the clip.
        protocol: The protocol.
        side: The side of the square in pixels.
        target: The file to write.

    Returns:
        Whether the clip had to be enlarged.

    Raises:
        InputError: The clip cannot be read, or is too short.
    """
    rate = protocol.rate
    with VideoReader(clip, audio=False) as reader:
        enlarged = min(reader.info.width, reader.info.height) < side
        frames = reader.frames()
        if rate is not None:
            frames = _resampled(frames, reader.info.time_base, rate)
        kept = [_square(frame.pixels, side) for frame, _ in zip(frames, range(protocol.frames), strict=False)]
        rate = rate or reader.info.rate or DEFAULT_RATE
    if len(kept) < protocol.frames:
        raise InputError(f"{clip} has {len(kept)} frames of the {protocol.frames} that protocol {protocol.name} needs")
    info = VideoInfo(width=side, height=side, rate=rate, time_base=1 / rate)
    with VideoWriter(target, info, output_settings(target.suffix, "ffv1", None)) as writer:
        for number, pixels in enumerate(kept):
            writer.write(Frame(pixels, number, 1))
    return enlarged


def _resampled(frames: Iterator[Frame], time_base: Fraction, rate: Fraction) -> Iterator[Frame]:
    """Yield the frame that is shown at each tick of a constant rate, starting at the time of the first frame."""
    shown = next(frames, None)
    if shown is None:
        return
    start, count = shown.pts, 0
    for frame in frames:
        tick = math.ceil((frame.pts - start) * time_base * rate - _TICK_TOLERANCE)
        for _ in range(count, tick):
            yield shown
        count = max(count, tick)
        shown = frame
    yield shown


def _square(pixels: Pixels, side: int) -> Pixels:
    """Scale the short side of a frame `H W 3` to `side` pixels, and crop the frame to a square at its centre."""
    height, width = pixels.shape[:2]
    scale = Fraction(side, min(height, width))
    if scale != 1:
        size = (max(side, round(height * scale)), max(side, round(width * scale)))
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        scaled = F.interpolate(picture, size=size, mode="bicubic", antialias=True)
        pixels = scaled[0].round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
