"""Digits, tokens and packed bytes: exact both ways, and nothing else gets in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from vtok_codec.container.records import max_packed_bytes
from vtok_codec.tokens.packing import pack, unpack
from vtok_codec.tokens.radix import Digits, digits_to_tokens, tokens_to_digits

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


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_unpacking_noise_raises_value_error_only(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data, (6, 2, 3, 3), LEVELS)


def test_first_digit_counts_ones() -> None:
    digits = np.array([1, 2, 3, 4, 0, 1], np.uint8).reshape(6, 1, 1, 1)
    assert digits_to_tokens(digits, LEVELS).item() == 1 + 2 * 8 + 3 * 64 + 4 * 512 + 0 * 2560 + 1 * 12800


def test_tokens_above_the_codebook_are_refused() -> None:
    tokens = np.full((1, 1, 1, 1), math.prod(LEVELS), np.uint16)
    with pytest.raises(ValueError, match="not below 64000"):
        tokens_to_digits(tokens, LEVELS)


def test_still_digits_cost_almost_nothing() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(0, 5, (12, 1, 32, 32)), 4, axis=1).astype(np.uint8)
    moving = rng.integers(0, 5, (12, 4, 32, 32)).astype(np.uint8)
    assert len(pack(still, LEVELS)) < 0.4 * len(pack(moving, LEVELS))


def test_a_frame_that_declares_another_size_is_refused_before_it_is_read() -> None:
    """A bomb: 20 bytes that would become 256 MiB. The declared size must be refused, whatever the limit is."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(ValueError, match="declares"):
        unpack(bytes(6) + bomb, (6, 2, 3, 3), LEVELS)


def test_bytes_after_the_frame_are_refused() -> None:
    packed = pack(np.zeros((6, 2, 3, 3), np.uint8), LEVELS)
    with pytest.raises(ValueError):
        unpack(packed + b"x", (6, 2, 3, 3), LEVELS)


def test_digits_above_their_level_are_refused() -> None:
    packed = pack(np.full((6, 2, 3, 3), 7, np.uint8), (8,) * 6)
    with pytest.raises(ValueError, match="not below 5"):
        unpack(packed, (6, 2, 3, 3), LEVELS)
