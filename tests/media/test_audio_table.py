"""Every common audio codec in every container: its sound is kept whole and in time, or left out and told.

The table itself stands in docs/explanation/reliability.md; `VTOK_WRITE_EXPECTED=1` writes it anew.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import DATA

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import SettingError
from vtok_codec.media.formats import OutputSettings, output_settings, pipe_settings
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame
from vtok_codec.media.writer import VideoWriter

SOURCES = {
    "aac": ("mkv", ["-c:a", "aac"]),
    "mp3": ("mkv", ["-c:a", "libmp3lame"]),
    "mp2": ("mkv", ["-c:a", "mp2"]),
    "ac3": ("mkv", ["-c:a", "ac3"]),
    "eac3": ("mkv", ["-c:a", "eac3"]),
    "flac": ("mkv", ["-c:a", "flac"]),
    "alac": ("mov", ["-c:a", "alac"]),
    "opus": ("mkv", ["-c:a", "libopus", "-ar", "48000"]),
    "vorbis": ("mkv", ["-c:a", "libvorbis"]),
    "pcm_s16le": ("mkv", ["-c:a", "pcm_s16le"]),
    "pcm_s16be": ("mov", ["-c:a", "pcm_s16be"]),
    "pcm_s24le": ("mkv", ["-c:a", "pcm_s24le"]),
    "wmav2": ("asf", ["-c:a", "wmav2"]),
    "adpcm_ms": ("avi", ["-c:a", "adpcm_ms"]),
}
"""For each codec: a container that holds it, and FFmpeg's options to make it."""
TARGETS = {
    "mp4": output_settings(".mp4", None, None),
    "mov": output_settings(".mov", None, None),
    "mkv": output_settings(".mkv", None, None),
    "webm": output_settings(".webm", None, None),
    "avi": output_settings(".avi", None, None),
    "nut": output_settings(".nut", None, None),
    "nut pipe": pipe_settings("nut", None, None),
    "mkv pipe": pipe_settings("matroska", None, None),
    "mp4 pipe": pipe_settings("mp4", None, None),
}
SECONDS = 2
LARGEST_GAP_S = 0.04
"""How far sound and picture may be apart."""
PAGE = DATA.parent.parent / "docs" / "explanation" / "reliability.md"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> dict[str, Path]:
    """For each codec a clip with a tone of two seconds."""
    folder = tmp_path_factory.mktemp("audio")
    made = {}
    for codec, (suffix, options) in SOURCES.items():
        made[codec] = folder / f"{codec}.{suffix}"
        picture = ["-f", "lavfi", "-i", f"testsrc2=s=64x48:r=25:d={SECONDS}", "-c:v", "mpeg4"]
        sound = ["-f", "lavfi", "-i", f"sine=440:d={SECONDS}:r=44100"]
        command = [ffmpeg, "-v", "error", "-y", *picture[:4], *sound, *picture[4:], *options, "-strict", "-2"]
        subprocess.run([*command, str(made[codec])], check=True)
    return made


def outcome(source: Path, settings: OutputSettings, target: Path | io.BytesIO) -> str:
    """Copy a clip, decode what came of it, and tell what became of its sound."""
    with VideoReader(source) as reader:
        if not reader.info.audio:
            assert any("audio track" in loss for loss in reader.losses)
            return "not read"
        writer = VideoWriter(target, reader.info, settings)
        with writer:
            for event in reader.events():
                writer.write(event)
    opened = target if isinstance(target, Path) else io.BytesIO(target.getvalue())
    with av.open(str(opened) if isinstance(opened, Path) else opened) as container:
        pictures, samples, seconds, rate = 0, 0, Fraction(0), 1
        packets = list(container.demux())
        # A stream copy drops what comes before the first keyframe.
        assert all(packet.is_keyframe for packet in packets if packet.stream.type == "audio" and packet.size)
        for frame in (frame for packet in packets for frame in packet.decode()):
            if isinstance(frame, av.VideoFrame):
                pictures += 1
            elif isinstance(frame, av.AudioFrame):
                samples += frame.samples
                rate = frame.sample_rate
                if frame.pts is not None:
                    seconds = max(seconds, frame.pts * frame.time_base + Fraction(frame.samples, frame.sample_rate))
    assert pictures == 25 * SECONDS
    if not samples:
        assert any(loss.startswith("audio track 0") for loss in writer.dropped)
        return "left out"
    assert not writer.dropped
    assert abs(samples / rate - SECONDS) < 0.12 and abs(float(seconds) - SECONDS) < 0.12, (source, settings)
    return "copied"


