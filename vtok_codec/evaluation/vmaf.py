"""Measures VMAF with libvmaf, in the FFmpeg program that imageio-ffmpeg ships."""

from __future__ import annotations

import json
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import imageio_ffmpeg
import numpy as np

from vtok_codec.errors import OutputError
from vtok_codec.evaluation.usage import last_words
from vtok_codec.media.types import Pixels

_MODELS = "version=vmaf_v0.6.1\\\\:name=vmaf|version=vmaf_v0.6.1neg\\\\:name=neg"
_THREADS = 2
LEAST_VMAF_SIDE = 18
"""The smallest side of a picture in pixels that VMAF's coarsest scale fits in."""


@dataclass(frozen=True)
class VmafScores:
    """The VMAF scores of a clip, as means over its frames."""

    vmaf: float
    """VMAF v0.6.1, from 0 to 100."""
    neg: float
    """VMAF-NEG v0.6.1, which gives no credit for enhancement, from 0 to 100."""


class VmafMeter:
    """Measures VMAF on pairs of frames that are added one by one.

    Use it as a context manager. Memory does not grow with the number of frames.

    Both frames of a pair are sent to FFmpeg as one picture, the source above the output. Two separate inputs could get
    out of step, since libvmaf pairs their frames by time. Both frames are converted to limited-range BT.601 4:2:0,
    whose luma VMAF's models expect.

    Args:
        width: The width of the frames in pixels.
        height: The height of the frames in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vtok-vmaf-")
        self._log = Path(self._folder.name) / "vmaf.json"
        # 4:2:0 needs even sides, so an odd last row or column is left out.
        even = f"{width - width % 2}:{height - height % 2}"
        half = "format=yuv420p,setpts=N/25/TB"
        graph = (
            f"[0:v]split[a][b];[a]crop={even}:0:0,{half}[source];[b]crop={even}:0:{height},{half}[output];"
            f"[output][source]libvmaf=model={_MODELS}:n_threads={_THREADS}:log_fmt=json:log_path={self._log.name}"
        )
        pipe = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{2 * height}", "-r", "25", "-i", "pipe:0"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *pipe, "-lavfi", graph, "-f", "null", "-"]
        # Errors go to a file, since FFmpeg would block on a full pipe that nobody reads.
        self._errors = (Path(self._folder.name) / "errors.txt").open("w+b")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._errors, cwd=self._folder.name)

    def __enter__(self) -> VmafMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._close_input()
        self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    def add(self, source: Pixels, output: Pixels) -> None:
        """Add the next frame of the source and of the output, uint8 RGB `H W 3`.

        Raises:
            OutputError: FFmpeg failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(source).data)
            self._process.stdin.write(np.ascontiguousarray(output).data)
        except BrokenPipeError:
            self._process.wait()
            raise self._failure() from None

    def scores(self) -> VmafScores:
        """End the input, and return the scores of all frames. No frames can be added afterwards.

        Raises:
            OutputError: FFmpeg failed.
        """
        self._close_input()
        if self._process.wait():
            raise self._failure()
        pooled = json.loads(self._log.read_text(encoding="utf-8"))["pooled_metrics"]
        return VmafScores(vmaf=pooled["vmaf"]["mean"], neg=pooled["neg"]["mean"])

    def _close_input(self) -> None:
        stream, self._process.stdin = self._process.stdin, None
        if stream:
            with suppress(BrokenPipeError):
                stream.close()

    def _failure(self) -> OutputError:
        return OutputError(f"VMAF could not be measured: {last_words(self._errors, self._process.returncode)}")
