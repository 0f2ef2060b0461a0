"""Latents that are drawn follow the seed and go on with a video; the tokens that they round to do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corpus_helpers import tiny_weights
from generator_helpers import SMALL_FLOW, flow_weights

from vtok_codec.codec import latent_generation
from vtok_codec.codec.drawing import Sampling
from vtok_codec.codec.generators import load_generator
from vtok_codec.codec.latent_generation import LatentGenerator
from vtok_codec.errors import InputError, SettingError


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> LatentGenerator:
    folder = tmp_path_factory.mktemp("flow")
    loaded = load_generator(flow_weights(folder, tiny_weights(folder)), "cpu")
    assert isinstance(loaded, LatentGenerator)
    return loaded


def latents_of(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, (SMALL_FLOW.channels, count, 3, 4)).astype(np.float32)


def tokens_of(latents: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 64000, (latents, 3, 4, 2)).astype(np.uint16)


def test_a_seed_draws_the_same_and_another_something_else(flow: LatentGenerator) -> None:
    one, again, other = (flow.continue_latents(latents_of(4), 3, Sampling(seed)) for seed in (1, 1, 2))
    assert one.shape == (12, 3, 3, 4) and one.dtype == np.float32 and np.abs(one).max() <= 1
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    still = [flow.continue_latents(latents_of(4), 2, Sampling(seed, temperature=0)) for seed in (1, 2)]
    assert np.array_equal(*still)


def test_what_is_drawn_first_does_not_depend_on_how_much_is_drawn(flow: LatentGenerator) -> None:
    known = latents_of(2)
    assert np.array_equal(flow.continue_latents(known, 4)[:, :2], flow.continue_latents(known, 2))


def test_what_is_drawn_later_follows_from_what_was_returned(tmp_path: Path) -> None:
    """Also where the latents that were drawn lie beyond those of digits, and were cut off."""
    flow, still = load_generator(flow_weights(tmp_path, tiny_weights(tmp_path)), "cpu"), Sampling(temperature=0)
    assert isinstance(flow, LatentGenerator)
    with torch.inference_mode():
        flow._model.mean.fill_(0.9)
    whole = flow.continue_latents(latents_of(4), 4, still)
    assert np.abs(whole).max() == 1
    later = flow.continue_latents(np.concatenate([latents_of(4), whole[:, :2]], axis=1), 2, still)
    assert np.allclose(whole[:, 2:], later, atol=1e-5)


def test_steps_count_and_gops_before_do_not(flow: LatentGenerator) -> None:
    known = latents_of(3)
    plain = flow.continue_latents(known, 2)
    assert np.array_equal(plain, flow.continue_latents(known, 2, Sampling(steps=8)))
    assert not np.array_equal(plain, flow.continue_latents(known, 2, Sampling(steps=2)))
    drawn = flow.continue_(tokens_of(3), 2)
    assert np.array_equal(drawn, flow.continue_(tokens_of(3), 2, before=[tokens_of(3, 5)]))


def test_only_the_last_latent_frames_are_read(flow: LatentGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_generation, "CONTEXT_LATENTS", 2)
    long, other = latents_of(20), latents_of(20)
    other[:, :18] = latents_of(18, 9)
    assert np.array_equal(flow.continue_latents(long, 1), flow.continue_latents(other, 1))
    other[:, 18] += 0.5
    assert not np.array_equal(flow.continue_latents(long, 1), flow.continue_latents(other, 1))


def test_rounded_latents_are_read_as_noisy_ones(flow: LatentGenerator) -> None:
    """Rounding disturbs latents by a twelfth of the square of a step, on average over channels."""
    known, steps = latents_of(4), np.array([4, 4, 4, 2, 2, 2] * 2)
    spread = np.sqrt(np.mean((1 / (steps * 0.5)) ** 2 / 12))
    assert flow._rounded_time == pytest.approx(spread / (1 + spread), rel=1e-3)
    plain, rounded = (next(flow.stream_latents(known, 1, rounded=each)) for each in (False, True))
    assert not np.array_equal(plain, rounded)


def test_tokens_are_rounded_latents(flow: LatentGenerator) -> None:
    """From nothing both are drawn alike, so that each digit is the one nearest to its latent."""
    tokens = flow.continue_(np.zeros((0, 3, 4, 2), np.uint16), 3)
    latents = flow.continue_latents(np.zeros((12, 0, 3, 4), np.float32), 3)
    levels = (8, 8, 8, 5, 5, 5) * 2
    zero = np.array(levels).reshape(-1, 1, 1, 1) // 2
    digits = np.clip(np.rint((latents + 1) * zero), 0, np.array(levels).reshape(-1, 1, 1, 1) - 1).astype(int)
    weights = np.cumprod([1, 8, 8, 8, 5, 5])
    expected = np.einsum("npthw,p->thwn", digits.reshape(2, 6, 3, 3, 4), weights)
    assert tokens.shape == (3, 3, 4, 2) and np.array_equal(tokens, expected)
    seen = flow.continue_(tokens_of(4), 2, Sampling(3))
    assert not np.array_equal(seen, flow.continue_(tokens_of(4, 1), 2, Sampling(3)))


def test_wrong_arguments_are_refused(flow: LatentGenerator) -> None:
    broken = latents_of(2)
    broken[0, 0, 0, 0] = np.nan
    for latents in (latents_of(2)[:11], latents_of(2)[0], broken, np.zeros((12, 1, 0, 4), np.float32)):
        with pytest.raises(InputError):
            flow.continue_latents(latents, 1)
    with pytest.raises(InputError, match="too large"):
        flow.continue_latents(np.zeros((12, 1, 200, 200), np.float32), 1)
    with pytest.raises(InputError, match="different grids"):
        flow.continue_(tokens_of(2), 1, before=[tokens_of(2)[:, :2]])
    with pytest.raises(InputError):
        flow.continue_(np.full((1, 2, 2, 2), 64000, np.uint16), 1)
    for setting in ({"top_p": 0.5}, {"label": "cat"}, {"stillness": 1}):
        with pytest.raises(SettingError):
            flow.continue_latents(latents_of(2), 1, Sampling(**setting))  # type: ignore[arg-type]
    with pytest.raises(SettingError):
        flow.continue_latents(latents_of(2), 0)
    for steps in (0, 17):
        with pytest.raises(SettingError):
            Sampling(steps=steps)


def test_a_path_and_its_codec_name_it(tmp_path: Path) -> None:
    codec = tiny_weights(tmp_path)
    flow = load_generator(flow_weights(tmp_path, codec), "cpu")
    assert (flow.name, flow.codec, flow.tokens_per_position) == ("flow", "tiny", 2)


@pytest.mark.parametrize("value", [1e300, 3e38, np.nan])
def test_latents_that_no_encoder_gives_are_refused(flow: LatentGenerator, value: float) -> None:
    wrong = np.full((flow._model.config.channels, 6, 2, 3), value)
    with pytest.raises(InputError, match="a latent is not a number from"):
        flow.continue_latents(wrong, 1)
    with pytest.raises(InputError, match="NumPy array of floats"):
        flow.continue_latents(wrong.astype(complex), 1)
