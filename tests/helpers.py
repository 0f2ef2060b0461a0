"""What tests share: the repository's clip, a tiny model, and ways to run commands and read their outputs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from typer.testing import CliRunner

from vtok_codec.cli.app import app
from vtok_codec.models.config import Level, ModelConfig, OneVAEConfig
from vtok_codec.models.onevae import OneVAE

DATA = Path(__file__).parent / "data"


LANES = DATA / "lanes.mp4"
SMALL_LANES = DATA / "small-lanes.mp4"
"""The same frames in half the size, for tests that only need a real clip."""


TINY = OneVAEConfig(
    levels=(
        Level(factor=(2, 4, 4), channels=8, encoder_blocks=1, decoder_blocks=1),
        Level(factor=(2, 2, 2), channels=16, encoder_blocks=1, decoder_blocks=2),
    ),
    fsq_levels=(8, 8, 8, 5, 5, 5),
    max_tokens=4,
)


class Given(NamedTuple):
    """Weights that are in no file."""

    config: ModelConfig
    data: bytes
    path: Path = Path("here")


def randomized(model: OneVAE, seed: int = 0) -> OneVAE:
    """The model with every weight random, the zero-initialized ones too, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 / fan_in) ** 0.5)
    return model


def inside(*args: object, cwd: Path = Path()) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process, where torch is loaded already."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.chdir(cwd):
            result = CliRunner().invoke(app, [*map(str, args)])
    finally:
        # A command sets its own, which would end no test.
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return result.exit_code, result.stdout, result.stderr


ClipMaker = Callable[..., Path]


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
