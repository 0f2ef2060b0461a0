"""Helpers of the corpus tests: a small corpus of small clips by a tiny model, made in this process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
from helpers import TINY, randomized

from vtok_codec.corpus.encoding import CorpusPart, encode_shards
from vtok_codec.corpus.engines import Outcome, ShardWork
from vtok_codec.corpus.plan import Plan, begin_corpus
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights


class InlineEngine:
    """Runs shards in this process, one after another."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[Outcome | None]:
        for shard in shards:
            work(shard)
            yield Outcome(shard, died=False)


def tiny_weights(folder: Path) -> Path:
    """A weights file of the tiny model."""
    path = folder / "tiny.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    return path


def make_clips(folder: Path, sizes: Sequence[tuple[str, int]]) -> Path:
    """A folder with a clip for each size and number of frames: `00.mp4`, `01.mp4`, …"""
    folder.mkdir(parents=True, exist_ok=True)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for number, (size, frames) in enumerate(sizes):
        source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25,hue=h={40 * number}", "-frames:v", str(frames)]
        target = ["-c:v", "libx264", "-threads", "1", str(folder / f"{number:02d}.mp4")]
        subprocess.run([ffmpeg, "-v", "error", *source, *target], check=True)
    return folder


def begin(folder: Path, sources: Sequence[object], model: Path, **changes: object) -> Plan:
    """Begin a corpus with the settings that are common in these tests."""
    settings = {
        "model": str(model),
        "tokens_per_position": 2,
        "gop_latents": 4,
        "coder": "zstd",
        "rdo": 0.0,
        "filters": "",
        "max_pixels": 1 << 20,
        **changes,
    }
    shards = settings.pop("clips_per_shard", 3)
    keep = settings.pop("keep", None)
    return begin_corpus(folder, [str(source) for source in sources], keep, shards, "cpu", **settings)  # type: ignore[arg-type]


def make(folder: Path, plan: Plan, **options: object) -> dict[str, int]:
    """Make all shards in this process."""
    return dict(encode_shards(folder, plan, CorpusPart(), InlineEngine(), **options))  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder of the shards."""
    return {path.name: path.read_bytes() for path in sorted((folder / "shards").iterdir())}
