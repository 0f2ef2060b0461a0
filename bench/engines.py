"""Measures how fast ONNX Runtime decodes beside torch, in one run, and how far their frames are apart.

    .venv/bin/python bench/engines.py [--threads 1 2] [--models …] [--json FILE]

The middle of the repository's clip, 256×256 pixels, is tokenized once; each engine then decodes it several times, by
turns. torch runs in fp32 and in the type that `vtok decode` uses here. Loading is not counted.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from common import ROOT, print_table, write_json

from vtok_codec.codec.onnx_decoder import OnnxDecoder
from vtok_codec.codec.pixel_decoder import PixelDecoder
from vtok_codec.codec.tokenizer import Placement, Tokenizer, choose_placement
from vtok_codec.media.reader import read_pixels
from vtok_codec.media.types import Pixels
from vtok_codec.registry import find_weights
from vtok_codec.tokens.radix import Digits

_CLIP = ROOT / "tests" / "data" / "lanes.mp4"
_SIDE, _FRAMES, _TURNS = 256, 61, 3


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, len(os.sched_getaffinity(0))])
    parser.add_argument("--models", nargs="+", default=["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = [row for model in arguments.models for threads in arguments.threads for row in measured(model, threads)]
    print_table(["model, engine", "threads", "frames/s", "of torch", "levels apart", "share apart"], rows)
    write_json(arguments.json, {"rows": rows})


def measured(model: str, threads: int) -> list[list[object]]:
    """Return a row per engine."""
    torch.set_num_threads(threads)
    weights = find_weights(model)
    usual = choose_placement("cpu")
    exact = Placement(torch.device("cpu"), torch.float32)
    engines: dict[str, PixelDecoder] = {f"torch {usual.dtype}".replace("torch.", ""): Tokenizer(weights, usual)}
    engines["torch float32"] = Tokenizer(weights, exact)
    engines["onnx float32"] = OnnxDecoder(weights, threads)
    frames = np.ascontiguousarray(read_pixels(_CLIP, _FRAMES)[:, :, 100 : 100 + _SIDE])
    digits, _ = Tokenizer(weights, exact).encode(frames, 2, None)
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    pictures: dict[str, Pixels] = {}
    for turn in range(_TURNS + 1):
        for name, engine in engines.items():
            took, pictures[name] = _timed(engine, digits)
            # The first turn warms up.
            seconds[name] += [took] if turn else []
    best = {name: _FRAMES / min(times) for name, times in seconds.items()}
    fastest = next(iter(engines))
    apart = {name: np.abs(picture.astype(int) - pictures["torch float32"]) for name, picture in pictures.items()}
    shares = {name: float((difference > 0).mean()) for name, difference in apart.items()}
    return [
        [f"{model}, {name}", threads, best[name], best[name] / best[fastest], int(apart[name].max()), shares[name]]
        for name in engines
    ]


def _timed(engine: PixelDecoder, digits: Digits) -> tuple[float, Pixels]:
    started = time.perf_counter()
    pixels, _ = engine.decode(digits, (_SIDE, _SIDE), _FRAMES, None)
    return time.perf_counter() - started, pixels


if __name__ == "__main__":
    main()
