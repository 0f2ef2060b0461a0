"""Damages `.vtk` files at random places, and counts the faults that are noticed and the frames that are recovered.

    .venv/bin/python bench/faults.py [CLIP] [--faults 2000] [--seed 0] [--out FILE.json]

There are five kinds of faults: one byte is changed, the file is cut short, up to 4 KiB are set to zero, up to 4 KiB
are removed, or the index is lost and up to 4 KiB are set to zero. They are dealt out to four files, by both models and
two coders, which hold sound. `verify` must notice every fault, and so must `decode`. Then the file is read as `decode
--recover` reads it, but without running the model. The chunks that are recovered must be equal to those of the
undamaged file, at the same times. Any exception other than `FormatError` counts as a crash.

Other formats get faults of the same kinds: FFmpeg reads the clip as Matroska (H.264 and AAC, then FFV1 and FLAC, which
have checksums) with `-xerror -err_detect crccheck+explode`, and zstd reads its tokens with a checksum.
"""

from __future__ import annotations

import argparse
import collections
import io
import random
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np
import zstandard
from common import ROOT, print_table, write_json

from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.container.header import Header
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Pixels
from vtok_codec.prior_files import find_prior
from vtok_codec.registry import find_weights
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.unpacking import UnpackedChunk, salvaged_events
from vtok_codec.stream.verifying import verify
from vtok_codec.tokens.coders import PRIOR, WAVES
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits

_FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
MODELS = ("onevae-nano-4x8x8", "onevae-nano-4x16x16")
_RUN_BYTES = 4096
"""The largest number of bytes that a fault sets to zero or removes."""
KINDS = ("flip", "cut", "zero", "remove", "no index, zero")
COLUMNS = (
    "faults",
    "noticed",
    "by decode",
    "crashes",
    "header lost",
    "frames of readable files",
    "frames recovered",
    "frames wrong",
)
"""The counts for each kind of fault."""
_LEAST_RECOVERED = 0.25
"""The smallest fraction of frames that must be recovered over all faults. A cut loses half of the file on average."""


_FOOTER_LOST = bytes(8)
"""The bytes that replace the end of the file, so that the index cannot be found."""


@dataclass(frozen=True)
class Written:
    """A file to damage."""

    model: str
    """The model."""
    coder: str
    """The coder."""
    data: bytes
    """Its bytes."""


def encoded(clip: Path, folder: Path) -> list[Written]:
    """Encode a clip, made small, with GOPs of half a second and with sound, whose packets lie between the chunks."""
    sounding = folder / "clip.mkv"
    sound = ["-f", "lavfi", "-i", "sine", "-map", "0:v:0", "-map", "1:a", "-c:a", "aac", "-shortest"]
    picture = ["-vf", "scale=208:-2", "-c:v", "ffv1"]
    subprocess.run([*_FFMPEG, "-i", str(clip), *sound, *picture, str(sounding)], check=True)
    made = []
    for name in MODELS:
        tokenizer = load_tokenizer(find_weights(name))
        for coder in (PRIOR.name, WAVES.name):
            file = io.BytesIO()
            with VideoReader(sounding) as reader:
                settings = EncodeSettings(gop_seconds=0.5, coder=coder)
                encode_video(reader.info, reader.events(), tokenizer, settings, file)
            made.append(Written(name, coder, file.getvalue()))
    return made


def harm(data: bytes, kind: str, rng: random.Random) -> bytes:
    """Return the file with one fault, which always changes it."""
    while True:
        place, length = rng.randrange(len(data)), rng.randint(1, _RUN_BYTES)
        if kind == "flip":
            harmed = data[:place] + bytes([data[place] ^ rng.randint(1, 255)]) + data[place + 1 :]
        elif kind == "cut":
            harmed = data[:place]
        elif kind == "zero":
            harmed = data[:place] + bytes(min(length, len(data) - place)) + data[place + length :]
        elif kind == "remove":
            harmed = data[:place] + data[place + length :]
        else:
            harmed = data[:place] + bytes(min(length, len(data) - place)) + data[place + length :]
            harmed = harmed[: -len(_FOOTER_LOST)] + _FOOTER_LOST
        if harmed != data:
            return harmed


def is_noticed(data: bytes) -> bool:
    """Return whether `verify` rejects the file."""
    try:
        verify(io.BytesIO(data), find_prior)
    except FormatError:
        return True
    return False


class _Blank:
    """A `PixelDecoder` that gives black frames, so that a file is decoded without a model."""

    lanes = 1
    bytes_per_pixel = 3

    def __init__(self, header: Header) -> None:
        self.id, self.max_tokens = header.model, header.tokens_per_position

    def find_prior(self, sha256: str) -> Prior:
        return find_prior(sha256)

    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: object,
        gop: int = 0,
        window_tokens: object = None,
    ) -> tuple[Pixels, object]:
        return np.zeros((frames, *size, 3), np.uint8), None


def is_noticed_by_decode(data: bytes) -> bool:
    """Return whether decoding the whole file ends in an error."""
    try:
        reader = VtkReader(io.BytesIO(data))
        for _ in decode_events(reader, _Blank(reader.header)):
            pass
    except FormatError:
        return True
    return False


