"""`vtok decode`: `.vtk` → video."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, open_input, require_pixels, standard_output, whole_output
from vtok_codec.cli.jobs import frame_bar, job_pairs, run_jobs
from vtok_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    INPUT,
    MODEL,
    OUTPUT,
    PICTURE,
    Device,
    Duration,
    Force,
    MaxPixels,
    NoAudio,
    OutputFolder,
    Paths,
    Quiet,
    Start,
    Verbose,
    WeightsOfInput,
)
from vtok_codec.container import is_vtk_name
from vtok_codec.errors import DamageError, OutputError
from vtok_codec.registry import DETERMINISTIC
from vtok_codec.text import counted

if TYPE_CHECKING:
    from vtok_codec.codec.decoder import Gap
    from vtok_codec.codec.engines import DecoderLoader
    from vtok_codec.codec.pixel_decoder import DecoderChoice, PixelDecoder
    from vtok_codec.container.header import Header
    from vtok_codec.container.reader import VtkReader
    from vtok_codec.media.formats import OutputSettings

_PIPE_FORMAT = "nut"
"""The format on standard output."""
_COPY = "copy"
"""The value of `--audio-codec` that leaves sound as it is."""


@reports_errors
def decode(
    paths: Paths,
    output_dir: OutputFolder = None,
    suffix: Annotated[
        str | None, typer.Option(help="Container of the outputs in -o DIR; .mp4 by default.", rich_help_panel=OUTPUT)
    ] = None,
    start: Start = 0.0,
    duration: Duration = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Continue after damage: the last good frame fills the gap until the next group of pictures whose "
            "first chunk is intact.",
            rich_help_panel=INPUT,
        ),
    ] = False,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens", "-t", help="Read only the first tokens of each latent position.", rich_help_panel=PICTURE
        ),
    ] = None,
    decoder: Annotated[
        str,
        typer.Option(
            help="deterministic; structural (ignores 1D tokens); ddim or flow (diffusion; flow also draws what 1D "
            "tokens add); or the weights file of a sharp or a diffusion decoder.",
            rich_help_panel=MODEL,
        ),
    ] = DETERMINISTIC,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of a diffusion decoder, 1 to 16; by default 1, for 1D tokens 4.", rich_help_panel=MODEL
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of a diffusion decoder's noise.", rich_help_panel=MODEL)] = 0,
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the decoder: torch, or onnx (ONNX Runtime, the deterministic decoder on the CPU). auto "
            "takes torch if it is installed.",
            rich_help_panel=MODEL,
        ),
    ] = "auto",
    weights: WeightsOfInput = None,
    codec: Annotated[
        str | None,
        typer.Option(help="FFmpeg encoder of the output; ffv1 is lossless.", rich_help_panel=OUTPUT),
    ] = None,
    crf: Annotated[int | None, typer.Option(help="Quality setting of that encoder.", rich_help_panel=OUTPUT)] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Format on standard output: nut (the default), y4m, mkv, webm or mp4.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    audio_codec: Annotated[
        str,
        typer.Option(
            "--audio-codec",
            help="copy, or the FFmpeg encoder that encodes the sound anew, such as aac or libopus.",
            rich_help_panel=OUTPUT,
        ),
    ] = _COPY,
    no_audio: NoAudio = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decode .vtk files into videos or images."""
    if suffix and not output_dir:
        raise typer.BadParameter("--suffix names the outputs in -o DIR; without it, name the output")
    suffix = f".{(suffix or 'mp4').removeprefix('.')}"
    jobs = job_pairs(paths, output_dir, suffix, is_vtk_name)
    if no_audio and audio_codec != _COPY:
        raise typer.BadParameter("--no-audio leaves out the sound, so --audio-codec has nothing to encode")
    if format_ and all(target != STANDARD_STREAM for _, target in jobs):
        raise typer.BadParameter("--format is that of standard output; the name of a file tells its own")
    from vtok_codec.codec.engines import DecoderLoader, chosen_engine
    from vtok_codec.codec.pixel_decoder import DecoderChoice
    from vtok_codec.media.formats import output_settings, pipe_settings

    sound = None if audio_codec == _COPY else audio_codec
    if output_dir:
        output_settings(suffix, codec, crf, sound)
    choice = DecoderChoice(decoder, steps, seed)
    decoders = DecoderLoader(weights, device, chosen_engine(engine, choice, device))
    loader = _Loader(decoders, choice, verbose and not quiet)
    wanted = _Wanted(tokens, start, duration, recover, not no_audio, max_pixels)

    def work(source: str, target: str) -> None:
        piped = target == STANDARD_STREAM
        encoders = (codec, crf, sound)
        if piped:
            settings = pipe_settings(format_ or _PIPE_FORMAT, *encoders)
        else:
            settings = output_settings(Path(target).suffix, *encoders)
        job = _Job(source, settings, loader, wanted, quiet)
        if piped:
            damage = job.run(standard_output(), "standard output")
        else:
            with whole_output(target, source, force) as partial:
                damage = job.run(partial, target)
        if damage:
            raise damage

    run_jobs(jobs, work)


