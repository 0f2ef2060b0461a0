"""Helpers of the command line tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from helpers import DATA, inside

GOLDEN = DATA / "golden-1.0.vtk"


VTOK = [sys.executable, "-m", "vtok_codec"]


def vtok(*args: object, cwd: Path | None = None, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*VTOK, *map(str, args)], cwd=cwd, input=stdin, capture_output=True, timeout=300, check=False)


def text(result: subprocess.CompletedProcess[bytes]) -> tuple[int, str, str]:
    return result.returncode, result.stdout.decode(), result.stderr.decode()


def make_still(folder: Path) -> Path:
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    with av.open(folder / "still.png", "w") as container:
        stream = container.add_stream("png", width=30, height=20, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
    assert inside("encode", folder / "still.png", folder / "still.vtk", "-q") == (0, "", "")
    return folder / "still.vtk"
