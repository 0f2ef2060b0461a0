"""Fixtures for all tests: clips coded by FFmpeg, a tiny model, the shipped one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from helpers import TINY, ClipMaker

from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.models.presets import PRESETS
from vtok_codec.registry import DEFAULT_MODEL, find_weights

# A shell starts what runs in the background with SIGINT ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A tiny model spends more time handing work to threads than working."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a preset small enough to train in a test."""
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    return "tiny"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The shipped model."""
    return load_tokenizer(find_weights(DEFAULT_MODEL), "cpu")


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """An ffmpeg to build inputs with, and to judge outputs by."""
    return imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture
def make_clip(ffmpeg: str, tmp_path: Path) -> ClipMaker:
    """Builds a moving test clip: `make_clip("a.mp4", size="64x48", frames=9, options=[…])`."""

    def make(
        name: str,
        size: str = "64x48",
        frames: int = 9,
        rate: str = "25",
        options: Sequence[str] = (),
        audio: bool = False,
    ) -> Path:
        path = tmp_path / name
        width, height = map(int, size.split("x"))
        picture = f"testsrc2=size={width + width % 2}x{height + height % 2}:rate={rate}"
        if width % 2 or height % 2:
            # Its own sides are even.
            picture += f",format=yuv444p,crop={width}:{height}:0:0:exact=1"
        sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"] if audio else []
        seconds = str(float(Fraction(frames) / Fraction(rate)))
        subprocess.run(
            [ffmpeg, "-v", "error", "-y", "-f", "lavfi", "-i", picture, *sound]
            + (["-t", seconds] if audio else ["-frames:v", str(frames)])
            + [*options, str(path)],
            check=True,
        )
        return path

    return make


@pytest.fixture(scope="session")
def player() -> Path:
    """The folder of the browser player, built."""
    root = Path(__file__).parent.parent
    subprocess.run([str(root / "bin" / "player")], check=True)
    return root / "player"
