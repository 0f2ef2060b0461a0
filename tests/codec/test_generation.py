"""Tokens that are drawn follow the sampling, and go on with a video without changing it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_helpers import tiny_weights
from generator_helpers import generator_weights

from vtok_codec.codec import generation
from vtok_codec.codec.continuation import begun, continued, matched, redrawn_frames
from vtok_codec.codec.drawing import Sampling
from vtok_codec.codec.generation import TokenGenerator
from vtok_codec.codec.generators import load_generator
from vtok_codec.errors import InputError, ModelError, SettingError
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.stream.assembling import TokenModel
from vtok_codec.stream.reading import Gop


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TokenGenerator:
    folder = tmp_path_factory.mktemp("generator")
    return TokenGenerator(find_weights(generator_weights(folder, tiny_weights(folder))), "cpu")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> TokenGenerator:
    folder = tmp_path_factory.mktemp("labelled")
    return TokenGenerator(find_weights(generator_weights(folder, tiny_weights(folder), ("cat", "dog"))), "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TokenModel:
    weights = find_weights(tiny_weights(tmp_path_factory.mktemp("codec")))
    return TokenModel(weights.id, weights.codec_config.max_tokens)


def tokens_of(latents: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 64000, (latents, 3, 4, 2)).astype(np.uint16)


def test_a_seed_draws_the_same_and_another_something_else(generator: TokenGenerator) -> None:
    tokens = tokens_of(4)
    one, again, other = (generator.continue_(tokens, 3, Sampling(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, 3, 4, 2) and one.dtype == np.uint16
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_what_is_drawn_first_does_not_depend_on_how_much_is_drawn(generator: TokenGenerator) -> None:
    tokens = tokens_of(2)
    assert np.array_equal(generator.continue_(tokens, 4)[:2], generator.continue_(tokens, 2))


def test_at_temperature_0_the_seed_does_not_matter(generator: TokenGenerator) -> None:
    tokens = tokens_of(3)
    one, other = (generator.continue_(tokens, 2, Sampling(seed, temperature=0)) for seed in (1, 2))
    assert np.array_equal(one, other)


def test_values_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).log().expand(20000, -1)
    shares = np.bincount(Sampling(1, top_p=1).picker(torch.device("cpu"))(logits), minlength=5) / 20000
    assert np.allclose(shares, [0.5, 0.3, 0.15, 0.05, 0], atol=0.02)
    # 0.5 and 0.3 do not reach 0.9, so 0.15 is kept, and 0.05 is not.
    shares = np.bincount(Sampling(1, top_p=0.9).picker(torch.device("cpu"))(logits), minlength=5) / 20000
    assert np.allclose(shares, np.array([0.5, 0.3, 0.15, 0, 0]) / 0.95, atol=0.02)
    shares = np.bincount(Sampling(1, temperature=0.5, top_p=1).picker(torch.device("cpu"))(logits), minlength=5) / 20000
    squares = np.array([0.5, 0.3, 0.15, 0.05, 0]) ** 2
    assert np.allclose(shares, squares / squares.sum(), atol=0.02)
    assert set(Sampling(1, top_p=0.001).picker(torch.device("cpu"))(logits).tolist()) == {0}


def test_gops_before_are_looked_at(generator: TokenGenerator) -> None:
    tokens, greedy = tokens_of(1), Sampling(temperature=0)
    alone = generator.continue_(tokens, 2, greedy)
    assert not np.array_equal(alone, generator.continue_(tokens, 2, greedy, before=[tokens_of(3, 7)]))


def test_only_the_last_latent_frames_are_read(generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a long video costs no more than reading its end."""
    monkeypatch.setattr(generation, "CONTEXT_LATENTS", 2)
    long, other = tokens_of(20), tokens_of(20)
    other[:18] = tokens_of(18, 9)
    assert np.array_equal(generator.continue_(long, 2), generator.continue_(other, 2))
    other[18] = tokens_of(1, 9)
    assert not np.array_equal(generator.continue_(long, 2), generator.continue_(other, 2))


