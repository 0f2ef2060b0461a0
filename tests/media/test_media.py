"""Files in, files out: what a video says of itself, and every frame's time, come through."""

from __future__ import annotations

import io
import os
import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import ClipMaker, pixels_of, psnr_db, times_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtok_codec.audio import AudioPacket
from vtok_codec.errors import InputError, OutputError, SettingError
from vtok_codec.media.color import RGBConverter, YUVConverter
from vtok_codec.media.extent import HEAD_BYTES, announced_size
from vtok_codec.media.formats import output_settings, pipe_settings
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Color, Frame, VideoInfo
from vtok_codec.media.writer import VideoWriter


def copy(source: Path, target: Path, codec: str | None = None) -> tuple[VideoInfo, list[Frame | AudioPacket]]:
    """Read a file and write all of it to another; what was read."""
    with VideoReader(source) as reader:
        info = reader.info
        events = list(reader.events())
    with VideoWriter(target, info, output_settings(target.suffix, codec, None)) as writer:
        for event in events:
            writer.write(event)
    return info, events


def frames_in(events: list[Frame | AudioPacket]) -> list[Frame]:
    return [event for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("size", ["64x48", "67x35"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov", ".avi", ".y4m", ".nut"])
def test_frames_and_times_survive_every_container(make_clip: ClipMaker, tmp_path: Path, suffix: str, size: str) -> None:
    source = make_clip("in.mp4", size=size, frames=11)
    target = tmp_path / f"out{suffix}"
    _, events = copy(source, target)
    assert [round(time, 3) for time in times_of(target)] == [round(time, 3) for time in times_of(source)]
    assert pixels_of(target)[0].shape == pixels_of(source)[0].shape == (*map(int, reversed(size.split("x"))), 3)
    # Saturated stripes lose much of their chroma; a wrong frame, range or matrix would be below 20 dB.
    # AVI's MPEG-4 has halved chroma only, of which swscale makes less where sides are odd.
    least_db = 20 if (suffix, size) == (".avi", "67x35") else 25
    assert psnr_db(np.stack([frame.pixels for frame in frames_in(events)]), read_pixels(target, 99)) > least_db


@pytest.mark.parametrize(
    ("suffix", "pixel_format"), [(".mp4", "yuv444p"), (".y4m", "yuv444p"), (".webm", "yuv444p"), (".avi", "yuv420p")]
)
def test_odd_sizes_keep_all_their_chroma_where_the_codec_does(
    make_clip: ClipMaker, tmp_path: Path, suffix: str, pixel_format: str
) -> None:
    target = tmp_path / f"out{suffix}"
    copy(make_clip("in.mp4", size="67x35", frames=2), target)
    with av.open(str(target)) as container:
        assert container.streams.video[0].pix_fmt == pixel_format


def test_lossless_output_is_exact(make_clip: ClipMaker, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    _, events = copy(make_clip("in.mp4", size="33x21", frames=5, options=["-pix_fmt", "yuv444p"]), target, "ffv1")
    assert np.array_equal(np.stack(pixels_of(target)), np.stack([frame.pixels for frame in frames_in(events)]))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
@pytest.mark.parametrize("size", [(48, 64), (43, 57)])
def test_rgb_sources_keep_their_colours_in_yuv(
    make_clip: ClipMaker, tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    """RGB has no matrix; an output tagged so would be read as green, blue and red planes."""
    crop = f"format=bgr0,crop={size[1]}:{size[0]}:0:0:exact=1"
    source = make_clip("in.mkv", frames=3, options=["-vf", crop, "-c:v", "ffv1", "-pix_fmt", "bgr0"])
    copy(source, tmp_path / f"out{suffix}")
    before, after = (read_pixels(path, 9) for path in (source, tmp_path / f"out{suffix}"))
    assert before.shape == after.shape == (3, *size, 3)
    # Means of 8×8 blocks, since saturated stripes lose their fine chroma.
    blocks = [x[:, :40, :56].reshape(3, 5, 8, 7, 8, 3).mean(axis=(2, 4)) for x in (before, after)]
    assert psnr_db(*blocks) > 30


def test_names_with_colons_are_files(make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip("in.mkv", frames=3).rename(tmp_path / "12:30.mkv")
    monkeypatch.chdir(tmp_path)
    copy(Path("12:30.mkv"), Path("12:31.mkv"))
    assert len(pixels_of(tmp_path / "12:31.mkv")) == 3


@pytest.mark.parametrize("name", ["pic%02d.png", "pic*.png", "pic[0].png", "%%.png"])
def test_a_name_that_looks_like_a_pattern_is_one_file(make_clip: ClipMaker, tmp_path: Path, name: str) -> None:
    for number in range(3):
        make_clip(f"pic{number:02d}.png", frames=1, size="32x32", options=["-update", "1"])
    with pytest.raises(InputError, match="no such file"), VideoReader(tmp_path / name):
        pass
    make_clip("other.png", frames=1, size="64x48", options=["-update", "1"]).rename(tmp_path / name)
    assert [pixels.shape for pixels in read_pixels(tmp_path / name, 9)] == [(48, 64, 3)]


def test_a_gif_shows_its_frames_at_its_times(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("in.gif", frames=5, rate="10")
    copy(source, tmp_path / "out.gif")
    assert times_of(tmp_path / "out.gif") == times_of(source)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_is_a_video_of_one_frame(make_clip: ClipMaker, tmp_path: Path, suffix: str) -> None:
    source = make_clip(f"in{suffix}", size="41x31", frames=1, options=["-update", "1"])
    info, events = copy(source, tmp_path / f"out{suffix}")
    assert info.rate is None and len(events) == 1
    assert psnr_db(read_pixels(source, 1), read_pixels(tmp_path / f"out{suffix}", 1)) > 30


def test_what_a_video_says_of_itself_survives(make_clip: ClipMaker, tmp_path: Path) -> None:
    tags = "setparams=color_primaries=bt2020:color_trc=arib-std-b67:colorspace=bt2020nc:range=pc"
    filters = f"scale=out_color_matrix=bt2020:out_range=full,format=yuv420p,{tags},setsar=16/11"
    source = make_clip("in.mp4", rate="30000/1001", options=["-vf", filters])
    info, _ = copy(source, tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as reader:
        again = reader.info
    assert info.color == Color(range=2, primaries=9, transfer=18, matrix=9)
    assert (again.color, again.sar, again.rate) == (info.color, Fraction(16, 11), Fraction(30000, 1001))


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_kept_and_never_applied(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str, degrees: int) -> None:
    plain = make_clip("plain.mp4")
    source = tmp_path / "in.mp4"
    rotated = ["-display_rotation", str(degrees), "-i", str(plain), "-c", "copy", str(source)]
    subprocess.run([ffmpeg, "-v", "error", *rotated], check=True)
    info, _ = copy(source, tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert abs(reader.info.rotation) == abs(info.rotation) == abs(degrees)
        assert reader.info.rotation == info.rotation
        assert (reader.info.width, reader.info.height) == (64, 48)


@pytest.mark.parametrize(("matrix", "code"), [("bt709", 1), ("smpte170m", 6), ("bt2020nc", 9)])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_obeys_matrix_and_range(matrix: str, code: int, full: bool) -> None:
    """A known colour, by the textbook's formula, must come out of YUV within a rounding step."""
    weights = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[code]
    red, green, blue = 200 / 255, 40 / 255, 120 / 255
    kr, kb = weights
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    y, u, v = (
        (255 * luma, 128 + 255 * cb, 128 + 255 * cr) if full else (16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr)
    )
    planes = np.stack([np.full((16, 16), round(value), np.uint8) for value in (y, u, v)])
    frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    color = Color(range=2 if full else 1, matrix=code)
    pixels = RGBConverter()(frame, color)
    assert np.abs(pixels.reshape(-1, 3).astype(int) - (200, 40, 120)).max() <= 2
    back = YUVConverter("yuv444p", color)(pixels).to_ndarray().reshape(3, -1)
    assert np.abs(back.astype(int) - planes.reshape(3, -1)).max() <= 2


def test_variable_frame_times_survive(make_clip: ClipMaker, tmp_path: Path) -> None:
    drop = ["-vf", "select='not(eq(mod(n,5),2))*not(eq(n,7))'", "-fps_mode", "vfr"]
    source = make_clip("in.mp4", frames=16, options=drop)
    times = times_of(source)
    assert len({after - before for before, after in pairwise(times)}) > 1
    for suffix in (".mp4", ".nut", ".mkv"):
        copy(source, tmp_path / f"out{suffix}")
        assert times_of(tmp_path / f"out{suffix}") == times


@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "aac"), ("in.webm", "libvorbis"), ("in.mkv", "flac")])
def test_audio_packets_pass_untouched(make_clip: ClipMaker, tmp_path: Path, name: str, codec: str) -> None:
    source = make_clip(name, frames=30, audio=True, options=["-c:a", codec])
    target = tmp_path / f"out{source.suffix}"
    info, events = copy(source, target)
    _, again = copy(target, tmp_path / f"again{source.suffix}")
    assert [track.codec for track in info.audio] == [codec.removeprefix("lib")]
    packets, repeated = ([event for event in side if isinstance(event, AudioPacket)] for side in (events, again))
    assert len(packets) > 10
    assert [packet.data for packet in repeated] == [packet.data for packet in packets]
    # WebM may not start below zero: its muxer shifts all streams alike.
    shift = repeated[0].pts - packets[0].pts
    assert shift == frames_in(again)[0].pts - frames_in(events)[0].pts
    assert [packet.pts - shift for packet in repeated] == [packet.pts for packet in packets]


def test_audio_that_a_container_refuses_is_told(make_clip: ClipMaker, tmp_path: Path) -> None:
    with VideoReader(make_clip("in.mp4", frames=9, audio=True)) as reader:
        writer = VideoWriter(tmp_path / "out.y4m", reader.info, output_settings(".y4m", None, None))
        with writer:
            for event in reader.events():
                writer.write(event)
    assert writer.dropped == ["audio track 0 (aac): yuv4mpegpipe does not keep it"]


def test_ten_bits_become_eight(make_clip: ClipMaker) -> None:
    source = make_clip("in.mkv", options=["-c:v", "ffv1", "-pix_fmt", "yuv422p10le"])
    with VideoReader(source) as reader:
        assert reader.info.bit_depth == 10
    eight = make_clip("eight.mkv", options=["-c:v", "ffv1", "-pix_fmt", "yuv422p"])
    assert psnr_db(read_pixels(source, 9), read_pixels(eight, 9)) > 45


def test_reading_from_a_stream_equals_reading_from_a_file(make_clip: ClipMaker) -> None:
    source = make_clip("in.mkv", frames=5)

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(source.read_bytes())

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(size)

    with VideoReader(Pipe()) as piped, VideoReader(source) as direct:  # type: ignore[arg-type]
        for a, b in zip(piped.events(), direct.events(), strict=True):
            assert isinstance(a, Frame) and isinstance(b, Frame)
            assert a.pts == b.pts and np.array_equal(a.pixels, b.pixels)


def test_inputs_without_video_are_refused(tmp_path: Path, make_clip: ClipMaker, ffmpeg: str) -> None:
    sound = tmp_path / "sound.m4a"
    subprocess.run([ffmpeg, "-v", "error", "-f", "lavfi", "-i", "sine", "-t", "1", str(sound)], check=True)
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(InputError, match="no video stream"):
        VideoReader(sound)
    with pytest.raises(InputError, match="cannot read"):
        VideoReader(noise)
    with pytest.raises(InputError, match="no such file"):
        VideoReader(tmp_path / "nothing.mp4")


def test_outputs_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="suffix"):
        output_settings(".txt", None, None)
    with pytest.raises(SettingError, match="not a video encoder"):
        output_settings(".mp4", "no-such-codec", None)
    with pytest.raises(SettingError, match="does not apply"):
        output_settings(".mkv", "ffv1", 20)
    with pytest.raises(SettingError, match="unknown"):
        pipe_settings("avi", None, None)
    info = VideoInfo(64, 48, Fraction(25), Fraction(1, 25))
    with pytest.raises(OutputError, match="cannot hold"):
        VideoWriter(tmp_path / "out.webm", info, output_settings(".webm", "libx264", None))


def losses_of(path: Path) -> list[str]:
    with VideoReader(path) as reader:
        return reader.losses


def test_what_does_not_come_through_is_told(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    assert losses_of(make_clip("plain.mp4")) == []
    deep = ["-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", "log-level=error"]
    hdr = [*deep, "-vf", "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc"]
    assert losses_of(make_clip("hdr.mp4", options=hdr)) == [
        "10 bits per sample are coded with 8",
        "HDR video (PQ) is coded without tone mapping; its colour tags are kept",
    ]
    fields = ["-flags", "+ildct+ilme", "-vf", "setfield=tff", "-c:v", "mpeg2video"]
    assert losses_of(make_clip("dvd.mpg.mkv", options=fields)) == [
        "interlaced frames are coded as they are; deinterlace them first for a better picture"
    ]
    glass = ["-vf", "format=rgba,colorchannelmixer=aa=0.5", "-update", "1"]
    assert losses_of(make_clip("glass.png", frames=1, options=glass)) == ["transparency is left out"]
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:00,200\nhello\n", encoding="utf-8")
    make_clip("cover.png", frames=1, options=["-update", "1"])
    parts = [arg for name in ("plain.mp4", "a.srt", "cover.png") for arg in ("-i", str(tmp_path / name))]
    kept = ["-map", "0", "-map", "1", "-map", "2", "-c:v", "copy", "-disposition:v:1", "attached_pic"]
    subprocess.run([ffmpeg, "-v", "error", *parts, *kept, str(tmp_path / "rich.mkv")], check=True)
    assert losses_of(tmp_path / "rich.mkv") == [
        "1 subtitle track cannot be stored; left out",
        "1 other video stream cannot be stored; left out",
    ]
    with VideoReader(tmp_path / "rich.mkv") as reader:
        assert len(list(reader.frames())) == 9


def test_transparency_in_a_side_channel_is_told(make_clip: ClipMaker) -> None:
    """WebM stores it beside a video that has none by itself."""
    glass = ["-vf", "format=yuva420p,colorchannelmixer=aa=0.3", "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"]
    assert losses_of(make_clip("glass.webm", options=glass)) == ["transparency is left out"]


def test_tags_and_side_data_that_are_lost_are_told(make_clip: ClipMaker) -> None:
    tags = ["-metadata", "title=A day", "-metadata", f"comment={'long ' * 2000}"]
    assert losses_of(make_clip("tagged.mkv", options=tags)) == ["1 tag (COMMENT) cannot be stored; left out"]
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    coded = ["-c:v", "libx265", "-x265-params", f"log-level=error:{light}"]
    assert losses_of(make_clip("light.mkv", options=coded)) == ["HDR metadata cannot be stored; left out"]


def joined(tmp_path: Path, make_clip: ClipMaker, ahead_s: float) -> Path:
    """Two transport streams in one file, with the clock of the second ahead of that of the first."""
    coded = ["-c:v", "libx264", "-c:a", "aac"]
    first = make_clip("a.ts", frames=50, audio=True, options=coded)
    second = make_clip("b.ts", frames=50, audio=True, options=[*coded, "-output_ts_offset", str(ahead_s)])
    (tmp_path / "joined.ts").write_bytes(first.read_bytes() + second.read_bytes())
    return tmp_path / "joined.ts"


@pytest.mark.parametrize("ahead_s", [10000, 60, 0])
def test_a_clock_that_jumps_is_continued(make_clip: ClipMaker, tmp_path: Path, ahead_s: float) -> None:
    with VideoReader(joined(tmp_path, make_clip, ahead_s)) as reader:
        times = [frame.pts * reader.info.time_base for frame in reader.frames()]
        assert reader.joins == 1
    assert len(times) == 100 and 3.9 < times[-1] - times[0] < 4.2
    assert all(0 < after - before < 0.2 for before, after in pairwise(times))


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv", "out.avi"])
def test_times_below_zero_hide_no_frame(make_clip: ClipMaker, tmp_path: Path, target: str) -> None:
    """The clock of a transport stream wraps within it, so that FFmpeg gives times from below 0."""
    wraps = ["-c:v", "libx264", "-g", "25", "-c:a", "aac", "-output_ts_offset", "95442.5", "-muxdelay", "0"]
    source = make_clip("in.ts", frames=50, audio=True, options=wraps)
    _, events = copy(source, tmp_path / target)
    assert frames_in(events)[0].pts < 0
    times = times_of(tmp_path / target)
    assert len(times) == 50 and 0 <= times[0] < 0.05 and all(0.03 < b - a < 0.05 for a, b in pairwise(times))


@pytest.mark.parametrize(("target", "told"), [("out.avi", True), ("out.mkv", False)])
def test_sound_before_the_first_picture_is_kept_or_told(
    make_clip: ClipMaker, tmp_path: Path, ffmpeg: str, target: str, told: bool
) -> None:
    """AVI begins with its first picture."""
    source = make_clip("in.mkv", frames=50, audio=True, options=["-c:a", "aac"])
    late = ["-itsoffset", "1", "-i", str(source), "-i", str(source), "-map", "0:v", "-map", "1:a", "-c", "copy"]
    subprocess.run([ffmpeg, "-v", "error", *late, str(tmp_path / "late.mkv")], check=True)
    with VideoReader(tmp_path / "late.mkv") as reader:
        writer = VideoWriter(tmp_path / target, reader.info, output_settings(Path(target).suffix, None, None))
        with writer:
            for event in reader.events():
                writer.write(event)
    assert writer.dropped == (["the sound of audio track 0 before the first picture"] if told else [])


def test_pictures_in_avi_are_shown_in_their_order(make_clip: ClipMaker) -> None:
    """FFmpeg guesses the times of reordered pictures, which AVI does not store, and guesses some of them twice."""
    source = make_clip("in.avi", frames=25, options=["-c:v", "libx264", "-bf", "2"])
    with VideoReader(source) as reader:
        times = [frame.pts * reader.info.time_base for frame in reader.frames()]
    assert len(times) == 25 and {b - a for a, b in pairwise(times)} == {Fraction(1, 25)}


HARD = {
    "gray.mkv": ["-pix_fmt", "gray", "-c:v", "ffv1"],
    "yuv422.mkv": ["-pix_fmt", "yuv422p", "-c:v", "ffv1"],
    "full range.mp4": ["-vf", "scale=out_range=pc", "-color_range", "pc"],
    "slow.mp4": ["-vf", "setpts=25*PTS", "-r", "1"],
    "b-frames.mp4": ["-bf", "3", "-c:v", "libx264"],
    "negative.mp4": ["-bf", "3", "-use_editlist", "0", "-movflags", "negative_cts_offsets"],
    "anamorphic.mp4": ["-vf", "setsar=64/45"],
    "prores.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
    "motion.avi": ["-c:v", "mjpeg"],
    "old.mpg": ["-c:v", "mpeg1video"],
}


@pytest.mark.parametrize("name", list(HARD))
def test_media_that_people_have_come_through(make_clip: ClipMaker, tmp_path: Path, name: str) -> None:
    """Every frame, at its time, as FFmpeg itself shows it; but the first one comes at 0, whatever the clock says."""
    source = make_clip(name, size="66x50", frames=9, options=HARD[name])
    info, events = copy(source, tmp_path / "out.mkv", "ffv1")
    frames = frames_in(events)
    assert len(frames) == len(pixels_of(source)) == len(pixels_of(tmp_path / "out.mkv"))
    with av.open(str(source)) as file:
        begin = max(0, Fraction(file.start_time or 0, av.time_base))
    pairs = zip(times_of(source), times_of(tmp_path / "out.mkv"), strict=True)
    assert all(abs(a - begin - b) <= max(info.time_base, Fraction(1, 1000)) for a, b in pairs)

    if "range" not in name:
        # Saturated stripes differ by how halved chroma is spread; a wrong range or matrix would be below 20 dB.
        assert psnr_db(np.stack([frame.pixels for frame in frames]), np.stack(pixels_of(source))) > 21


@pytest.mark.parametrize("name", ["in.ts", "late.mkv", "late.mp4"])
def test_a_file_whose_clock_begins_late_begins_at_once(make_clip: ClipMaker, name: str) -> None:
    """Sound and picture keep their distance."""
    options = [] if name == "in.ts" else ["-output_ts_offset", "100"]
    source = make_clip(name, frames=20, audio=True, options=options)
    with av.open(str(source)) as file:
        begins = {stream.type: Fraction((stream.start_time or 0) * stream.time_base) for stream in file.streams}
    assert min(begins.values()) > 1
    with VideoReader(source) as reader:
        events = list(reader.events())
    frame = next(event for event in events if isinstance(event, Frame))
    packet = next(event for event in events if isinstance(event, AudioPacket))
    assert packet.pts is not None
    picture, sound = frame.pts * reader.info.time_base, packet.pts * reader.info.audio[0].time_base
    assert abs(min(picture, sound)) < 0.01
    assert abs(picture - sound - (begins["video"] - begins["audio"])) < 0.01


@pytest.mark.parametrize("flip", [[], ["-display_hflip"], ["-display_vflip"]])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".nut", ".png"])
def test_a_turned_or_mirrored_video_is_shown_as_it_was(
    make_clip: ClipMaker, tmp_path: Path, ffmpeg: str, degrees: int, flip: list[str], suffix: str
) -> None:
    """Containers that cannot say it get pixels that are turned already."""
    upright = make_clip("upright.mp4", frames=1, options=["-pix_fmt", "yuv444p"])
    source, target = tmp_path / "in.mp4", tmp_path / f"out{suffix}"
    turn = ["-display_rotation", str(degrees), *flip]
    subprocess.run([ffmpeg, "-v", "error", *turn, "-i", upright, "-c", "copy", source], check=True)
    copy(source, target)
    shown = []
    for path in (source, target):
        picture = tmp_path / f"{path.stem}.shown.png"
        subprocess.run([ffmpeg, "-v", "error", "-i", path, "-frames:v", "1", "-update", "1", picture], check=True)
        shown.append(pixels_of(picture)[0])
    assert shown[0].shape == shown[1].shape
    assert psnr_db(shown[1], shown[0]) > 25


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((f"a.{suffix}", None) for suffix in ["mp4", "mkv", "mov", "avi", "webm", "nut", "gif", "y4m", "png", "jpg"]),
        *(("a.mkv", codec) for codec in ("ffv1", "libx265")),
        ("a.mp4", "libsvtav1"),
    ],
)
def test_the_shape_of_a_pixel_is_kept_or_told(tmp_path: Path, name: str, codec: str | None) -> None:
    info = VideoInfo(width=64, height=64, rate=Fraction(25), time_base=Fraction(1, 25), sar=Fraction(4, 3))
    target = tmp_path / name
    with VideoWriter(target, info, output_settings(target.suffix, codec, None)) as writer:
        writer.write(Frame(np.zeros((64, 64, 3), np.uint8), 0, 1))
        dropped = writer.dropped
    with VideoReader(target) as reader:
        kept = abs(reader.info.sar - info.sar) < Fraction(1, 50)
    assert kept == (not dropped), (kept, dropped)


@pytest.mark.parametrize("suffix", [".avi", ".y4m", ".mkv"])
def test_frames_that_lose_their_times_are_told(tmp_path: Path, suffix: str) -> None:
    info = VideoInfo(width=64, height=64, rate=Fraction(25), time_base=Fraction(1, 50))
    cases: list[tuple[list[int], int, str]] = [
        (list(range(0, 20, 2)), 10, ""),
        ([0, 2, 4, 10, 12], 7, "2 frames repeated"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 5, "3 left out"),
        ([0, 2, 1_000_000, 1_000_002], 4 + 600 * 25, "pauses cut by 19399"),
    ]
    for times, frames, words in cases:
        if len(times) == 4 and suffix == ".mkv":
            continue
        target = tmp_path / f"a{suffix}"
        with VideoWriter(target, info, output_settings(suffix, None, None)) as writer:
            for pts in times:
                writer.write(Frame(np.full((64, 64, 3), pts % 200, np.uint8), pts, 2))
        assert writer.retimed == "" if suffix == ".mkv" or not words else words in writer.retimed
        with VideoReader(target) as reader:
            assert len(list(reader.frames())) == (len(times) if suffix == ".mkv" else frames)


def test_frames_keep_their_times_at_a_rate_that_the_container_cannot_store(tmp_path: Path) -> None:
    info = VideoInfo(width=64, height=64, rate=Fraction(1_000_000), time_base=Fraction(1, 1_000_000))
    target = tmp_path / "a.y4m"
    with VideoWriter(target, info, output_settings(".y4m", None, None)) as writer:
        for pts in (0, 100, 300):
            writer.write(Frame(np.zeros((64, 64, 3), np.uint8), pts, 100))
    with VideoReader(target) as reader:
        frames = len(list(reader.frames()))
    # It stores 65,535 frames/s at most.
    assert frames == round(400e-6 * 65_535)


def test_a_streamed_mp4_starts_pictures_and_sound_together(make_clip: ClipMaker, tmp_path: Path) -> None:
    with VideoReader(make_clip("in.mp4", frames=50, audio=True)) as reader:
        info, events = reader.info, list(reader.events())
    piped = io.BytesIO()
    with VideoWriter(piped, info, pipe_settings("mp4", None, None)) as writer:
        for event in events:
            writer.write(event)
    path = tmp_path / "piped.mp4"
    path.write_bytes(piped.getvalue())
    with VideoReader(path) as reader:
        back = list(reader.events())
    starts = [
        next(event.pts for event in back if isinstance(event, kind)) * float(base)
        for kind, base in ((Frame, reader.info.time_base), (AudioPacket, reader.info.audio[0].time_base))
    ]
    assert abs(starts[0] - starts[1]) < 0.03


def test_edit_lists_hide_frames(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    """A cut without coding again keeps the frames before it, and an edit list that says where to start."""
    whole = make_clip("whole.mp4", frames=50, options=["-g", "50"])
    cut = tmp_path / "cut.mp4"
    subprocess.run([ffmpeg, "-v", "error", "-ss", "0.8", "-i", whole, "-c", "copy", cut], check=True)
    with VideoReader(cut) as reader:
        frames = list(reader.frames())
    assert len(frames) == 30
    assert np.array_equal(frames[0].pixels, read_pixels(whole, 50)[20])


@pytest.mark.parametrize("name", ["part.ts", "part.vob"])
def test_parts_joined_to_one_file_follow_each_other(make_clip: ClipMaker, tmp_path: Path, name: str) -> None:
    """Pictures and sound of the second part stand behind the first's, as far from each other as they were."""
    part = make_clip(name, frames=50, audio=True, options=["-c:v", "mpeg2video", "-c:a", "mp2"])
    both = tmp_path / f"both{part.suffix}"
    both.write_bytes(part.read_bytes() * 2)

    def times(path: Path) -> tuple[VideoInfo, np.ndarray, np.ndarray, int]:
        with VideoReader(path) as reader:
            events = list(reader.events())
            seconds = [
                [event.pts * float(base) for event in events if isinstance(event, kind) and event.pts is not None]
                for kind, base in ((Frame, reader.info.time_base), (AudioPacket, reader.info.audio[0].time_base))
            ]
            return reader.info, np.array(seconds[0]), np.array(seconds[1]), reader.joins

    info, frames, packets, joins = times(part)
    _, both_frames, both_packets, both_joins = times(both)
    assert (joins, both_joins) == (0, 1)
    count = len(frames)
    # The cut itself may cost the picture that leans on the part before.
    assert len(both_frames) >= 2 * count - 1 and np.all(np.diff(both_frames) > 0.9 / 25)
    moved = both_frames[-1] - frames[-1]
    assert moved == pytest.approx(2.0, abs=0.1)
    assert both_packets[-1] - packets[-1] == pytest.approx(moved, abs=1e-3)
    copied, _ = copy(both, tmp_path / "copy.mkv")
    assert copied == info


def test_a_picture_that_changes_its_size_is_refused_midway(make_clip: ClipMaker, tmp_path: Path) -> None:
    parts = [make_clip(f"{size}.ts", size=size, frames=10) for size in ("64x48", "96x64")]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(both) as reader, pytest.raises(InputError, match="from 64x48 to 96x64; scale it"):
        list(reader.events())


@pytest.mark.parametrize(
    "name", ["faststart.mp4", "fragmented.mp4", "faststart.mov", "mpeg4.avi", "vp8.webm", "x264.mkv", "flv.flv"]
)
@pytest.mark.parametrize("part", [0.4, 0.9])
def test_a_file_cut_short_is_told_after_its_frames(make_clip: ClipMaker, ffmpeg: str, name: str, part: float) -> None:
    """FFmpeg takes the end of the data for the end of the video."""
    options = {
        "faststart": ["-movflags", "+faststart"],
        "fragmented": ["-movflags", "frag_keyframe+empty_moov", "-g", "5"],
        "mpeg4": ["-c:v", "mpeg4"],
        "vp8": ["-c:v", "libvpx", "-deadline", "realtime"],
        "x264": ["-c:v", "libx264"],
        "flv": ["-c:v", "flv1"],
    }[name.split(".")[0]]
    path = make_clip(name, size="160x120", frames=50, options=["-pix_fmt", "yuv420p", *options])
    with VideoReader(path) as reader:
        whole = len(list(reader.frames()))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    frames = 0
    with VideoReader(path) as reader, pytest.raises(InputError, match=r"cut short|damaged"):
        for _ in reader.frames():
            frames += 1
    assert whole == 50 and 0 < frames < whole
    # No frame fewer than FFmpeg's own decoder makes of what is left, at its most careful.
    command = [ffmpeg, "-v", "quiet", "-threads", "1", "-i", path, "-f", "framemd5", "-fps_mode", "passthrough", "-"]
    shown = subprocess.run(command, capture_output=True, check=False).stdout.decode().splitlines()
    assert frames >= len([line for line in shown if line.startswith("0,")]) - 1


@pytest.mark.parametrize("name", ["in.mpg", "in.nut"])
def test_a_stream_cut_within_a_picture_is_told(make_clip: ClipMaker, name: str) -> None:
    """Without an index, and by a pipe too: the packet or the picture that was cut says so, though it decodes."""
    path = make_clip(name, size="160x120", frames=50, options=["-c:v", "mpeg4"] if name == "in.nut" else [])
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    start, size = packets[len(packets) // 2]
    assert start is not None
    path.write_bytes(path.read_bytes()[: start + size // 2])
    with VideoReader(path) as reader, pytest.raises(InputError, match="cut or cannot be decoded"):
        list(reader.frames())


@pytest.mark.parametrize(
    ("name", "codec", "suffix"), [("in.mkv", "libopus", ".mov"), ("in.mkv", "flac", ".mov"), ("in.ts", "aac", ".avi")]
)
def test_a_track_that_only_the_header_refuses_is_left_out(
    make_clip: ClipMaker, tmp_path: Path, name: str, codec: str, suffix: str
) -> None:
    """The container's list of codecs has them, but writing its header fails."""
    source, target = make_clip(name, audio=True, options=["-c:a", codec]), tmp_path / f"out{suffix}"
    with VideoReader(source) as reader:
        info, events = reader.info, list(reader.events())
    with VideoWriter(target, info, output_settings(suffix, None, None)) as writer:
        for event in events:
            writer.write(event)
    assert len(info.audio) == len(writer.dropped) == 1
    assert len(pixels_of(target)) == 9


def test_what_was_written_to_a_pipe_says_no_size(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    """Matroska without the sizes that are known at the end only is whole all the same."""
    whole = make_clip("whole.mkv", size="160x120", frames=50)
    piped = tmp_path / "piped.mkv"
    with open(piped, "wb") as target:
        command = [ffmpeg, "-v", "error", "-i", whole, "-c", "copy", "-f", "matroska", "-"]
        subprocess.run(command, stdout=target, stdin=subprocess.DEVNULL, check=True)
    assert announced_size(whole.read_bytes()[:HEAD_BYTES]) == whole.stat().st_size
    with VideoReader(piped) as reader:
        assert len(list(reader.frames())) == 50


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"", None),
        (b"\x1aE\xdf\xa3", None),
        (b"\x1aE\xdf\xa3\x82AB\x18\x53\x80\x67\x40\x64", 7 + 6 + 100),
        (b"\x1aE\xdf\xa3\x82AB\xec\x81\x00\x18\x53\x80\x67\x90", 7 + 3 + 5 + 16),
        (b"\x1aE\xdf\xa3\x82AB\x18\x53\x80\x67\xff", None),
        (b"\x1aE\xdf\xa3\x82AB\x18\x53\x80\x67\x01\x00", None),
        (b"\x1aE\xdf\xa3\x00\x00\x00", None),
        (b"RIFF\x10\x00\x00\x00AVI ", 24),
        (b"RIFF\x00\x00\x00\x00AVI ", None),
        (b"FLV\x01\x00\x08filesize\x00\x40\x59\x00\x00\x00\x00\x00\x00", 100),
        (b"FLV\x01\x00\x08filesize\x00\x7f\xf8", None),
        (b"FLV\x01\x00\x08filesize\x00\x7f\xf8\x00\x00\x00\x00\x00\x00", None),
    ],
)
def test_announced_size(head: bytes, size: int | None) -> None:
    """With a Void before the Segment; unknown, cut off and nonsensical sizes are none."""
    assert announced_size(head) == size


@given(st.binary(max_size=64))
def test_announced_size_reads_any_bytes(data: bytes) -> None:
    for magic in (b"", b"\x1aE\xdf\xa3", b"RIFF", b"FLV\x08filesize\x00"):
        size = announced_size(magic + data)
        assert size is None or size >= 0


@pytest.mark.parametrize(("codec", "crf"), [("libx264", -1), ("libx264", 52), ("libvpx-vp9", 64), ("ffv1", 20)])
def test_a_quality_that_an_encoder_does_not_take_is_refused(codec: str, crf: int) -> None:
    with pytest.raises(SettingError, match="crf"):
        output_settings(".mkv", codec, crf)


@pytest.mark.parametrize(("codec", "crf"), [("libx264", 51), ("libx265", 51), ("libvpx-vp9", 63), ("libsvtav1", 63)])
def test_the_coarsest_quality_is_taken(make_clip: ClipMaker, tmp_path: Path, codec: str, crf: int) -> None:
    info, events = copy(make_clip("in.mp4", size="96x80", frames=3), tmp_path / "copied.mkv")
    scheduling = os.sched_getscheduler(0)
    with VideoWriter(tmp_path / "out.mkv", info, output_settings(".mkv", codec, crf)) as writer:
        for event in events:
            writer.write(event)
    assert len(pixels_of(tmp_path / "out.mkv")) == 3
    # SVT-AV1 would make this thread a real-time one where it may.
    assert os.sched_getscheduler(0) == scheduling


@pytest.mark.parametrize(
    "rate", [Fraction(30000, 1001), Fraction(2997003, 99999), Fraction(100_000), Fraction(1, 1000)]
)
def test_every_rate_goes_into_an_avi(rate: Fraction, tmp_path: Path) -> None:
    """MPEG-4 stores rates as two numbers of 16 bits."""
    info = VideoInfo(64, 48, rate, 1 / rate)
    with VideoWriter(tmp_path / "o.avi", info, output_settings(".avi", None, None)) as writer:
        for number in range(5):
            writer.write(Frame(np.zeros((48, 64, 3), np.uint8), number, 1))
    assert len(times_of(tmp_path / "o.avi")) == 5 or (rate > 65_535 and "left out" in writer.retimed)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.tiff", "photo.webp"])
def test_photos_with_exif_are_read(tmp_path: Path, name: str) -> None:
    """FFmpeg attaches EXIF to frames as a kind of side data that PyAV does not know."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    picture = np.full((48, 64, 3), 90, np.uint8)
    Image.fromarray(picture).save(tmp_path / name, exif=exif)
    with VideoReader(tmp_path / name) as reader:
        (frame,) = reader.frames()
        assert reader.info.rate is None and not reader.losses
    assert np.abs(frame.pixels.astype(int) - picture).max() <= 2


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "photo.jpg", exif=exif)
    with VideoReader(tmp_path / "photo.jpg") as reader:
        assert reader.info.rotation % 360 == 270


def test_images_in_a_pipe_are_a_video(make_clip: ClipMaker, ffmpeg: str) -> None:
    command = [ffmpeg, "-v", "error", "-i", str(make_clip("in.mp4", frames=5)), "-f", "image2pipe", "-c:v"]
    for codec in ("png", "mjpeg"):
        data = subprocess.run([*command, codec, "-"], stdout=subprocess.PIPE, check=True).stdout
        with VideoReader(io.BytesIO(data)) as reader:
            assert reader.info.rate == 25 and len(list(reader.frames())) == 5


def test_white_of_few_bits_is_white(tmp_path: Path, ffmpeg: str) -> None:
    source = ["-f", "lavfi", "-i", "color=white:size=64x48:rate=5:duration=0.4"]
    for pixel_format in ("rgb555be", "rgb24"):
        target = tmp_path / f"{pixel_format}.mov"
        subprocess.run([ffmpeg, "-v", "error", *source, "-c:v", "qtrle", "-pix_fmt", pixel_format, target], check=True)
        with VideoReader(target) as reader:
            assert (next(iter(reader.frames())).pixels == 255).all()


LASTING = [(".gif", None), (".mp4", None), (".mov", None), (".mkv", None), (".webm", None), (".mp4", "mpeg4")]


@pytest.mark.parametrize(("suffix", "codec"), [*LASTING, (".avi", None), (".y4m", None)])
def test_the_last_frame_lasts_as_long_as_before(tmp_path: Path, suffix: str, codec: str | None) -> None:
    info = VideoInfo(64, 48, Fraction(2), Fraction(1, 1000))
    target = tmp_path / f"out{suffix}"
    with VideoWriter(target, info, output_settings(suffix, codec, None)) as writer:
        for pts, lasts in ((0, 1000), (1000, 500), (1500, 3000)):
            writer.write(Frame(np.full((48, 64, 3), pts % 256, np.uint8), pts, lasts))
    with av.open(str(target)) as container:
        assert container.duration == 4_500_000


EXACT = [(".avi", "rawvideo"), (".mov", "rawvideo"), (".nut", "rawvideo"), (".mov", "qtrle"), (".mp4", "libx264rgb")]
OTHERS = [(".mov", "prores_ks"), (".avi", "huffyuv"), (".avi", "cinepak"), (".mkv", "mpeg4"), (".avi", "flashsv")]


@pytest.mark.parametrize(("suffix", "codec"), [*EXACT, *OTHERS])
def test_each_encoder_gets_pixels_that_it_takes(tmp_path: Path, suffix: str, codec: str) -> None:
    """Also where the clock of the source is finer than the encoder's."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[..., 0], picture[:, 64:, 1] = 200, 90
    info, target = VideoInfo(128, 96, Fraction(25), Fraction(1, 90_000)), tmp_path / f"out{suffix}"
    with VideoWriter(target, info, output_settings(suffix, codec, None)) as writer:
        for number in range(3):
            writer.write(Frame(picture, 3600 * number, 3600))
    with VideoReader(target) as reader:
        frames = list(reader.frames())
    error = np.abs(frames[0].pixels.astype(int) - picture)
    assert len(frames) == 3 and error.mean() < (0.01 if (suffix, codec) in EXACT else 6)


@pytest.mark.parametrize(
    ("suffix", "codec", "sound", "message"),
    [
        (".png", "mjpeg", None, "a .png file holds png"),
        (".y4m", "libx264", None, "y4m holds uncompressed video alone"),
        (".gif", None, "aac", "gif holds no sound"),
    ],
)
def test_encoders_that_a_format_does_not_hold_are_refused(
    suffix: str, codec: str | None, sound: str | None, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        output_settings(suffix, codec, None, sound)


def test_what_an_encoder_refuses_is_told_with_its_name(tmp_path: Path) -> None:
    info = VideoInfo(128, 96, Fraction(25), Fraction(1, 25))
    with pytest.raises(OutputError, match=r"as dnxhd: .*; choose another encoder"):
        VideoWriter(tmp_path / "out.mov", info, output_settings(".mov", "dnxhd", None))