def test_sound_is_whole_or_told(sources: dict[str, Path], tmp_path: Path) -> None:
    rows = []
    for codec, source in sources.items():
        cells = []
        for name, settings in TARGETS.items():
            piped = name.endswith("pipe")
            cells.append(outcome(source, settings, io.BytesIO() if piped else tmp_path / f"{codec}.{name}"))
        rows.append(f"| {codec} | {' | '.join(cells)} |")
    table = "\n".join([f"| | {' | '.join(TARGETS)} |", f"|---|{'---|' * len(TARGETS)}", *rows])
    text = PAGE.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- sound -->\n).*?(\n<!-- end -->)", flags=re.S)
    if os.environ.get("VTOK_WRITE_EXPECTED"):
        PAGE.write_text(marked.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")
    found = marked.search(PAGE.read_text(encoding="utf-8"))
    assert found and table in found[0], table


@pytest.mark.parametrize(
    ("name", "codec"), [("mp4", "aac"), ("mp4 pipe", "aac"), ("mov", "aac"), ("webm", "libopus"), ("avi", "libmp3lame")]
)
def test_sound_is_encoded_anew(sources: dict[str, Path], tmp_path: Path, name: str, codec: str) -> None:
    """Whatever it was, into containers that do not keep all of it as it is."""
    settings = replace(TARGETS[name], audio_codec=codec)
    for source in sources.values():
        target: Path | io.BytesIO = io.BytesIO() if name.endswith("pipe") else tmp_path / f"{source.stem}.{name}"
        assert outcome(source, settings, target) == ("not read" if source.stem == "alac" else "copied")
        if source.stem == "alac":
            continue
        with av.open(str(target) if isinstance(target, Path) else io.BytesIO(target.getvalue())) as container:
            assert container.streams.audio[0].codec.canonical_name in codec.replace("lame", "")
            rate = container.streams.audio[0].sample_rate
            tone = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
        spectrum = np.abs(np.fft.rfft(tone.astype(np.float64)))
        assert abs(np.argmax(spectrum) * rate / len(tone) - 440) < 2


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "aac"), (".mp4", "nope"), (".mp4", "libx264")])
def test_encoders_of_sound_that_do_not_fit_are_refused(suffix: str, codec: str) -> None:
    with pytest.raises(SettingError):
        output_settings(suffix, None, None, codec)


def test_sound_that_is_damaged_is_told(tmp_path: Path, sources: dict[str, Path]) -> None:
    """When it is encoded anew, which needs it decoded."""
    settings = output_settings(".mp4", None, None, "aac")
    with VideoReader(sources["flac"]) as reader:
        writer = VideoWriter(tmp_path / "out.mp4", reader.info, settings)
        with writer:
            for number, event in enumerate(reader.events()):
                if isinstance(event, AudioPacket) and number > 30:
                    event = replace(event, data=b"\0" * len(event.data))
                writer.write(event)
    assert any("which cannot be decoded" in lost for lost in writer.dropped)


FLASHES = {
    "mp4": ["-c:v", "libx264", "-bf", "2", "-c:a", "aac"],
    "mkv": ["-c:v", "libx264", "-bf", "2", "-c:a", "aac"],
    "ts": ["-c:v", "mpeg2video", "-q:v", "2", "-c:a", "mp2"],
    "avi": ["-c:v", "libx264", "-bf", "2", "-c:a", "libmp3lame"],
    "mov": ["-c:v", "mpeg4", "-q:v", "2", "-c:a", "pcm_s16le"],
    "nut": ["-c:v", "mpeg4", "-q:v", "2", "-c:a", "ac3"],
}


