"""1D tokens of a chunk, which belong to windows of its latent grid instead of positions (One-DVA).

They lie in an ancillary record of their own behind the chunk's token record. A reader that does not know them skips
them, and decodes the tokens of the positions alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vtok_codec.container.header import WindowHeader

_COUNT = np.dtype(np.uint8)
_TOKEN = np.dtype("<u2")


@dataclass(frozen=True)
class WindowTokens:
    """The 1D tokens of a chunk."""

    counts: NDArray[np.uint8]
    """The number of 1D tokens of each window, row by row."""
    tokens: NDArray[np.uint16]
    """The 1D tokens of all windows, one after another."""

    def to_bytes(self) -> bytes:
        """Serialize the tokens as the payload of a record: the counts, then the tokens."""
        return self.counts.astype(_COUNT).tobytes() + self.tokens.astype(_TOKEN).tobytes()

    @classmethod
    def from_bytes(cls, payload: bytes, header: WindowHeader, windows: int) -> WindowTokens:
        """Parse the payload of a record.

        Args:
            payload: The payload.
            header: What the file says about its 1D tokens.
            windows: The number of windows of the chunk.

        Raises:
            ValueError: The payload does not hold 1D tokens of so many windows.
        """
        if len(payload) < windows:
            raise ValueError("the 1D tokens of a chunk are cut short")
        counts = np.frombuffer(payload, _COUNT, windows)
        if int(counts.max(initial=0)) > header.most:
            raise ValueError(f"a window has {counts.max()} 1D tokens; at most {header.most} are allowed")
        total = int(counts.sum(dtype=np.int64))
        if len(payload) != windows + _TOKEN.itemsize * total:
            raise ValueError(f"{total} 1D tokens are declared, but another number is there")
        tokens = np.frombuffer(payload, _TOKEN, total, windows).astype(np.uint16)
        codes = math.prod(header.levels)
        if int(tokens.max(initial=0)) >= codes:
            raise ValueError(f"1D token {tokens.max()} is not below {codes}, the number of codes")
        return cls(counts, tokens)
