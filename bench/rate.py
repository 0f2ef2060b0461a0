"""What packing is worth: the tokens of clips in several packings, and what their digits would need at best.

    .venv/bin/python bench/rate.py CLIP… [--tokens 1,2,4] [--model NAME] [--out FILE.json]

Every figure is a part of 16 bits a token; means over clips. Packings are measured on the chunks that a file holds.
The entropies are code lengths of an adaptive coder over the whole clip (Krichevsky–Trofimov estimates, so that what it
learns is paid for): of each digit by itself, of a digit after its predecessor in time, and after its predecessor in
time and its left neighbour.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zstandard
from common import print_table, write_json
from numpy.typing import NDArray
from scipy.special import gammaln

from vtok_codec.codec.encoder import EncodeSettings, encode_video
from vtok_codec.codec.tokenfile import UnpackedChunk, unpacked_events
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.media.reader import VideoReader
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.tokens.packing import ZSTD_LEVEL, pack
from vtok_codec.tokens.radix import Digits, digits_to_tokens
from vtok_codec.tokens.waves import WaveCoder

Levels = tuple[int, ...]


def gops_of(clip: Path, tokenizer: Tokenizer, tokens: int) -> list[list[Digits]]:
    """The digits `P t h w` of each chunk of each GOP of a clip's file."""
    file = io.BytesIO()
    with VideoReader(clip, audio=False) as reader:
        encode_video(reader.info, reader.events(), tokenizer, EncodeSettings(tokens=tokens), file)
    file.seek(0)
    gops: list[list[Digits]] = []
    for event in unpacked_events(VtkReader(file)):
        if isinstance(event, UnpackedChunk):
            if event.chunk.first:
                gops.append([])
            gops[-1].append(event.digits)
    return gops


def waves(gop: list[Digits], levels: Levels) -> int:
    """Bytes of a GOP's chunks by coder 2."""
    coder = WaveCoder(levels, len(gop[0]) // len(levels))
    return sum(len(coder.pack(chunk)) for chunk in gop)


def zstd(data: NDArray[np.generic]) -> int:
    """Bytes of a zstd frame."""
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(np.ascontiguousarray(data).tobytes()))


def time_differences(digits: Digits, levels: Levels) -> Digits:
    """Each digit less its predecessor in time, modulo its levels."""
    modulus = np.array(levels * (len(digits) // len(levels)), np.int16).reshape(-1, 1, 1, 1)
    before = np.concatenate([np.zeros_like(digits[:, :1]), digits[:, :-1]], axis=1)
    return np.asarray((digits.astype(np.int16) - before) % modulus, np.uint8)


PACKINGS: dict[str, Callable[[Digits, Levels], int]] = {
    "16-bit tokens, zstd": lambda digits, levels: zstd(digits_to_tokens(digits, levels)),
    "a plane a digit, zstd": lambda digits, levels: zstd(digits),
    "planes of differences in time, zstd": lambda digits, levels: zstd(time_differences(digits, levels)),
    "groups, zstd (coder 1)": lambda digits, levels: len(pack(digits, levels)),
}


def adaptive_bits(symbols: NDArray[np.integer], contexts: NDArray[np.integer], levels: int) -> float:
    """Bits that a Krichevsky–Trofimov coder spends on symbols 0…levels−1, with counts of its own in each context."""
    counts = np.zeros((int(contexts.max()) + 1, levels))
    np.add.at(counts, (contexts.ravel(), symbols.ravel()), 1)
    totals = counts.sum(axis=1)
    nats = gammaln(totals + levels / 2) - gammaln(levels / 2) - (gammaln(counts + 0.5) - gammaln(0.5)).sum(axis=1)
    return float(nats.sum() / np.log(2))


def entropies(digits: Digits, levels: Levels) -> dict[str, float]:
    """Bits of a whole clip's digits `P T h w` under each context."""
    bits = dict.fromkeys(("order 0", "after its predecessor in time", "after that and its left neighbour"), 0.0)
    for number, plane in enumerate(digits.astype(np.int64)):
        count = levels[number % len(levels)]
        # `count` itself stands for what lies before the first frame, or left of the first column.
        before = np.concatenate([np.full_like(plane[:1], count), plane[:-1]])
        left = np.concatenate([np.full_like(plane[..., :1], count), plane[..., :-1]], axis=-1)
        for name, context in zip(bits, (np.zeros_like(plane), before, before * (count + 1) + left), strict=True):
            bits[name] += adaptive_bits(plane, context, count)
    return bits


def shares(clip: Path, tokenizer: Tokenizer, tokens: int) -> dict[str, float]:
    """Each packing and each entropy of a clip over 16 bits a token."""
    levels = tokenizer.id.levels
    gops = gops_of(clip, tokenizer, tokens)
    chunks = [chunk for gop in gops for chunk in gop]
    bare_bits = 16 * sum(chunk.size for chunk in chunks) / len(levels)
    figures = {name: 8 * sum(size(chunk, levels) for chunk in chunks) / bare_bits for name, size in PACKINGS.items()}
    figures["waves (coder 2, what a file holds)"] = 8 * sum(waves(gop, levels) for gop in gops) / bare_bits
    whole = entropies(np.concatenate(chunks, axis=1), levels)
    return figures | {name: bits / bare_bits for name, bits in whole.items()}


def measure(clips: list[Path], tokenizer: Tokenizer, counts: list[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """Means over clips for each number of tokens."""
    for tokens in counts:
        each = [shares(clip, tokenizer, tokens) for clip in clips]
        yield tokens, {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--tokens", default="1,2,4")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(find_weights(arguments.model))
    counts = [int(count) for count in arguments.tokens.split(",")]
    results = dict(measure(arguments.clips, tokenizer, counts))
    names = list(results[counts[0]])
    rows = [[name, *(f"{results[count][name]:.3f}" for count in counts)] for name in names]
    print_table(["part of 16 bits a token", *(f"{count} tokens" for count in counts)], rows)
    write_json(
        arguments.out,
        {"model": tokenizer.id.name, "weights": tokenizer.id.weights_sha256, "clips": len(arguments.clips)}
        | {"tokens": results},
    )


if __name__ == "__main__":
    main()
