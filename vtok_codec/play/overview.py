"""What a player shows of a file before it decodes: its groups of pictures, their sizes, and where it is damaged."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import Totals
from vtok_codec.errors import DamageError


@dataclass
class GopSpan:
    """A group of pictures."""

    start_s: float
    """Seconds from the first frame of the file to the first frame of the GOP."""
    end_s: float
    """Seconds to the end of its last frame."""
    token_bytes: int
    """The size of its token records in bytes."""


@dataclass(frozen=True)
class DamagedSpan:
    """A part of a file that cannot be decoded."""

    start_s: float
    """Seconds from the first frame of the file to the end of the last whole chunk."""
    end_s: float | None
    """Seconds to the next GOP that can be decoded; None if there is none."""
    reason: str
    """What is wrong."""


@dataclass(frozen=True)
class Overview:
    """The contents of a file in time."""

    gops: tuple[GopSpan, ...]
    """The groups of pictures, in order."""
    damage: tuple[DamagedSpan, ...]
    """The damaged parts, in order."""

    @property
    def seconds(self) -> float:
        """Seconds to the end of the last frame."""
        return self.gops[-1].end_s if self.gops else 0.0


def read_overview(reader: VtkReader) -> Overview:
    """Read all records of a file, and check them, but unpack no tokens.

    Args:
        reader: The reader of the file, which must be seekable.

    Raises:
        FormatError: A record has an unknown type that may not be skipped.
        DamageError: Nothing of the file can be decoded.
    """
    scan = _Scan(float(reader.header.time_base))
    with suppress(DamageError):
        # The first chunk may be lost, and times count from it all the same.
        scan.first = reader.index()[0].pts
    while True:
        try:
            for event in reader.events():
                if isinstance(event, TokenChunk):
                    scan.add(event)
                elif isinstance(event, Totals):
                    # What stands behind the totals is no part of the video.
                    break
            break
        except DamageError as error:
            scan.lose(str(error))
            if reader.skip_damage() is None:
                break
    if not scan.gops:
        raise DamageError(f"nothing of the file can be decoded: {scan.lost[0].reason}")
    return Overview(tuple(scan.gops), tuple(scan.lost))


class _Scan:
    """Gathers the contents of a file."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self.first: int | None = None
        """The time of the first frame of the file in ticks; None until it is known."""
        self._losing = False
        """Whether the last span of `lost` has no end yet."""
        self.gops: list[GopSpan] = []
        self.lost: list[DamagedSpan] = []

    def add(self, chunk: TokenChunk) -> None:
        """Add the next chunk."""
        self.first = chunk.pts[0] if self.first is None else self.first
        start, end = ((pts - self.first) * self._tick_s for pts in (chunk.pts[0], chunk.pts[-1] + chunk.last_duration))
        if self._losing:
            self.lost[-1] = replace(self.lost[-1], end_s=start)
            self._losing = False
        if chunk.first or not self.gops:
            self.gops.append(GopSpan(start, end, 0))
        self.gops[-1].end_s = end
        self.gops[-1].token_bytes += chunk.record_bytes

    def lose(self, reason: str) -> None:
        """Note that the file is damaged after the last chunk."""
        if not self._losing:
            self._losing = True
            self.lost.append(DamagedSpan(self.gops[-1].end_s if self.gops else 0.0, None, reason))
