"""Runs `vtok encode`, `verify`, `info` and `decode` on whole files, and compares the result with the source.

    .venv/bin/python bench/roundtrip.py FILE…

It prints one line per file. The exit code is 1 if the frame count, timestamps, size, frame rate, colour tags, rotation,
aspect ratio or audio packets of a file differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, VideoInfo


class Contents(NamedTuple):
    """The parts of a file that must survive."""

    info: VideoInfo
    """Size, rate, colour tags and so on."""
    times_s: list[Fraction]
    """The time of each frame in seconds."""
    audio: list[bytes]
    """All audio packets."""
    audio_times_s: list[Fraction | None]
    """The time of each audio packet in seconds, if it has one."""


def contents(path: Path) -> Contents:
    """Read all frames and audio packets of a file."""
    times, audio, audio_times = [], [], []
    with VideoReader(path) as reader:
        for event in reader.events():
            if isinstance(event, Frame):
                times.append(event.pts * reader.info.time_base)
            else:
                audio.append(event.data)
                base = reader.info.audio[event.track].time_base
                audio_times.append(None if event.pts is None else event.pts * base)
    return Contents(reader.info, times, audio, audio_times)


def differences(source: Contents, back: Contents) -> list[str]:
    """Return the names of the parts that differ."""
    a, b = source.info, back.info
    tick = max(a.time_base, b.time_base)
    found = []
    if (a.width, a.height) != (b.width, b.height):
        found.append("size")
    if len(source.times_s) != len(back.times_s):
        found.append(f"{len(back.times_s)} frames of {len(source.times_s)}")
    elif any(abs(x - y) >= tick for x, y in zip(source.times_s, back.times_s, strict=True)):
        found.append("timestamps")
    if source.audio != back.audio:
        found.append("audio packets")
    elif source.audio_times_s != back.audio_times_s:
        found.append("audio times")
    if a.rate != b.rate:
        found.append(f"rate {b.rate} of {a.rate}")
    if (a.rotation, a.sar) != (b.rotation, b.sar):
        found.append("rotation or aspect ratio")
    if a.color != b.color:
        found.append("colour tags")
    return found


def vtok(*args: object) -> str:
    """Run a `vtok` command and return its standard output."""
    command = [sys.executable, "-m", "vtok_codec", *map(str, args)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Check every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    failed = False
    for path in parser.parse_args().files:
        with tempfile.TemporaryDirectory() as folder:
            # MP4 keeps times exactly, while Matroska has a clock of 1 ms but holds every audio codec.
            suffix = ".mkv" if path.suffix == ".webm" else ".mp4"
            file, back = Path(folder, "file.vtk"), Path(folder, f"back{suffix}")
            vtok("encode", path, file, "-q")
            vtok("verify", file, "-q")
            info = json.loads(vtok("info", "--json", file))
            vtok("decode", file, back, "-q")
            source = contents(path)
            found = differences(source, contents(back))
        failed = failed or bool(found)
        counts = (
            f"{info['frames']} frames, {info['audio_packets']} audio packets, {info['bits_per_pixel']:.4f} bits/pixel"
        )
        print(f"{path.name}: {counts}: {', '.join(found) or 'all agree'}", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
