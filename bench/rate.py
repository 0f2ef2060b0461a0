"""Measures how well tokens can be packed: by several packings, and by the entropy of their digits.

    .venv/bin/python bench/rate.py CLIP… [--tokens 1,2,4] [--model NAME] [--out FILE.json]

All figures are fractions of 16 bits per token, as means over clips. Packings are measured on the chunks of a file.
Entropies are the code lengths of an adaptive coder over the whole clip, by Krichevsky–Trofimov estimates, which
include the cost of learning the frequencies. The context of a digit is nothing, or the digit at the same place in the
frame before, or that digit and the left neighbour.
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

from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.media.reader import VideoReader
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.unpacking import UnpackedChunk, unpacked_events
from vtok_codec.tokens.coders import PRIOR, WAVES, CoderSpec, DigitLayout
from vtok_codec.tokens.radix import Digits, digits_to_tokens
from vtok_codec.tokens.zstd_groups import ZSTD_LEVEL, pack

Levels = tuple[int, ...]
"""The number of values of each digit of a token."""


def gops_of(clip: Path, tokenizer: Tokenizer, tokens: int) -> list[list[Digits]]:
    """Encode a clip, and return the digits `P t h w` of each chunk of each GOP, for the P digits of a position."""
    file = io.BytesIO()
    with VideoReader(clip, audio=False) as reader:
        encode_video(reader.info, reader.events(), tokenizer, EncodeSettings(tokens_per_position=tokens), file)
    file.seek(0)
    gops: list[list[Digits]] = []
    for event in unpacked_events(VtkReader(file), tokenizer.find_prior):
        if isinstance(event, UnpackedChunk):
            if event.chunk.first:
                gops.append([])
            gops[-1].append(event.digits)
    return gops


def packed(gop: list[Digits], spec: CoderSpec, tokenizer: Tokenizer) -> int:
    """Return the bytes of a GOP's chunks packed by a coder that adapts to the GOP."""
    levels = tokenizer.id.levels
    coder = spec.make(DigitLayout(levels, len(gop[0]) // len(levels), tokenizer.layout.phases, tokenizer.prior))
    return sum(len(coder.pack(chunk)) for chunk in gop)


def zstd(data: NDArray[np.generic]) -> int:
    """Return the bytes of an array packed by zstd."""
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(np.ascontiguousarray(data).tobytes()))


def time_differences(digits: Digits, levels: Levels) -> Digits:
    """Return the difference of each digit to the digit in the frame before, modulo the number of its values."""
    modulus = np.array(levels * (len(digits) // len(levels)), np.int16).reshape(-1, 1, 1, 1)
    before = np.concatenate([np.zeros_like(digits[:, :1]), digits[:, :-1]], axis=1)
    return np.asarray((digits.astype(np.int16) - before) % modulus, np.uint8)


PACKINGS: dict[str, Callable[[Digits, Levels], int]] = {
    "16-bit tokens, zstd": lambda digits, levels: zstd(digits_to_tokens(digits, levels)),
    "one plane per digit, zstd": lambda digits, levels: zstd(digits),
    "differences between frames, zstd": lambda digits, levels: zstd(time_differences(digits, levels)),
    "groups of digits, zstd (coder 1)": lambda digits, levels: len(pack(digits, levels)),
}


def adaptive_bits(symbols: NDArray[np.integer], contexts: NDArray[np.integer], levels: int) -> float:
    """Return the bits that a Krichevsky–Trofimov coder needs for symbols 0…levels−1, with counts for each context."""
    counts = np.zeros((int(contexts.max()) + 1, levels))
    np.add.at(counts, (contexts.ravel(), symbols.ravel()), 1)
    totals = counts.sum(axis=1)
    nats = gammaln(totals + levels / 2) - gammaln(levels / 2) - (gammaln(counts + 0.5) - gammaln(0.5)).sum(axis=1)
    return float(nats.sum() / np.log(2))


def entropies(digits: Digits, levels: Levels) -> dict[str, float]:
    """Return the bits of the digits `P T h w` of a whole clip for each kind of context."""
    bits = dict.fromkeys(("order 0", "given the frame before", "given the frame before and the left neighbour"), 0.0)
    for number, plane in enumerate(digits.astype(np.int64)):
        count = levels[number % len(levels)]
        # The value `count`, which no digit has, stands for neighbours before the first frame or the first column.
        before = np.concatenate([np.full_like(plane[:1], count), plane[:-1]])
        left = np.concatenate([np.full_like(plane[..., :1], count), plane[..., :-1]], axis=-1)
        for name, context in zip(bits, (np.zeros_like(plane), before, before * (count + 1) + left), strict=True):
            bits[name] += adaptive_bits(plane, context, count)
    return bits


def shares(clip: Path, tokenizer: Tokenizer, tokens: int) -> dict[str, float]:
    """Return the size of a clip's tokens by each packing and each entropy, as fractions of 16 bits per token."""
    levels = tokenizer.id.levels
    gops = gops_of(clip, tokenizer, tokens)
    chunks = [chunk for gop in gops for chunk in gop]
    bare_bits = 16 * sum(chunk.size for chunk in chunks) / len(levels)
    figures = {name: 8 * sum(size(chunk, levels) for chunk in chunks) / bare_bits for name, size in PACKINGS.items()}
    figures["waves (coder 2)"] = 8 * sum(packed(gop, WAVES, tokenizer) for gop in gops) / bare_bits
    if tokenizer.prior:
        figures["prior (coder 3)"] = 8 * sum(packed(gop, PRIOR, tokenizer) for gop in gops) / bare_bits
    whole = entropies(np.concatenate(chunks, axis=1), levels)
    return figures | {name: bits / bare_bits for name, bits in whole.items()}


def measure(clips: list[Path], tokenizer: Tokenizer, counts: list[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each number of tokens with the means of `shares` over the clips."""
    for tokens in counts:
        each = [shares(clip, tokenizer, tokens) for clip in clips]
        yield tokens, {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def main() -> None:
    """Measure, print a table, and write JSON."""
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
    print_table(["fraction of 16 bits per token", *(f"{count} tokens" for count in counts)], rows)
    write_json(
        arguments.out,
        {"model": tokenizer.id.name, "weights": tokenizer.id.weights_sha256, "clips": len(arguments.clips)}
        | {"tokens": results},
    )


if __name__ == "__main__":
    main()
