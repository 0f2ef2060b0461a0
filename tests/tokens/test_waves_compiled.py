"""The compiled loop of waves unpacks what the NumPy code unpacks, and refuses what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtok_codec.tokens import waves, waves_compiled
from vtok_codec.tokens.radix import Digits
from vtok_codec.tokens.waves import WaveCoder

LEVELS = (8, 8, 8, 5, 5, 5)
Outcome = list[bytes] | str


def unpacked(loop: Any, chunks: list[tuple[bytes, tuple[int, int, int, int]]], tokens: int) -> Outcome:
    """Unpack chunks with a loop (None for NumPy's): their digits, or "refused"."""
    usual, waves._compiled = waves._compiled, lambda digits: loop
    try:
        coder = WaveCoder(LEVELS, tokens)
        return [coder.unpack(data, shape).tobytes() for data, shape in chunks]
    except ValueError:
        return "refused"
    finally:
        waves._compiled = usual


def video(rng: np.random.Generator, shape: tuple[int, int, int, int], still: float) -> Digits:
    """Digits of which many stay as they were."""
    planes, frames, rows, columns = shape
    levels = np.array(LEVELS * (planes // len(LEVELS)))[:, None, None]
    digits = np.empty(shape, np.uint8)
    digits[:, 0] = rng.integers(0, levels, (planes, rows, columns))
    for t in range(1, frames):
        anew = rng.integers(0, levels, (planes, rows, columns))
        digits[:, t] = np.where(rng.random((planes, rows, columns)) < still, digits[:, t - 1], anew)
    return digits


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1), st.integers(0, 1 << 30)
)
def test_both_loops_give_the_same_digits(
    tokens: int, frames: int, rows: int, columns: int, still: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (6 * tokens, frames, rows, columns)
    coder, parts = WaveCoder(LEVELS, tokens), [video(rng, shape, still) for _ in range(3)]
    chunks = [(coder.pack(part), shape) for part in parts]
    expected = [part.tobytes() for part in parts]
    assert unpacked(None, chunks, tokens) == unpacked(waves_compiled, chunks, tokens) == expected


def test_contexts_that_fill_up_in_a_wave_are_halved_once() -> None:
    """Large pictures with little in them put hundreds of digits of a wave into one context."""
    rng = np.random.default_rng(2)
    shape = (6, 4, 60, 80)
    coder, parts = WaveCoder(LEVELS, 1), [video(rng, shape, 0.97) // 4 for _ in range(2)]
    chunks = [(coder.pack(part), shape) for part in parts]
    assert unpacked(waves_compiled, chunks, 1) == [part.tobytes() for part in parts]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from(["flip", "cut", "longer", "noise", "ones", "surplus"]))
def test_both_loops_refuse_the_same_data(seed: int, damage: str) -> None:
    rng = np.random.default_rng(seed)
    shape = (6, 2, 4, 5)
    data = np.frombuffer(WaveCoder(LEVELS, 1).pack(video(rng, shape, 0.5)), "<u4").copy()
    if damage == "flip":
        data[rng.integers(len(data))] ^= np.uint32(1 << rng.integers(32))
    elif damage == "cut":
        data = data[: rng.integers(1, len(data) + 1)]
    elif damage == "longer":
        data = np.append(data, rng.integers(0, 1 << 32, rng.integers(1, 4), np.uint64).astype(np.uint32))
    elif damage == "surplus":
        data = np.append(data, np.zeros(rng.integers(1, 3), np.uint32))
    else:
        high = 1 << 32 if damage == "noise" else (1 << 32) - 1
        low = 0 if damage == "noise" else high - 1
        data = rng.integers(low, high, rng.integers(1, 40), np.uint64).astype(np.uint32)
    chunks = [(data.astype("<u4").tobytes(), shape)] * 2
    assert unpacked(None, chunks, 1) == unpacked(waves_compiled, chunks, 1)


def test_it_is_used_once_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waves, "_unpacked_digits", 0)
    assert waves._compiled(1000) is None
    assert waves._compiled(1 << 20) is waves_compiled
    # Other numbers of levels have no compiled loop, and are unpacked all the same.
    coder = WaveCoder((5, 5, 5), 1)
    digits = np.random.default_rng(1).integers(0, 5, (3, 2, 4, 4)).astype(np.uint8)
    data = coder.pack(digits)
    assert np.array_equal(WaveCoder((5, 5, 5), 1).unpack(data, digits.shape), digits)
