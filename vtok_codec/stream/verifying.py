"""Reads a whole `.vtk` file, checks it, and tells what it holds. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import Totals
from vtok_codec.stream.steadiness import Steadiness
from vtok_codec.stream.unpacking import PriorFinder, UnpackedChunk, unpacked_events


@dataclass(frozen=True)
class FileSummary:
    """What a whole file holds."""

    version: tuple[int, int]
    """The major and the minor version of the format."""
    header: Header
    """The header of the file."""
    totals: Totals
    """The totals at the end of the file."""
    file_bytes: int
    """The size of the file in bytes."""
    token_bytes: int
    """The size of the token records in bytes."""
    audio_bytes: int
    """The size of the audio records in bytes."""
    latent_positions: int
    """The number of latent positions: latent frames times rows times columns, summed over all chunks."""
    window_tokens: int
    """The number of 1D tokens in all chunks."""
    duration_s: float
    """Seconds from the start of the first frame to the end of the last, or to its start if its duration is unknown."""
    steady: bool
    """Whether all frames but the last have the nominal duration, but for one tick of rounding."""

    @property
    def bits_per_pixel(self) -> float:
        """Bits per pixel of the whole file without its audio records. Padding does not count as pixels."""
        return 8 * (self.file_bytes - self.audio_bytes) / (self.totals.frames * self.header.width * self.header.height)


def verify(stream: BinaryIO, priors: PriorFinder) -> FileSummary:
    """Read a whole file, check every record, and compare its tokens with the digest at its end.

    Args:
        stream: The file.
        priors: Finds the prior that the file names.

    Raises:
        FormatError, DamageError: The file is not valid. The message says what is wrong first, and where.
        ModelError: The prior that the file names is missing.
    """
    return summary_of(VtkReader(stream), priors)


def summary_of(reader: VtkReader, priors: PriorFinder) -> FileSummary:
    """Read all that follows the header of a file, and check it as `verify` does.

    Args:
        reader: The file, of which only the header has been read.
        priors: Finds the prior that the file names.

    Raises:
        FormatError, DamageError: The file is not valid.
        ModelError: The prior that the file names is missing.
    """
    header = reader.header
    token_size = audio_size = positions = window_tokens = 0
    first_pts: int | None = None
    end_pts, steadiness = 0, Steadiness(header.frame_ticks)
    totals: Totals | None = None
    end = reader.position
    for event in unpacked_events(reader, priors):
        begin, end = end, reader.position
        if isinstance(event, UnpackedChunk):
            chunk = event.chunk
            steadiness.add(chunk.pts)
            token_size += chunk.record_bytes
            positions += event.digits[0].size
            window_tokens += len(chunk.window_tokens.tokens) if chunk.window_tokens else 0
            first_pts = chunk.pts[0] if first_pts is None else first_pts
            end_pts = chunk.pts[-1] + chunk.last_duration
        elif isinstance(event, Totals):
            totals = event
        else:
            audio_size += end - begin
    assert totals is not None
    duration = float((end_pts - (first_pts or 0)) * header.time_base)
    return FileSummary(
        reader.version,
        header,
        totals,
        file_bytes=reader.position,
        token_bytes=token_size,
        audio_bytes=audio_size,
        latent_positions=positions,
        window_tokens=window_tokens,
        duration_s=duration,
        steady=steadiness.steady,
    )
