"""How fast vtok is on this machine, and how its cost grows.

    .venv/bin/python bench/speed.py [--quick] [--rounds N] [--out FILE.json]

Run it on an idle machine; it takes a quarter of an hour, `--quick` one minute. A machine that others share is fast at
one minute and slow at another: more rounds, of which the best figures count, see to it that the model and the commands
have both had a fast one. The model alone (frames from and to
memory, its state carried from chunk to chunk), with one thread and with all, beside its largest convolution; whole
commands at the same sizes, with their peak memory; and whole commands on longer and longer clips. The time that a
one-frame clip takes, which is mostly the start of torch, is left out of the commands' frames a second.
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
RATE = 30
SIZES = {"256x256": 10.0, "854x480": 4.0, "1280x720": 3.0, "1920x1080": 2.0}
"""Pictures, and the seconds of the clips that commands are timed on."""
LENGTHS_S = (5, 10, 20, 40)
MEMORY_LENGTHS_S = (10, 60)
MEMORY_SIZE = "1280x720"


@dataclass(frozen=True)
class ModelSpeed:
    """One direction of the model alone."""

    size: str
    threads: int
    direction: str
    frames_s: float
    mpixel_s: float
    gmac_a_frame: float
    gmac_s: float
    part_of_limit: float
    """Over the GMAC/s of the largest convolution alone, with as many threads, measured in the same run."""


@dataclass(frozen=True)
class CommandSpeed:
    """One whole command on one clip."""

    command: str
    size: str
    length_s: float
    frames_s: float
    """Without the time that a one-frame clip takes."""
    mpixel_s: float
    peak_mib: float | None


Speed = TypeVar("Speed", ModelSpeed, CommandSpeed)


def seconds(work: Callable[[], object], least_s: float = 1.0) -> float:
    """Best time of one call, after a warm-up, of as many as fit in a while."""
    work()
    times: list[float] = []
    while sum(times) < least_s or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def make_clip(path: Path, size: str, length_s: float, rate: int = RATE) -> Path:
    """A moving test picture with grain, so that nothing is easier than in a camera's video."""
    picture = f"testsrc2=size={size}:rate={rate},noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", picture]
    subprocess.run([*command, "-t", str(length_s), "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def pixels(size: str) -> int:
    width, height = map(int, size.split("x"))
    return width * height


def model_speeds(tokenizer: Tokenizer, folder: Path, sizes: list[str]) -> Iterator[ModelSpeed]:
    """The model alone, in both directions, at each size with one thread and with all."""
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
    """GMAC/s of the model's largest convolution alone, as `conv3d` 1×3×3, in the model's own type, at 256×256."""
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
    """A `vtok` command, as a process of its own: the fastest of three."""
    command = [sys.executable, "-m", "vtok_codec", *map(str, args)]
    return min((run_measured(command) for _ in range(3)), key=lambda cost: cost.seconds)


def command_speeds(folder: Path, clips: list[tuple[str, float]]) -> Iterator[CommandSpeed]:
    """`vtok encode` and `vtok decode` on a clip of each size and length."""
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
    """Of each figure, the best of all rounds."""
    return [max(each, key=lambda speed: speed.frames_s) for each in zip(*rounds, strict=True)]


def memory(folder: Path) -> Iterator[tuple[str, int, float | None]]:
    """Peak memory (MiB) of both commands on a short and a long clip of 10 frames/s."""
    for length_s in MEMORY_LENGTHS_S:
        clip, file, back = folder / "clip.mp4", folder / "clip.vtk", folder / "back.mp4"
        make_clip(clip, MEMORY_SIZE, length_s, rate=10)
        for command, source, target in (("encode", clip, file), ("decode", file, back)):
            arguments = ["-m", "vtok_codec", command, str(source), str(target), "-qf"]
            yield command, length_s, run_measured([sys.executable, *arguments]).peak_mib


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256x256 only, no lengths, no memory")
    parser.add_argument("--rounds", type=int, default=1, help="times that everything is timed")
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
