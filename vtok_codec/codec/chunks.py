"""Chunks on their way into a file: gathered frames, their digits, the packed record. Nothing here needs torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from vtok_codec.codec.tokenfile import token_bytes
from vtok_codec.container.header import Header
from vtok_codec.container.records import TokenPayload
from vtok_codec.container.writer import VtkWriter
from vtok_codec.media.types import Frame
from vtok_codec.tokens.coders import CODERS, CoderId, fitting_coder, make_coder
from vtok_codec.tokens.radix import Digits, digits_to_tokens


@dataclass(frozen=True)
class FrameChunk:
    """The frames that are coded at once."""

    gop: int
    starts_gop: bool
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class CodedChunk:
    """A chunk of frames as digits `P t h w`."""

    gop: int
    pts: tuple[int, ...]
    last_duration: int
    digits: Digits


@dataclass(frozen=True)
class PackedChunk:
    """A chunk as it stands in a file."""

    gop: int
    pts: int
    """Of its first frame."""
    frames: int
    payload: TokenPayload
    raw_size: int
    """Digits, which is their size before packing."""
    tokens: bytes
    """For the digest of the file."""

    def write(self, writer: VtkWriter) -> None:
        """Write it as the next record."""
        writer.write_tokens(self.gop, self.pts, self.frames, self.payload, self.raw_size, self.tokens)


class Chunker:
    """Takes frames one by one and gives a chunk whenever one is full."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._frames: list[Frame] = []
        self._gop = 0
        self._latents_in_gop = 0

    def push(self, frame: Frame) -> FrameChunk | None:
        """Add a frame; the chunk that it completes, if it does."""
        self._frames.append(frame)
        return self._cut() if len(self._frames) == self._chunk_frames() else None

    def flush(self) -> FrameChunk | None:
        """The frames that make no whole chunk, as the last one."""
        return self._cut() if self._frames else None

    def _chunk_frames(self) -> int:
        """Frames of the chunk that is being gathered: the last one of a GOP may be shorter."""
        header, stride = self._header, self._header.model.stride[0]
        latents = min(header.chunk_latents, header.gop_latents - self._latents_in_gop)
        return latents * stride - (stride - 1 if self._latents_in_gop == 0 else 0)

    def _cut(self) -> FrameChunk:
        header, first = self._header, self._latents_in_gop == 0
        chunk = FrameChunk(self._gop, first, tuple(self._frames))
        self._latents_in_gop += header.chunk_latent_shape(len(self._frames), first)[0]
        self._latents_in_gop -= header.model.extra_phases if first else 0
        self._frames = []
        if self._latents_in_gop >= header.gop_latents:
            self._latents_in_gop = 0
            self._gop += 1
        return chunk


def chosen_coder(header: Header, name: str) -> CoderId:
    """The coder of this name in `CODERS`, or the one for everything where the file's chunks are beyond it."""
    most_digits = header.planes * math.prod(header.chunk_latent_shape(header.max_chunk_frames(True), True))
    return fitting_coder(CODERS[name], header.model.levels, most_digits)


class GopPacker:
    """Packs the chunks of one GOP, in their order; it holds their coder."""

    def __init__(self, header: Header, coder: CoderId) -> None:
        self._header, self._id = header, coder
        self._coder = make_coder(coder, header.model.levels, header.tokens)

    def pack(self, chunk: CodedChunk) -> PackedChunk:
        """The next chunk."""
        header = self._header
        ticks = [after - before for before, after in pairwise(chunk.pts)]
        ticks.append(chunk.last_duration)
        usual = all(tick == header.frame_ticks for tick in ticks)
        payload = TokenPayload(() if usual else tuple(ticks), *self._id, self._coder.pack(chunk.digits))
        tokens = token_bytes(digits_to_tokens(chunk.digits, header.model.levels))
        return PackedChunk(chunk.gop, chunk.pts[0], len(chunk.pts), payload, chunk.digits.size, tokens)
