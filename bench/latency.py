"""Measures the delay of a live pipe: frames go in at their own rate, and the script notes when each comes out.

    .venv/bin/python bench/latency.py [--size 256x256] [--rate 25] [--seconds 20] [--out FILE.json]

The pipe is `vtok encode - - | vtok decode - - --format y4m`, as between two machines. The delay of a frame is the
number of frames that have gone in after it when it comes out. A chunk has four latent frames, which are 16 frames of
video, so the delay of the first frame of a chunk is at least 15. The model, FFmpeg and the pipes add to it. The first
half of the frames is left out, since both programs still load torch when the first frames arrive.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, BinaryIO

import imageio_ffmpeg
import numpy as np
from common import print_table, write_json

from vtok_codec.registry import DEFAULT_MODEL, find_weights

_FRAME = b"FRAME\n"
"""The header of each frame in a y4m stream."""


def y4m_frames(size: str, rate: int, seconds: float) -> tuple[bytes, list[bytes]]:
    """Make a moving test picture as y4m, and return its header and its frames."""
    picture = f"testsrc2=size={size}:rate={rate},noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", picture, "-t", str(seconds)]
    data = subprocess.run(
        [*command, "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"], capture_output=True, check=True
    ).stdout
    header, _, rest = data.partition(b"\n")
    width, height = map(int, size.split("x"))
    step = len(_FRAME) + width * height + 2 * (-(-width // 2) * -(-height // 2))
    return header + b"\n", [rest[start : start + step] for start in range(0, len(rest), step)]


def feed(stream: BinaryIO, header: bytes, frames: list[bytes], rate: int, fed: list[float]) -> None:
    """Write frames at their rate, and append the time at which each was written to `fed`."""
    stream.write(header)
    started = time.perf_counter()
    for number, frame in enumerate(frames):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        stream.write(frame)
        stream.flush()
        fed.append(time.perf_counter())
    stream.close()


def drain(stream: IO[bytes], frame_bytes: int) -> list[float]:
    """Read all frames, and return the time at which each was complete."""
    assert stream.readline().startswith(b"YUV4MPEG2")
    came = []
    while len(stream.read(frame_bytes)) == frame_bytes:
        came.append(time.perf_counter())
    return came


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--rate", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    header, frames = y4m_frames(arguments.size, arguments.rate, arguments.seconds)
    vtok = [sys.executable, "-m", "vtok_codec"]
    encoder = subprocess.Popen([*vtok, "encode", "-", "-", "-q"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    decoder = subprocess.Popen(
        [*vtok, "decode", "-", "-", "-q", "--format", "y4m"], stdin=encoder.stdout, stdout=subprocess.PIPE
    )
    assert encoder.stdin and encoder.stdout and decoder.stdout
    encoder.stdout.close()
    fed: list[float] = []
    feeder = threading.Thread(target=feed, args=(encoder.stdin, header, frames, arguments.rate, fed))
    feeder.start()
    came = drain(decoder.stdout, len(frames[0]))
    feeder.join()
    codes = (encoder.wait(), decoder.wait())
    if codes != (0, 0) or len(came) != len(frames):
        raise SystemExit(f"{len(came)} of {len(frames)} frames came out; exit codes {codes}")
    delays = np.array([np.searchsorted(fed, at) - 1 - number for number, at in enumerate(came)])
    # Frames wait while torch loads, and the pipe needs time to catch up with its input. Frames that come out after the
    # last one went in are left out too, since the end of the input flushes them.
    settled = delays[len(delays) // 2 : int(np.searchsorted(came, fed[-1]))]
    if not len(settled):
        raise SystemExit("this machine is too slow for the rate, or the run is too short; try --seconds 30")
    figures = {
        "delay of the first frame, s": came[0] - fed[0],
        "smallest delay, frames": int(settled.min()),
        "median delay, frames": float(np.median(settled)),
        "largest delay, frames": int(settled.max()),
    }
    print_table(["live pipe, second half", f"{arguments.size} at {arguments.rate} frames/s"], list(figures.items()))
    weights = find_weights(DEFAULT_MODEL).sha256
    write_json(arguments.out, {"weights": weights, "size": arguments.size, "rate": arguments.rate} | figures)


if __name__ == "__main__":
    main()
