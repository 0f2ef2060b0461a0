"""Reads several corpora as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtok_codec.corpus.sampler import SampledWindows
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.errors import SettingError


class JoinedWindows(SampledWindows):
    """The windows of several corpora, one after the other, for a map-style dataset as `TokenWindows` is.

    A corpus does not grow once it has begun. To add clips, make a corpus of them, and join both.

    Args:
        parts: The windows of each corpus.

    Raises:
        SettingError: There are none; or they differ in their latent frames, their tokens per position, their columns,
            or the weights that made the tokens.

    Example:
        >>> windows = JoinedWindows([TokenWindows("corpus"), TokenWindows("more")])
        >>> loader = DataLoader(windows, batch_sampler=windows.sampler(8, seed=1))
    """

    def __init__(self, parts: Iterable[TokenWindows | JoinedWindows]) -> None:
        parts = list(parts) if isinstance(parts, Iterable) else []
        if not all(isinstance(part, TokenWindows | JoinedWindows) for part in parts):
            raise SettingError("parts: give a list of TokenWindows")
        if not parts:
            raise SettingError("parts: give the windows of at least one corpus")
        different: dict[str, set[Any]] = {
            "latents": {part.latents for part in parts},
            "tokens": {part.tokens_per_position for part in parts},
            "columns": {part.columns for part in parts},
            "weights": {part.weights_sha256 for part in parts} - {None},
        }
        for what, values in different.items():
            if len(values) > 1:
                found = " and ".join(sorted(map(str, values)))
                raise SettingError(f"windows of different {what} cannot be joined: {found}")
        self._check_kinds(parts)
        self._parts = parts
        self.latents: int = parts[0].latents
        """Latent frames per window."""
        self.tokens_per_position: int = parts[0].tokens_per_position
        """Tokens per position of each window."""
        self.columns: tuple[str, ...] = parts[0].columns
        """The columns of the index that each item has."""
        self.weights_sha256: str | None = next(iter(different["weights"]), None)
        """The hash of the weights that made the tokens; None if no folder has a plan."""
        self._ends = np.cumsum([len(part) for part in parts])

    @staticmethod
    def _check_kinds(parts: Sequence[TokenWindows | JoinedWindows]) -> None:
        """Refuse columns that are text in one corpus and numbers in another, which no batch could hold."""
        for column in parts[0].columns:
            if len({part.holds_text(column) for part in parts}) > 1:
                raise SettingError(f"column {column!r} is text in one corpus and numbers in another; leave it out")

    def holds_text(self, column: str) -> bool:
        """Return whether a column holds text rather than numbers."""
        return self._parts[0].holds_text(column)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Read a window; see `TokenWindows.__getitem__`."""
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        part = int(np.searchsorted(self._ends, number, side="right"))
        return self._parts[part][number - (int(self._ends[part - 1]) if part else 0)]

    def values(self, column: str) -> set[str]:
        """Return the different values of one of the columns asked for; see `TokenWindows.values`."""
        return set().union(*(part.values(column) for part in self._parts))

    def grids(self) -> NDArray[np.int64]:
        """Return the latent grid of each window as its rows and columns, `(windows, 2)`."""
        return np.concatenate([part.grids() for part in self._parts])

    def shards(self) -> NDArray[np.int64]:
        """Return the number of the shard that holds each window, `(windows,)`, over all corpora."""
        found, before = [], 0
        for part in self._parts:
            found.append(part.shards() + before)
            before = int(found[-1].max()) + 1
        return np.concatenate(found)