def test_bits_are_those_of_uniform_tokens_at_least(generator: TokenGenerator) -> None:
    """Random tokens cannot be predicted: they cost no less than the logarithm of their number."""
    gops = [tokens_of(4, 1), tokens_of(4, 2)]
    count = sum(gop.size for gop in gops)
    assert generator.bits(gops) > count * np.log2(64000) * 0.999


def test_a_gop_is_continued_without_a_change(generator: TokenGenerator, model: TokenModel) -> None:
    gops = [Gop(tokens_of(4), 13), Gop(tokens_of(3, 1), 9)]
    counted: list[int] = []
    longer = continued(gops, model, generator, 10, Sampling(3), counted.append)
    assert np.array_equal(longer[0].tokens, gops[0].tokens) and longer[0].frames == 13
    assert np.array_equal(longer[1].tokens[:3], gops[1].tokens) and longer[1].frames == 19
    assert len(longer[1].tokens) == 6 and sum(counted) == 12
    assert redrawn_frames(gops, model) == 0


def test_an_unfilled_latent_frame_is_drawn_anew(generator: TokenGenerator, model: TokenModel) -> None:
    """The tokens of the last frames also stand for repetitions of the last one."""
    gops = [Gop(tokens_of(3), 7)]
    assert redrawn_frames(gops, model) == 2
    longer = continued(gops, model, generator, 6, Sampling(3))[0]
    assert longer.frames == 13 and len(longer.tokens) == 4
    assert np.array_equal(longer.tokens[:2], gops[0].tokens[:2])
    assert not np.array_equal(longer.tokens[2], gops[0].tokens[2])


def test_a_video_begins_from_nothing(generator: TokenGenerator, model: TokenModel) -> None:
    (gop,) = begun((24, 32), model, generator, 9, Sampling(1))
    assert gop.frames == 9 and gop.tokens.shape == (3, 3, 4, 2)
    model.check(gop.tokens)


def test_too_long_a_video_is_refused_before_it_is_drawn(
    generator: TokenGenerator, model: TokenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "stream", None)
    with pytest.raises(InputError, match="at most 4194301"):
        begun((8, 8), model, generator, 5_000_000, Sampling())


def test_gops_are_cut_to_what_the_generator_draws(generator: TokenGenerator) -> None:
    four = np.concatenate([tokens_of(3), tokens_of(3, 1)], axis=-1)
    assert np.array_equal(matched([Gop(four, 9)], generator)[0].tokens, four[..., :2])
    with pytest.raises(InputError, match=r"1 token per position.*--tokens 2"):
        matched([Gop(four[..., :1], 9)], generator)


def test_wrong_arguments_are_refused(generator: TokenGenerator) -> None:
    for tokens in (tokens_of(2)[..., :1], tokens_of(2)[0], np.full((1, 2, 2, 2), 64000, np.uint16)):
        with pytest.raises(InputError):
            generator.continue_(tokens, 1)
    with pytest.raises(InputError, match="too large"):
        generator.continue_(np.zeros((1, 200, 200, 2), np.uint16), 1)
    with pytest.raises(SettingError):
        generator.continue_(tokens_of(2), 0)
    for gops in ([tokens_of(2)[0]], [tokens_of(2), tokens_of(2)[:, :2]]):
        with pytest.raises(InputError):
            generator.bits(gops)
    assert generator.bits([]) == 0
    with pytest.raises(InputError, match="different grids"):
        generator.continue_(tokens_of(2), 1, before=[tokens_of(2)[:, :2]])
    temperatures = [{"temperature": value} for value in (-1.0, float("nan"), 1e-45, 1e39)]
    for wrong in (*temperatures, {"top_p": 0.0}, {"top_p": 1.5}, {"seed": -1}, {"stillness": -1}):
        with pytest.raises(SettingError):
            Sampling(**wrong)  # type: ignore[arg-type]


