"""Tells what 1D tokens give: PSNR by their number and by how much a clip moves, and what a choice per window saves.

    .venv/bin/python bench/onedva.py MODEL CLIP… [--numbers 0,16,32,64] [--rdo 0.02] [--jobs N]

The first table has the mean over clips at each number of 1D tokens per window, and at the lengths by motion and by
error, beside the codec with one and with two tokens per position. The second one has PSNR for each third of the clips
by motion, the mean absolute change of grey from frame to frame (One-DVA, Fig. 5). The third one compares the lengths by
motion and by error with a constant number of tokens, read off the line between its neighbours at the same size
(One-DVA, Tab. 1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table

from vtok_codec.media.reader import read_pixels
from vtok_codec.registry import find_codec, find_weights
from vtok_codec.stream.settings import BY_ERROR, BY_MOTION

THIRDS = ("still", "middle", "moving")
_ALL = 1 << 20
"""More frames than any clip has."""


def measured(clips: list[Path], *options: str) -> list[dict[str, Any]]:
    """Return the results of `vtok eval` on clips."""
    command = [
        sys.executable,
        "-m",
        "vtok_codec",
        "eval",
        *map(str, clips),
        "--measures",
        "psnr",
        "--json",
        "-q",
        *options,
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return [result for evaluation in json.loads(done.stdout)["evaluations"] for result in evaluation["results"]]


def motion(clip: Path) -> float:
    """Return the mean absolute change of grey from frame to frame of a clip, in levels from 0 to 255."""
    grey = read_pixels(clip, _ALL).astype(np.float32).mean(3)
    return float(np.abs(np.diff(grey, axis=0)).mean()) if len(grey) > 1 else 0.0


def mean(results: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a figure over results."""
    return float(np.mean([result[key] for result in results]))


def at_same_size(results: dict[str, list[dict[str, Any]]], numbers: list[str], bits: float) -> float:
    """Return the mean PSNR of constant numbers of tokens at a size, on the line between the two nearest sizes."""
    sizes = [mean(results[number], "bits_per_pixel") for number in numbers]
    quality = [mean(results[number], "psnr_db") for number in numbers]
    return float(np.interp(bits, sizes, quality))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--numbers", default="0,16,32,64")
    parser.add_argument("--rdo", default="0.02")
    parser.add_argument("--jobs", default="1")
    options = parser.parse_args()
    codec = find_codec(find_weights(options.model))
    common = ("--rdo", options.rdo, "--jobs", options.jobs)
    chosen = f"{options.numbers},{BY_MOTION},{BY_ERROR}"
    found = measured(options.clips, "--model", options.model, "--window-tokens", chosen, *common)
    found += measured(options.clips, "--model", str(codec.path), "--tokens", "1,2", *common)
    points: dict[str, list[dict[str, Any]]] = {}
    for result in found:
        label = result["setting"].split(", ")[1].removesuffix(" 1D") if " 1D" in result["setting"] else ""
        points.setdefault(label or result["setting"].split(",")[0], []).append(result)
    rows = [[name, f"{mean(own, 'bits_per_pixel'):.4f}", f"{mean(own, 'psnr_db'):.2f}"] for name, own in points.items()]
    print_table(["1D tokens per window", "bits/pixel", "PSNR dB"], rows)
    moves = {clip.name: motion(clip) for clip in options.clips}
    ranked = np.array_split(sorted(moves, key=lambda name: moves[name]), len(THIRDS))
    rows = []
    for third, names in zip(THIRDS, ranked, strict=True):
        within = [np.mean([moves[name] for name in names])]
        own = [mean([result for result in each if result["clip"] in names], "psnr_db") for each in points.values()]
        rows.append([f"{third}, {within[0]:.1f} levels per frame", *(f"{value:.2f}" for value in own)])
    print()
    print_table(["clips", *points], rows)
    rows = []
    for name in (BY_MOTION, BY_ERROR):
        bits, psnr = mean(points[name], "bits_per_pixel"), mean(points[name], "psnr_db")
        constant = at_same_size(points, options.numbers.split(","), bits)
        rows.append([f"by {name}", f"{bits:.4f}", f"{psnr:.2f}", f"{constant:.2f}"])
    print()
    print_table(["lengths", "bits/pixel", "PSNR dB", "constant, at the same size"], rows)


if __name__ == "__main__":
    main()
