"""Unpacks the records of a `.vtk` file: its chunks become digits. Nothing here imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from vtok_codec.audio import AudioPacket
from vtok_codec.container.header import Header
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import Totals
from vtok_codec.errors import DamageError, FormatError
from vtok_codec.tokens.coders import PRIOR, Coder, CoderId, DigitLayout, make_coder
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Tokens, digits_to_tokens


@dataclass(frozen=True)
class UnpackedChunk:
    """A chunk of a file, unpacked."""

    chunk: TokenChunk
    """The chunk as it was read, with its packed digits."""
    digits: Digits
    """The digits of the chunk, uint8 `P t h w`."""


UnpackedEvent: TypeAlias = "UnpackedChunk | list[AudioPacket] | Totals"
"""One item of a file's content: a chunk, a list of audio packets, or, at the end, the totals."""


PriorFinder: TypeAlias = "Callable[[str], Prior]"
"""Finds a prior by the SHA-256 of its file, or raises a `ModelError`."""


def unpacked_events(
    reader: VtkReader,
    priors: PriorFinder,
    admit: Callable[[TokenChunk], None] = lambda chunk: None,
) -> Iterator[UnpackedEvent]:
    """Yield the events of a reader, with each chunk unpacked.

    If the file is read from its first chunk to its end, its tokens are compared with the digest at the end.

    Args:
        reader: The reader of the file.
        priors: Finds the prior that the file names.
        admit: Called with each chunk before it is unpacked. It raises an error if the chunk is not wanted.

    Raises:
        DamageError: A record is damaged (see `VtkReader.events`), a chunk cannot be unpacked, or the tokens do not
            match the digest. All events before the damage have been yielded.
        FormatError: A record has an unknown type that may not be skipped, or the coder is unknown.
        ModelError: The prior that the file names is missing.
    """
    yield from _unpacked(reader, admit, _Unpacker(reader.header, priors))


def _unpacked(reader: VtkReader, admit: Callable[[TokenChunk], None], unpacker: _Unpacker) -> Iterator[UnpackedEvent]:
    """Yield the events of a reader; see `unpacked_events`."""
    levels = reader.header.model.levels
    digest = hashlib.sha256()
    for event in reader.events():
        if isinstance(event, TokenChunk):
            admit(event)
            try:
                digits = unpacker.digits(event)
            except FormatError as error:
                raise type(error)(f"{error} ({reader.in_chunk(event)})") from None
            if reader.reads_all:
                digest.update(token_bytes(digits_to_tokens(digits, levels)))
            yield UnpackedChunk(event, digits)
        else:
            if isinstance(event, Totals) and reader.reads_all and digest.digest() != event.token_digest:
                raise DamageError("the tokens do not match the digest at the end of the file")
            yield event


@dataclass(frozen=True)
class Damage:
    """A damaged part of a file, which was skipped: from the record where it was noticed to the next usable GOP."""

    reason: str
    """What is wrong with the file."""
    most_frames: int | None
    """The largest number of frames that can have been lost, 0 if only sound was; None where no usable GOP follows."""

    def joined(self, after: Damage) -> Damage:
        """Join this damage with the next one into one part, which keeps the reason of the first."""
        if self.most_frames is None or after.most_frames is None:
            return Damage(self.reason, None)
        return Damage(self.reason, self.most_frames + after.most_frames)


def salvaged_events(reader: VtkReader, priors: PriorFinder) -> Iterator[UnpackedEvent | Damage]:
    """Yield the events of a reader like `unpacked_events`, but go on after damage.

    Damage is yielded as an event. The events after it start with the next GOP whose first record is intact, or, if only
    sound was damaged, with the next record.

    Raises:
        FormatError: A record has an unknown type that may not be skipped, or the coder is unknown.
        ModelError: The prior that the file names is missing.
    """
    # Behind damaged sound, the GOP goes on.
    unpacker = _Unpacker(reader.header, priors)
    while True:
        try:
            for event in _unpacked(reader, lambda chunk: None, unpacker):
                yield event
                if isinstance(event, Totals):
                    # All content has been read, so damage after the totals does not matter.
                    return
            return
        except DamageError as error:
            if reader.is_past_video:
                # All content has been read.
                return
            most_frames = reader.skip_damage()
            yield Damage(str(error), most_frames)
            if most_frames is None:
                return


class _Unpacker:
    """Unpacks chunks in order. It holds the coder of the current GOP."""

    def __init__(self, header: Header, priors: PriorFinder) -> None:
        self._header, self._priors = header, priors
        self._prior: Prior | None = None
        """The prior that the header names, once a chunk has needed it."""
        self._open: tuple[CoderId, Coder] | None = None

    def digits(self, chunk: TokenChunk) -> Digits:
        """Unpack the digits `P t h w` of the next chunk, or of any chunk that starts a GOP."""
        header = self._header
        if chunk.first:
            self._open = chunk.coder, self._coder(chunk.coder)
        if self._open is None or self._open[0] != chunk.coder:
            raise DamageError("a chunk has another coder than its GOP began with")
        try:
            return self._open[1].unpack(chunk.packed, (header.planes, *chunk.latent_shape))
        except ValueError as error:
            raise DamageError(f"a chunk cannot be unpacked: {error}") from None

    def _coder(self, coder: CoderId) -> Coder:
        """Return a new coder. The prior is looked up for the coder that needs it, so that others do without."""
        name = self._header.prior_sha256
        if coder == PRIOR.id and not name:
            raise DamageError("a chunk needs a prior, and the header names none")
        if name and coder == PRIOR.id and self._prior is None:
            self._prior = self._priors(name)
        try:
            return make_coder(coder, digit_layout(self._header, self._prior if coder == PRIOR.id else None))
        except LookupError as error:
            raise FormatError(f"{error.args[0]} is not known for such tokens; a newer vtok may read it") from None


def digit_layout(header: Header, prior: Prior | None) -> DigitLayout:
    """Return what a coder must know about the digits of a file."""
    model = header.model
    grid = model.layout.grid(header.height, header.width)
    return DigitLayout(model.levels, header.tokens_per_position, model.layout.phases, prior, grid)


def token_bytes(tokens: Tokens) -> bytes:
    """Return tokens as the bytes over which the digest of a file is taken: little-endian uint16 in `t h w n` order."""
    return tokens.astype("<u2", copy=False).tobytes()