def test_a_generator_is_found_by_the_tokens_it_draws(generator: TokenGenerator, tmp_path: Path) -> None:
    path = generator_weights(tmp_path, tiny_weights(tmp_path))
    assert load_generator(path, "cpu").codec_sha256 == generator.codec_sha256
    assert load_generator(path, "cpu", frozenset([generator.codec_sha256])).name == "generator"
    with pytest.raises(ModelError, match="other weights than those of the file"):
        load_generator(path, "cpu", frozenset(["0" * 64]))
    with pytest.raises(ModelError, match="not a generator"):
        load_generator(DEFAULT_MODEL)
    with pytest.raises(ModelError, match="vtok train --stage generator"):
        load_generator(None, "cpu", frozenset(["0" * 64]))


def test_a_class_and_its_guidance_change_what_is_drawn(labelled: TokenGenerator) -> None:
    tokens = tokens_of(3)
    assert labelled.classes == ("cat", "dog")
    settings = [Sampling(1), Sampling(1, label="cat"), Sampling(1, label="dog"), Sampling(1, label="cat", guidance=3)]
    drawn = [labelled.continue_(tokens, 3, each) for each in settings]
    assert all(each.shape == (3, 3, 4, 2) and each.max() < 64000 for each in drawn)
    assert all(not np.array_equal(one, other) for one, other in combinations(drawn, 2))
    assert np.array_equal(drawn[3], labelled.continue_(tokens, 3, settings[3]))


def test_guidance_moves_along_the_line_between_both_distributions() -> None:
    """Without any, values come from the distribution without a class; 1 gives the one with it."""
    labelled = torch.tensor([3.0, 0.0, -torch.inf]).expand(20000, -1)
    free = torch.tensor([0.0, 1.0, -torch.inf]).expand(20000, -1)
    for guidance in (0.0, 1.0, 2.0):
        pick = generation._guided(Sampling(1, top_p=1).picker(torch.device("cpu")), guidance)
        values = pick(torch.cat([labelled, free]))
        assert torch.equal(values[:20000], values[20000:]) and int(values.max()) == 1
        expected = torch.tensor([3 * guidance, 1 - guidance]).softmax(0)
        assert float((values == 0).float().mean()) == pytest.approx(float(expected[0]), abs=0.02)


def test_labels_that_cannot_be_drawn_are_refused(generator: TokenGenerator, labelled: TokenGenerator) -> None:
    with pytest.raises(SettingError, match="no classes"):
        generator.continue_(tokens_of(2), 1, Sampling(label="cat"))
    with pytest.raises(SettingError, match="cat, dog"):
        labelled.continue_(tokens_of(2), 1, Sampling(label="cow"))
    with pytest.raises(SettingError, match="name a label"):
        Sampling(guidance=2)
    with pytest.raises(SettingError, match="0 to 100"):
        Sampling(label="cat", guidance=-1)


@pytest.mark.parametrize(
    "options",
    [{"seed": "x"}, {"seed": 1.5}, {"steps": 2.5}, {"temperature": "1"}, {"temperature": None}, {"top_p": "x"}],
)
def test_settings_of_wrong_types_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Sampling(**options)


def test_numbers_of_any_type_and_autocast_draw_the_same(generator: TokenGenerator) -> None:
    expected = generator.continue_(tokens_of(1), 2, Sampling(5))
    assert np.array_equal(generator.continue_(tokens_of(1), 2, Sampling(np.int64(5))), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(generator.continue_(tokens_of(1), 2, Sampling(5)), expected)
        inside = generator.bits([tokens_of(1)])
    assert inside == generator.bits([tokens_of(1)])


def test_after_a_fork_a_generator_is_refused(generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_process", 1)
    for use in (lambda: generator.continue_(tokens_of(1), 1), lambda: generator.bits([tokens_of(1)])):
        with pytest.raises(SettingError, match="after a fork"):
            use()
