"""Tokens → `.vtk`: arrays that a video model made, or that were taken from a file, become one that decodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

from vtok_codec.codec.encoder import ChunkWriter, CodedChunk, EncodeSettings, make_header
from vtok_codec.codec.tokenfile import Gop
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.header import MAX_GOP_LATENTS, Header, ModelId
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.types import VideoInfo
from vtok_codec.tokens.radix import Digits, Tokens, tokens_to_digits


def check_tokens(tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Refuse an array that is no GOP of the model.

    Raises:
        InputError: it is not `t h w n`, or has fewer latent frames than a GOP.
    """
    extra = tokenizer.id.extra_phases
    if tokens.ndim != 4 or not 1 <= tokens.shape[3] <= tokenizer.max_tokens or not tokens.size:
        raise InputError(f"tokens must be t h w n with n from 1 to {tokenizer.max_tokens}, not {tokens.shape}")
    if tokens.shape[0] <= extra:
        raise InputError(f"a GOP of {tokenizer.id.name} has {extra + 1} latent frames or more, not {tokens.shape[0]}")


def digits_of(tokens: Tokens, model: ModelId) -> Digits:
    """Digits `P t h w`.

    Raises:
        InputError: a token is none of the model's.
    """
    try:
        return tokens_to_digits(tokens, model.levels)
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


def as_rate(text: object) -> Fraction:
    """Frames a second: `30`, `29.97` or `30000/1001`.

    Raises:
        SettingError: it is none of these, or not above 0.
    """
    try:
        # A float by its digits: 29.97 is 2997/100.
        rate = Fraction(str(text))
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise SettingError(f"rate {text}: give frames a second, such as 30 or 30000/1001")
    return rate


def assemble(
    gops: Sequence[Gop], tokenizer: Tokenizer, rate: Fraction, size: tuple[int, int] | None, stream: BinaryIO
) -> None:
    """Write a file of these GOPs, each of which `whole_gop` made, of `rate` frames a second.

    `size` (height, width) crops what padding added; None crops nothing.

    Raises:
        InputError: there are no tokens, they are of different shapes, or none of the model's.
        SettingError: the rate or the size are out of range.
    """
    if not gops:
        raise InputError("there are no tokens")
    shapes = {gop.tokens.shape[1:] for gop in gops}
    if len(shapes) > 1:
        raise InputError(f"GOPs of different shapes, {min(shapes)} and {max(shapes)}, do not go together")
    header = _header(gops, tokenizer, rate, size)
    writer = VtkWriter(stream, header)
    chunks = ChunkWriter(writer, header)
    begin = 0
    for number, gop in enumerate(gops):
        for chunk in _chunks(header, number, digits_of(gop.tokens, tokenizer.id), begin, gop.frames):
            chunks.write(chunk)
        begin += gop.frames
    writer.finish()


def _header(gops: Sequence[Gop], tokenizer: Tokenizer, rate: Fraction, size: tuple[int, int] | None) -> Header:
    _, sh, sw = tokenizer.id.stride
    _, rows, columns, tokens = gops[0].tokens.shape
    whole = (rows * sh, columns * sw)
    height, width = size or whole
    if not (whole[0] - sh < height <= whole[0] and whole[1] - sw < width <= whole[1]):
        raise SettingError(f"size {height} {width} is not what {rows} x {columns} positions stand for: {whole}")
    header = make_header(VideoInfo(width, height, rate, 1 / rate), tokenizer, EncodeSettings(tokens=tokens))
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
        yield CodedChunk(gop, tuple(range(begin, begin + shown)), 1, digits[:, done : done + latents])
        done += latents
        begin += shown
