"""Measures how the quality runs over a long group of pictures (GOP), and what longer GOPs gain and cost.

    .venv/bin/python bench/gop.py CLIPS [--seconds 10] [--lines 256] [--gops 1,4,10] [--out FILE.json] [--plot FILE.svg]

Each clip is cut to its first seconds and scaled to so many lines, without further loss, then coded with quality presets
`tiny` and `medium` in GOPs of several lengths. A clip that is shorter than that is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from common import print_table, write_json
from matplotlib.figure import Figure

import vtok_codec
from vtok_codec.codec.quality_presets import find_quality
from vtok_codec.evaluation.clips import SourceClip, open_clip
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.squared_error import SquaredError
from vtok_codec.registry import find_weights

_QUALITIES = ("tiny", "medium")


@dataclass(frozen=True)
class Measured:
    """A clip in GOPs of one length."""

    clip: str
    """Its name."""
    quality: str
    """The quality preset."""
    gop: float
    """The length of a GOP, in seconds."""
    bits_per_pixel: float
    """The size of the file."""
    rate: float
    """Frames per second."""
    frame_psnr: list[float]
    """The PSNR of each frame, in dB."""
    psnr: tuple[float, float, float]
    """The PSNR of the whole clip, of its first second and of its last, in dB."""


def psnr_db(pairs: Sequence[tuple[Pixels, Pixels]]) -> float:
    """Return the PSNR in dB over pairs of frames. Equal frames count as 100 dB."""
    error = SquaredError()
    for pair in pairs:
        error.add(*pair)
    return min(error.psnr_db, 100.0)


def prepared(path: Path, folder: Path, seconds: float, lines: int) -> SourceClip | None:
    """Cut and scale a clip into a new folder; return None if it is too short."""
    folder.mkdir()
    made = folder / f"{path.stem}.mkv"
    scale = f"scale='if(gt(iw,ih),-2,{lines})':'if(gt(iw,ih),{lines},-2)'"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(path), "-t", str(seconds), "-an", "-sn"]
    subprocess.run([*command, "-vf", scale, "-pix_fmt", "yuv420p", "-c:v", "ffv1", str(made)], check=True)
    clip = open_clip(made)
    assert clip.seconds
    return clip if clip.seconds > seconds - 0.5 else None


def measure(clip: SourceClip, quality: str, gop: float, folder: Path) -> Measured:
    """Encode a clip, and measure its size and its quality."""
    coded = folder / "coded.vtk"
    command = [sys.executable, "-m", "vtok_codec", "encode", str(clip.path), str(coded), "--force", "--quiet"]
    subprocess.run([*command, "--quality", quality, "--gop", str(gop)], check=True)
    with vtok_codec.open(coded) as opened:
        frames = list(opened.frames())
    pairs = list(zip((frame.pixels for frame in frames), clip.pixels(), strict=True))
    height, width = frames[0].pixels.shape[:2]
    bits = 8 * coded.stat().st_size / (height * width * len(frames))
    rate = len(frames) / (clip.seconds or 1.0)
    second = round(rate)
    parts = psnr_db(pairs), psnr_db(pairs[:second]), psnr_db(pairs[-second:])
    return Measured(clip.name, quality, gop, bits, rate, [psnr_db([pair]) for pair in pairs], parts)


def plot(measured: Sequence[Measured], path: Path) -> None:
    """Draw the PSNR of each frame over the longest GOP."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds", ylabel="PSNR, dB")
    for one in measured:
        times = np.arange(len(one.frame_psnr)) / one.rate
        axes.plot(times, one.frame_psnr, lw=0.8, label=f"{one.clip}, {one.quality}")
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    figure.savefig(path, metadata={"Date": None})


def rows(measured: Sequence[Measured], gops: Sequence[float]) -> list[list[object]]:
    """Return a row of means over clips for each preset and length of a GOP."""
    made: list[list[object]] = []
    for quality in _QUALITIES:
        for gop in gops:
            ours = [one for one in measured if (one.quality, one.gop) == (quality, gop)]
            sizes = np.mean([one.bits_per_pixel for one in ours])
            psnr = [f"{mean:.2f}" for mean in np.mean([one.psnr for one in ours], axis=0)]
            before = np.mean([(gop * one.rate - 1) / 2 for one in ours])
            made.append([quality, f"{gop:g}", f"{sizes:.4f}", *psnr, f"{before:.0f}"])
    return made


def main() -> None:
    """Measure, print a table, and write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lines", type=int, default=256)
    parser.add_argument("--gops", default="1,4,10")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    gops = [float(gop) for gop in args.gops.split(",")]
    with tempfile.TemporaryDirectory() as name:
        places = [(path, Path(name) / str(number)) for number, path in enumerate(args.clips)]
        clips = [made for path, place in places if (made := prepared(path, place, args.seconds, args.lines))]
        measured = [measure(clip, quality, gop, Path(name)) for clip in clips for quality in _QUALITIES for gop in gops]
    if not clips:
        parser.error(f"no clip lasts {args.seconds} seconds")
    print(f"{len(clips)} clips: {', '.join(clip.name for clip in clips)}")
    heads = ["quality", "GOP, s", "bits/px", "PSNR dB", "first second", "last second", "decoded first"]
    table = rows(measured, gops)
    print_table(heads, table)
    weights = {quality: find_weights(find_quality(quality).model).sha256 for quality in _QUALITIES}
    about = {"clips": len(clips), "seconds": args.seconds, "lines": args.lines, "weights": weights}
    write_json(args.out, {**about, "heads": heads, "rows": table, "measured": [asdict(one) for one in measured]})
    if args.plot:
        plot([one for one in measured if one.gop == max(gops)], args.plot)


if __name__ == "__main__":
    main()
