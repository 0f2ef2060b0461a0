"""Damages a `.vtk` file at random places, and counts the faults that are noticed and the frames that are recovered.

    .venv/bin/python bench/faults.py [CLIP] [--faults 1000] [--seed 0] [--out FILE.json]

There are five kinds of faults: one byte is changed, the file is cut short, up to 4 KiB are set to zero, up to 4 KiB
are removed, or the index is lost and up to 4 KiB are set to zero. `verify` must notice every fault. Then the file is
read as `decode --recover` reads it, but without running the model. The chunks that are recovered must be equal to those
of the undamaged file, at the same times. Any exception other than `FormatError` counts as a crash.
"""

from __future__ import annotations

import argparse
import collections
import io
import random
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio_ffmpeg
import numpy as np
from common import ROOT, print_table, write_json

from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError
from vtok_codec.media.reader import VideoReader
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.stream.reading import UnpackedChunk, salvaged_events, verify
from vtok_codec.stream.settings import EncodeSettings

_RUN_BYTES = 4096
"""The largest number of bytes that a fault sets to zero or removes."""
KINDS = ("flip", "cut", "zero", "remove", "no index, zero")
COLUMNS = (
    "faults",
    "noticed",
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


def encoded(clip: Path) -> bytes:
    """Encode a clip with GOPs of half a second, and with an audio track, whose packets lie between the chunks."""
    file = io.BytesIO()
    tokenizer = load_tokenizer(find_weights(DEFAULT_MODEL))
    with TemporaryDirectory() as folder:
        sounding = Path(folder) / "clip.mkv"
        sound = ["-f", "lavfi", "-i", "sine", "-map", "0:v:0", "-map", "1:a", "-c:v", "copy", "-shortest"]
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(clip), *sound, str(sounding)]
        subprocess.run(ffmpeg, check=True)
        with VideoReader(sounding) as reader:
            encode_video(reader.info, reader.events(), tokenizer, EncodeSettings(gop_seconds=0.5), file)
    return file.getvalue()


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
        verify(io.BytesIO(data))
    except FormatError:
        return True
    return False


def salvaged(data: bytes) -> list[UnpackedChunk] | None:
    """Return the chunks that can be recovered, or None if the header cannot be read."""
    try:
        reader = VtkReader(io.BytesIO(data))
        return [event for event in salvaged_events(reader) if isinstance(event, UnpackedChunk)]
    except FormatError:
        return None


def is_same(one: UnpackedChunk, other: UnpackedChunk | None) -> bool:
    """Return whether two chunks have the same digits, the same times and the same place in the same GOP."""
    if other is None:
        return False
    places = [(u.chunk.pts, u.chunk.gop, u.chunk.first) for u in (one, other)]
    return places[0] == places[1] and np.array_equal(one.digits, other.digits)


def main() -> None:
    """Inject faults, print the counts and write JSON.

    The exit code is 1 if a fault was not noticed, if there was a crash, if a recovered chunk was wrong, or if too few
    frames were recovered.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, default=ROOT / "tests" / "data" / "lanes.mp4")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data, rng = encoded(arguments.clip), random.Random(arguments.seed)
    whole = salvaged(data)
    assert whole is not None
    by_times = {unpacked.chunk.pts: unpacked for unpacked in whole}
    frames = sum(map(len, by_times))
    counts: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in KINDS}
    for number in range(arguments.faults):
        kind = KINDS[number % len(KINDS)]
        harmed, count = harm(data, kind, rng), counts[kind]
        count["faults"] += 1
        try:
            count["noticed"] += is_noticed(harmed)
            found = salvaged(harmed)
        except Exception as error:
            count["crashes"] += 1
            print(f"{kind}: {type(error).__name__}: {error}")
            continue
        count["header lost"] += found is None
        given: set[tuple[int, ...]] = set()
        for unpacked in found or []:
            times = unpacked.chunk.pts
            right = times not in given and is_same(unpacked, by_times.get(times))
            count["frames recovered" if right else "frames wrong"] += len(times)
            given.add(times)
        if found is not None:
            count["frames of readable files"] += frames
    print_table(["fault", *COLUMNS], [[kind, *(counts[kind][name] for name in COLUMNS)] for kind in KINDS])
    write_json(arguments.out, {"bytes": len(data), "frames": frames, "counts": {k: dict(c) for k, c in counts.items()}})
    total = sum(counts.values(), collections.Counter())
    few = total["frames recovered"] < _LEAST_RECOVERED * total["frames of readable files"]
    raise SystemExit(int(total["noticed"] != arguments.faults or total["crashes"] or total["frames wrong"] or few))


if __name__ == "__main__":
    main()
