"""Encodes a video several times, until a goal is reached."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import BinaryIO, TypeAlias, cast

from vtok_codec.audio import AudioPacket
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.encoder import EncodeSummary, encode_video
from vtok_codec.codec.goals import Outcome, Point
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame
from vtok_codec.metrics.squared_error import SquaredError
from vtok_codec.stream.settings import EncodeSettings

OpenVideo: TypeAlias = "Callable[[], AbstractContextManager[VideoReader]]"
"""Opens the video anew."""
_IN_MEMORY = 1 << 26
"""The size in bytes from which a file is kept on disk rather than in memory."""


class Trials:
    """Encodings of one video at several points. The file of the last one is kept.

    Args:
        open_video: Opens the video.
        settings: All settings that a point does not choose.
        load: Loads a model by its name.
        on_frames: Called with the number of frames of each chunk of each encoding.
    """

    def __init__(
        self,
        open_video: OpenVideo,
        settings: EncodeSettings,
        load: Callable[[str], Tokenizer],
        on_frames: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._open, self._settings, self._load, self._on_frames = open_video, settings, load, on_frames
        self._file: BinaryIO | None = None
        self._point: Point | None = None
        self._summary: EncodeSummary | None = None
        self.joins = 0
        """How often the clock of the video jumps; see `VideoReader.joins`."""

    def outcome(self, point: Point, psnr: bool) -> Outcome:
        """Encode the video at a point, and measure the file.

        Args:
            point: The settings.
            psnr: Whether to decode the file and measure its PSNR, too.
        """
        seconds, pixels = self._encode(point)
        assert self._summary and self._file
        audio = self._summary.audio_bytes
        quality = self._psnr(self._file, self._load(point.model)) if psnr else None
        return Outcome(self._summary.bytes_written - audio, audio, seconds, pixels, quality)

    @property
    def failure(self) -> InputError | None:
        """The error that ended the input early, or None."""
        return self._summary.failure if self._summary else None

    def max_tokens(self, model: str) -> int:
        """Return the largest number of tokens per position of a model."""
        tokenizer = self._load(model)
        return 1 if tokenizer.onedva else tokenizer.max_tokens

    def write(self, point: Point, stream: BinaryIO) -> EncodeSummary:
        """Write the file of a point. It is encoded again if it was not the last one."""
        if self._point != point:
            self._encode(point)
        assert self._summary and self._file
        self._file.seek(0)
        shutil.copyfileobj(self._file, stream)
        return self._summary

    def close(self) -> None:
        """Drop the file that was kept."""
        if self._file:
            self._file.close()
        self._file = self._point = None

    def _encode(self, point: Point) -> tuple[float, int]:
        """Encode the video into the file that is kept. Returns its duration in seconds and its pixels."""
        self.close()
        self._file = cast(BinaryIO, tempfile.SpooledTemporaryFile(_IN_MEMORY))  # noqa: SIM115 - `close` closes it
        settings = replace(self._settings, tokens_per_position=point.tokens_per_position, rdo=point.rdo)
        ticks: list[int] = []
        with self._open() as reader:
            rate, unit = reader.info.rate, reader.info.time_base
            usual = round(1 / (rate * unit)) if rate else 0
            events = map(partial(_noted, ticks, usual), reader.events())
            self._summary = encode_video(
                reader.info, events, self._load(point.model), settings, self._file, self._on_frames
            )
            # A still image has no rate, and what FFmpeg gives as its duration means nothing.
            seconds = float((max(ticks) - min(ticks)) * unit) if rate else 0.0
            pixels = self._summary.frames * reader.info.width * reader.info.height
            self.joins = reader.joins
        self._point = point
        return seconds, pixels

    def _psnr(self, file: BinaryIO, tokenizer: Tokenizer) -> float:
        file.seek(0)
        error = SquaredError()
        coded = VtkReader(file)
        decoder = Decoders(tokenizer).choose(DecoderChoice(), coded.header.windows)
        with self._open() as reader:
            shown = _frames(decode_events(coded, decoder))
            # An input that breaks off is compared as far as it goes.
            for decoded, source in zip(shown, _frames(reader.events()), strict=False):
                error.add(decoded.pixels, source.pixels)
        return error.psnr_db


def _noted(ticks: list[int], usual: int, event: Frame | AudioPacket) -> Frame | AudioPacket:
    """Append the start and the end of a frame to `ticks`, of which only the extremes are kept.

    A frame of unknown duration lasts the `usual` one.
    """
    if isinstance(event, Frame):
        ticks += (event.pts, event.pts + (event.duration or usual))
        ticks[:] = min(ticks), max(ticks)
    return event


def _frames(events: Iterator[object]) -> Iterator[Frame]:
    return (event for event in events if isinstance(event, Frame))
