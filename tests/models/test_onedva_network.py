"""One-DVA's transformers: windows, what they depend on, and the linear path."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from onedva_helpers import ENHANCED, TINY_DVA, random_onedva

from vtok_codec.errors import ModelError
from vtok_codec.metrics.complexity import complexity
from vtok_codec.models.config import OneDVAConfig, config_from_json, config_to_json
from vtok_codec.models.onedva import Group, NoisyCodes, OneDVA, following
from vtok_codec.models.windows import cut_windows, group_ends, join_windows, window_grid, window_motion

pytestmark = pytest.mark.usefixtures("one_thread")
PHASES = ENHANCED.layout.phases
DIGITS = ENHANCED.token_channels


def codes(latents: int, rows: int, columns: int, channels: int = DIGITS, seed: int = 0, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, latents, rows, columns, generator=generator) * 2 - 1


def all_tokens(latents: int, rows: int, columns: int, batch: int = 1) -> torch.Tensor:
    return codes(latents, rows, columns, ENHANCED.latent_channels, 1, batch)


@pytest.mark.parametrize("grid", [(2, 3), (4, 6), (5, 7), (1, 1)])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_windows_join_to_what_they_were_cut_from(grid: tuple[int, int], margin: int) -> None:
    x = torch.randn(2, 3, *grid, 5)
    cut = cut_windows(x, TINY_DVA, margin)
    down, right = window_grid(TINY_DVA, *grid)
    assert cut.shape == (2 * down * right, 3, 2 + 2 * margin, 3 + 2 * margin, 5)
    assert torch.equal(join_windows(cut, (2, *grid), TINY_DVA, margin), x)


def test_a_margin_shows_the_neighbours() -> None:
    x = torch.arange(4 * 6).view(1, 1, 4, 6, 1).float()
    first, beside, below, _ = cut_windows(x, TINY_DVA, 1)
    assert torch.equal(first[0, 1:, 1:, 0], x[0, 0, :3, :4, 0])
    assert not first[0, 0].any() and not first[0, :, 0].any()
    assert torch.equal(beside[0, 1:, 0, 0], x[0, 0, :3, 2, 0])
    assert torch.equal(below[0, 0, 1:, 0], x[0, 0, 1, :4, 0])


def test_groups_start_where_the_chunks_of_a_file_do() -> None:
    assert group_ends(7, 4, 4) == [7]
    assert group_ends(4, 4, 4) == [4]
    assert group_ends(16, 4, 4) == [7, 11, 15, 16]
    assert group_ends(9, 1, 4) == [4, 8, 9]


def test_the_cost_counts_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's counter does not know the kernel that a processor has for it."""
    model = random_onedva()
    whole = complexity(model)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, key, value, **options: query)
    without = complexity(model)
    assert without.encoder_gmac < whole.encoder_gmac and without.decoder_gmac < whole.decoder_gmac


@torch.inference_mode()
def test_tokens_that_are_cut_off_do_not_matter() -> None:
    model = random_onedva()
    structural, group = codes(PHASES + 3, 2, 6), Group(True, None)
    tokens = torch.rand(2, 6, DIGITS) * 2 - 1
    counts = torch.tensor([2, 5])
    made = model.decode(structural, tokens, counts, group).second
    tokens[0, 2:], tokens[1, 5:] = 0.5, -0.5
    assert torch.equal(model.decode(structural, tokens, counts, group).second, made)
    tokens[0, 1] = 0.3
    changed = model.decode(structural, tokens, counts, group).second != made
    assert changed[..., :3].any() and not changed[..., 3:].any()


@torch.inference_mode()
def test_a_window_depends_on_its_margin_and_not_on_what_lies_beyond() -> None:
    model = random_onedva()
    structural, latents, group = codes(4, 2, 9), all_tokens(4, 2, 9), Group(False, codes(1, 2, 9, 2 * DIGITS)[:, :, 0])
    tokens = model.codes(model.encode(latents, structural, group))
    counts = torch.full((3,), 6)
    made = model.decode(structural, tokens, counts, group).second
    for column, affected in ((8, [False, False, True]), (3, [True, True, False]), (6, [False, True, True])):
        other, seen = structural.clone(), latents.clone()
        other[..., column] *= -1
        seen[..., column] *= -1
        found = model.codes(model.encode(seen, other, group))
        assert (found != tokens).flatten(1).any(1).tolist() == affected
        changed = (model.decode(other, tokens, counts, group).second != made).flatten(0, 3).any(0)
        assert [bool(part.any()) for part in changed.split(3)] == affected


