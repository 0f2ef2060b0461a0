"""The stages of a chunk on its way into a file: its frames, then their digits, then a packed record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from vtok_codec.container.header import Header
from vtok_codec.container.records import TokenPayload
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.container.writer import VtkWriter
from vtok_codec.media.types import Frame
from vtok_codec.stream.unpacking import digit_layout, token_bytes
from vtok_codec.tokens.coders import CODERS, ChoosingCoder, ChosenCoder, fitting_coder
from vtok_codec.tokens.codes import nearest_digits
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Values, digits_to_tokens


@dataclass(frozen=True)
class FrameChunk:
    """The frames of a chunk, which are coded together."""

    gop: int
    """The number of the GOP that the frames belong to."""
    starts_gop: bool
    """Whether this is the first chunk of its GOP."""
    frames: tuple[Frame, ...]
    """The frames in presentation order."""


@dataclass(frozen=True)
class CodedChunk:
    """The digits and the times of a chunk."""

    gop: int
    """The number of the GOP."""
    pts: tuple[int, ...]
    """The presentation time of each frame, in ticks of the header's time base."""
    last_duration: int
    """The duration of the last frame in ticks; 0 if it is unknown."""
    digits: Digits
    """The digits, uint8 `P t h w`."""
    window_tokens: WindowTokens | None = None
    """The 1D tokens; None if the file has none."""


@dataclass(frozen=True)
class PackedChunk:
    """A chunk ready to be written."""

    gop: int
    """The number of the GOP."""
    pts: int
    """The presentation time of the first frame, in ticks."""
    frames: int
    """The number of frames."""
    payload: TokenPayload
    """The payload of the record."""
    tokens: bytes
    """The tokens as the digest of the file counts them (`token_bytes`)."""
    digits: Digits
    """The digits, uint8 `P t h w`."""
    window_tokens: WindowTokens | None = None
    """The 1D tokens; None if the file has none."""

    def write(self, writer: VtkWriter) -> None:
        """Write the chunk as the next record of a file."""
        writer.write_tokens(
            self.gop, self.pts, self.frames, self.payload, self.digits.size, self.tokens, self.window_tokens
        )


class Chunker:
    """Gathers frames one by one and returns a chunk whenever one is complete."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._layout = header.model.layout
        self._frames: list[Frame] = []
        self._gop = 0
        self._steps_in_gop = 0

    def push(self, frame: Frame) -> FrameChunk | None:
        """Add a frame. Returns the chunk that it completes, or None."""
        self._frames.append(frame)
        return self._cut() if len(self._frames) == self._chunk_frames() else None

    def flush(self) -> FrameChunk | None:
        """End the stream. Returns the remaining frames as a shorter chunk, or None if there are none."""
        return self._cut() if self._frames else None

    def _chunk_frames(self) -> int:
        """Return the number of frames of the current chunk. The last chunk of a GOP may be shorter than the others."""
        steps = min(self._header.chunk_latents, self._header.gop_latents - self._steps_in_gop)
        return self._layout.chunk_frames(steps, first=self._steps_in_gop == 0)

    def _cut(self) -> FrameChunk:
        first = self._steps_in_gop == 0
        chunk = FrameChunk(self._gop, first, tuple(self._frames))
        self._steps_in_gop += self._layout.time_steps(self._layout.latents(len(self._frames), first), first)
        self._frames = []
        if self._steps_in_gop >= self._header.gop_latents:
            self._steps_in_gop = 0
            self._gop += 1
        return chunk


def chosen_coder(header: Header, name: str, prior: Prior | None) -> ChosenCoder:
    """Choose the coder of a name, or the next one if that one has no prior or the chunks are beyond its limits.

    Args:
        header: The header of the file.
        name: One of `CODERS`.
        prior: The prior of the model; None if it has none.
    """
    most_digits = header.planes * math.prod(header.chunk_latent_shape(header.max_chunk_frames(True), True))
    return fitting_coder(CODERS[name], digit_layout(header, prior), most_digits)


class GopPacker:
    """Packs the chunks of one GOP in order. It holds the state of their coder."""

    def __init__(self, header: Header, coder: ChosenCoder) -> None:
        self._header, self._spec = header, coder.spec
        self._coder = coder.make()

    @property
    def chooses(self) -> bool:
        """Whether the coder can choose digits by what they cost (`choose`)."""
        return self._spec.chooses

    def choose(self, gop: int, pts: tuple[int, ...], last_duration: int, values: Values, rdo: float) -> PackedChunk:
        """Choose the digits of the next chunk of the GOP by rate and error, and pack them.

        Args:
            gop: See `CodedChunk`.
            pts: See `CodedChunk`.
            last_duration: See `CodedChunk`.
            values: The digits before rounding, float32 `P t h w`.
            rdo: See `EncodeSettings.rdo`.
        """
        digits, data = cast(ChoosingCoder, self._coder).choose(values, rdo)
        return self._packed(CodedChunk(gop, pts, last_duration, digits), data)

    def tried(self, values: Values, rdo: float) -> Digits:
        """Return the digits that `choose` would choose for the next chunk, without packing them.

        A coder that cannot choose takes the nearest digits.

        Args:
            values: See `choose`.
            rdo: See `choose`.
        """
        if self.chooses:
            return cast(ChoosingCoder, self._coder).tried(values, rdo)
        return self.rounded(values)

    def rounded(self, values: Values) -> Digits:
        """Return the digits nearest to values `P t h w`."""
        return nearest_digits(values, self._header.model.levels)

    def pack(self, chunk: CodedChunk) -> PackedChunk:
        """Pack the next chunk of the GOP."""
        return self._packed(chunk, self._coder.pack(chunk.digits))

    def _packed(self, chunk: CodedChunk, data: bytes) -> PackedChunk:
        """Return a chunk whose digits are packed as `data`."""
        header = self._header
        ticks = [after - before for before, after in pairwise(chunk.pts)]
        ticks.append(chunk.last_duration)
        usual = all(tick == header.frame_ticks for tick in ticks)
        payload = TokenPayload(() if usual else tuple(ticks), *self._spec.id, data)
        tokens = token_bytes(digits_to_tokens(chunk.digits, header.model.levels))
        return PackedChunk(chunk.gop, chunk.pts[0], len(chunk.pts), payload, tokens, chunk.digits, chunk.window_tokens)
