"""`vtok decode`: `.vtk` → video."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from vtok_codec.cli.common import (
    DEFAULT_MAX_PIXELS,
    STANDARD_STREAM,
    Device,
    Force,
    MaxPixels,
    NoAudio,
    OutputFolder,
    Paths,
    Quiet,
    Verbose,
    counted,
    frame_bar,
    job_pairs,
    notice,
    open_input,
    reports_errors,
    require_pixels,
    run_jobs,
    standard_output,
    whole_output,
)
from vtok_codec.errors import DamageError
from vtok_codec.registry import DETERMINISTIC

if TYPE_CHECKING:
    from vtok_codec.codec.decoder import Gap
    from vtok_codec.codec.tokenizer import PixelDecoder
    from vtok_codec.container.header import Header
    from vtok_codec.media.writer import OutputSettings


@reports_errors
def decode(
    paths: Paths,
    output_dir: OutputFolder = None,
    suffix: Annotated[str, typer.Option(help="Container of the outputs in -o DIR.")] = ".mp4",
    tokens: Annotated[int | None, typer.Option("--tokens", "-t", help="Read only the first tokens a position.")] = None,
    start: Annotated[float, typer.Option(help="Seconds to skip.", min=0)] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds to decode.")] = None,
    codec: Annotated[str | None, typer.Option(help="FFmpeg encoder of the output; ffv1 is lossless.")] = None,
    crf: Annotated[int | None, typer.Option(help="Quality of that encoder.")] = None,
    format_: Annotated[str, typer.Option("--format", help="On standard output: nut, y4m, matroska or mp4.")] = "nut",
    weights: Annotated[str | None, typer.Option(help="The model's weights file, if not a shipped one.")] = None,
    decoder: Annotated[
        str, typer.Option(help="deterministic, ddim or flow; or a diffusion decoder's weights.")
    ] = DETERMINISTIC,
    steps: Annotated[
        int | None,
        typer.Option(help="Of a diffusion decoder, 1 to 16, 0.2 KB a pixel each; 1 if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of a diffusion decoder's noise.")] = 0,
    recover: Annotated[
        bool, typer.Option("--recover", help="Pass over damaged GOPs; the last good frame stands in their place.")
    ] = False,
    no_audio: NoAudio = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Decode .vtk files into videos or images."""
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    jobs = job_pairs(paths, output_dir, suffix)
    from vtok_codec.media.writer import output_settings, pipe_settings

    if output_dir:
        output_settings(suffix, codec, crf)
    loaded = _Decoders(weights, decoder, steps, seed, device, verbose and not quiet)

    def work(source: str, target: str) -> None:
        piped = target == STANDARD_STREAM
        settings = pipe_settings(format_, codec, crf) if piped else output_settings(Path(target).suffix, codec, crf)
        job = _Job(source, settings, loaded, tokens, start, duration, recover, not no_audio, max_pixels, quiet)
        if piped:
            damage = job.run(standard_output(), target)
        else:
            with whole_output(target, source, force) as partial:
                damage = job.run(partial, target)
        if damage:
            raise damage

    run_jobs(jobs, work)


class _Decoders:
    """What decodes each file, loaded once."""

    def __init__(
        self, weights: str | None, decoder: str, steps: int | None, seed: int, device: str, verbose: bool
    ) -> None:
        self._weights, self._decoder, self._steps, self._seed = weights, decoder, steps, seed
        self._device, self._verbose = device, verbose
        self._loaded: dict[str, PixelDecoder] = {}

    def of(self, header: Header) -> PixelDecoder:
        from vtok_codec.codec.loading import pixel_decoder, tokenizer_of

        wanted = header.model.weights_sha256
        if wanted not in self._loaded:
            tokenizer = tokenizer_of(header.model, self._weights, self._device)
            self._loaded[wanted] = pixel_decoder(tokenizer, self._decoder, self._steps, self._seed)
            if self._verbose:
                notice(f"model {tokenizer.id.name}, {tokenizer.placement.device} {tokenizer.placement.dtype}")
        return self._loaded[wanted]


class _Job:
    """One file to decode."""

    def __init__(
        self,
        source: str,
        settings: OutputSettings,
        decoders: _Decoders,
        tokens: int | None,
        start: float,
        duration: float | None,
        recover: bool,
        audio: bool,
        max_pixels: int,
        quiet: bool,
    ) -> None:
        self._source, self._settings, self._decoders = source, settings, decoders
        self._tokens, self._start, self._duration = tokens, start, duration
        self._recover, self._audio, self._quiet = recover, audio, quiet
        self._max_pixels = max_pixels

    def run(self, target: Path | BinaryIO, shown_target: str) -> DamageError | None:
        """Decode to a path or into a pipe; the damage that ended it, if frames came before that."""
        with open_input(self._source) as stream:
            frames, seconds, damage = self._decode(stream, target)
        if not self._quiet and frames:
            notice(f"{self._source} -> {shown_target}: {counted(frames, 'frame')}, {frames / seconds:.1f} frames/s")
        return damage

    def _decode(self, stream: BinaryIO, target: Path | BinaryIO) -> tuple[int, float, DamageError | None]:
        from vtok_codec.codec.decoder import Gap, decode_events, video_info
        from vtok_codec.container.reader import VtkReader
        from vtok_codec.media.types import Frame
        from vtok_codec.media.writer import VideoWriter

        reader = VtkReader(stream)
        require_pixels(self._source, reader.header.width, reader.header.height, self._max_pixels)
        info = video_info(reader.header, self._audio)
        decoder = self._decoders.of(reader.header)
        events = decode_events(reader, decoder, self._tokens, self._start, self._duration, self._recover)
        frames, damage, gaps = 0, None, []
        started = time.perf_counter()
        with (
            closing(events),
            VideoWriter(target, info, self._settings) as writer,
            frame_bar(None, self._quiet, self._source) as bar,
        ):
            for lost in writer.dropped if not self._quiet else ():
                notice(f"{lost}; left out")
            try:
                for event in events:
                    if isinstance(event, Frame):
                        writer.write(event)
                        frames += 1
                        bar.update(1)
                    elif isinstance(event, Gap):
                        gaps.append(event)
                        notice(_gap_text(self._source, event))
                    elif self._audio:
                        writer.write(event)
            except DamageError as error:
                # What came before the damage is whole, and worth keeping.
                if not frames:
                    raise
                damage = DamageError(f"{self._source}: {error}; {frames} frames were decoded")
            if writer.retimed and not self._quiet:
                notice(f"{self._source}: frames were put to a constant rate, since the output has no times of its own")
        if gaps:
            damage = DamageError(
                f"{self._source} is damaged: {len(gaps)} part{'s' if len(gaps) > 1 else ''} passed over"
            )
        return frames, time.perf_counter() - started, damage


def _gap_text(source: str, gap: Gap) -> str:
    if gap.end_s is None:
        return f"{source}: nothing whole after {gap.start_s:.2f} s: {gap.reason}"
    return f"{source}: {gap.start_s:.2f} s to {gap.end_s:.2f} s are gone, {gap.filled} frames filled: {gap.reason}"
