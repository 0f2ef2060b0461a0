"""Between the digits of a chunk and bytes: a range coder whose probabilities follow what the GOP held so far.

A digit is likely to be what it was one latent frame ago, near what its neighbours are, and the likelier to have changed
the more of what is around it has. Those three make its context; how often each value stood in that context, and in a
wider one while that is rare, makes its probability. Digits are coded in *waves*: all with the same sum of plane, latent
frame, row and column depend on none of each other, so that NumPy works on a whole wave at once. The range coder itself
is the `constriction` package's. On held-out clips this takes a quarter less than zstd over groups of digits
(`docs/training.md` has the figures, `docs/format.md` the exact arithmetic).

Everything is exact: counts and frequencies are whole numbers far below 2⁵³, held as float64, whose division is rounded
correctly and so has the right floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from vtok_codec.tokens.radix import Digits

MAX_LEVELS = 16
"""Of a digit: contexts grow with the square of it."""

MAX_DIGITS = 1 << 23
"""Of a chunk: while its order is made they take some thirty bytes each, and then fourteen."""

_Index = NDArray[np.int32]
_Symbols = NDArray[np.int32]
_Counts = NDArray[np.float64]

_ACTIVITIES = 4
_INCREMENT = 16.0
"""What a digit adds to its counts."""
_FULL = 2048.0
"""Counts of a context that sum up to more are halved: what is long ago counts less."""
_WIDE_WEIGHT = 64.0
"""Weight of equal probabilities beside the counts of a wide context."""
_NARROW_WEIGHT = 128.0
"""Weight of the wide context's probabilities beside the counts of a narrow one."""
_ONE = 65536.0
"""A probability of 1."""
_PRECISION = 1 << 24
"""Sum of the frequencies: the range coder's."""
_NOWHERE = 31
"""In place of a digit beyond the picture's border."""
_FREQUENCIES = stream.model.Categorical(perfect=False)
"""Given whole numbers that sum up to `_PRECISION` less their number, it adds 1 to each and changes nothing else."""


class WaveCoder:
    """Packs and unpacks the chunks of one GOP, in their order: its counts are what the chunks before have taught."""

    def __init__(self, levels: Sequence[int], tokens: int) -> None:
        """`levels` of each digit of a token, none above `MAX_LEVELS`."""
        self._levels = tuple(levels) * tokens
        symbols = max(levels)
        wide = len(self._levels) * (symbols + 1) * _ACTIVITIES
        self._wide = _Table(wide, symbols, _WIDE_WEIGHT)
        self._narrow = _Table(wide * (symbols + 1), symbols, _NARROW_WEIGHT)
        self._even = np.zeros((symbols + 1, symbols))
        """By the levels of a digit, the probabilities of its values when nothing is known."""
        for count in set(levels):
            self._even[count, :count] = _ONE // count
        self._before: Digits | None = None
        """The last latent frame, `P h w`."""

    def pack(self, digits: Digits) -> bytes:
        """Digits `P t h w`, the next of the GOP."""
        order = _order(self._levels, digits.shape[1:])
        symbols = digits.reshape(-1)[order.flat].astype(np.int32)
        field = _Field(order, self._before)
        encoder = stream.queue.RangeEncoder()
        for wave in order.waves:
            wide, narrow = field.contexts(wave)
            field.put(wave, symbols[wave])
            encoder.encode(symbols[wave], _FREQUENCIES, self._frequencies(order.level[wave], wide, narrow))
            self._learn(symbols[wave], wide, narrow)
        self._before = digits[:, -1].copy()
        return encoder.get_compressed().astype("<u4").tobytes()

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """The digits `P t h w` of `shape` that `pack` was given, the next of the GOP.

        Raises:
            ValueError: the data do not hold that, or more than one word too many.
        """
        if len(data) % 4 or not data:
            raise ValueError(f"{len(data)} bytes are no whole words")
        if math.prod(shape) > MAX_DIGITS:
            raise ValueError(f"a chunk of {math.prod(shape)} digits is above {MAX_DIGITS}")
        order = _order(self._levels, shape[1:])
        field = _Field(order, self._before)
        decoder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        digits = np.empty(shape, np.uint8)
        for wave in order.waves:
            wide, narrow = field.contexts(wave)
            try:
                symbols = decoder.decode(_FREQUENCIES, self._frequencies(order.level[wave], wide, narrow))
            except (AssertionError, ValueError) as error:
                raise ValueError(f"the range coder stops: {error}") from None
            if (symbols >= order.level[wave]).any():
                raise ValueError("a digit is not below its number of levels")
            field.put(wave, symbols)
            digits.reshape(-1)[order.flat[wave]] = symbols
            self._learn(symbols, wide, narrow)
        if not decoder.maybe_exhausted():
            raise ValueError("words stand after the last digit")
        self._before = digits[:, -1].copy()
        return digits

    def _frequencies(self, level: Digits, wide: _Index, narrow: _Index) -> _Counts:
        """Frequencies less 1 of the values 0…M−1, for each digit of a wave."""
        shares = self._narrow.shares(narrow, self._wide.shares(wide, self._even.take(level, axis=0)))
        shares *= _PRECISION / _ONE
        count, symbols = shares.shape
        rest = _PRECISION - symbols - np.einsum("ns->n", shares)
        largest = np.arange(0, count * symbols, symbols) + shares.argmax(axis=1)
        shares.reshape(-1)[largest] += rest
        return shares

    def _learn(self, symbols: _Symbols, wide: _Index, narrow: _Index) -> None:
        self._wide.count(wide, symbols)
        self._narrow.count(narrow, symbols)