class _Loader:
    """Loads what decodes each file, and tells what it is."""

    def __init__(self, loader: DecoderLoader, choice: DecoderChoice, verbose: bool) -> None:
        self._loader, self._choice, self._verbose = loader, choice, verbose
        self._told: set[str] = set()

    def decoder(self, header: Header) -> PixelDecoder:
        decoder, place = self._loader.load(header.model, self._choice, header.windows)
        if self._verbose and header.model.weights_sha256 not in self._told:
            self._told.add(header.model.weights_sha256)
            notice(f"model {decoder.id.name} on {place}")
        return decoder


@dataclass(frozen=True)
class _Wanted:
    """What to decode of each file."""

    tokens: int | None
    start_s: float
    duration_s: float | None
    recover: bool
    audio: bool
    max_pixels: int


class _Job:
    """One file to decode."""

    def __init__(self, source: str, settings: OutputSettings, loader: _Loader, wanted: _Wanted, quiet: bool) -> None:
        self._source, self._settings, self._loader = source, settings, loader
        self._name = "standard input" if source == STANDARD_STREAM else source
        self._wanted, self._quiet = wanted, quiet

    def run(self, target: Path | BinaryIO, shown_target: str) -> DamageError | None:
        """Decode to a path or into a pipe. Returns the damage that ended decoding, if frames came before it."""
        with open_input(self._source) as stream:
            try:
                frames, seconds, damage = self._decode(stream, target)
            except OutputError as error:
                raise OutputError(f"{shown_target}: {error}") from error
        if not self._quiet and frames:
            notice(f"{self._name} -> {shown_target}: {counted(frames, 'frame')}, {frames / seconds:.1f} frames/s")
        return damage

    def _decode(self, stream: BinaryIO, target: Path | BinaryIO) -> tuple[int, float, DamageError | None]:
        from vtok_codec.codec.decoder import Gap, decode_events
        from vtok_codec.container.reader import VtkReader
        from vtok_codec.media.types import Frame
        from vtok_codec.media.writer import VideoWriter
        from vtok_codec.stream.headers import video_info

        reader, wanted = VtkReader(stream), self._wanted
        require_pixels(self._name, reader.header.width, reader.header.height, wanted.max_pixels)
        info = video_info(reader.header, wanted.audio)
        decoder = self._loader.decoder(reader.header)
        events = decode_events(reader, decoder, wanted.tokens, wanted.start_s, wanted.duration_s, wanted.recover)
        frames, damage, gaps = 0, None, []
        started = time.perf_counter()
        with (
            closing(events),
            VideoWriter(target, info, self._settings) as writer,
            frame_bar(None, self._quiet, self._name) as bar,
        ):
            try:
                for event in events:
                    if isinstance(event, Frame):
                        writer.write(event)
                        frames += 1
                        bar.update(1)
                    elif isinstance(event, Gap):
                        gaps.append(event)
                        notice(_gap_text(self._name, event))
                    elif wanted.audio:
                        writer.write(event)
            except DamageError as error:
                # What came before the damage is intact and worth keeping.
                hint = "; try --recover" if not wanted.recover and _has_index(reader) else ""
                if not frames:
                    raise DamageError(f"{error}{hint}") from None
                damage = DamageError(f"{self._name}: {error}; {counted(frames, 'frame')} decoded{hint}")
        for lost in writer.dropped if not self._quiet else ():
            notice(f"{self._name}: left out: {lost}")
        if writer.retimed and not self._quiet:
            notice(f"{self._name}: {writer.retimed}, since the output cannot store their times")
        if gaps:
            damage = DamageError(f"{self._name} is damaged: {counted(len(gaps), 'part')} skipped")
        return frames, time.perf_counter() - started, damage


def _has_index(reader: VtkReader) -> bool:
    """Return whether the end of a file is there, so that something intact may stand behind a damage."""
    try:
        return reader.seekable and bool(reader.index())
    except DamageError:
        return False


def _gap_text(source: str, gap: Gap) -> str:
    if gap.start_s is None:
        return f"{source}: what stood before the first intact frame is lost: {gap.reason}"
    if gap.end_s is None:
        return f"{source}: nothing intact after {gap.start_s:.2f} s: {gap.reason}"
    if gap.start_s == gap.end_s:
        return f"{source}: no frame is lost at {gap.start_s:.2f} s, but sound may be: {gap.reason}"
    return f"{source}: {gap.start_s:.2f} s to {gap.end_s:.2f} s are lost, {gap.filled} frames filled: {gap.reason}"
