"""Measures how fast vtok is on this machine, and how its cost grows with size and length.

    .venv/bin/python bench/speed.py [--quick] [--rounds N] [--out FILE.json]

Run it on an idle machine. It takes a quarter of an hour, or one minute with `--quick`. The speed of a shared machine
varies from minute to minute; `--rounds` repeats everything, and the best figures count.

It measures three things:

- the model alone, from memory to memory and with its state carried from chunk to chunk, with one thread and with all,
  compared with its largest convolution;
- whole commands at the same sizes, with their peak memory;
- whole commands on clips of different lengths.

The frames per second of commands leave out the time that a clip of one frame takes, which mostly loads torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import imageio_ffmpeg
import torch
from common import print_table, write_json
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.evaluation.usage import Cost, run_measured
from vtok_codec.media.reader import read_pixels
from vtok_codec.registry import DEFAULT_MODEL, find_weights

CHUNK_FRAMES = 16
"""Frames in a chunk of a file."""
RATE = 30
"""The frame rate of the test clips."""
SIZES = {"256x256": 10.0, "854x480": 4.0, "1280x720": 3.0, "1920x1080": 2.0}
"""The sizes to measure, and the length in seconds of the clip of that size for whole commands."""
LENGTHS_S = (5, 10, 20, 40)
"""The lengths in seconds of clips of 256x256 that commands are timed on."""
MEMORY_LENGTHS_S = (10, 60)
"""The lengths in seconds of the clips that peak memory is measured on."""
MEMORY_SIZE = "1280x720"
"""The size of the clips that peak memory is measured on."""


@dataclass(frozen=True)
class ModelSpeed:
    """The speed of the model alone in one direction."""

    size: str
    threads: int
    direction: str
    frames_s: float
    """Frames per second."""
    mpixel_s: float
    """Megapixels per second."""
    gmac_per_frame: float
    """10⁹ multiply-accumulates per frame."""
    gmac_s: float
    """10⁹ multiply-accumulates per second."""
    part_of_limit: float
    """`gmac_s` divided by that of the largest convolution alone, measured in the same round with as many threads."""


@dataclass(frozen=True)
class CommandSpeed:
    """The speed of one whole command on one clip."""

    command: str
    size: str
    length_s: float
    frames_s: float
    """Frames per second, without the time that a clip of one frame takes."""
    mpixel_s: float
    """Megapixels per second."""
    peak_mib: float | None
    """Peak memory in MiB; None if the system does not report it."""


Speed = TypeVar("Speed", ModelSpeed, CommandSpeed)


def seconds(work: Callable[[], object], least_s: float = 1.0) -> float:
    """Return the shortest time of a call in seconds.

    After one call to warm up, there are at least three calls, and as many as take `least_s` seconds in all.
    """
    work()
    times: list[float] = []
    while sum(times) < least_s or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def make_clip(path: Path, size: str, length_s: float, rate: int = RATE) -> Path:
    """Make a clip of a moving test picture with noise, so that it is no easier to code than video from a camera."""
    picture = f"testsrc2=size={size}:rate={rate},noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", picture]
    subprocess.run([*command, "-t", str(length_s), "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def pixels(size: str) -> int:
    width, height = map(int, size.split("x"))
    return width * height


def model_speeds(tokenizer: Tokenizer, folder: Path, sizes: list[str]) -> Iterator[ModelSpeed]:
    """Measure the model alone in both directions, at each size, with one thread and with all."""
    all_threads = torch.get_num_threads()
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        limit = convolution_limit(tokenizer)
        for size in sizes:
            frames = read_pixels(make_clip(folder / "model.mp4", size, CHUNK_FRAMES / RATE), CHUNK_FRAMES)
            height, width = frames.shape[1:3]
            first, state = tokenizer.encode(frames, tokenizer.max_tokens, None)
            digits, _ = tokenizer.encode(frames, tokenizer.max_tokens, state)
            _, decoder_state = tokenizer.decode(first, (height, width), CHUNK_FRAMES - 3, None)
            for direction, work in (
                ("encode", lambda f=frames, s=state: tokenizer.encode(f, tokenizer.max_tokens, s)),
                (
                    "decode",
                    lambda d=digits, w=(height, width), s=decoder_state: tokenizer.decode(d, w, CHUNK_FRAMES, s),
                ),
            ):
                frames_s = CHUNK_FRAMES / seconds(work)
                with FlopCounterMode(display=False) as counter:
                    work()
                gmac = counter.get_total_flops() / 2e9 / CHUNK_FRAMES
                yield ModelSpeed(
                    size,
                    threads,
                    direction,
                    frames_s,
                    frames_s * pixels(size) / 1e6,
                    gmac,
                    gmac * frames_s,
                    gmac * frames_s / limit,
                )
    torch.set_num_threads(all_threads)


@torch.inference_mode()
def convolution_limit(tokenizer: Tokenizer) -> float:
    """Return the GMAC/s of the model's largest convolution alone: a 1×3×3 `conv3d` in the model's type, at 256×256."""
    channels = tokenizer.model.config.levels[-1].channels
    latents, side = CHUNK_FRAMES // tokenizer.id.stride[0], 256 // tokenizer.id.stride[1]
    placement = tokenizer.placement
    conv = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)).to(placement.device, placement.dtype)
    conv = conv.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(1, channels, latents, side, side, device=placement.device).to(placement.dtype)
    x = x.to(memory_format=torch.channels_last_3d)
    macs = 9 * channels * channels * latents * side * side
    return macs / seconds(lambda: conv(x)) / 1e9


def run_command(*args: object) -> Cost:
    """Run a `vtok` command three times and return the cost of the fastest run."""
    command = [sys.executable, "-m", "vtok_codec", *map(str, args)]
    return min((run_measured(command) for _ in range(3)), key=lambda cost: cost.seconds)


def command_speeds(folder: Path, clips: list[tuple[str, float]]) -> Iterator[CommandSpeed]:
    """Measure `vtok encode` and `vtok decode` on a clip of each size and length."""
    for size, length_s in clips:
        costs: dict[str, dict[bool, Cost]] = {"encode": {}, "decode": {}}
        for whole in (False, True):
            clip = make_clip(folder / "clip.mp4", size, length_s if whole else 1 / RATE)
            file, back = folder / "clip.vtk", folder / "back.mp4"
            costs["encode"][whole] = run_command("encode", clip, file, "-qf")
            costs["decode"][whole] = run_command("decode", file, back, "-qf")
        for command, cost in costs.items():
            frames_s = (length_s * RATE - 1) / (cost[True].seconds - cost[False].seconds)
            yield CommandSpeed(command, size, length_s, frames_s, frames_s * pixels(size) / 1e6, cost[True].peak_mib)


def fastest(rounds: list[list[Speed]]) -> list[Speed]:
    """Return the fastest measurement of all rounds for each case."""
    return [max(each, key=lambda speed: speed.frames_s) for each in zip(*rounds, strict=True)]


def memory(folder: Path) -> Iterator[tuple[str, int, float | None]]:
    """Measure the peak memory of both commands in MiB, on a short and a long clip with 10 frames per second."""
    for length_s in MEMORY_LENGTHS_S:
        clip, file, back = folder / "clip.mp4", folder / "clip.vtk", folder / "back.mp4"
        make_clip(clip, MEMORY_SIZE, length_s, rate=10)
        for command, source, target in (("encode", clip, file), ("decode", file, back)):
            arguments = ["-m", "vtok_codec", command, str(source), str(target), "-qf"]
            yield command, length_s, run_measured([sys.executable, *arguments]).peak_mib


def main() -> None:
    """Measure, print tables, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="256x256 only, one length, without peak memory over lengths"
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often to repeat all timings; the best count")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(find_weights(arguments.model))
    sizes = dict(list(SIZES.items())[: 1 if arguments.quick else None])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = list(sizes.items())
        if not arguments.quick:
            clips += [("256x256", length) for length in LENGTHS_S]
        limit = convolution_limit(tokenizer)
        model_rounds = [list(model_speeds(tokenizer, folder, list(sizes)))]
        command_rounds = []
        for _ in range(arguments.rounds):
            command_rounds.append(list(command_speeds(folder, clips)))
            model_rounds.append(list(model_speeds(tokenizer, folder, list(sizes))))
        models, commands = fastest(model_rounds), fastest(command_rounds)
        limit = max(limit, convolution_limit(tokenizer))
        print(f"largest convolution alone: {limit:.0f} GMAC/s, {tokenizer.placement.dtype}\n")
        print_table(list(ModelSpeed.__annotations__), [list(asdict(speed).values()) for speed in models])
        print()
        print_table(list(CommandSpeed.__annotations__), [list(asdict(speed).values()) for speed in commands])
        peaks = [] if arguments.quick else list(memory(folder))
        if peaks:
            print()
            print_table([f"{MEMORY_SIZE}, 10 frames/s", "seconds", "peak MiB"], peaks)
    figures = {"weights": tokenizer.id.weights_sha256, "limit_gmac_s": limit}
    speeds = {"model": [*map(asdict, models)], "command": [*map(asdict, commands)], "memory": peaks}
    write_json(arguments.out, figures | speeds)


if __name__ == "__main__":
    main()