class _Table:
    """How often each value stood in each context."""

    def __init__(self, contexts: int, symbols: int, weight: float) -> None:
        self._counts = np.zeros((contexts, symbols))
        self._sums = np.zeros(contexts)
        self._weight = weight

    def shares(self, contexts: _Index, beside: _Counts) -> _Counts:
        """Probabilities, 2¹⁶ for 1, where those `beside` weigh as much as `weight` counts."""
        shares = self._counts.take(contexts, axis=0)
        shares *= _ONE
        beside *= self._weight
        shares += beside
        shares /= (self._sums.take(contexts) + self._weight)[:, None]
        return np.floor(shares, out=shares)

    def count(self, contexts: _Index, symbols: _Symbols) -> None:
        np.add.at(self._counts.reshape(-1), contexts * self._counts.shape[1] + symbols, _INCREMENT)
        np.add.at(self._sums, contexts, _INCREMENT)
        full = contexts[self._sums.take(contexts) > _FULL]
        if full.size:
            # A context that is in the wave more than once is halved once: all of it is read before any is written.
            halved = np.floor(self._counts[full] / 2)
            self._counts[full] = halved
            self._sums[full] = halved.sum(axis=1)


@dataclass(frozen=True)
class _Order:
    """The digits of a chunk in the order of their waves; places in arrays that have a border for what is not there."""

    levels: tuple[int, ...]
    """Of each plane."""
    grid: tuple[int, int, int]
    """Latent frames, rows, columns."""
    waves: tuple[slice, ...]
    flat: _Index
    """Place in the chunk's digits."""
    plane: NDArray[np.uint8]
    level: Digits
    value_at: _Index
    """Place in `_Field.values`."""
    change_at: _Index
    """Place in `_Field.changes`."""