def salvaged(data: bytes) -> list[UnpackedChunk] | None:
    """Return the chunks that can be recovered, or None if the header cannot be read."""
    try:
        reader = VtkReader(io.BytesIO(data))
        return [event for event in salvaged_events(reader, find_prior) if isinstance(event, UnpackedChunk)]
    except FormatError:
        return None


def is_same(one: UnpackedChunk, other: UnpackedChunk | None) -> bool:
    """Return whether two chunks have the same digits, the same times and the same place in the same GOP."""
    if other is None:
        return False
    places = [(u.chunk.pts, u.chunk.gop, u.chunk.first) for u in (one, other)]
    return places[0] == places[1] and np.array_equal(one.digits, other.digits)


def damage(files: Sequence[Written], faults: int, rng: random.Random) -> dict[str, collections.Counter[str]]:
    """Damage files so many times. Returns the counts by kind of fault."""
    whole = [salvaged(each.data) or [] for each in files]
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    for number in range(faults):
        kind, place = KINDS[number % len(KINDS)], number // len(KINDS) % len(files)
        harmed, count = harm(files[place].data, kind, rng), counts[kind]
        count["faults"] += 1
        try:
            count["noticed"] += is_noticed(harmed)
            count["by decode"] += is_noticed_by_decode(harmed)
            found = salvaged(harmed)
        except Exception as error:
            count["crashes"] += 1
            print(f"{kind}: {type(error).__name__}: {error}")
            continue
        count["header lost"] += found is None
        by_times = {unpacked.chunk.pts: unpacked for unpacked in whole[place]}
        given: set[tuple[int, ...]] = set()
        for unpacked in found or []:
            times = unpacked.chunk.pts
            right = times not in given and is_same(unpacked, by_times.get(times))
            count["frames recovered" if right else "frames wrong"] += len(times)
            given.add(times)
        if found is not None:
            count["frames of readable files"] += sum(map(len, by_times))
    return counts


def others(clip: Path, folder: Path, faults: int, rng: random.Random) -> list[list[object]]:
    """Damage files of other formats. Returns a row for each: its name, the faults, and those that were noticed."""
    rows: list[list[object]] = []
    coded = {"H.264 and AAC": ("libx264", "aac"), "FFV1 and FLAC": ("ffv1", "flac")}
    for name, (video, audio) in coded.items():
        path = folder / f"{video}.mkv"
        made = ["-vf", "scale=208:-2", "-c:v", video, "-c:a", audio, "-shortest", str(path)]
        subprocess.run([*_FFMPEG, "-i", str(clip), "-f", "lavfi", "-i", "sine", *made], check=True)
        data, noticed = path.read_bytes(), 0
        for number in range(faults):
            path.write_bytes(harm(data, KINDS[number % 4], rng))
            read = [*_FFMPEG, "-xerror", "-err_detect", "crccheck+explode", "-i", str(path), "-f", "null", "-"]
            result = subprocess.run(read, capture_output=True, check=False)
            noticed += bool(result.returncode or result.stderr)
        rows.append([f"FFmpeg, Matroska with {name}", faults, noticed])
    tokens = np.random.default_rng(0).integers(0, 64000, 20000, np.uint16).tobytes()
    data = zstandard.ZstdCompressor(write_checksum=True).compress(tokens)
    noticed = 0
    for number in range(faults):
        try:
            zstandard.ZstdDecompressor().decompress(harm(data, KINDS[number % 4], rng), allow_extra_data=False)
        except zstandard.ZstdError:
            noticed += 1
    return [*rows, ["zstd with a checksum", faults, noticed]]


def main() -> None:
    """Inject faults, print the counts and write JSON.

    The exit code is 1 if a fault was not noticed, if there was a crash, if a recovered chunk was wrong, or if too few
    frames were recovered.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, default=ROOT / "tests" / "data" / "lanes.mp4")
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--others", type=int, default=200, help="faults in each file of another format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with TemporaryDirectory() as name:
        files = encoded(arguments.clip, Path(name))
        counts = damage(files, arguments.faults, rng)
        print_table(["fault", *COLUMNS], [[kind, *(counts[kind][name] for name in COLUMNS)] for kind in KINDS])
        peers = others(arguments.clip, Path(name), arguments.others, rng) if arguments.others else []
        print_table(["other formats", "faults", "noticed"], peers)
    total = sum(counts.values(), collections.Counter())
    figures = {kind: dict(count) for kind, count in counts.items()}
    sizes = [[each.model, each.coder, len(each.data)] for each in files]
    write_json(arguments.out, {"files": sizes, "counts": figures, "others": peers})
    few = total["frames recovered"] < _LEAST_RECOVERED * total["frames of readable files"]
    missed = 2 * arguments.faults - total["noticed"] - total["by decode"]
    raise SystemExit(int(bool(missed or total["crashes"] or total["frames wrong"] or few)))


if __name__ == "__main__":
    main()
