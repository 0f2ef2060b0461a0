"""Filters give the pictures, times and shapes that `ffmpeg -vf` gives."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import ClipMaker

from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.filters import FilterChain, parse_filters
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, VideoInfo


def read(path: Path, filters: str = "") -> tuple[VideoInfo, list[Frame]]:
    with VideoReader(path, audio=False, filters=filters) as reader:
        return reader.info, list(reader.frames())


@pytest.mark.parametrize(
    "filters",
    [
        *("scale=-2:32", "fps=10", "fps=10,scale=48:32", "crop=32:16:8:8,hflip", "transpose=clock"),
        "drawbox='0:0:8:8:red'",
    ],
)
@pytest.mark.parametrize("turn", [0, 90, 180])
def test_filters_do_what_ffmpeg_does(
    ffmpeg: str, tmp_path: Path, make_clip: ClipMaker, filters: str, turn: int
) -> None:
    plain = make_clip("plain.mp4", frames=20, options=["-colorspace", "bt709", "-color_range", "tv", "-crf", "1"])
    source, wanted = tmp_path / "in.mp4", tmp_path / "wanted.mkv"
    turned = ["-display_rotation", str(turn)] if turn else []
    subprocess.run([ffmpeg, "-v", "error", *turned, "-i", plain, "-c", "copy", source], check=True)
    subprocess.run([ffmpeg, "-v", "error", "-i", source, "-vf", filters, "-c:v", "ffv1", wanted], check=True)
    info, frames = read(source, filters)
    like, expected = read(wanted)
    assert (info.width, info.height, info.rate, info.sar) == (like.width, like.height, like.rate, like.sar)
    assert info.rotation == 0 and info.color.matrix == 1
    assert len(frames) == len(expected)
    times, expected_times = ([f.pts * i.time_base for f in fs] for i, fs in ((info, frames), (like, expected)))
    assert max(abs(a - b) for a, b in zip(times, expected_times, strict=True)) < Fraction(1, 100)
    error = max(np.abs(a.pixels.astype(int) - b.pixels).mean() for a, b in zip(frames, expected, strict=True))
    # The kernels of swscale differ between versions of FFmpeg.
    assert error < (8 if "scale" in filters else 1.5)


@pytest.mark.parametrize(
    ("filters", "frames"),
    [("bwdif", 18), ("bwdif=mode=send_frame", 9), ("bwdif=0", 9), ("yadif", 9), ("yadif=1", 18)],
)
def test_deinterlacers_tell_their_rate(make_clip: ClipMaker, filters: str, frames: int) -> None:
    """Some of their modes make a frame of each field, and last as long as the source."""
    info, got = read(make_clip("in.mp4"), filters)
    assert info.rate == Fraction(25) * frames / 9 and len(got) == frames
    steps = {(after.pts - before.pts) * info.time_base for before, after in pairwise(got)}
    assert steps == {1 / info.rate}


def test_scale_keeps_the_shape_of_the_picture(make_clip: ClipMaker) -> None:
    source = make_clip("in.mp4", options=["-vf", "setsar=4/3"])
    assert read(source, "scale=64:64")[0].sar == Fraction(16, 9)
    assert read(source, "crop=32:32")[0].sar == Fraction(4, 3)
    assert read(source, "crop=32:24,scale=32:32")[0].sar == Fraction(16, 9)
    assert read(source, "scale=32:24,transpose=clock")[0].sar == Fraction(3, 4)


def test_what_filters_hold_back_comes_before_the_error(make_clip: ClipMaker, tmp_path: Path) -> None:
    whole = make_clip("in.mkv", frames=50).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    seen = []
    with VideoReader(cut, filters="fps=5") as reader, pytest.raises(InputError, match=r"cut|damaged"):
        seen.extend(reader.frames())
    assert seen


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("sharpest", "no filter of that name"),
        ("scale=64:32,", "no filter of that name"),
        ("scale=wide", "refuses"),
        ("[in]scale=64:32", "chain"),
        ("setsar=2", "shape of pixels"),
        ("framestep=2", "times of frames"),
        ("fps=0", "as a number"),
        ("fps=source_fps/2", "as a number"),
    ],
)
def test_filters_that_do_not_work_are_told(make_clip: ClipMaker, filters: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        read(make_clip("in.mp4"), filters)


def test_a_picture_that_stands_askew_is_refused(make_clip: ClipMaker) -> None:
    with av.open(str(make_clip("in.mp4"))) as container:
        frame = next(container.decode(video=0))
    with pytest.raises(InputError, match=r"v\.mp4 is turned by 45 degrees"):
        FilterChain(parse_filters("scale=16:16"), frame, Fraction(1, 25), 45, name="v.mp4")


def test_commas_inside_options_are_kept() -> None:
    assert parse_filters(r"geq='lum(X,Y)',scale=w=min(64\,iw):h=-2") == (
        ("geq", "lum(X,Y)"),
        ("scale", "w=min(64,iw):h=-2"),
    )