@torch.inference_mode()
def test_a_group_follows_from_the_one_before() -> None:
    model = random_onedva()
    structural, tokens, counts = codes(4, 2, 3), torch.rand(1, 6, DIGITS), torch.full((1,), 6)
    before = codes(4, 2, 3, seed=2), codes(4, 2, 3, seed=3)
    group = following(*before)
    assert group.last is not None and torch.equal(group.last[:, :DIGITS], before[0][:, :, -1])
    made = model.decode(structural, tokens, counts, group).second
    assert not torch.equal(made, model.decode(structural, tokens, counts, Group(False, -group.last)).second)
    assert not torch.equal(made, model.decode(structural, tokens, counts, Group(False, None)).second)


@torch.inference_mode()
@pytest.mark.parametrize(("latents", "first"), [(PHASES, True), (PHASES + 1, True), (1, False), (3, False)])
def test_a_short_group_is_coded_too(latents: int, first: bool) -> None:
    model, group = random_onedva(), Group(first, None)
    structural, smooth = codes(latents, 3, 4), all_tokens(latents, 3, 4)
    tokens = model.codes(model.encode(smooth, structural, group))
    made, correction = model.decode(structural, tokens, torch.full((len(tokens),), 6), group)
    assert made.shape == structural.shape and torch.isfinite(made).all()
    steps = latents - PHASES + 1 if first else latents
    assert correction.features.shape == (1, ENHANCED.levels[-1].channels, steps, 3, 4)
    assert (correction.first is None) != first


@torch.inference_mode()
def test_samples_of_a_batch_do_not_mix() -> None:
    model, group = random_onedva(), Group(True, None)
    structural, smooth = codes(PHASES + 1, 2, 6, batch=2), all_tokens(PHASES + 1, 2, 6, batch=2)
    tokens = model.codes(model.encode(smooth, structural, group))
    alone = model.codes(model.encode(smooth[1:], structural[1:], group))
    assert torch.equal(tokens[2:], alone)


@torch.inference_mode()
def test_digits_and_codes_of_tokens_say_the_same() -> None:
    model = random_onedva()
    latents = torch.randn(3, 6, DIGITS) * 2
    digits = model.digits(latents)
    assert digits.shape == latents.shape
    assert (digits < torch.tensor(ENHANCED.fsq_levels)).all()
    assert torch.allclose(model.codes_of(digits), model.codes(latents))


def test_the_linear_path_with_a_direction_per_position_loses_nothing() -> None:
    config = replace(TINY_DVA, queries=4 * 2 * 3)
    path = OneDVA(config).linear
    turn = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(0))).Q
    path.start(False, turn.expand(DIGITS, -1, -1), turn.expand(DIGITS, -1, -1))
    second = codes(4, 3, 7)
    back = path.spread(path.project(second, False), False, (1, 4, 3, 7))
    assert torch.allclose(back, second, atol=1e-5)


@torch.inference_mode()
def test_noise_matters_and_so_does_its_time() -> None:
    model, group = random_onedva(), Group(True, None)
    structural, tokens, counts = codes(PHASES, 2, 3), torch.rand(1, 6, DIGITS), torch.full((1,), 6)
    noise = torch.randn(structural.shape)
    made = [
        model.decode(structural, tokens, counts, group, noisy).second
        for noisy in (
            None,
            NoisyCodes(noise, torch.ones(1)),
            NoisyCodes(-noise, torch.ones(1)),
            NoisyCodes(noise, torch.full((1,), 0.4)),
        )
    ]
    assert not any(torch.equal(one, other) for at, one in enumerate(made) for other in made[:at])


def test_motion_is_that_of_each_window() -> None:
    height, width = TINY_DVA.window_rows * ENHANCED.stride[1], TINY_DVA.window_columns * ENHANCED.stride[2]
    video = torch.zeros(1, 3, 4, height, 2 * width)
    video[:, :, 1::2, :, width:] = 0.5
    assert window_motion(video, TINY_DVA).tolist() == pytest.approx([0, 0.5])
    assert window_motion(video[:, :, :1], TINY_DVA).tolist() == [0, 0]


def test_more_motion_asks_for_more_tokens() -> None:
    model = OneDVA(TINY_DVA)
    model.motion.copy_(torch.tensor([0.1, 0.1**2 + 0.1**2]))
    lengths = model.lengths(torch.tensor([0.0, 0.1, 0.4, 3.0])).tolist()
    assert lengths == pytest.approx([0, 6 / 4, 6, 6], abs=1e-5)


def test_the_configuration_survives_its_text() -> None:
    assert config_from_json(config_to_json(TINY_DVA)) == TINY_DVA


@pytest.mark.parametrize("changes", [{"max_tokens": 1}, {"causal": False, "enhanced_first_frame": False}])
def test_a_codec_that_cannot_have_1d_tokens_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        OneDVAConfig(replace(ENHANCED, **changes), 32, 1, 2, 6)  # type: ignore[arg-type]
