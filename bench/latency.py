"""How far a live pipe lags: frames go in at their own rate, and the bench notes when each comes out again.

    .venv/bin/python bench/latency.py [--size 256x256] [--rate 25] [--seconds 20] [--out FILE.json]

The pipe is `vtok encode - - | vtok decode - - --format y4m`, as between two machines. The delay of frame n is the
number of frames that had gone in after it when it came out. A chunk is four latent frames, 16 pictures, so 15 is the
least for the first picture of a chunk; the model, FFmpeg and the pipes add to it. The first half is left out, since
both ends load torch while frames already come.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import imageio_ffmpeg
import numpy as np
from common import print_table, write_json

from vtok_codec.registry import DEFAULT_MODEL, find_weights

_FRAME = b"FRAME\n"


def y4m_frames(size: str, rate: int, seconds: float) -> tuple[bytes, list[bytes]]:
    """The header and the frames of a moving picture as y4m."""
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
    """Write frames at their rate; `fed` takes the time of each."""
    stream.write(header)
    started = time.perf_counter()
    for number, frame in enumerate(frames):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        stream.write(frame)
        stream.flush()
        fed.append(time.perf_counter())
    stream.close()


def drain(stream: BinaryIO, frame_bytes: int) -> list[float]:
    """The time at which each whole frame had come out."""
    assert stream.readline().startswith(b"YUV4MPEG2")
    came = []
    while len(stream.read(frame_bytes)) == frame_bytes:
        came.append(time.perf_counter())
    return came


def main() -> None:
    """Measure, print, write JSON."""
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
    # Torch loads while frames wait: the pipe needs a while until it runs at the rate of its input. What comes after the
    # last frame went in is pushed out by the end.
    settled = delays[len(delays) // 2 : int(np.searchsorted(came, fed[-1]))]
    if not len(settled):
        raise SystemExit("the pipe does not keep up with this rate here, or the run is too short; try --seconds 30")
    figures = {
        "first frame after, s": came[0] - fed[0],
        "least delay, frames": int(settled.min()),
        "median delay, frames": float(np.median(settled)),
        "most delay, frames": int(settled.max()),
    }
    print_table(["live pipe, second half", f"{arguments.size} at {arguments.rate} frames/s"], list(figures.items()))
    weights = find_weights(DEFAULT_MODEL).sha256
    write_json(arguments.out, {"weights": weights, "size": arguments.size, "rate": arguments.rate} | figures)


if __name__ == "__main__":
    main()