@lru_cache(maxsize=3)
def _order(levels: tuple[int, ...], grid: tuple[int, int, int]) -> _Order:
    planes, (frames, rows, columns) = len(levels), grid
    plane, frame, row, column = np.ogrid[tuple(slice(0, size) for size in (planes, *grid))]
    wave = (plane + frame + row + column).astype(np.int32).reshape(-1)
    flat = np.argsort(wave, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(wave)).tolist()
    del wave
    picture = (rows + 1) * (columns + 1)
    inner = (row + 1) * (columns + 1) + column + 1

    def placed(index: NDArray[np.intp]) -> _Index:
        return np.broadcast_to(index.astype(np.int32), (planes, *grid)).reshape(-1)[flat]

    return _Order(
        levels=levels,
        grid=grid,
        waves=tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)),
        flat=flat,
        plane=(number := (flat // (frames * rows * columns)).astype(np.uint8)),
        level=np.array(levels, np.uint8)[number],
        value_at=placed((plane * (frames + 1) + frame + 1) * picture + inner),
        change_at=placed(((plane + 1) * frames + frame) * picture + inner),
    )


class _Field:
    """The digits of a chunk as far as they are known, behind the latent frame before it."""

    def __init__(self, order: _Order, before: Digits | None) -> None:
        planes, (frames, rows, columns) = len(order.levels), order.grid
        self._order = order
        values = np.full((planes, frames + 1, rows + 1, columns + 1), _NOWHERE, np.uint8)
        # Where a GOP begins, values that no digit has: whatever follows has changed.
        values[:, 0] = np.array(order.levels, np.uint8)[:, None, None]
        if before is not None:
            values[:, 0, 1:, 1:] = before
        changes = np.zeros((planes + 1, frames, rows + 1, columns + 1), np.int16)
        self._values, self._changes = values.reshape(-1), changes.reshape(-1)
        """The digits; and how many planes up to each one's have changed since the latent frame before."""
        picture = (rows + 1) * (columns + 1)
        self._activity = _activities(planes)
        self._frame, self._plane, self._row = picture, frames * picture, columns + 1
        """How far the same place of the frame, the plane and the row before lies."""

    def contexts(self, wave: slice) -> tuple[_Index, _Index]:
        """The wide and the narrow context of each digit of a wave, when all waves before are known."""
        order, values, changes = self._order, self._values, self._changes
        at, plane = order.value_at[wave], order.plane[wave].astype(np.intp)
        mean = _MEANS[order.level[wave], values.take(at - self._row), values.take(at - 1)]
        before = values.take(at - self._frame)
        at = order.change_at[wave]
        near = 2 * changes.take(at - self._plane) + changes.take(at - self._row) + changes.take(at - 1)
        activity = self._activity.take(plane * self._activity.shape[1] + near)
        symbols = max(order.levels) + 1
        wide = (plane * symbols + before) * _ACTIVITIES + activity
        return wide, wide * symbols + mean

    def put(self, wave: slice, symbols: _Symbols) -> None:
        """Make the digits of a wave known."""
        at = self._order.value_at[wave]
        self._values[at] = symbols
        changed = self._values[at - self._frame] != symbols
        at = self._order.change_at[wave]
        self._changes[at] = self._changes[at - self._plane] + changed


@lru_cache(maxsize=3)
def _activities(planes: int) -> _Index:
    """By plane, and by how much has changed around a digit: its part of all that can have, in whole `_ACTIVITIES`."""
    most = 4 * np.arange(planes)[:, None] + 2
    parts = _ACTIVITIES * np.arange(most.max() + 1) // most
    return np.minimum(parts, _ACTIVITIES - 1).astype(np.int32)


def _means() -> Digits:
    """By levels, the digit above and the one to the left: their mean, the one that is there, or the levels."""
    above, left = np.indices((_NOWHERE + 1, _NOWHERE + 1))
    mean = np.where(above == _NOWHERE, left, np.where(left == _NOWHERE, above, (above + left + 1) // 2))
    means = np.repeat(mean[None], MAX_LEVELS + 1, axis=0)
    means[:, _NOWHERE, _NOWHERE] = np.arange(MAX_LEVELS + 1)
    return means.astype(np.uint8)


_MEANS = _means()
