"""Measures what hostile `.vtk` files cost to read: seconds of the processor and memory, per byte of the file.

    .venv/bin/python bench/cost.py [--json FILE]

Each file says much in few bytes: its digits are all 0, and its shape makes a coder slow. Black videos of 256×256
pixels, which are no attack, stand beside.
"""

from __future__ import annotations

import argparse
import io
import time
import tracemalloc
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from common import print_table, write_json

from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.records import TokenPayload
from vtok_codec.container.writer import VtkWriter
from vtok_codec.layout import Stride
from vtok_codec.prior_files import find_prior, prior_of
from vtok_codec.registry import find_weights
from vtok_codec.stream.unpacking import token_bytes
from vtok_codec.stream.verifying import verify
from vtok_codec.tokens.coders import PRIOR, WAVES, ZSTD, CoderSpec, DigitLayout
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import digits_to_tokens

SHIPPED = (8, 8, 8, 5, 5, 5)
"""The levels of the shipped models."""


@dataclass(frozen=True)
class Attack:
    """A file to craft."""

    coder: CoderSpec
    """The coder."""
    levels: tuple[int, ...]
    """The number of levels of each digit of a token."""
    tokens: int
    """Tokens per position."""
    stride: Stride
    """Frames, rows and columns of a position."""
    size: tuple[int, int]
    """Width and height."""
    latents: int
    """Latent frames per chunk."""
    gops: int
    """Groups of pictures."""
    prior: str = ""
    """The model whose prior packs the digits."""
    chunks: int = 1
    """Chunks per group of pictures."""

    def file(self) -> bytes:
        """Return the file."""
        prior = self._prior()
        header = Header(
            width=self.size[0],
            height=self.size[1],
            rate=Fraction(25),
            time_base=Fraction(1, 25),
            frame_ticks=1,
            sar=Fraction(1),
            color=(0, 2, 2, 2),
            rotation=0,
            model=ModelId("x", "0" * 64, self.stride, self.levels),
            tokens_per_position=self.tokens,
            gop_latents=self.latents * self.chunks,
            chunk_latents=self.latents,
            prior_sha256=prior.sha256 if prior else None,
            file_id=bytes(16),
        )
        out = io.BytesIO()
        writer = VtkWriter(out, header)
        grid = header.model.layout.grid(header.height, header.width)
        pts = 0
        for gop in range(self.gops):
            coder = self.coder.make(DigitLayout(self.levels, self.tokens, 1, prior, grid))
            for chunk in range(self.chunks):
                frames = header.max_chunk_frames(chunk == 0)
                digits = np.zeros((header.planes, *header.chunk_latent_shape(frames, chunk == 0)), np.uint8)
                payload = TokenPayload((), *self.coder.id, coder.pack(digits))
                tokens = token_bytes(digits_to_tokens(digits, self.levels))
                writer.write_tokens(gop, pts, frames, payload, digits.size, tokens)
                pts += frames
        writer.finish()
        return out.getvalue()

    def _prior(self) -> Prior | None:
        return prior_of(find_weights(self.prior)) if self.prior else None


ATTACKS = {
    "waves, one position wide": Attack(WAVES, SHIPPED, 1, (1, 1, 8), (8, 8190), 1, 10),
    "waves, one position wide, long GOP": Attack(WAVES, (2,), 1, (1, 1, 8), (8, 8190), 1, 1, chunks=40),
    "waves, one position": Attack(WAVES, (2,) * 16, 16, (1, 8, 8), (8, 8), 64, 20),
    "waves, many tiny GOPs": Attack(WAVES, SHIPPED, 4, (4, 8, 8), (8, 8), 1, 200),
    "prior, one position": Attack(PRIOR, SHIPPED, 4, (4, 16, 16), (16, 16), 64, 3, "onevae-nano-4x16x16"),
    "prior, many tiny GOPs": Attack(PRIOR, SHIPPED, 4, (4, 8, 8), (8, 8), 1, 100, "onevae-nano-4x8x8"),
    "zstd, many tiny GOPs": Attack(ZSTD, (2,) * 16, 16, (1, 8, 8), (8, 8), 1, 200),
    "waves, black video": Attack(WAVES, SHIPPED, 2, (4, 8, 8), (256, 256), 16, 4),
    "prior, black video": Attack(PRIOR, SHIPPED, 2, (4, 8, 8), (256, 256), 16, 4, "onevae-nano-4x8x8"),
    "zstd, black video": Attack(ZSTD, SHIPPED, 2, (4, 8, 8), (256, 256), 16, 4),
}
"""The files by what they are."""


def seconds_of(data: bytes) -> float:
    """Return the seconds of the processor that `verify` takes."""
    started = time.process_time()
    verify(io.BytesIO(data), find_prior)
    return time.process_time() - started


def mib_of(data: bytes) -> float:
    """Return the most memory in MiB that `verify` holds at once."""
    tracemalloc.start()
    verify(io.BytesIO(data), find_prior)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / (1 << 20)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, attack in ATTACKS.items():
        data = attack.file()
        seconds, mib = seconds_of(data), mib_of(data)
        rows.append([name, len(data), f"{seconds:.2f}", f"{1000 * seconds / len(data):.3f}", f"{mib:.0f}"])
    print_table(["file", "bytes", "seconds", "ms per byte", "MiB"], rows)
    write_json(arguments.json, {"rows": rows})


if __name__ == "__main__":
    main()
