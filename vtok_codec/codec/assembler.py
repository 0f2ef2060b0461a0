"""Tokens → `.vtk`: arrays that a video model made, or that were taken from a file, become one that decodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from vtok_codec.codec.chunks import CodedChunk, GopPacker, chosen_coder
from vtok_codec.codec.encoder import EncodeSettings, make_header
from vtok_codec.codec.tokenfile import Gop
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import MAX_GOP_LATENTS, Header, ModelId
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import InputError
from vtok_codec.media.types import VideoInfo
from vtok_codec.tokens.radix import Digits, Tokens, check_range, tokens_to_digits


def check_tokens(tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Refuse an array that is no GOP of the model.

    Raises:
        InputError: it is not `t h w n`, has more tokens a position than the model or fewer latent frames than a GOP, or
            a token is none of the model's.
    """
    extra = tokenizer.id.extra_phases
    if tokens.ndim != 4 or not 1 <= tokens.shape[3] <= tokenizer.max_tokens or not tokens.size:
        raise InputError(f"tokens must be t h w n with n from 1 to {tokenizer.max_tokens}, not {tokens.shape}")
    if tokens.shape[0] <= extra:
        raise InputError(f"a GOP of {tokenizer.id.name} has {extra + 1} latent frames or more, not {tokens.shape[0]}")
    try:
        check_range(tokens, math.prod(tokenizer.id.levels))
    except ValueError as error:
        raise InputError(str(error)) from None


def whole_gop(tokens: Tokens, tokenizer: Tokenizer, frames: int | None = None) -> Gop:
    """A GOP of tokens `t h w n` with its frames, by default all that they stand for.

    Raises:
        InputError: see `check_tokens`, or they stand for another number of frames.
    """
    check_tokens(tokens, tokenizer)
    most = most_frames(len(tokens), tokenizer.id)
    gop = Gop(tokens, most if frames is None else frames)
    if not max(0, most - tokenizer.id.stride[0]) < gop.frames <= most:
        raise InputError(f"a GOP of {len(tokens)} latent frames stands for {most} frames, not {gop.frames}")
    return gop


def most_frames(latents: int, model: ModelId) -> int:
    """Frames that so many latent frames of a GOP stand for."""
    return (latents - model.extra_phases) * model.stride[0] - (model.stride[0] - 1)


def whole_size(tokens: Tokens, model: ModelId) -> tuple[int, int]:
    """Height and width of the pictures that tokens `t h w n` stand for, padding included."""
    return tokens.shape[1] * model.stride[1], tokens.shape[2] * model.stride[2]


def assemble(gops: Sequence[Gop], tokenizer: Tokenizer, info: VideoInfo, stream: BinaryIO) -> None:
    """Write a file of these GOPs, each of which `whole_gop` made. A frame lasts one tick of `info`.

    Raises:
        InputError: there are no tokens, they are of different shapes or stand for pictures of another size, a still has
            more than one frame, or the format cannot hold such a video.
    """
    if not gops:
        raise InputError("there are no tokens")
    shapes = {gop.tokens.shape[1:] for gop in gops}
    if len(shapes) > 1:
        raise InputError(f"GOPs of different shapes, {min(shapes)} and {max(shapes)}, do not go together")
    if info.rate is None and [gop.frames for gop in gops] != [1]:
        raise InputError("a still picture has one frame; give a rate")
    header = _header(gops, tokenizer, info)
    writer, coder = VtkWriter(stream, header), chosen_coder(header, EncodeSettings.coder)
    begin = 0
    for number, gop in enumerate(gops):
        packer = GopPacker(header, coder)
        for chunk in _chunks(header, number, tokens_to_digits(gop.tokens, header.model.levels), begin, gop.frames):
            packer.pack(chunk).write(writer)
        begin += gop.frames
    writer.finish()


def _header(gops: Sequence[Gop], tokenizer: Tokenizer, info: VideoInfo) -> Header:
    _, sh, sw = tokenizer.id.stride
    _, rows, columns, tokens = gops[0].tokens.shape
    if (-(-info.height // sh), -(-info.width // sw)) != (rows, columns):
        raise InputError(
            f"size {info.height} {info.width} is not what {rows} x {columns} positions stand for: "
            f"{rows * sh} {columns * sw}, or less by under {sh} and {sw}"
        )
    header = make_header(info, tokenizer, EncodeSettings(tokens=tokens))
    latents = max(len(gop.tokens) for gop in gops) - tokenizer.id.extra_phases
    if latents > MAX_GOP_LATENTS:
        raise InputError(f"a GOP has at most {MAX_GOP_LATENTS} latent frames; cut the tokens into several")
    return dataclasses.replace(header, gop_latents=latents)


def _chunks(header: Header, gop: int, digits: Digits, begin: int, frames: int) -> Iterator[CodedChunk]:
    """A GOP in chunks, its first frame at tick `begin`."""
    done, end = 0, begin + frames
    while begin < end:
        shown = min(header.max_chunk_frames(done == 0), end - begin)
        latents = header.chunk_latent_shape(shown, done == 0)[0]
        yield CodedChunk(gop, tuple(range(begin, begin + shown)), header.frame_ticks, digits[:, done : done + latents])
        done += latents
        begin += shown
