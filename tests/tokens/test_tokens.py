"""Digits, tokens and packed bytes: exact both ways, and nothing else gets in."""

from __future__ import annotations

import contextlib
import math
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vtok_codec.container.records import max_packed_bytes
from vtok_codec.tokens.codes import codes_to_values, nearest_digits, values_to_codes
from vtok_codec.tokens.radix import Digits, digits_to_tokens, tokens_to_digits
from vtok_codec.tokens.waves import WaveCoder
from vtok_codec.tokens.zstd_groups import _ALPHABETS, pack, unpack

LEVELS = (8, 8, 8, 5, 5, 5)


@st.composite
def digit_arrays(draw: st.DrawFn) -> tuple[Digits, tuple[int, ...]]:
    """Digits of any shape and levels, from still to noisy."""
    levels = tuple(draw(st.lists(st.integers(2, 16), min_size=1, max_size=4)))
    tokens = draw(st.integers(1, 4))
    shape = (tokens * len(levels), draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    digits = rng.integers(0, 256, shape)
    if draw(st.booleans()):
        digits[:, 1:] = digits[:, :1]
    limits = np.array(levels * tokens).reshape(-1, 1, 1, 1)
    return (digits % limits).astype(np.uint8), levels


@given(digit_arrays())
@settings(max_examples=60, deadline=None)
def test_digits_survive_tokens(case: tuple[Digits, tuple[int, ...]]) -> None:
    digits, levels = case
    tokens = digits_to_tokens(digits, levels)
    assert tokens.dtype == np.uint16 and tokens.shape == (*digits.shape[1:], digits.shape[0] // len(levels))
    assert np.array_equal(tokens_to_digits(tokens, levels), digits)


@given(digit_arrays())
@settings(max_examples=60, deadline=None)
def test_digits_survive_packing_within_the_declared_bound(case: tuple[Digits, tuple[int, ...]]) -> None:
    digits, levels = case
    packed = pack(digits, levels)
    assert len(packed) <= max_packed_bytes(digits.size, len(digits))
    assert np.array_equal(unpack(packed, digits.shape, levels), digits)


@given(digit_arrays(), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_digits_survive_waves_chunk_by_chunk(case: tuple[Digits, tuple[int, ...]], chunk: int) -> None:
    digits, levels = case
    tokens = len(digits) // len(levels)
    packer, unpacker = WaveCoder(levels, tokens), WaveCoder(levels, tokens)
    for start in range(0, digits.shape[1], chunk):
        part = digits[:, start : start + chunk]
        packed = packer.pack(part)
        assert len(packed) <= max_packed_bytes(part.size, len(part))
        assert np.array_equal(unpacker.unpack(packed, part.shape), part)


class ReferenceDecoder:
    """Waves as `docs/reference/format.md` has them, digit by digit, in whole numbers, without NumPy."""

    def __init__(self, levels: tuple[int, ...], tokens: int) -> None:
        self.levels, self.symbols = levels * tokens, max(levels)
        self.wide: dict[tuple[int, ...], list[int]] = {}
        self.narrow: dict[tuple[int, ...], list[int]] = {}
        self.before: dict[tuple[int, ...], int] = {}

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        words += [0, 0]
        point, used, lower, span = words[0] << 32 | words[1], 2, 0, 2**64 - 1
        known, changed = dict(self.before), {}
        places = sorted(np.ndindex(shape), key=lambda place: (sum(place), place))
        waves = [[place for place in places if sum(place) == number] for number in range(sum(shape) - 3)]
        for wave in waves:
            coded = []
            for p, t, y, x in wave:
                frequencies, *contexts = self._frequencies(known, changed, (p, t, y, x))
                scale = span >> 24
                quantile, left, value = (point - lower) % 2**64 // scale, 0, 0
                while quantile >= left + frequencies[value]:
                    left, value = left + frequencies[value], value + 1
                lower, span = (lower + scale * left) % 2**64, scale * frequencies[value]
                if span < 2**32:
                    lower, span = lower * 2**32 % 2**64, span * 2**32
                    point = point * 2**32 % 2**64 + (words[used] if used < len(words) else 0)
                    used += 1
                known[p, t, y, x] = value
                changed[p, t, y, x] = changed.get((p - 1, t, y, x), 0) + (known.get((p, t - 1, y, x)) != value)
                coded.append((value, contexts))
            self._learn(coded)
        self.before = {(p, -1, y, x): known[p, shape[1] - 1, y, x] for p, _, y, x in np.ndindex(shape)}
        return np.array([known[place] for place in np.ndindex(shape)], np.uint8).reshape(shape)

    def _frequencies(self, known: dict, changed: dict, place: tuple[int, ...]) -> tuple[list[int], tuple, tuple]:  # type: ignore[type-arg]
        p, t, y, x = place
        level = self.levels[p]
        near = [known[other] for other in ((p, t, y - 1, x), (p, t, y, x - 1)) if other in known]
        mean = level if not near else (near[0] + near[-1] + 1) // 2
        before = known.get((p, t - 1, y, x), level)
        around = changed.get((p, t, y - 1, x), 0) + changed.get((p, t, y, x - 1), 0)
        activity = min(3, 4 * (2 * changed.get((p - 1, t, y, x), 0) + around) // (4 * p + 2))
        wide, narrow = (p, before, activity), (p, before, activity, mean)
        shares = [2**16 // level] * level + [0] * (self.symbols - level)
        for table, context, weight in ((self.wide, wide, 64), (self.narrow, narrow, 128)):
            counts = table.get(context, [0] * self.symbols)
            shares = [
                (2**16 * count + weight * share) // (sum(counts) + weight)
                for count, share in zip(counts, shares, strict=True)
            ]
        frequencies = [256 * share for share in shares]
        frequencies[frequencies.index(max(frequencies))] += 2**24 - self.symbols - sum(frequencies)
        return [frequency + 1 for frequency in frequencies], wide, narrow

    def _learn(self, coded: list) -> None:  # type: ignore[type-arg]
        for table, which in ((self.wide, 0), (self.narrow, 1)):
            for value, contexts in coded:
                table.setdefault(contexts[which], [0] * self.symbols)[value] += 16
            for context in {contexts[which] for _, contexts in coded}:
                if sum(table[context]) > 2048:
                    table[context] = [count // 2 for count in table[context]]


@pytest.mark.parametrize("levels", [LEVELS, (2,), (16, 3, 2)])
def test_waves_are_what_the_format_says(levels: tuple[int, ...]) -> None:
    """Still and changing content, so that counts fill up and are halved."""
    rng = np.random.default_rng(3)
    limits = np.array(levels * 2).reshape(-1, 1, 1, 1)
    digits = rng.integers(0, 256, (len(levels) * 2, 9, 7, 12)) % limits
    digits[:, 2:6, :, 4:8] = digits[:, 1:2, :, 4:8]
    digits[..., 8:] = 1
    packer, reference = WaveCoder(levels, 2), ReferenceDecoder(levels, 2)
    for start in (0, 4, 8):
        part = digits[:, start : start + 4].astype(np.uint8)
        assert np.array_equal(reference.unpack(packer.pack(part), part.shape), part)
    assert packer._narrow.sums.sum() < 16 * digits.size


def test_a_wave_may_fill_one_context() -> None:
    """Its counts then stay above what is halved, and are halved once a wave."""
    digits = np.zeros((2, 3, 48, 48), np.uint8)
    digits[1, 2, 40:] = 1
    packer, reference = WaveCoder((2,), 2), ReferenceDecoder((2,), 2)
    for part in (digits, 1 - digits):
        assert np.array_equal(reference.unpack(packer.pack(part), part.shape), part)


def test_waves_refuse_what_they_did_not_pack() -> None:
    digits = np.random.default_rng(0).integers(0, 5, (12, 4, 5, 6)).astype(np.uint8)
    packed = WaveCoder(LEVELS, 2).pack(digits)
    for data, message in (
        (b"", "no whole words"),
        (packed[:-1], "no whole words"),
        (packed + bytes(400), "do not end with the last digit"),
    ):
        with pytest.raises(ValueError, match=message):
            WaveCoder(LEVELS, 2).unpack(data, digits.shape)
    with pytest.raises(ValueError, match="is above"):
        WaveCoder(LEVELS, 4).unpack(packed, (24, 64, 512, 512))


def test_waves_of_a_large_picture_need_little_memory() -> None:
    """Whatever the shapes of the chunks before."""
    digits = np.zeros((12, 4, 160, 160), np.uint8)
    tracemalloc.start()
    for latents in (1, 2, 3, 4):
        WaveCoder(LEVELS, 2).pack(digits[:, :latents])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * digits.nbytes


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_unpacking_noise_raises_value_error_only(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data, (6, 2, 3, 3), LEVELS)
    with contextlib.suppress(ValueError):
        assert (WaveCoder((8, 5), 1).unpack(data, (2, 2, 3, 3)).max(axis=(1, 2, 3)) < (8, 5)).all()


def test_first_digit_counts_ones() -> None:
    digits = np.array([1, 2, 3, 4, 0, 1], np.uint8).reshape(6, 1, 1, 1)
    assert digits_to_tokens(digits, LEVELS).item() == 1 + 2 * 8 + 3 * 64 + 4 * 512 + 0 * 2560 + 1 * 12800


@pytest.mark.parametrize("token", [math.prod(LEVELS), -1, 1 << 40])
def test_tokens_outside_the_codebook_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=f"token {token} is not below 64000"):
        tokens_to_digits(np.array([0, token]).reshape(1, 1, 2, 1), LEVELS)  # type: ignore[arg-type]


def test_tokens_must_be_integers() -> None:
    with pytest.raises(ValueError, match="integers, not float64"):
        tokens_to_digits(np.full((1, 1, 1, 1), 3.7), LEVELS)  # type: ignore[arg-type]


def test_any_integers_will_do_as_tokens() -> None:
    digits = np.array([1, 2, 3, 4, 0, 1], np.uint8).reshape(6, 1, 1, 1)
    assert np.array_equal(tokens_to_digits(digits_to_tokens(digits, LEVELS).astype(np.int64), LEVELS), digits)  # type: ignore[arg-type]


def test_tokens_need_no_wide_copy_of_all_digits() -> None:
    """A small file may declare 2²⁸ digits: what they need beyond themselves stays near the tokens' own size."""
    digits = np.zeros((24, 64, 64, 16), np.uint8)
    tracemalloc.start()
    digits_to_tokens(digits, LEVELS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * digits.nbytes


def test_still_digits_cost_almost_nothing() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 5, (12, 1, 32, 32)), 4, axis=1).astype(np.uint8)
    moving = rng.integers(0, 5, (12, 4, 32, 32)).astype(np.uint8)
    assert len(pack(still, LEVELS)) < 0.4 * len(pack(moving, LEVELS))


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_every_alphabet_is_reversible(number: int, frames: int) -> None:
    digits = np.random.default_rng(number).integers(0, 5, (3, frames, 4, 6)).astype(np.uint8)
    alphabet = _ALPHABETS[number]
    symbols = alphabet.write(digits, 5)
    assert symbols.shape == (4, 6, alphabet.steps(3, frames)) and symbols.max() < 256
    assert np.array_equal(alphabet.read(symbols, 3, frames, 5), digits)


def test_symbols_stand_as_the_specification_says() -> None:
    """Two digits of five levels, three latent frames, one position."""
    digits = np.array([[1, 2, 3], [4, 0, 1]], np.uint8).reshape(2, 3, 1, 1)
    written = [alphabet.write(digits, 5).ravel().tolist() for alphabet in _ALPHABETS]
    assert written == [[1, 4, 2, 0, 3, 1], [5 * 1 + 2, 5 * 4 + 0, 3, 1], [1 + 5 * 4, 2, 3 + 5 * 1]]


def group_bytes(alphabet: int, symbols: bytes, frame: bytes | None = None) -> bytes:
    frame = zstandard.ZstdCompressor().compress(symbols) if frame is None else frame
    return struct.pack("<BI", alphabet, len(frame)) + frame


def test_a_frame_that_declares_another_size_is_refused_before_it_is_read() -> None:
    """A bomb: some bytes that would become 256 MiB. The declared size must be refused, whatever the limit is."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(ValueError, match="declares"):
        unpack(group_bytes(0, b"", bomb), (6, 2, 3, 3), (5,) * 6)


def test_bytes_after_the_last_group_are_refused() -> None:
    packed = pack(np.zeros((6, 2, 3, 3), np.uint8), LEVELS)
    with pytest.raises(ValueError, match="1 bytes stand after"):
        unpack(packed + b"x", (6, 2, 3, 3), LEVELS)


@pytest.mark.parametrize(("alphabet", "symbol"), [(0, 5), (1, 25), (2, 125), (2, 255)])
def test_symbols_above_their_alphabet_are_refused(alphabet: int, symbol: int) -> None:
    steps = {0: 6, 1: 3, 2: 2}[alphabet]
    with pytest.raises(ValueError, match="not below 5"):
        unpack(group_bytes(alphabet, bytes([symbol] * steps)), (3, 2, 1, 1), (5, 5, 5))


def test_alphabets_that_do_not_fit_their_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        unpack(group_bytes(2, bytes(2)), (3, 2, 1, 1), (8, 8, 8))
    with pytest.raises(ValueError, match="unknown"):
        unpack(group_bytes(3, bytes(2)), (3, 2, 1, 1), (8, 8, 8))


def test_codes_lie_between_their_ends_and_come_back() -> None:
    levels = (8, 5, 2)
    digits = np.stack([np.arange(8) % level for level in levels * 2]).astype(np.uint8)[:, None, None]
    codes = values_to_codes(digits, levels)
    assert codes.dtype == np.float32 and codes.min() == -1 and codes.max() <= 1
    assert codes[0, 0, 0, 4] == 0 and codes[1, 0, 0].tolist() == [-1, -0.5, 0, 0.5, 1, -1, -0.5, 0]
    assert np.array_equal(codes, values_to_codes(digits.astype(np.float32), levels))
    assert np.array_equal(nearest_digits(codes_to_values(codes, levels), levels), digits)
    beyond = nearest_digits(np.full((6, 1, 1, 1), 9.0, np.float32), levels)
    assert beyond.dtype == np.uint8 and beyond.ravel().tolist() == [7, 4, 1] * 2
