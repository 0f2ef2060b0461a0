"""Image sequences are read whole, and only when they are asked for."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import ClipMaker, inside, pixels_of

from vtok_codec.errors import InputError
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.sequences import find_sequence


@pytest.fixture
def pictures(ffmpeg: str, make_clip: ClipMaker, tmp_path: Path) -> Path:
    """A folder of the pictures of a clip, numbered from 7 on."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    source = make_clip("in.mp4", frames=12)
    command = [ffmpeg, "-v", "error", "-i", source, "-start_number", "7", folder / "p%04d.png"]
    subprocess.run(command, check=True)
    return folder


def test_all_pictures_are_read_in_order(pictures: Path) -> None:
    with VideoReader(pictures / "p%04d.png", sequence_rate=Fraction(24)) as reader:
        frames = list(reader.frames())
    assert reader.info.rate == 24 and len(frames) == 12
    for number, frame in enumerate(frames):
        assert frame.pts * reader.info.time_base == Fraction(number, 24)
        assert np.array_equal(frame.pixels, pixels_of(pictures / f"p{number + 7:04d}.png")[0])


def test_the_command_takes_a_pattern_and_a_rate(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.vtk"
    code, _, told = inside("encode", pictures / "p%04d.png", out, "--rate", "30000/1001")
    assert code == 0 and "12 frames" in told
    assert "30000/1001" in inside("info", out, "--json")[1]


def test_folders_may_have_any_name(pictures: Path) -> None:
    for name in ("100%_done", "d%d", "a%%b"):
        other = pictures.with_name(name)
        pictures = pictures.rename(other)
        with VideoReader(other / "p%04d.png", sequence_rate=Fraction(24)) as reader:
            assert len(list(reader.frames())) == 12


def test_standard_input_is_no_sequence(tmp_path: Path) -> None:
    code, _, told = inside("encode", "-", tmp_path / "out.vtk", "--rate", 24)
    assert code == 2 and "name a pattern" in told


def test_a_missing_picture_is_told(pictures: Path, tmp_path: Path) -> None:
    (pictures / "p0011.png").unlink()
    code, _, told = inside("encode", pictures / "p%04d.png", tmp_path / "out.vtk", "--rate", 24)
    assert code == 3 and "p0011.png is missing, between pictures 10 and 12" in told
    assert not (tmp_path / "out.vtk").exists()


def test_without_a_rate_a_name_is_a_name(pictures: Path, tmp_path: Path) -> None:
    code, _, told = inside("encode", pictures / "p%04d.png", tmp_path / "out.vtk")
    assert code == 3 and "no such file" in told


@pytest.mark.parametrize(
    ("names", "pattern", "found"),
    [
        (["a1.png", "a2.png", "a10.png"], "a%d.png", None),
        (["a9.png", "a10.png"], "a%d.png", (9, 2)),
        (["a09.png", "a10.png", "a9.png"], "a%02d.png", (9, 2)),
        (["a099.png", "a100.png", "a1000.png"], "a%03d.png", None),
        (["x.png"], "a%d.png", None),
        (["a+1.png"], "a+%d.png", (1, 1)),
        (["a1.png"], "a.png", None),
        (["a1.png"], "a%d%d.png", None),
        (["a1.png"], "a%s.png", None),
    ],
)
def test_patterns_name_numbered_files(
    tmp_path: Path, names: list[str], pattern: str, found: tuple[int, int] | None
) -> None:
    for name in names:
        (tmp_path / name).touch()
    if found:
        sequence = find_sequence(str(tmp_path / pattern))
        assert (sequence.first, sequence.count) == found
    else:
        with pytest.raises(InputError):
            find_sequence(str(tmp_path / pattern))
