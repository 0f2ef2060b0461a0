"""The inner loop of unpacking waves, compiled by numba: the arithmetic of `vtok_codec.tokens.waves`, digit by digit.

Import it only where numba is installed. Compiling takes some seconds once; numba keeps the result beside this file.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from vtok_codec.tokens.range_coder import PRECISION
from vtok_codec.tokens.wave_arithmetic import ACTIVITIES, FULL, INCREMENT, NARROW_WEIGHT, NOWHERE, ONE, WIDE_WEIGHT

SYMBOLS = 8
"""The only M, the largest number of levels, that is compiled: a constant lets the compiler use vector instructions."""
_VALUES = SYMBOLS + 1
"""The values of a digit or of a mean that tell contexts apart: those a digit has, and that of none."""
_ROW = 16
"""The entries of a context in the table of summed frequencies: M + 1, rounded up to a power of two."""
_SIDE = NOWHERE + 1
"""The rows and columns of the table of means."""
_SHARE = int(PRECISION / ONE)
"""What a share of `ONE` is multiplied by to get a frequency."""
_PRECISION, _WORD = np.uint64(PRECISION.bit_length() - 1), np.uint64(32)
_SURPLUS = np.uint64((1 << 33) - 1)
"""How far the point may lie above the lower end after the last digit, as in constriction's check."""
DONE, STOPPED, SURPLUS, TOO_LARGE = range(4)
"""What becomes of a chunk: unpacked; data that cannot hold its digits; data that do not end with them; a
digit that is not below its level."""

_Counts = NDArray[np.float64]
_Places = NDArray[np.int32]


@njit(cache=True, error_model="numpy", inline="always")
def _add_up(
    sums: NDArray[np.int64],
    shares: _Counts,
    wide: int,
    narrow: int,
    level: int,
    even: _Counts,
    wide_counts: _Counts,
    wide_sums: _Counts,
    narrow_counts: _Counts,
    narrow_sums: _Counts,
) -> None:
    """Compute the sums of the frequencies of a narrow context's values before each value, and of all.

    Args:
        sums: The sums, `contexts _ROW`; those of the context are written, but for the first, which is 0.
        shares: Space for the mixed probabilities, `M`.
        wide: The wide context.
        narrow: The narrow context.
        level: The number of levels of the digit.
        even: Uniform probabilities; see `unpack_waves`.
        wide_counts: The counts of the wide contexts.
        wide_sums: Their sums.
        narrow_counts: The counts of the narrow contexts.
        narrow_sums: Their sums.
    """
    wide_sum, narrow_sum = wide_sums[wide] + WIDE_WEIGHT, narrow_sums[narrow] + NARROW_WEIGHT
    for v in range(SYMBOLS):
        share = wide_counts[wide * SYMBOLS + v] * ONE + even[level * SYMBOLS + v] * WIDE_WEIGHT
        share = narrow_counts[narrow * SYMBOLS + v] * ONE + np.floor(share / wide_sum) * NARROW_WEIGHT
        shares[v] = np.floor(share / narrow_sum)
    total, largest = 0.0, 0
    for v in range(SYMBOLS):
        total += shares[v]
        if shares[v] > shares[largest]:
            largest = v
    rest = np.int64(PRECISION - SYMBOLS) - _SHARE * np.int64(total)
    left = np.int64(0)
    for v in range(SYMBOLS):
        left += _SHARE * np.int64(shares[v]) + 1 + (rest if v == largest else 0)
        sums[narrow * _ROW + v + 1] = left


