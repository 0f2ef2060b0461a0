"""Sound that is encoded anew keeps its place in time: what starts late or pauses is filled with silence."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from helpers import inside
from numpy.typing import NDArray

RATE = 44_100


def sound_of(path: Path) -> NDArray[np.int16]:
    """All samples of the first channel."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray().reshape(-1)[:: frame.layout.nb_channels] for frame in container.decode(audio=0)]
    return np.concatenate(frames)


@pytest.mark.parametrize("codec", ["flac", "pcm_s16le"])
@pytest.mark.parametrize(("first", "pause"), [(0.5, None), (0.0, (0.7, 1.2)), (0.5, (1.0, 1.5))])
def test_sound_stays_in_its_place(
    ffmpeg: str, tmp_path: Path, codec: str, first: float, pause: tuple[float, float] | None
) -> None:
    """A packet of FLAC lasts longer than a gap has to last to be filled."""
    chosen = f"gte(t,{first})" + (f"*not(between(t,{pause[0]},{pause[1]}))" if pause else "")
    picture = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=2"]
    noise = ["-f", "lavfi", "-i", f"anoisesrc=sample_rate={RATE}:duration=2:seed=1:amplitude=0.5"]
    whole, source = tmp_path / "whole.mkv", tmp_path / "in.mkv"
    subprocess.run([ffmpeg, "-v", "error", *noise, "-sample_fmt", "s16", "-c:a", "pcm_s16le", whole], check=True)
    options = ["-af", f"aselect='{chosen}'", "-c:v", "ffv1", "-sample_fmt", "s16", "-c:a", codec]
    subprocess.run([ffmpeg, "-v", "error", *picture, *noise, *options, source], check=True)
    assert inside("encode", source, tmp_path / "in.vtk", "-q") == (0, "", "")
    code, _, told = inside("decode", tmp_path / "in.vtk", tmp_path / "out.avi", "--audio-codec", "pcm_s16le")
    assert code == 0 and "left out" not in told
    made, expected = sound_of(tmp_path / "out.avi"), sound_of(whole)
    assert abs(len(made) - 2 * RATE) < 0.03 * RATE
    # The source is cut in frames of 1,024 samples.
    border = 1_100
    heard = [(first, pause[0] if pause else 2.0)] + ([(pause[1], 2.0)] if pause else [])
    quiet = ([(0.0, first)] if first else []) + ([pause] if pause else [])
    for begin, end in heard:
        part = expected[int(begin * RATE) + border : int(end * RATE) - border].astype(int)
        # Matroska rounds times to milliseconds.
        places = range(int(begin * RATE) + border - 60, int(begin * RATE) + border + 60)
        assert min(np.abs(made[place : place + len(part)] - part).max() for place in places) <= 1
    for begin, end in quiet:
        assert not made[int(begin * RATE) + border : int(end * RATE) - border].any()


def test_silence_of_unsigned_samples_is_their_middle(ffmpeg: str, tmp_path: Path) -> None:
    late = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1", "-itsoffset", "0.5"]
    noise = ["-f", "lavfi", "-i", "anoisesrc=sample_rate=8000:duration=0.5:seed=1:amplitude=0.5"]
    source, target = tmp_path / "in.mkv", tmp_path / "out.avi"
    subprocess.run([ffmpeg, "-v", "error", *late, *noise, "-c:v", "ffv1", "-c:a", "pcm_s16le", source], check=True)
    assert inside("encode", source, tmp_path / "in.vtk", "-q") == (0, "", "")
    assert inside("decode", tmp_path / "in.vtk", target, "--audio-codec", "pcm_u8", "-q")[0] == 0
    made = sound_of(target)
    assert (made[:3500] == 128).all() and made[4500:].std() > 1
