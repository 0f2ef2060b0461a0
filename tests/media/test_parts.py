"""A part of a video has the frames and the sound of that part, with times that count from its start."""

from __future__ import annotations

import io
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ClipMaker

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import InputError, SettingError
from vtok_codec.media import parts
from vtok_codec.media.parts import Part, make_part
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.timeline import Timeline
from vtok_codec.media.types import Frame

FORMATS = {
    "in.mp4": ["-c:v", "libx264", "-g", "12", "-bf", "2", "-c:a", "aac"],
    "in.mkv": ["-c:v", "libx264", "-g", "300", "-c:a", "libopus"],
    "in.ts": ["-c:v", "libx264", "-g", "12", "-c:a", "mp2"],
    "in.avi": ["-c:v", "mpeg4", "-c:a", "libmp3lame"],
    "in.webm": ["-c:v", "libvpx", "-g", "10", "-c:a", "libopus"],
}


def read(path: Path, part: Part | None = None) -> tuple[VideoReader, list[Frame], list[AudioPacket]]:
    with VideoReader(path, part=part) as reader:
        events = list(reader.events())
    frames = [event for event in events if isinstance(event, Frame)]
    return reader, frames, [event for event in events if isinstance(event, AudioPacket)]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("start", "duration"), [(0, 0.5), (0.52, 0.4), (1.0, None), (1.72, 5)])
def test_a_part_is_what_lies_between_its_times(
    make_clip: ClipMaker, name: str, start: float, duration: float | None
) -> None:
    source = make_clip(name, frames=50, audio=True, options=FORMATS[name])
    reader, frames, sound = read(source)
    _, cut_frames, cut_sound = read(source, make_part(start, duration))
    base, zero = reader.info.time_base, frames[0].pts * reader.info.time_base
    end = 100.0 if duration is None else start + duration
    # A video may begin a little after its sound; times count from the earlier of both.
    slack = 0.07
    wanted = [f for f in frames if start - slack <= float(f.pts * base - zero) < end - slack]
    assert abs(len(cut_frames) - len(wanted)) <= 2 and cut_frames
    by_time = {frame.pts: frame.pixels for frame in frames}
    shift = round(Fraction(start).limit_denominator(1000) / base)
    for frame in cut_frames:
        assert np.array_equal(frame.pixels, by_time[frame.pts + shift])
    assert 0 <= float(cut_frames[0].pts * base - zero) < 2 * slack
    assert len(cut_sound) > 3 or duration == 5
    tick = reader.info.audio[0].time_base
    known = {packet.pts: packet.data for packet in sound}
    for packet in cut_sound:
        assert packet.pts is not None and packet.data == known[packet.pts + round(Fraction(str(start)) / tick)]


def test_sound_and_picture_keep_their_distance(make_clip: ClipMaker) -> None:
    source = make_clip("in.mp4", frames=50, audio=True)
    reader, frames, sound = read(source, make_part(0.48, 0.8))
    first = float(frames[0].pts * reader.info.time_base)
    heard = float(sound[0].pts * reader.info.audio[0].time_base)  # type: ignore[operator]
    assert abs(first - heard) < 0.04


def test_reading_ends_with_the_part(make_clip: ClipMaker, tmp_path: Path) -> None:
    """What lies behind the part may be damaged."""
    source = make_clip("in.mkv", frames=100, audio=True, options=["-g", "10"])
    data = source.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(InputError):
        read(cut)
    _, frames, _ = read(cut, make_part(0.4, 0.8))
    assert len(frames) == 20


def test_reading_ends_where_the_sound_has_ended_long_ago(ffmpeg: str, tmp_path: Path) -> None:
    """A track that is over never reaches the end of the part."""
    source, read_to = tmp_path / "in.mkv", 0
    picture = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=60"]
    sound = ["-f", "lavfi", "-i", "sine=duration=1"]
    subprocess.run([ffmpeg, "-v", "error", *picture, *sound, "-c:v", "mpeg4", source], check=True)

    class Watched(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            nonlocal read_to
            count = super().readinto(buffer)
            read_to = max(read_to, self.tell())
            return count

        def seekable(self) -> bool:
            return False

    with Watched(str(source)) as stream, VideoReader(io.BufferedReader(stream), part=make_part(0, 2)) as reader:
        assert len([event for event in reader.events() if isinstance(event, Frame)]) == 20
    assert read_to < source.stat().st_size / 2


def test_only_what_is_needed_is_decoded(make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip("in.mp4", frames=200, options=["-g", "20", "-bf", "0"])
    decoded = []
    usual = VideoReader._pictures
    monkeypatch.setattr(VideoReader, "_pictures", lambda self, packet: decoded.append(1) or usual(self, packet))
    _, frames, _ = read(source, make_part(6.0, 0.4))
    assert len(frames) == 10 and len(decoded) < 40


SEEKABLE = {
    "open-gop.mp4": ["-c:v", "libx264", "-g", "30", "-bf", "3", "-x264-params", "open-gop=1"],
    "fragments.mp4": ["-c:v", "libx264", "-g", "25", "-movflags", "frag_keyframe+empty_moov"],
    "one-gop.mp4": ["-c:v", "libx264", "-g", "1000"],
    "late.mkv": ["-c:v", "libx264", "-g", "30", "-output_ts_offset", "100"],
    "no-index.mkv": ["-c:v", "libx264", "-g", "25", "-live", "1"],
}


@pytest.mark.parametrize("name", SEEKABLE)
def test_a_part_is_the_same_whether_what_lies_before_is_read_or_skipped(
    make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = make_clip(name, frames=150, audio=True, options=SEEKABLE[name])

    def contents(start: float) -> list[object]:
        _, frames, sound = read(source, make_part(start, 0.5))
        return [(frame.pts, frame.pixels.tobytes()) for frame in frames] + [
            (packet.pts, packet.data) for packet in sound
        ]

    for start in (2.5, 3.6, 5.0):
        skipped = contents(start)
        with monkeypatch.context() as patch:
            patch.setattr(parts, "_SEEKABLE", ())
            assert contents(start) == skipped and skipped


def test_what_lies_before_a_part_is_not_read(make_clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_clip("in.mp4", frames=400, options=["-g", "25"])
    placed = []
    usual = Timeline.place
    monkeypatch.setattr(Timeline, "place", lambda self, packet: placed.append(packet.pts) or usual(self, packet))
    _, frames, _ = read(source, make_part(14.0, 0.4))
    assert len(frames) == 10 and len(placed) < 120


def test_a_part_behind_the_end_is_told(make_clip: ClipMaker) -> None:
    with pytest.raises(InputError, match="in the part to read"):
        read(make_clip("in.mp4"), make_part(10, None))


@pytest.mark.parametrize(("start", "duration"), [(-1, None), (float("nan"), None), (0, 0), (0, -2), (0, float("inf"))])
def test_times_out_of_range_are_refused(start: float, duration: float | None) -> None:
    with pytest.raises(SettingError):
        make_part(start, duration)
