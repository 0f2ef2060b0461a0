"""The wave coder: an adaptive range coder whose probabilities come from the digits of the GOP that are already coded.

Three things predict a digit: its value one latent frame earlier (*before*), the mean of the digits above and to the
left (*mean*), and how many of the digits around it have changed since the latent frame before (*activity*). The narrow
context of a digit consists of all three, its wide context of *before* and *activity* alone. The coder counts how often
each value has occurred in each context. The probabilities of a digit are those of its narrow context, mixed with those
of its wide context, which weigh less the more counts the narrow context has.

Digits are coded in *waves*. A wave contains all digits of a chunk with the same sum of plane, latent frame, row and
column. No digit of a wave is part of the context of another, so NumPy processes a whole wave at once.
`docs/reference/format.md` specifies the exact arithmetic, and `docs/notebook/training.md` compares the coders.

The arithmetic is exact, so every machine computes the same probabilities: counts and frequencies are whole numbers far
below 2⁵³ in float64, whose division is correctly rounded, so that the floor of a quotient is exact as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtok_codec.tokens.radix import Digits
from vtok_codec.tokens.range_coder import PRECISION, RangeDecoder, RangeEncoder
from vtok_codec.tokens.wave_arithmetic import ACTIVITIES, FULL, INCREMENT, NARROW_WEIGHT, NOWHERE, ONE, WIDE_WEIGHT

MAX_LEVELS = 16
"""The largest number of levels of a digit. The number of contexts grows with its square."""

MAX_DIGITS = 1 << 23
"""The largest number of digits per chunk. It limits memory, which peaks at about 50 bytes per digit."""
_SMALL_DIGITS = 1 << 18
"""Up to so many digits, the coding orders of several shapes of chunks are kept."""

_Index = NDArray[np.int32]
_Symbols = NDArray[np.int32]
_Counts = NDArray[np.float64]


MAX_SIDES = 1 << 13
"""The largest sum of the rows and columns of a latent frame. A wave takes the same time however few digits it has, so
that it limits the time that a small chunk takes."""


def fits(levels: Sequence[int], grid: tuple[int, int], digits: int) -> bool:
    """Return whether this coder can pack chunks of `digits` digits with these levels, on a grid of rows and columns."""
    return max(levels) <= MAX_LEVELS and sum(grid) <= MAX_SIDES and digits <= MAX_DIGITS


_COMPILE_AFTER = 1 << 20
"""The number of digits that a process unpacks before the compiled loop is loaded, which takes up to some seconds."""
_FAULTS = {
    1: "the range coder stops: the data cannot hold these digits",
    2: "the data do not end with the last digit",
    3: "a digit is not below its number of levels",
}
"""What the results of the compiled loop other than success mean."""
_unpacked_digits = 0


def _compiled(digits: int) -> Any:
    """Return the module of the compiled loop once it pays and if numba is installed, else None.

    Args:
        digits: The number of digits that are unpacked next.
    """
    global _unpacked_digits
    _unpacked_digits += digits
    return _load_compiled() if _unpacked_digits > _COMPILE_AFTER else None


@lru_cache(maxsize=1)
def _load_compiled() -> Any:
    try:
        from vtok_codec.tokens import waves_compiled
    except (ImportError, RuntimeError):
        # numba raises the latter where it finds no folder for what it compiles.
        return None
    return waves_compiled


class WaveCoder:
    """Packs or unpacks the chunks of one GOP in order.

    The counts carry over from chunk to chunk, so unpacking must start with the first chunk of the GOP.
    """

    def __init__(self, levels: Sequence[int], tokens_per_position: int) -> None:
        """Create the coder of a new GOP.

        Args:
            levels: The number of values of each digit of a token, each at most `MAX_LEVELS`.
            tokens_per_position: The number of tokens per latent position.
        """
        self._levels = tuple(levels) * tokens_per_position
        symbols = max(levels)
        wide = len(self._levels) * (symbols + 1) * ACTIVITIES
        self._wide = _Table(wide, symbols, WIDE_WEIGHT)
        self._narrow = _Table(wide * (symbols + 1), symbols, NARROW_WEIGHT)
        self._even = np.zeros((symbols + 1, symbols))
        """Uniform probabilities of the values of a digit; row L is for a digit of L levels. 2¹⁶ stands for 1."""
        for count in set(levels):
            self._even[count, :count] = ONE // count
        self._before: Digits | None = None
        """The last latent frame of the previous chunk, `P h w`; None at the start of the GOP."""

    def pack(self, digits: Digits) -> bytes:
        """Pack the digits of the next chunk of the GOP, uint8 `P t h w`, into bytes."""
        order = _order(self._levels, digits.shape[1:])
        symbols = digits.reshape(-1)[order.flat].astype(np.int32)
        field = _Field(order, self._before)
        encoder = RangeEncoder()
        for wave in order.waves:
            wide, narrow = field.contexts(wave)
            field.put(wave, symbols[wave])
            encoder.put(symbols[wave], self._frequencies(order.level[wave], wide, narrow))
            self._learn(symbols[wave], wide, narrow)
        self._before = digits[:, -1].copy()
        return encoder.packed()

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """Unpack the digits of the next chunk of the GOP.

        Args:
            data: The bytes that `pack` returned.
            shape: The shape `P t h w` of the digits.

        Returns:
            The digits, uint8 `P t h w`.

        Raises:
            ValueError: The data do not hold these digits, or do not end with them.
        """
        decoder = RangeDecoder(data)
        if math.prod(shape) > MAX_DIGITS:
            raise ValueError(f"a chunk of {math.prod(shape)} digits is above {MAX_DIGITS}")
        compiled = _compiled(math.prod(shape))
        if compiled and max(self._levels) == compiled.SYMBOLS:
            return self._unpack_compiled(compiled, data, shape)
        order = _order(self._levels, shape[1:])
        field = _Field(order, self._before)
        digits = np.empty(shape, np.uint8)
        for wave in order.waves:
            wide, narrow = field.contexts(wave)
            symbols = decoder.get(self._frequencies(order.level[wave], wide, narrow))
            if (symbols >= order.level[wave]).any():
                raise ValueError("a digit is not below its number of levels")
            field.put(wave, symbols)
            digits.reshape(-1)[order.flat[wave]] = symbols
            self._learn(symbols, wide, narrow)
        decoder.finish()
        self._before = digits[:, -1].copy()
        return digits

    def _unpack_compiled(self, compiled: Any, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """Unpack the digits of a chunk as `unpack` does, with the compiled loop."""
        values, changes = _empty_field(self._levels, shape[1:], self._before)
        tables = (self._wide.counts, self._wide.sums, self._narrow.counts, self._narrow.sums)
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        field = (self._even, values, changes, _activities(len(self._levels)), _MEANS, *tables)
        levels = np.array(self._levels, np.int32)
        found = compiled.unpack_waves(words, shape[1:], levels, *(array.reshape(-1) for array in field))
        if found != compiled.DONE:
            raise ValueError(_FAULTS[found])
        digits = np.ascontiguousarray(values[:, 1:, 1:, 1:])
        self._before = digits[:, -1].copy()
        return digits

    def _frequencies(self, level: Digits, wide: _Index, narrow: _Index) -> _Counts:
        """Return the frequencies, less 1, of all M values for each of the N digits of a wave, `N M`."""
        shares = self._narrow.shares(narrow, self._wide.shares(wide, self._even.take(level, axis=0)))
        shares *= PRECISION / ONE
        count, symbols = shares.shape
        rest = PRECISION - symbols - np.einsum("ns->n", shares)
        largest = np.arange(0, count * symbols, symbols) + shares.argmax(axis=1)
        shares.reshape(-1)[largest] += rest
        return shares

    def _learn(self, symbols: _Symbols, wide: _Index, narrow: _Index) -> None:
        """Add the digits of a wave to the counts of their contexts."""
        self._wide.count(wide, symbols)
        self._narrow.count(narrow, symbols)


class _Table:
    """Counts of how often each value has occurred in each context."""

    def __init__(self, contexts: int, symbols: int, weight: float) -> None:
        self.counts = np.zeros((contexts, symbols))
        """The counts, `contexts M`."""
        self.sums = np.zeros(contexts)
        """The sum of the counts of each context."""
        self._weight = weight

    def shares(self, contexts: _Index, beside: _Counts) -> _Counts:
        """Mix the counts of contexts with the probabilities `beside`, which weigh as much as `weight` counts.

        Args:
            contexts: The context of each of the N digits of a wave.
            beside: The probabilities to mix in, `N M`, 2¹⁶ standing for 1. They are overwritten.

        Returns:
            The mixed probabilities, `N M`, rounded down; 2¹⁶ stands for 1.
        """
        shares = self.counts.take(contexts, axis=0)
        shares *= ONE
        beside *= self._weight
        shares += beside
        shares /= (self.sums.take(contexts) + self._weight)[:, None]
        return np.floor(shares, out=shares)

    def count(self, contexts: _Index, symbols: _Symbols) -> None:
        """Count the digits of a wave in their contexts, then halve the counts of each context that is full."""
        np.add.at(self.counts.reshape(-1), contexts * self.counts.shape[1] + symbols, INCREMENT)
        np.add.at(self.sums, contexts, INCREMENT)
        full = contexts[self.sums.take(contexts) > FULL]
        if full.size:
            # A context that occurs in the wave more than once is halved only once: all reads come before the writes.
            halved = np.floor(self.counts[full] / 2)
            self.counts[full] = halved
            self.sums[full] = halved.sum(axis=1)


@dataclass(frozen=True)
class _Order:
    """The digits of a chunk in coding order, and the index of each digit in the arrays of `_Field`.

    The arrays `flat` to `change_at` have one entry per digit, wave after wave.
    """

    levels: tuple[int, ...]
    """The number of levels of the digits of each plane."""
    grid: tuple[int, int, int]
    """The number of latent frames, rows and columns of the chunk."""
    waves: tuple[slice, ...]
    """The entries of each wave in the arrays below."""
    flat: _Index
    """The index of a digit in the flattened digits of the chunk, `P t h w`."""
    plane: NDArray[np.uint8]
    """The plane of a digit."""
    level: Digits
    """The number of levels of a digit."""
    value_at: _Index
    """The index of a digit in the flattened `_Field._values`."""
    change_at: _Index
    """The index of a digit in the flattened `_Field._changes`."""


def _order(levels: tuple[int, ...], grid: tuple[int, int, int]) -> _Order:
    """Return the coding order of a chunk from the levels of its planes and its latent frames, rows and columns.

    Of large chunks, only the last one's is kept, since it takes 14 bytes per digit.
    """
    small = len(levels) * math.prod(grid) <= _SMALL_DIGITS
    return (_small_order if small else _large_order)(levels, grid)


@lru_cache(maxsize=3)
def _small_order(levels: tuple[int, ...], grid: tuple[int, int, int]) -> _Order:
    return _new_order(levels, grid)


@lru_cache(maxsize=1)
def _large_order(levels: tuple[int, ...], grid: tuple[int, int, int]) -> _Order:
    return _new_order(levels, grid)


def _new_order(levels: tuple[int, ...], grid: tuple[int, int, int]) -> _Order:
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
    """The digits of a chunk that are already coded, with the last latent frame of the previous chunk in front of them.

    The arrays have an extra row above and an extra column to the left, so that all digits have neighbours there.
    """

    def __init__(self, order: _Order, before: Digits | None) -> None:
        planes, (frames, rows, columns) = len(order.levels), order.grid
        self._order = order
        values, changes = _empty_field(order.levels, order.grid, before)
        self._values, self._changes = values.reshape(-1), changes.reshape(-1)
        """The digits; and for each, how many planes up to and including its own changed since the last latent frame."""
        picture = (rows + 1) * (columns + 1)
        self._activity = _activities(planes)
        self._frame, self._plane, self._row = picture, frames * picture, columns + 1
        """How many entries earlier the same place of the previous latent frame, plane and row lies."""

    def contexts(self, wave: slice) -> tuple[_Index, _Index]:
        """Return the wide and the narrow context of each digit of a wave, once all earlier waves have been stored."""
        order, values, changes = self._order, self._values, self._changes
        at, plane = order.value_at[wave], order.plane[wave].astype(np.intp)
        mean = _MEANS[order.level[wave], values.take(at - self._row), values.take(at - 1)]
        before = values.take(at - self._frame)
        at = order.change_at[wave]
        near = 2 * changes.take(at - self._plane) + changes.take(at - self._row) + changes.take(at - 1)
        activity = self._activity.take(plane * self._activity.shape[1] + near)
        symbols = max(order.levels) + 1
        wide = (plane * symbols + before) * ACTIVITIES + activity
        return wide, wide * symbols + mean

    def put(self, wave: slice, symbols: _Symbols) -> None:
        """Store the digits of a wave, and which of them have changed."""
        at = self._order.value_at[wave]
        self._values[at] = symbols
        changed = self._values[at - self._frame] != symbols
        at = self._order.change_at[wave]
        self._changes[at] = self._changes[at - self._plane] + changed


def _empty_field(
    levels: tuple[int, ...], grid: tuple[int, ...], before: Digits | None
) -> tuple[Digits, NDArray[np.int16]]:
    """Return the arrays of a chunk of which no digit is known yet.

    Args:
        levels: The number of levels of the digits of each plane.
        grid: The number of latent frames, rows and columns.
        before: The last latent frame of the previous chunk, `P h w`; None at the start of a GOP.

    Returns:
        The digits, `P 1+t 1+h 1+w`, and the changes, `1+P t 1+h 1+w`.
    """
    planes, (frames, rows, columns) = len(levels), grid
    values = np.full((planes, frames + 1, rows + 1, columns + 1), NOWHERE, np.uint8)
    # At the start of a GOP, values that no digit can have, so that every digit counts as changed.
    values[:, 0] = np.array(levels, np.uint8)[:, None, None]
    if before is not None:
        values[:, 0, 1:, 1:] = before
    return values, np.zeros((planes + 1, frames, rows + 1, columns + 1), np.int16)


@lru_cache(maxsize=3)
def _activities(planes: int) -> _Index:
    """Return the activity of a digit by its plane and by the number of changes around it, relative to their maximum."""
    most = 4 * np.arange(planes)[:, None] + 2
    parts = ACTIVITIES * np.arange(most.max() + 1) // most
    return np.minimum(parts, ACTIVITIES - 1).astype(np.int32)


def _means() -> Digits:
    """Return the mean of the digits above and to the left, by the number of levels L and these two digits.

    It is the digit that exists where only one does, and L where neither does.
    """
    above, left = np.indices((NOWHERE + 1, NOWHERE + 1))
    mean = np.where(above == NOWHERE, left, np.where(left == NOWHERE, above, (above + left + 1) // 2))
    means = np.repeat(mean[None], MAX_LEVELS + 1, axis=0)
    means[:, NOWHERE, NOWHERE] = np.arange(MAX_LEVELS + 1)
    return means.astype(np.uint8)


_MEANS = _means()
