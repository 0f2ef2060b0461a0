"""Measures a generator on held-out clips: how well it predicts tokens, and what it continues clips with.

    .venv/bin/python bench/generator.py predict GENERATOR CLIPS…
    .venv/bin/python bench/generator.py continue GENERATOR CLIPS… [--picture FILE] [--decoder WEIGHTS]

`predict` compares the bits that whole clips would take with the generator's predictions with what the coders need for
the same tokens. `continue` keeps the ten longest clips up to their last second, draws that second with several seeds,
and compares it with the source, beside repeating the last frame that was kept. LPIPS is that of the frame at the end of
the second, FD-codec that of the first 17 frames. The pictures show the first clips by name and the first two seeds.
GENERATOR is a generator of tokens or a latent flow, whose latents are decoded without rounding unless `--rounded` is
given. `--decoder` decodes with the decoder of other weights, such as one that was trained on drawn latents.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import packed, perceived, print_table, write_json
from pictures import write_jpeg

from vtok_codec.api import Codec
from vtok_codec.codec.drawing import Sampling, TokenDrawer
from vtok_codec.codec.generation import TokenGenerator
from vtok_codec.codec.generators import load_generator
from vtok_codec.codec.latent_generation import LatentGenerator
from vtok_codec.codec.latents import Latents, decoded_latents
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.evaluation.fd_codec import FRAMES, fd_codec
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.registry import find_weights
from vtok_codec.tokens.coders import PRIOR, WAVES
from vtok_codec.tokens.codes import values_to_codes
from vtok_codec.tokens.radix import Tokens, tokens_to_digits
from vtok_codec.training.data.library import MAX_FRAMES

CLIPS = 10
"""The clips that are continued."""
SEEDS = 3
"""How often each is continued."""
_JUDGE = "onevae-nano-4x8x8"
"""The codec whose encoder FD-codec uses."""
_SHOWN = 6
"""The clips in the picture."""
_SIDE = 256
"""The largest height and width of the clips; larger ones are cropped to their centre."""


@dataclass(frozen=True)
class Cut:
    """A clip that is continued from its last second on."""

    name: str
    frames: Pixels
    """All frames."""
    known: int
    """The number of frames that are kept."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["predict", "continue"])
    parser.add_argument("generator")
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--temperature", type=float, default=Sampling.temperature)
    parser.add_argument("--top-p", type=float, default=Sampling.top_p)
    parser.add_argument("--stillness", type=float, default=Sampling.stillness)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounded", action="store_true")
    parser.add_argument("--decoder", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    generator = load_generator(arguments.generator)
    codec = Codec(load_tokenizer(find_weights(generator.codec)))
    if arguments.task == "predict":
        if not isinstance(generator, TokenGenerator):
            parser.error("only a generator of tokens predicts bits")
        figures = predicted(generator, codec, sorted(arguments.clips))
    else:
        figures = continuations(generator, codec, sorted(arguments.clips), arguments)
    write_json(arguments.json, figures)


def predicted(generator: TokenGenerator, codec: Codec, clips: list[Path]) -> dict[str, object]:
    """Compare the generator's bits per pixel with those of the coders."""
    totals = dict.fromkeys(("generator", PRIOR.name, WAVES.name), 0.0)
    pixels, smaller = 0, 0
    for path in clips:
        frames = cropped(path, codec)
        tokens = codec.tokenize(frames, generator.tokens_per_position)
        bits = {name: 8.0 * packed(codec, tokens, name) for name in (PRIOR.name, WAVES.name)}
        bits["generator"] = generator.bits([tokens])
        pixels += frames[..., 0].size
        smaller += bits["generator"] < bits[PRIOR.name]
        for name, value in bits.items():
            totals[name] += value
        print(f"{path.stem}: {bits['generator'] / bits[PRIOR.name]:.3f} of the prior")
    rows = [[name, total / pixels, total / totals[PRIOR.name]] for name, total in totals.items()]
    print_table(["", "bits per pixel", "to the prior"], rows)
    print(f"the generator needs fewer bits than the prior on {smaller} of {len(clips)} clips")
    return {"bits_per_pixel": {name: total / pixels for name, total in totals.items()}, "clips": len(clips)}


def cropped(path: Path, codec: Codec) -> Pixels:
    """Read a clip, cropped to whole positions, at most `_SIDE` pixels, around the centre."""
    frames = read_pixels(path, MAX_FRAMES)
    shape, stride = frames.shape[1:3], codec.tokenizer.layout.stride[1:]
    rows, columns = (min(_SIDE, side) // step * step for side, step in zip(shape, stride, strict=True))
    top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
    return np.ascontiguousarray(frames[:, top : top + rows, left : left + columns])


def longest(clips: list[Path], codec: Codec) -> list[Cut]:
    """Return the clips with the most seconds, each cut at the latent frame that begins its last second."""
    found = []
    for path in clips:
        with VideoReader(path) as reader:
            rate = float(reader.info.rate or 25)
        frames = cropped(path, codec)
        stride = codec.tokenizer.layout.stride[0]
        known = (len(frames) - 1 - round(rate)) // stride * stride + 1
        if len(frames) - known >= FRAMES and known > 0:
            found.append((known / rate, Cut(path.stem, frames, known)))
    found.sort(key=lambda each: (-each[0], each[1].name))
    return sorted((cut for _, cut in found[:CLIPS]), key=lambda cut: cut.name)


class Way:
    """A way to go on with clips: through tokens, or through latents without rounding."""

    def __init__(self, generator: TokenDrawer, codec: Codec, decoder: Tokenizer, rounded: bool) -> None:
        """Use a generator, the codec whose tokens it draws, and a decoder of these tokens."""
        self._generator, self._codec, self._decoder = generator, codec, decoder
        self._flow = generator if isinstance(generator, LatentGenerator) and not rounded else None

    def coded(self, frames: Pixels) -> Pixels:
        """Return frames, encoded and decoded."""
        return self._decoded(self._latents(frames), frames)

    def continued(self, cut: Cut, sampling: Sampling) -> Pixels:
        """Return a clip whose last second was drawn."""
        latents = self._codec.tokenizer.layout.latents(len(cut.frames), first=True)
        if self._flow:
            known = self._latents(cut.frames[: cut.known])
            drawn = self._flow.continue_latents(known, latents - known.shape[1], sampling)
            return self._decoded(np.concatenate([known, drawn], axis=1), cut.frames)
        tokens = self._codec.tokenize(cut.frames[: cut.known], self._generator.tokens_per_position)
        drawn_tokens = self._generator.continue_(tokens, latents - len(tokens), sampling)
        return self._decoded(self._codes(np.concatenate([tokens, drawn_tokens])), cut.frames)

    def _latents(self, frames: Pixels) -> Latents:
        """Return the latents of frames, rounded if tokens are drawn."""
        wanted = self._generator.tokens_per_position
        if self._flow is None:
            return self._codes(self._codec.tokenize(frames, wanted))
        videos = torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
        return self._codec.encode_latents(videos, wanted)[0].cpu().numpy()

    def _codes(self, tokens: Tokens) -> Latents:
        levels = self._codec.tokenizer.id.levels
        return values_to_codes(tokens_to_digits(tokens, levels), levels)

    def _decoded(self, latents: Latents, frames: Pixels) -> Pixels:
        return np.concatenate(list(decoded_latents(latents, self._decoder, frames.shape[1:3])))[: len(frames)]


def continuations(
    generator: TokenDrawer, codec: Codec, clips: list[Path], arguments: argparse.Namespace
) -> dict[str, object]:
    """Continue clips, and compare with the source and with a picture that stands still."""
    cuts = longest(clips, codec)
    decoder = load_tokenizer(find_weights(arguments.decoder)) if arguments.decoder else codec.tokenizer
    way = Way(generator, codec, decoder, arguments.rounded)
    setting = partial(Sampling, temperature=arguments.temperature, top_p=arguments.top_p, steps=arguments.steps)
    samplings = [setting(seed, stillness=arguments.stillness) for seed in range(SEEDS)]
    started = time.perf_counter()
    drawn = [[way.continued(cut, sampling) for cut in cuts] for sampling in samplings]
    took = time.perf_counter() - started
    speed = SEEDS * sum(len(cut.frames) - cut.known for cut in cuts) / took
    decoded = [way.coded(cut.frames) for cut in cuts]
    still = [
        np.repeat(video[cut.known - 1 : cut.known], len(video), 0) for cut, video in zip(cuts, decoded, strict=True)
    ]
    ways = {"the source, coded": [decoded], "the last frame, repeated": [still], "continued": drawn}
    judge = Judge(cuts)
    scores = {name: [judge.scores(videos) for videos in runs] for name, runs in ways.items()}
    rows = []
    for name, runs in scores.items():
        distances, perceived = np.asarray(runs).T
        rows.append([name, distances.mean(), distances.std(), perceived.mean(), perceived.std()])
    print_table(["the last second of each clip", "FD-codec", "± seeds", "LPIPS at its end", "± seeds"], rows)
    print(f"FD-codec between every other clip and the rest of the source: {judge.halves():.4g}")
    print(f"{speed:.1f} frames/s read, drawn and decoded; {len(cuts)} clips: {', '.join(cut.name for cut in cuts)}")
    if arguments.picture:
        write_jpeg(arguments.picture, _picture(cuts[:_SHOWN], decoded, drawn))
    return {**scores, "fd_codec_of_halves": judge.halves(), "frames_per_second": speed}


class Judge:
    """Compares what follows on clips with their sources."""

    def __init__(self, cuts: list[Cut]) -> None:
        self._cuts = cuts
        self._lpips, self._tokenizer = load_lpips(), load_tokenizer(find_weights(_JUDGE))
        self._real = [self._part(cut, cut.frames) for cut in cuts]

    def scores(self, videos: list[Pixels]) -> tuple[float, float]:
        """Return FD-codec of the first frames that follow, and the mean LPIPS of the last one."""
        pairs = list(zip(self._cuts, videos, strict=True))
        distance = fd_codec(self._tokenizer, self._real, [self._part(cut, video) for cut, video in pairs])
        last = [(cut.frames[-1], video[len(cut.frames) - 1]) for cut, video in pairs]
        return distance, float(np.mean([perceived(self._lpips, *pair) for pair in last]))

    def halves(self) -> float:
        """Return FD-codec between one half of the clips and the other."""
        return fd_codec(self._tokenizer, self._real[::2], self._real[1::2])

    def _part(self, cut: Cut, video: Pixels) -> Pixels:
        return video[cut.known : cut.known + FRAMES]


def _picture(cuts: list[Cut], decoded: list[Pixels], drawn: list[list[Pixels]]) -> Pixels:
    """Draw a row per clip: the last frame that was kept, the last of the source as coded, and what two seeds drew."""
    rows = []
    for number, cut in enumerate(cuts):
        end = len(cut.frames) - 1
        shown = [decoded[number][cut.known - 1], *(run[number][end] for run in (decoded, *drawn[:2]))]
        rows.append(np.pad(np.concatenate(shown, axis=1), ((0, 4), (0, 0), (0, 0)), constant_values=255))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


if __name__ == "__main__":
    main()
