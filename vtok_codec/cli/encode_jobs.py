"""What `vtok encode` does with each input: opens it, encodes it, and says what was written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

from vtok_codec.cli.errors import ends_gently, fail, notice
from vtok_codec.cli.files import STANDARD_STREAM, require_open, require_pixels, vtk_output
from vtok_codec.cli.goals import encode_to_goal, tell_qualities, tried
from vtok_codec.cli.jobs import frame_bar
from vtok_codec.container.prefix import MAGIC
from vtok_codec.errors import InputError
from vtok_codec.registry import find_weights
from vtok_codec.text import counted

if TYPE_CHECKING:
    from vtok_codec.codec.encoder import EncodeSummary
    from vtok_codec.codec.goals import Goal
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.codec.trials import Trials
    from vtok_codec.media.parts import Part
    from vtok_codec.media.reader import VideoReader
    from vtok_codec.stream.settings import EncodeSettings


@dataclass(frozen=True)
class Inputs:
    """What to read of every input, as the options say."""

    audio: bool
    """Whether to keep the sound."""
    filters: str
    """FFmpeg filters for the picture; empty for none."""
    part: Part | None
    """The part to encode; None for the whole."""
    sequence_rate: Fraction | None
    """The frames per second of an image sequence; None for videos and single images."""
    max_pixels: int
    """The largest number of pixels of a frame."""

    @contextmanager
    def open(self, source: str) -> Iterator[VideoReader]:
        """Open an input.

        Raises:
            InputError: It cannot be read, or its pictures are too large.
        """
        with self._reader(source) as reader:
            require_pixels(reader.name, reader.info.width, reader.info.height, self.max_pixels)
            yield reader

    def _reader(self, source: str) -> VideoReader:
        """Open a reader in a thread, because FFmpeg ignores signals while it waits for a pipe."""
        from vtok_codec.codec.prefetch import Prefetch
        from vtok_codec.media.opening import standard_input
        from vtok_codec.media.reader import VideoReader

        if source == STANDARD_STREAM:
            require_open(sys.stdin)
        if source == STANDARD_STREAM and sys.stdin.isatty():
            raise InputError("will not read a video from a terminal; name a file, or pipe one in")
        place = standard_input() if source == STANDARD_STREAM else source
        rest = (self.audio, self.filters, "", self.part, self.sequence_rate)
        try:
            with Prefetch((VideoReader(one, *rest) for one in [place]), 1) as opened:
                return next(opened)
        except InputError as error:
            if source != STANDARD_STREAM and _is_vtk(source):
                raise InputError(f"{source} is already a .vtk file; 'vtok decode' turns it into a video") from error
            raise


def _is_vtk(path: str) -> bool:
    with suppress(OSError):
        if Path(path).is_file():
            with open(path, "rb") as file:
                return file.read(len(MAGIC)) == MAGIC
    return False


class Models:
    """The models of a command, each of which is loaded once.

    Args:
        device: `auto`, `cpu` or `cuda`.
        verbose: Whether to say which model is loaded and where it runs.
    """

    def __init__(self, device: str, verbose: bool) -> None:
        self._device, self._verbose = device, verbose
        self._loaded: dict[str, Tokenizer] = {}
        # Inputs may be encoded side by side, in threads.
        self._lock = Lock()

    def load(self, name: str) -> Tokenizer:
        """Return the model of a name or a path; it is loaded when it is first asked for.

        Raises:
            ModelError: It cannot be loaded.
            SettingError: It cannot run on the device.
        """
        from vtok_codec.codec.tokenizer import load_tokenizer

        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load_tokenizer(find_weights(name), self._device)
                if self._verbose:
                    notice(f"model {self._loaded[name].id.name} on {self._loaded[name].placement}")
            return self._loaded[name]


class EncodeJobs:
    """Encodes inputs one by one, all with the same settings.

    Args:
        inputs: What to read of every input.
        settings: The settings, as far as no goal chooses them.
        models: Loads models.
        preset_model: The model to encode with, unless a goal chooses one.
        goal: The size or quality to reach; None for none.
        goal_model: The model that has to reach the goal; None for any shipped one.
        force: Whether to overwrite files.
        quiet: Whether to say nothing about what goes well.
        bars: Whether to show progress.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: EncodeSettings,
        models: Models,
        preset_model: str,
        goal: Goal | None,
        goal_model: str | None,
        force: bool,
        quiet: bool,
        bars: bool,
    ) -> None:
        self._inputs, self._settings, self._models = inputs, settings, models
        self._preset_model, self._goal, self._goal_model = preset_model, goal, goal_model
        self._force, self._quiet, self._bars = force, quiet, bars

    def encode(self, source: str, target: str) -> None:
        """Encode an input.

        Raises:
            InputError: It cannot be read, or breaks off; the output then holds what came before.
            OutputError: The output cannot be written.
        """
        if source == STANDARD_STREAM:
            # A live source would have to wait for the model.
            self._models.load(self._preset_model)
        ended: int | None = None
        with vtk_output(target, source, self._force) as stream, self._inputs.open(source) as reader:
            if not self._quiet:
                for loss in reader.losses:
                    notice(f"{reader.name}: {loss}")
            if self._goal:
                summary = self._reach(self._goal, source, target, reader, stream)
            elif source == STANDARD_STREAM:
                summary, ended = self._record(reader, target, stream)
            else:
                summary = self._encode(reader, target, stream)
        if ended:
            kept = counted(summary.frames, "frame")
            fail(f"ended by a signal; {_shown(target)} holds the {kept} before", 128 + ended)
        if summary.failure:
            raise summary.failure

    def _record(self, reader: VideoReader, target: str, stream: BinaryIO) -> tuple[EncodeSummary, int | None]:
        """Encode a video that may be live: a signal ends it, and what came before is kept.

        Returns:
            What was written, and the number of the signal.
        """
        with ends_gently() as stop:
            return self._encode(reader, target, stream, stop.is_set), stop.signal

    def _encode(
        self, reader: VideoReader, target: str, stream: BinaryIO, ends: Callable[[], bool] = lambda: False
    ) -> EncodeSummary:
        from vtok_codec.codec.encoder import encode_video

        tokenizer = self._models.load(self._preset_model)
        # Loading the model is no part of the speed that is told.
        started = time.perf_counter()
        with frame_bar(reader.frame_count, not self._bars, Path(reader.name).name) as bar:
            summary = encode_video(reader.info, reader.events(), tokenizer, self._settings, stream, bar.update, ends)
        self._tell(reader, reader.joins, target, summary, time.perf_counter() - started)
        return summary

    def _reach(self, goal: Goal, source: str, target: str, reader: VideoReader, stream: BinaryIO) -> EncodeSummary:
        started = time.perf_counter()
        with self._trials(source) as trials:
            summary = encode_to_goal(trials, goal, self._goal_model, stream, reader.name, self._quiet)
            joins = trials.joins
        self._tell(reader, joins, target, summary, time.perf_counter() - started)
        return summary

    def try_qualities(self, source: str, _: str) -> None:
        """Print the size and the PSNR that each quality preset gives for an input, and write nothing."""
        with self._trials(source) as trials:
            tell_qualities(trials, source, self._goal_model)

    def _trials(self, source: str) -> AbstractContextManager[Trials]:
        return tried(source, partial(self._inputs.open, source), self._settings, self._models.load, not self._bars)

    def _tell(self, reader: VideoReader, joins: int, target: str, summary: EncodeSummary, seconds: float) -> None:
        """Say what was written, and how often the clock of the input jumped."""
        if self._quiet:
            return
        if joins:
            times = counted(joins, "time")
            notice(f"{reader.name}: its clock jumped {times}; the frames after a jump follow those before it")
        if summary.coder != self._settings.coder:
            why = "the model has no prior, or the pictures are too large for it"
            notice(f"{reader.name}: packed with coder {summary.coder}, not {self._settings.coder}: {why}")
        pixels = summary.frames * reader.info.width * reader.info.height
        bits = 8 * (summary.bytes_written - summary.audio_bytes) / pixels
        sound = " without the audio" if summary.audio_bytes else ""
        notice(
            f"{reader.name} -> {_shown(target)}: {counted(summary.frames, 'frame')}, {summary.bytes_written} bytes, "
            f"{bits:.4f} bits/pixel{sound}, {summary.frames / seconds:.1f} frames/s"
        )


def _shown(target: str) -> str:
    """Return the name of an output in messages."""
    return "standard output" if target == STANDARD_STREAM else target
