"""How fast vtok is on this machine: the model, the whole command, the convolution alone, and the memory it takes.

    .venv/bin/python bench/speed.py [--memory] [--out FILE.json]

Run it on an idle machine. Figures are for 256×256; `--memory` also encodes and decodes 1280×720 clips of 10 s and 60 s.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.media.reader import read_pixels
from vtok_codec.registry import DEFAULT_MODEL, find_weights

ROOT = Path(__file__).resolve().parent.parent
CHUNK_FRAMES = 16
CHUNKS = 12
SIDE = 256


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Best time of one call, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def model_speed(tokenizer: Tokenizer, clip: Path) -> dict[str, float]:
    """Frames a second through the networks alone, state carried from chunk to chunk, and GMAC a frame."""
    frames = read_pixels(clip, CHUNK_FRAMES)[:, :SIDE, :SIDE]
    first, state = tokenizer.encode(frames, tokenizer.max_tokens, None)
    digits, _ = tokenizer.encode(frames, tokenizer.max_tokens, state)
    _, decoder_state = tokenizer.decode(first, (SIDE, SIDE), CHUNK_FRAMES - 3, None)
    encode_s = seconds(lambda: tokenizer.encode(frames, tokenizer.max_tokens, state), CHUNKS)
    decode_s = seconds(lambda: tokenizer.decode(digits, (SIDE, SIDE), CHUNK_FRAMES, decoder_state), CHUNKS)
    figures = {"encode_frames_s": CHUNK_FRAMES / encode_s, "decode_frames_s": CHUNK_FRAMES / decode_s}
    for name, work in (
        ("encode", lambda: tokenizer.encode(frames, tokenizer.max_tokens, state)),
        ("decode", lambda: tokenizer.decode(digits, (SIDE, SIDE), CHUNK_FRAMES, decoder_state)),
    ):
        with FlopCounterMode(display=False) as counter:
            work()
        gmac = counter.get_total_flops() / 2e9 / CHUNK_FRAMES
        figures[f"{name}_gmac_a_frame"] = gmac
        figures[f"{name}_gmac_s"] = gmac * figures[f"{name}_frames_s"]
    return figures


@torch.inference_mode()
def convolution_limit(tokenizer: Tokenizer) -> float:
    """GMAC/s of the model's largest convolution alone, as `conv3d` 1×3×3, in the model's own type and shape."""
    channels = tokenizer.model.config.levels[-1].channels
    latents, side = CHUNK_FRAMES // tokenizer.id.stride[0], SIDE // tokenizer.id.stride[1]
    placement = tokenizer.placement
    conv = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1)).to(placement.device, placement.dtype)
    conv = conv.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(1, channels, latents, side, side, device=placement.device).to(placement.dtype)
    x = x.to(memory_format=torch.channels_last_3d)
    macs = 9 * channels * channels * latents * side * side
    return macs / seconds(lambda: conv(x), 30) / 1e9


def make_clip(path: Path, size: str, length_s: float, rate: int) -> None:
    """A moving test picture with grain, so that nothing is easier than in a camera's video."""
    picture = f"testsrc2=size={size}:rate={rate},noise=alls=12:allf=t"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "lavfi", "-i", picture]
    subprocess.run([*command, "-t", str(length_s), "-pix_fmt", "yuv420p", str(path)], check=True)


def run_command(*args: object) -> tuple[float, float]:
    """Wall-clock seconds and peak memory (MiB) of a `vtok` command."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "vtok_codec", *map(str, args)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vtok {' '.join(map(str, args))} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def command_speed(folder: Path) -> dict[str, float]:
    """Frames a second of the whole command on a 10 s clip, the time that a one-frame clip takes left out."""
    make_clip(folder / "long.mp4", f"{SIDE}x{SIDE}", 10, 30)
    make_clip(folder / "short.mp4", f"{SIDE}x{SIDE}", 1 / 30, 30)
    figures = {}
    for name in ("short", "long"):
        encode = (folder / f"{name}.mp4", folder / f"{name}.vtk")
        decode = (folder / f"{name}.vtk", folder / f"{name}-back.mp4")
        figures[f"encode_{name}_s"] = min(run_command("encode", *encode, "-qf")[0] for _ in range(3))
        figures[f"decode_{name}_s"] = min(run_command("decode", *decode, "-qf")[0] for _ in range(3))
    for name in ("encode", "decode"):
        figures[f"{name}_frames_s"] = 299 / (figures[f"{name}_long_s"] - figures[f"{name}_short_s"])
    return figures


def memory(folder: Path) -> dict[str, float]:
    """Peak memory (MiB) at 1280×720 for 10 s and 60 s."""
    figures = {}
    for length_s in (10, 60):
        clip, file, back = (folder / f"{length_s}{suffix}" for suffix in (".mp4", ".vtk", "-back.mp4"))
        make_clip(clip, "1280x720", length_s, 10)
        figures[f"encode_{length_s}_s_mib"] = run_command("encode", clip, file, "-qf")[1]
        figures[f"decode_{length_s}_s_mib"] = run_command("decode", file, back, "-qf")[1]
    return figures


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true", help="also the memory at 1280x720")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(find_weights(DEFAULT_MODEL))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    report: dict[str, object] = {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "type": str(tokenizer.placement.dtype),
        "model": model_speed(tokenizer, ROOT / "tests" / "data" / "lanes.mp4"),
        "convolution_gmac_s": convolution_limit(tokenizer),
    }
    with tempfile.TemporaryDirectory() as folder:
        report["command"] = command_speed(Path(folder))
        if arguments.memory:
            report["memory"] = memory(Path(folder))
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