def flashes_and_beeps(source: Path | io.BytesIO) -> tuple[np.ndarray, np.ndarray]:
    """The seconds at which the picture turns bright and the sound begins, after each dark and silent second."""
    bright, times, loud = [], [np.zeros(0)], [np.zeros(0, bool)]
    with av.open(str(source) if isinstance(source, Path) else source) as container:
        for frame in container.decode():
            time = float(frame.pts * frame.time_base)
            if isinstance(frame, av.VideoFrame):
                bright.append((time, frame.to_ndarray(format="gray").mean() > 120))
            elif isinstance(frame, av.AudioFrame):
                sound = np.abs(frame.to_ndarray().astype(np.float64)).reshape(-1, frame.samples).max(0)
                peak = 1.0 if frame.format.name.startswith(("flt", "dbl")) else 32768.0
                times.append(time + np.arange(frame.samples) / frame.sample_rate)
                loud.append(sound > 0.05 * peak)
    flashes = [t for (_, before), (t, now) in pairwise(bright) if now and not before]
    heard = np.concatenate(times)[np.concatenate(loud)]
    return np.array(flashes), heard[np.diff(heard, prepend=-1) > 0.3]


@pytest.fixture(scope="module", params=FLASHES)
def flashing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A clip that flashes and beeps, and the seconds at which it does."""
    clip = tmp_path_factory.mktemp("flashing") / f"in.{request.param}"
    flash = "color=black:s=64x64:r=25:d=4,geq=lum='if(lt(mod(N,25),3),235,16)':cb=128:cr=128"
    # Silent at first, so that every beep has a beginning.
    beep = "aevalsrc='if(gt(t,0.5)*lt(mod(t,1),0.1),sin(2*PI*1000*t),0)':d=4:s=48000"
    inputs = ["-f", "lavfi", "-i", flash, "-f", "lavfi", "-i", beep]
    subprocess.run([ffmpeg, "-v", "error", "-y", *inputs, *FLASHES[request.param], str(clip)], check=True)
    return clip, *flashes_and_beeps(clip)


@pytest.mark.parametrize(
    "target", ["mp4", "mov", "mkv", "avi", "nut", "mp4 pipe", "nut pipe", "mp4 aac", "webm libopus"]
)
def test_sound_and_picture_stay_together(
    flashing: tuple[Path, np.ndarray, np.ndarray], target: str, tmp_path: Path
) -> None:
    clip, wanted_flashes, wanted_beeps = flashing
    made: Path | io.BytesIO = io.BytesIO() if target.endswith("pipe") else tmp_path / f"out.{target.split()[0]}"
    settings = TARGETS.get(target) or replace(TARGETS[target.split()[0]], audio_codec=target.split()[1])
    with VideoReader(clip) as reader, VideoWriter(made, reader.info, settings) as writer:
        for event in reader.events():
            assert isinstance(event, Frame | AudioPacket)
            writer.write(event)
    assert not writer.dropped
    flashes, beeps = flashes_and_beeps(made if isinstance(made, Path) else io.BytesIO(made.getvalue()))
    assert len(beeps) == len(wanted_beeps) == 3 and len(flashes) == len(wanted_flashes) >= 3
    # The first flash is at 0, where nothing was dark before.
    apart, wanted_apart = beeps - flashes[-3:], wanted_beeps - wanted_flashes[-3:]
    assert np.abs(apart).max() < LARGEST_GAP_S
    assert np.abs(apart - wanted_apart).max() < LARGEST_GAP_S + 1e-3
    assert np.abs(np.diff(flashes) - 1).max() < LARGEST_GAP_S


def encoded_sound(source: Path, target: Path, codec: str) -> tuple[np.ndarray, int, list[str]]:
    """The level of the loudest channel after a track is encoded anew, the rate, and what was dropped."""
    with VideoReader(source) as reader:
        writer = VideoWriter(target, reader.info, output_settings(target.suffix, None, None, codec))
        with writer:
            for event in reader.events():
                writer.write(event)  # type: ignore[arg-type]
    with av.open(str(target)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].sample_rate
        channels = container.streams.audio[0].channels
    planar = [frame if len(frame) == channels else frame.reshape(-1, channels).T for frame in frames]
    return np.concatenate([np.abs(each).max(0) for each in planar]), rate, writer.dropped


@pytest.mark.parametrize(
    ("layout", "codec", "target"),
    [("5.1(side)", "libopus", "out.webm"), ("3.0", "aac", "out.mp4"), ("quad", "libmp3lame", "out.avi")],
)
def test_layouts_that_an_encoder_lacks_are_mixed(
    layout: str, codec: str, target: str, tmp_path: Path, ffmpeg: str
) -> None:
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-c:v", "ffv1"]
    sound = ["-f", "lavfi", "-i", f"anoisesrc=d=1:a=0.2,aformat=channel_layouts={layout}", "-c:a", "pcm_s16le"]
    command = [ffmpeg, "-v", "error", *picture[:4], *sound[:4], *picture[4:], *sound[4:], str(tmp_path / "in.mkv")]
    subprocess.run(command, check=True)
    heard, rate, dropped = encoded_sound(tmp_path / "in.mkv", tmp_path / target, codec)
    assert not dropped and abs(len(heard) / rate - 1) < 0.12 and heard.max() > 0


def test_a_time_of_years_later_is_not_filled(tmp_path: Path, sources: dict[str, Path]) -> None:
    with VideoReader(sources["flac"]) as reader:
        info, packets = reader.info, 0
        with VideoWriter(tmp_path / "out.mkv", info, output_settings(".mkv", None, None, "aac")) as writer:
            for event in reader.events():
                if isinstance(event, AudioPacket):
                    packets += 1
                    if packets == 10:
                        event = replace(event, pts=(event.pts or 0) + round(10**8 / info.audio[0].time_base))
                writer.write(event)
    assert (tmp_path / "out.mkv").stat().st_size < 1 << 20


@pytest.mark.parametrize("target", ["out.avi", "out.mp4"])
def test_a_gap_in_the_sound_becomes_silence(target: str, tmp_path: Path, sources: dict[str, Path]) -> None:
    """And what comes after it stays in time, in containers without times as well."""
    with VideoReader(sources["flac"]) as reader:
        info = reader.info
        settings = output_settings(Path(target).suffix, None, None, "aac")
        with VideoWriter(tmp_path / target, info, settings) as writer:
            for event in reader.events():
                lost = isinstance(event, AudioPacket) and 0.5 < (event.pts or 0) * info.audio[0].time_base < 1.2
                if not lost:
                    writer.write(event)  # type: ignore[arg-type]
    with av.open(str(tmp_path / target)) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        rate = container.streams.audio[0].sample_rate
    loud = np.abs(heard).reshape(-1)[: len(heard) // 441 * 441].reshape(-1, 441).max(1) > 0.02
    assert abs(len(heard) / rate - SECONDS) < 0.12
    assert loud[10:40].all() and not loud[70:105].any() and loud[140:180].all()


def test_sound_may_change_its_channels(tmp_path: Path, ffmpeg: str) -> None:
    """As that of a broadcast does between programmes."""
    clips = [tmp_path / "stereo.ts", tmp_path / "mono.ts"]
    for channels, clip in zip((2, 1), clips, strict=True):
        inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=1", "-f", "lavfi", "-i", "sine=440:d=1"]
        coded = ["-ac", str(channels), "-c:a", "aac", "-c:v", "mpeg2video"]
        subprocess.run([ffmpeg, "-v", "error", *inputs, *coded, str(clip)], check=True)
    target = tmp_path / "out.mp4"
    with VideoReader(clips[0]) as first, VideoReader(clips[1]) as second:
        ticks = round(1 / first.info.audio[0].time_base)
        later = [each for each in second.events() if isinstance(each, AudioPacket)]
        with VideoWriter(target, first.info, output_settings(".mp4", None, None, "aac")) as writer:
            for event in first.events():
                writer.write(event)  # type: ignore[arg-type]
            for packet in later:
                writer.write(replace(packet, pts=(packet.pts or 0) + ticks, dts=None))
    assert not writer.dropped
    with av.open(str(target)) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert abs(samples / 44100 - 2) < 0.2
