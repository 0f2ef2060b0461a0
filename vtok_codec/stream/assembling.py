"""Tokens → `.vtk`: writes arrays of tokens, from a video model or another file, as a file that can be decoded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from vtok_codec.container.header import MAX_GOP_LATENTS, Header, ModelId
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import InputError
from vtok_codec.media.types import VideoInfo
from vtok_codec.stream.chunks import CodedChunk, GopPacker, chosen_coder
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.reading import Gop
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Tokens, check_range, tokens_to_digits


@dataclass(frozen=True)
class TokenModel:
    """What must be known about a model to check its tokens and to write them to a file."""

    id: ModelId
    """The model, as files name it."""
    max_tokens: int
    """The number of tokens per position that the model has."""
    prior: Prior | None = None
    """The prior of the model; None if it has none."""

    def check(self, tokens: Tokens) -> None:
        """Check that an array is a GOP of this model.

        Raises:
            InputError: The array is not `t h w n`, has more tokens per position than the model or fewer latent frames
                than a GOP, or holds a value that is not one of the model's tokens.
        """
        least = self.id.layout.phases
        if tokens.ndim != 4 or not 1 <= tokens.shape[3] <= self.max_tokens or not tokens.size:
            raise InputError(f"tokens must be t h w n with n from 1 to {self.max_tokens}, not {tokens.shape}")
        if tokens.shape[0] < least:
            raise InputError(f"a GOP of {self.id.name} has at least {least} latent frames, not {tokens.shape[0]}")
        try:
            check_range(tokens, math.prod(self.id.levels))
        except ValueError as error:
            raise InputError(str(error)) from None

    def frames(self, tokens: Tokens) -> int:
        """Return the largest number of frames that a GOP of tokens `t h w n` can stand for."""
        return self.id.layout.frames(len(tokens), first=True)

    def picture(self, tokens: Tokens) -> tuple[int, int]:
        """Return the height and width in pixels of the frames that tokens `t h w n` stand for, padding included."""
        return self.id.layout.picture(tokens.shape[1], tokens.shape[2])

    def gop(self, tokens: Tokens, frames: int | None = None) -> Gop:
        """Make a GOP of tokens `t h w n`.

        Args:
            tokens: The tokens.
            frames: The number of frames that they stand for; None for the largest possible number.

        Raises:
            InputError: The tokens are not a GOP of this model (see `check`), or cannot stand for so many frames.
        """
        self.check(tokens)
        most = self.frames(tokens)
        gop = Gop(tokens, most if frames is None else frames)
        if not self.id.layout.holds(len(tokens), gop.frames):
            least = next(n for n in range(most, 0, -1) if not self.id.layout.holds(len(tokens), n - 1))
            raise InputError(
                f"a GOP of {len(tokens)} latent frames stands for {least} to {most} frames, not {gop.frames}"
            )
        return gop


def assemble(gops: Sequence[Gop], model: TokenModel, info: VideoInfo, stream: BinaryIO) -> None:
    """Write GOPs as a `.vtk` file.

    Args:
        gops: The GOPs, each made by `TokenModel.gop`.
        model: The model whose tokens they are.
        info: The video that they stand for. Every frame lasts one tick of its time base.
        stream: Where to write the file.

    Raises:
        InputError: There are no tokens, the GOPs differ in shape or stand for pictures of another size, a still image
            has more than one frame, or the format cannot hold such a video.
    """
    if not gops:
        raise InputError("there are no tokens")
    shapes = {gop.tokens.shape[1:] for gop in gops}
    if len(shapes) > 1:
        raise InputError(f"GOPs of different shapes, {min(shapes)} and {max(shapes)}, do not go together")
    if info.rate is None and [gop.frames for gop in gops] != [1]:
        raise InputError("a still image has one frame; give a frame rate")
    header = _header(gops, model, info)
    writer, coder = VtkWriter(stream, header), chosen_coder(header, EncodeSettings.coder, model.prior)
    begin = 0
    for number, gop in enumerate(gops):
        packer = GopPacker(header, coder)
        for chunk in _chunks(header, number, tokens_to_digits(gop.tokens, header.model.levels), begin, gop.frames):
            packer.pack(chunk).write(writer)
        begin += gop.frames
    writer.finish()


def _header(gops: Sequence[Gop], model: TokenModel, info: VideoInfo) -> Header:
    layout = model.id.layout
    _, rows, columns, count = gops[0].tokens.shape
    if layout.grid(info.height, info.width) != (rows, columns):
        height, width = layout.picture(rows, columns)
        _, below, right = layout.stride
        raise InputError(
            f"a size of {info.height}x{info.width} (height x width) does not fit {rows}x{columns} positions, which "
            f"stand for {height}x{width}, or for up to {below - 1} rows and {right - 1} columns less"
        )
    header = make_header(info, model.id, model.max_tokens, EncodeSettings(tokens_per_position=count), model.prior)
    steps = max(layout.time_steps(len(gop.tokens), first=True) for gop in gops)
    if steps > MAX_GOP_LATENTS:
        raise InputError(
            f"a GOP has at most {MAX_GOP_LATENTS} time steps, not {steps}; split the tokens into several GOPs"
        )
    return dataclasses.replace(header, gop_latents=steps)


def _chunks(header: Header, gop: int, digits: Digits, begin: int, frames: int) -> Iterator[CodedChunk]:
    """Yield the chunks of a GOP of `frames` frames whose first frame is at tick `begin`."""
    done, end = 0, begin + frames
    while begin < end:
        count = min(header.max_chunk_frames(done == 0), end - begin)
        latents = header.model.layout.latents(count, done == 0)
        yield CodedChunk(gop, tuple(range(begin, begin + count)), header.frame_ticks, digits[:, done : done + latents])
        done += latents
        begin += count