@njit(cache=True, error_model="numpy")
def _learn(places: _Places, counts: _Counts, sums: _Counts, halved: _Places, wave: int) -> None:
    """Add the digits of a wave to the counts of their contexts, then halve the counts of each context that is full.

    Args:
        places: The index of each digit's value in `counts`.
        counts: The counts, `contexts M`, flat.
        sums: The sum of the counts of each context.
        halved: The wave in which each context was halved last.
        wave: The number of the wave.
    """
    for place in places:
        counts[place] += INCREMENT
        sums[place // SYMBOLS] += INCREMENT
    for place in places:
        # A context is halved at most once per wave.
        context = place // SYMBOLS
        if sums[context] > FULL and halved[context] != wave:
            halved[context] = wave
            sums[context] = 0.0
            for v in range(context * SYMBOLS, (context + 1) * SYMBOLS):
                counts[v] = np.floor(counts[v] / 2)
                sums[context] += counts[v]


@njit(cache=True, error_model="numpy")
def unpack_waves(
    words: NDArray[np.uint32],
    grid: tuple[int, int, int],
    levels: NDArray[np.int32],
    even: NDArray[np.float64],
    values: NDArray[np.uint8],
    changes: NDArray[np.int16],
    activities: NDArray[np.int32],
    means: NDArray[np.uint8],
    wide_counts: NDArray[np.float64],
    wide_sums: NDArray[np.float64],
    narrow_counts: NDArray[np.float64],
    narrow_sums: NDArray[np.float64],
) -> int:
    """Unpack a chunk. All arrays are flat.

    Args:
        words: The packed digits.
        grid: The number of latent frames, rows and columns.
        levels: The number of levels of the digits of each of the P planes.
        even: Uniform probabilities by the number of levels, `L M`; 2¹⁶ stands for 1.
        values: The digits, `P 1+t 1+h 1+w`, with the latent frame before in front; the digits of the chunk are written.
        changes: How many planes changed up to each digit's, `1+P t 1+h 1+w`; all 0, and written.
        activities: The activity of a digit by its plane and by the number of changes around it.
        means: The mean of two neighbours by the number of levels, `L 32 32`.
        wide_counts: The counts of the wide contexts, `contexts M`, which are updated.
        wide_sums: Their sums.
        narrow_counts: The counts of the narrow contexts, which are updated.
        narrow_sums: Their sums.

    Returns:
        One of `DONE`, `STOPPED`, `SURPLUS` and `TOO_LARGE`.
    """
    planes, (frames, rows, columns) = len(levels), grid
    row = columns + 1
    picture = (rows + 1) * row
    most = len(activities) // planes
    wides, narrows = np.empty(len(values), np.int32), np.empty(len(values), np.int32)
    wide_halved = np.full(len(wide_sums), -1, np.int32)
    narrow_halved = np.full(len(narrow_sums), -1, np.int32)
    # Digits of a wave with the same context have the same frequencies: the sums of those before each value, and of all.
    sums = np.zeros(len(narrow_sums) * _ROW, np.int64)
    computed = np.full(len(narrow_sums), -1, np.int32)
    shares = np.empty(SYMBOLS)
    zero = np.uint64(0)
    lower, span, used = zero, ~zero, 2
    point = (np.uint64(words[0]) << _WORD) | (np.uint64(words[1]) if len(words) > 1 else zero)
    for wave in range(planes + frames + rows + columns - 3):
        count = 0
        for p in range(max(0, wave - frames - rows - columns + 3), min(planes, wave + 1)):
            level = levels[p]
            for t in range(max(0, wave - p - rows - columns + 2), min(frames, wave - p + 1)):
                first = max(0, wave - p - t - columns + 1)
                # The digits of a wave in one plane and latent frame lie on a diagonal.
                inside = (first + 1) * row + wave - p - t - first + 1
                at = (p * (frames + 1) + t + 1) * picture + inside
                change = ((p + 1) * frames + t) * picture + inside
                for _ in range(first, min(rows, wave - p - t + 1)):
                    before = np.int32(values[at - picture])
                    mean = np.int32(means[(level * _SIDE + values[at - row]) * _SIDE + values[at - 1]])
                    below = changes[change - frames * picture]
                    around = 2 * below + changes[change - row] + changes[change - 1]
                    wide = (p * _VALUES + before) * ACTIVITIES + activities[p * most + around]
                    narrow = wide * _VALUES + mean
                    entry = narrow * _ROW
                    if computed[narrow] != wave:
                        computed[narrow] = wave
                        _add_up(
                            sums, shares, wide, narrow, level, even, wide_counts, wide_sums, narrow_counts, narrow_sums
                        )
                    scale, distance = span >> _PRECISION, point - lower
                    if distance >= scale << _PRECISION:
                        return STOPPED
                    value = np.int64(0)
                    for v in range(1, SYMBOLS):
                        value += distance >= scale * np.uint64(sums[entry + v])
                    if value >= level:
                        return TOO_LARGE
                    lower += scale * np.uint64(sums[entry + value])
                    span = scale * np.uint64(sums[entry + value + 1] - sums[entry + value])
                    if span < np.uint64(1 << 32):
                        lower, span = lower << _WORD, span << _WORD
                        point = (point << _WORD) | (np.uint64(words[used]) if used < len(words) else zero)
                        used += 1
                    values[at] = value
                    changes[change] = below + (before != value)
                    wides[count], narrows[count] = wide * SYMBOLS + value, narrow * SYMBOLS + value
                    count += 1
                    at += row - 1
                    change += row - 1
        _learn(wides[:count], wide_counts, wide_sums, wide_halved, wave)
        _learn(narrows[:count], narrow_counts, narrow_sums, narrow_halved, wave)
    whole = used >= len(words) and (span == ~zero or point - lower < _SURPLUS)
    return DONE if whole else SURPLUS
