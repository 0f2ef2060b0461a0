"""Measures tokens of shipped models: how many values occur, what rounding costs, and quality by resolution.

    .venv/bin/python bench/tokens.py use MODEL… --clips CLIP… [--rdo 0,0.02] [--json FILE]
    .venv/bin/python bench/tokens.py rounding MODEL… --clips CLIP… [--json FILE]
    .venv/bin/python bench/tokens.py resolutions MODEL… --clips CLIP… [--sides 128,256,512,720] [--json FILE]

`use` counts the values of each token of a position over all clips. Perplexity is the number of values that, used
equally often, would have the same entropy. It cannot exceed the number of positions, which is why that is printed too.
`rounding` decodes the first frames of each clip from its tokens and from its latents before rounding.
`resolutions` scales the first frames of each clip so that the shorter side has a given length, and codes them as one
GOP with two tokens per position.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import packed, perceived, print_table, write_json

from vtok_codec.api import Codec
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.latents import decoded_latents
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS, load_lpips
from vtok_codec.registry import find_weights
from vtok_codec.stream.reading import read_all_gops
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.tokens.coders import PRIOR
from vtok_codec.tokens.radix import Tokens

_FRAMES = 49
"""The frames of a clip that are scaled and coded."""
_FIRST_FRAMES = 17
"""The frames of a clip that are decoded with and without rounding."""
_JUDGED = 8
"""LPIPS is measured on one frame of so many."""
_TOKENS = 2
"""The tokens per position at which resolutions are compared."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["use", "rounding", "resolutions"])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--clips", nargs="+", type=Path, required=True)
    parser.add_argument("--rdo", default="0,0.02", help="costs of a bit, separated by commas")
    parser.add_argument("--sides", default="128,256,512,720", help="lengths of the shorter side, separated by commas")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tokenizers = [load_tokenizer(find_weights(model)) for model in arguments.models]
    if any(tokenizer.onedva for tokenizer in tokenizers):
        parser.error("name codecs; the structural tokens of One-DVA are those of its codec")
    if arguments.task == "use":
        rows = [row for each in tokenizers for row in used(each, arguments.clips, arguments.rdo.split(","))]
        heads = ["model", "λ", "token", "positions", "values used", "perplexity", "entropy, bits"]
    elif arguments.task == "rounding":
        rows = [row for each in tokenizers for row in by_rounding(each, arguments.clips)]
        heads = ["model", "tokens", "rounded: PSNR dB", "LPIPS", "unrounded: PSNR dB", "LPIPS"]
    else:
        sides = [int(side) for side in arguments.sides.split(",")]
        rows = [row for each in tokenizers for row in by_resolution(each, arguments.clips, sides)]
        heads = ["model", "shorter side", "clips", "bits/pixel of the tokens", "PSNR dB", "LPIPS"]
    print_table(heads, rows)
    write_json(arguments.json, {"heads": heads, "rows": rows})


def used(tokenizer: Tokenizer, clips: list[Path], costs: list[str]) -> Iterator[list[object]]:
    """Yield how often the values of each token occur, for each cost of a bit."""
    values = int(np.prod(tokenizer.id.levels))
    for rdo in map(float, costs):
        counts = np.zeros((tokenizer.max_tokens, values), np.int64)
        for clip in clips:
            for tokens in tokens_of(clip, tokenizer, rdo):
                for number in range(tokenizer.max_tokens):
                    counts[number] += np.bincount(tokens[..., number].ravel(), minlength=values)
        for number, each in enumerate(counts):
            shares = each[each > 0] / each.sum()
            entropy = float(-(shares * np.log2(shares)).sum())
            share = f"{(each > 0).mean():.0%}"
            yield [tokenizer.id.name, rdo, number + 1, int(each.sum()), share, round(2**entropy), entropy]


def tokens_of(clip: Path, tokenizer: Tokenizer, rdo: float) -> list[Tokens]:
    """Encode a clip with all tokens of the model. Returns those of each GOP."""
    file = io.BytesIO()
    settings = EncodeSettings(tokens_per_position=tokenizer.max_tokens, rdo=rdo)
    with VideoReader(clip, audio=False) as reader:
        summary = encode_video(reader.info, reader.events(), tokenizer, settings, file)
    if summary.failure:
        raise summary.failure
    file.seek(0)
    return [gop.tokens for gop in read_all_gops(VtkReader(file), tokenizer.find_prior)]


def by_rounding(tokenizer: Tokenizer, clips: list[Path]) -> Iterator[list[object]]:
    """Yield the quality from rounded and from unrounded latents, for each number of tokens."""
    codec, lpips = Codec(tokenizer), load_lpips()
    for tokens in sorted({1, 2, tokenizer.max_tokens}):
        found = []
        for clip in clips:
            frames = read_pixels(clip, _FIRST_FRAMES)
            size, videos = frames.shape[1:3], torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
            rounded = codec.detokenize(codec.tokenize(frames, tokens), size=size, frames=len(frames))
            latents = codec.encode_latents(videos, tokens)[0].cpu().numpy()
            unrounded = np.concatenate(list(decoded_latents(latents, tokenizer, size)))[: len(frames)]
            found.append([*quality(frames, rounded, lpips), *quality(frames, unrounded, lpips)])
        yield [tokenizer.id.name, tokens, *np.mean(found, axis=0).tolist()]


def quality(frames: Pixels, made: Pixels, lpips: LPIPS) -> tuple[float, float]:
    """Return PSNR in dB, and LPIPS of every few frames."""
    error = np.mean([np.square(a.astype(np.float32) - b).mean() for a, b in zip(frames, made, strict=True)])
    pairs = zip(frames[::_JUDGED], made[::_JUDGED], strict=True)
    distance = np.mean([perceived(lpips, a, b) for a, b in pairs])
    return float(10 * np.log10(255**2 / error)), float(distance)


def by_resolution(tokenizer: Tokenizer, clips: list[Path], sides: list[int]) -> Iterator[list[object]]:
    """Yield the size and the quality by the length of the shorter side, of clips that reach the largest one."""
    lpips = load_lpips()
    fitting = [clip for clip in clips if shorter_side(clip) >= max(sides)]
    for side in sides:
        found = [coded(clip, tokenizer, side, lpips) for clip in fitting]
        yield [tokenizer.id.name, side, len(found), *np.mean(found, axis=0).tolist()]


def shorter_side(clip: Path) -> int:
    """Return the smaller of a clip's width and height."""
    with VideoReader(clip, audio=False) as reader:
        return min(reader.info.width, reader.info.height)


def coded(clip: Path, tokenizer: Tokenizer, side: int, lpips: LPIPS) -> tuple[float, float, float]:
    """Return bits per pixel, PSNR in dB and LPIPS of the first frames of a clip, scaled to a shorter side."""
    scale = f"scale='if(gt(iw,ih),-2,{side})':'if(gt(iw,ih),{side},-2)'"
    with VideoReader(clip, audio=False, filters=scale) as reader:
        frames = np.stack([frame.pixels for frame in islice(reader.frames(), _FRAMES)])
    codec = Codec(tokenizer)
    tokens = codec.tokenize(frames, _TOKENS)
    made = codec.detokenize(tokens, size=frames.shape[1:3], frames=len(frames))
    size = packed(codec, tokens, PRIOR.name)
    return 8 * size / frames[..., 0].size, *quality(frames, made, lpips)


if __name__ == "__main__":
    main()
