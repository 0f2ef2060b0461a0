"""Reads a corpus as windows of tokens, at random and without torch: a map-style dataset for training loops."""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vtok_codec.arguments import as_integer
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import GopEntry
from vtok_codec.corpus.inputs import ITEM_FIELDS
from vtok_codec.corpus.plan import PLAN_NAME, priors_of_corpus
from vtok_codec.corpus.sampler import SampledWindows
from vtok_codec.corpus.storage import Storage
from vtok_codec.errors import FormatError, InputError, SettingError, VtokWarning
from vtok_codec.prior_files import find_prior, priors_beside
from vtok_codec.stream.reading import read_first_tokens
from vtok_codec.stream.unpacking import PriorFinder
from vtok_codec.tokens.radix import Tokens

if TYPE_CHECKING:
    import pyarrow as pa

_STARTS = ("gop", "any", "every")
_INTEGERS = ("offset", "size", "rows", "columns", "tokens_per_position", "latents", "width", "height", "frames")


@dataclass(frozen=True)
class _Gops:
    """The GOPs of a clip."""

    latents: NDArray[np.int64]
    offsets: NDArray[np.int64]


class TokenWindows(SampledWindows):
    """The windows of a corpus's clips: pieces of a fixed number of latent frames.

    The place of each window follows from the indexes, which are read once; its tokens are read when they are asked for.
    It works with `torch.utils.data.DataLoader`, whose workers may be forked or spawned.

    Args:
        path: The folder of the corpus, or its URL.
        latents: Latent frames per window. Clips with fewer have no windows; a `VtokWarning` says so.
        tokens: Tokens per position to read; None for all that the corpus has.
        start: `gop` for windows that begin where a GOP begins and do not overlap; `any` for windows that follow each
            other from the start of the clip, wherever GOPs begin; `every` for a window at every latent frame, so that
            windows overlap.
        columns: The columns of the index that each item has besides its key, such as your own `caption`. If some clips
            have no value, texts are empty there, and numbers and truth values are floats, with NaN there.
        statuses: The statuses of the clips to read; `truncated` adds what could be read of damaged clips.
        cache: A folder on a local disk for copies of the shards; None reads them where they are.
        model: The weights that made the tokens, needed if the corpus has the coder `prior`, the prior is not shipped,
            and the weights are no longer where they were when the corpus began.

    Raises:
        InputError: The corpus cannot be read, or has no window.
        ModelError: There are no such weights.
        SettingError: An argument is out of range, or there is no such column.

    Example:
        >>> windows = TokenWindows("corpus", latents=17, columns=["caption"])
        >>> loader = DataLoader(windows, batch_sampler=windows.sampler(8, seed=1), num_workers=8)
    """

    def __init__(
        self,
        path: str | Path,
        latents: int = 17,
        tokens: int | None = None,
        start: str = "gop",
        columns: Sequence[str] = (),
        statuses: Sequence[str] = ("ok",),
        cache: str | Path | None = None,
        model: str | Path | None = None,
    ) -> None:
        if start not in _STARTS:
            raise SettingError(f"start {start!r}: use {', '.join(_STARTS)}")
        columns, statuses = _names("columns", columns), _names("statuses", statuses)
        latents = as_integer(latents, "latents")
        if latents < 1:
            raise SettingError(f"latents {latents}: give at least 1")
        self.latents = latents
        """Latent frames per window."""
        self.weights_sha256: str | None = None
        """The hash of the weights that made the tokens; None if the folder has no plan."""
        self._priors: PriorFinder = priors_beside(str(model)) if model else find_prior
        self._storage = Storage(str(path), str(cache) if cache else None)
        _check_statuses(statuses)
        self.columns = columns
        """The columns of the index that each item has."""
        if taken := set(columns) & set(ITEM_FIELDS):
            raise SettingError(f"column {min(taken)!r}: every window has it already")
        self._read_indexes(str(path), set(statuses))
        self._read_plan(str(path))
        self._check_tokens(tokens)
        self._place(start)
        short = int((self._of["latents"] < latents).sum())
        if not len(self):
            longest = int(self._of["latents"].max())
            raise InputError(f"{path} has no window of {latents} latent frames; its longest clip has {longest}")
        if short:
            warnings.warn(
                f"{path}: {short} of {len(self._keys)} clips have fewer than {latents} latent frames, and no window",
                VtokWarning,
                stacklevel=2,
            )

    def _read_indexes(self, path: str, statuses: set[str]) -> None:
        """Read the indexes of all shards into arrays with an entry per clip."""
        import pyarrow as pa

        from vtok_codec.corpus.index import read_index

        parts, shards = [], []
        self._tars: list[str] = []
        self._versions: list[str] = []
        for name in self._storage.names("shards", ".parquet"):
            data = self._storage.read(name)
            # The index holds the hash of every clip, so its own hash tells the contents of the tar.
            self._versions.append(hashlib.sha256(data).hexdigest())
            table = read_index(pa.BufferReader(data), f"{path}/{name}")
            found = zip(table["status"].to_pylist(), table["size"].to_pylist(), strict=True)
            wanted = [status in statuses and size > 0 for status, size in found]
            parts.append(table.filter(pa.array(wanted, pa.bool_())))
            shards.append(np.full(len(parts[-1]), len(self._tars)))
            self._tars.append(name.removesuffix(".parquet") + ".tar")
        if not parts:
            raise InputError(f"{path} has no shard with clips yet")
        if not sum(map(len, parts)):
            raise InputError(f"{path} has no shard with clips of status {' or '.join(sorted(statuses)) or 'none'} yet")
        table = pa.concat_tables(parts)
        if missing := set(self.columns) - set(table.column_names):
            raise SettingError(f"column {min(missing)!r}: the index has {', '.join(table.column_names)}")
        self._shard = np.concatenate(shards)
        self._of = {name: np.asarray(table[name].to_pylist(), np.int64) for name in _INTEGERS}
        self._keys: list[str] = table["key"].to_pylist()
        self._user = {name: _without_gaps(table[name]) for name in self.columns}
        # GOPs of all clips in one array, so that a million clips are not a million objects.
        counts = np.asarray([len(each) for each in table["gop_latents"].to_pylist()])
        self._gop_starts = np.concatenate([[0], np.cumsum(counts)])
        self._gop_latents = np.asarray(table["gop_latents"].combine_chunks().flatten(), np.int64)
        self._gop_offsets = np.asarray(table["gop_offsets"].combine_chunks().flatten(), np.int64)

    def _read_plan(self, path: str) -> None:
        """Read which weights made the tokens, and warn if not all shards are there."""
        try:
            plan = json.loads(self._storage.read(PLAN_NAME))
            shards = -(-plan["clips"] // plan["clips_per_shard"])
            self.weights_sha256 = str(plan["weights_sha256"])
            weights = str(plan["model"])
        except (InputError, ValueError, KeyError, TypeError):
            # The folder may hold the shards alone.
            return
        if self._priors is find_prior:
            self._priors = priors_of_corpus(weights)
        if len(self._tars) < shards:
            done = f"{len(self._tars)} of {shards} shards are done"
            warnings.warn(f"{path}: {done}; the others have no windows", VtokWarning, stacklevel=3)

    def _check_tokens(self, tokens: int | None) -> None:
        fewest = int(self._of["tokens_per_position"].min())
        if tokens is not None and not 1 <= tokens <= fewest:
            raise SettingError(f"tokens {tokens}: the corpus has 1 to {fewest} tokens per position")
        self.tokens_per_position = tokens or fewest
        """The tokens per position of every window."""

    def _place(self, start: str) -> None:
        """Find the clip and the first latent frame of every window."""
        whole, size = self._of["latents"], self.latents
        if start == "any":
            clips = np.repeat(np.arange(len(whole)), whole // size)
            begins = _counted_within(whole // size) * size
        elif start == "every":
            counts = np.maximum(whole - size + 1, 0)
            self._clip, self._begin = np.repeat(np.arange(len(whole)), counts), _counted_within(counts)
            return
        else:
            gops = np.diff(self._gop_starts)
            clips = np.repeat(np.arange(len(whole)), gops)
            before = np.cumsum(self._gop_latents) - self._gop_latents
            begins = before - np.repeat(before[self._gop_starts[:-1]], gops)
        fits = begins + size <= whole[clips]
        clips, begins = clips[fits], begins[fits]
        kept = _spaced(clips, begins, size)
        self._clip, self._begin = clips[kept], begins[kept]

    def _gop_begins(self, clip: int) -> NDArray[np.int64]:
        """Return the first latent frame of each GOP of a clip."""
        latents = self._gops(clip).latents
        return np.cumsum(latents) - latents

    def _gops(self, clip: int) -> _Gops:
        part = slice(self._gop_starts[clip], self._gop_starts[clip + 1])
        return _Gops(self._gop_latents[part], self._gop_offsets[part])

    def __len__(self) -> int:
        return len(self._clip)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Read a window.

        Args:
            number: The number of the window.

        Returns:
            `tokens`, uint16 `t h w n`; `gop_start`, bool `t`, which latent frames begin a GOP; `gop_latent`, int64 `t`,
            the number of each latent frame in its GOP; `key`, the clip's key; `latent`, the number of the window's
            first latent frame in its clip; and the columns asked for.

        Raises:
            IndexError: There is no such window.
            InputError, FormatError, DamageError: The shard cannot be read there.
            ModelError: The prior with which it was packed is missing.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        clip, begin = int(self._clip[number]), int(self._begin[number])
        try:
            tokens = self._read(clip, begin)
        except FormatError as error:
            raise type(error)(f"{self._keys[clip]} in {self._tars[int(self._shard[clip])]}: {error}") from None
        begins, latents = self._gop_begins(clip), np.arange(begin, begin + self.latents)
        places = latents - begins[np.searchsorted(begins, latents, side="right") - 1]
        user = {name: values[clip] for name, values in self._user.items()}
        return {
            "tokens": tokens,
            "gop_start": places == 0,
            "gop_latent": places,
            "key": self._keys[clip],
            "latent": begin,
            **user,
        }

    def _read(self, clip: int, begin: int) -> Tokens:
        """Read the latent frames of a window from the GOPs that hold them."""
        gops = self._gops(clip)
        ends = np.cumsum(gops.latents)
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, begin + self.latents, side="left"))
        shard = int(self._shard[clip])
        read = partial(self._storage.read, self._tars[shard], version=self._versions[shard])
        at, size = int(self._of["offset"][clip]), int(self._of["size"][clip])
        head = read(at, int(gops.offsets[0]))
        from_ = int(gops.offsets[first])
        to = int(gops.offsets[last + 1]) if last + 1 < len(gops.offsets) else size
        reader = VtkReader(io.BytesIO(head + read(at + from_, to - from_)))
        reader.seek(first, GopEntry(len(head), 0, 0))
        skipped = begin - (int(ends[first]) - int(gops.latents[first]))
        tokens = read_first_tokens(reader, skipped + self.latents, self._priors)[skipped:][: self.latents]
        if len(tokens) < self.latents:
            raise InputError(f"{self._keys[clip]}: its shard holds fewer latent frames than the index says")
        return np.ascontiguousarray(tokens[..., : self.tokens_per_position])

    def values(self, column: str) -> set[str]:
        """Return the different values of one of the columns asked for, as `text_of` has them, without empty ones."""
        if column not in self._user:
            raise SettingError(f"column {column!r}: the windows have {', '.join(self.columns) or 'none'}")
        return {text_of(value) for value in self._user[column]} - {""}

    def holds_text(self, column: str) -> bool:
        """Return whether a column holds text rather than numbers."""
        return any(isinstance(value, str) for value in self._user[column])

    def grids(self) -> NDArray[np.int64]:
        """Return the latent grid of each window as its rows and columns, `(windows, 2)`."""
        return np.stack([self._of["rows"][self._clip], self._of["columns"][self._clip]], axis=1)

    def shards(self) -> NDArray[np.int64]:
        """Return the number of the shard that holds each window, `(windows,)`."""
        return self._shard[self._clip]


def _names(what: str, names: object) -> tuple[str, ...]:
    """Return a list of names as a tuple.

    Raises:
        SettingError: It is none.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise SettingError(f"{what} {names!r}: give a list of names")
    return tuple(map(str, names))


def _check_statuses(statuses: Sequence[str]) -> None:
    from vtok_codec.corpus.index import STATUSES

    if unknown := sorted(set(statuses) - set(STATUSES)):
        raise SettingError(f"status {unknown[0]!r}: use some of {', '.join(STATUSES)}")


def _without_gaps(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column, all of one type, with an empty text or NaN where there is none."""
    import pyarrow as pa

    values, kind = column.to_pylist(), column.type
    if not column.null_count:
        return values
    if pa.types.is_string(kind):
        return ["" if value is None else value for value in values]
    return [math.nan if value is None else float(value) for value in values]


def text_of(value: Any) -> str:
    """Return the value of a column as text: empty where there is none, whole numbers without a point, true as 1."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if whole else str(value)


def _counted_within(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 0, 1, … up to each count, one after the other: `[2, 3]` → `[0, 1, 0, 1, 2]`."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


def _spaced(clips: NDArray[np.int64], begins: NDArray[np.int64], distance: int) -> NDArray[np.intp]:
    """Return which windows to keep so that those of a clip do not overlap.

    Args:
        clips: The clip of each window, ascending.
        begins: Where each window begins, ascending within a clip.
        distance: The length of a window.
    """
    overlaps = (np.diff(clips) == 0) & (np.diff(begins) < distance)
    if not overlaps.any():
        return np.arange(len(clips))
    kept: list[int] = []
    last, free = -1, 0
    for window, (clip, begin) in enumerate(zip(clips.tolist(), begins.tolist(), strict=True)):
        if clip != last or begin >= free:
            kept.append(window)
            last, free = clip, begin + distance
    return np.asarray(kept, np.intp)
