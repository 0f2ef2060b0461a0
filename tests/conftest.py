"""Small real inputs for the tests: clips coded by FFmpeg, a tiny model, the shipped one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vtok_codec.cli.app import app
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.models.onevae import Level, OneVAE, OneVAEConfig
from vtok_codec.models.presets import PRESETS
from vtok_codec.registry import DEFAULT_MODEL, find_weights

# A shell starts what runs in the background with SIGINT ignored, which the commands under test would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).parent / "data"
LANES = DATA / "lanes.mp4"

TINY = OneVAEConfig(
    levels=(
        Level(factor=(2, 4, 4), channels=8, encoder_blocks=1, decoder_blocks=1),
        Level(factor=(2, 2, 2), channels=16, encoder_blocks=1, decoder_blocks=2),
    ),
    fsq_levels=(8, 8, 8, 5, 5, 5),
    max_tokens=4,
)


def randomized(model: OneVAE, seed: int = 0) -> OneVAE:
    """The model with every weight random, the zero-initialized ones too, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
    return model


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


def inside(*args: object, cwd: Path = Path()) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process, where torch is loaded already."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, [*map(str, args)])
    return result.exit_code, result.stdout, result.stderr


ClipMaker = Callable[..., Path]


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


def pixels_of(path: Path) -> list[np.ndarray]:
    """Every frame as RGB, by PyAV's own conversion."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    """The presentation time of every frame, in seconds."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of the mean squared error over everything."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
