"""A latent flow streams, sees nothing of what follows, and draws what its network predicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from generator_helpers import ENHANCED, SMALL_FLOW, random_flow
from helpers import TINY, Given

from vtok_codec.errors import ModelError
from vtok_codec.models.config import Codebook, config_from_json, config_to_json
from vtok_codec.models.generator import kinds
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.weights import LATENT_FLOW, build, dump_weights

GRID = (3, 4)
LATENTS = 6
PHASES = ENHANCED.layout.phases


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents of two videos, the times of their latent frames, and their kinds."""
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(2, LATENTS, SMALL_FLOW.channels, *GRID, generator=generator)
    return noisy, torch.rand(2, LATENTS, generator=generator), kinds(LATENTS, PHASES).expand(2, -1)


@torch.no_grad()
def test_frame_by_frame_is_the_whole() -> None:
    model, (noisy, times, kind) = random_flow(), inputs()
    whole, after = model(noisy, times, kind)
    state, parts = model.start(2, *GRID), []
    for latent in range(LATENTS):
        part = slice(latent, latent + 1)
        made, state = model(noisy[:, part], times[:, part], kind[:, part], state)
        parts.append(made)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    for mine, other in zip((*state.past.keys, state.latents), (*after.past.keys, after.latents), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)


@torch.no_grad()
def test_it_sees_its_own_frame_whole_and_nothing_of_later_ones() -> None:
    model, (noisy, times, kind) = random_flow(), inputs()
    before, _ = model(noisy, times, kind)
    changed = noisy.clone()
    changed[:, 3, :, 2, 3] += 1
    after, _ = model(changed, times, kind)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:, :, 0, 0] != after[:, 3:, :, 0, 0]).any(2).all()


@torch.no_grad()
def test_videos_of_a_batch_do_not_see_each_other() -> None:
    model, (noisy, times, kind) = random_flow(), inputs()
    both, _ = model(noisy, times, kind)
    alone, _ = model(noisy[1:], times[1:], kind[1:])
    assert torch.allclose(both[1:], alone, atol=1e-5)


@torch.no_grad()
def test_a_new_model_predicts_linearly() -> None:
    """Without training it takes of each latent what the best linear predictor takes: all of a clean one, none of
    noise."""
    noisy, _, kind = inputs()
    model = LatentFlow(SMALL_FLOW).eval()
    for time, gain in ((0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.2, 0.8 / 0.68)):
        made, _ = model(noisy, torch.full((2, LATENTS), time), kind)
        assert torch.allclose(made, gain * noisy, atol=1e-5)


@torch.no_grad()
def test_one_step_from_noise_is_the_prediction_and_more_are_another() -> None:
    model, (noisy, _, kind) = random_flow(), inputs()
    _, state = model(noisy[:, :3], torch.zeros(2, 3), kind[:, :3])
    noise = noisy[:, 3]
    predicted, _ = model(noise[:, None], torch.ones(2, 1), kind[:, 3:4], state)
    drawn = [model.draw(3, state, noise, steps) for steps in (1, 4)]
    assert torch.allclose(drawn[0], predicted[:, 0], atol=1e-5) and not torch.allclose(*drawn, atol=1e-2)
    assert model.read(3, state, noise).past.frames == 4


def test_its_file_holds_all_of_it() -> None:
    model = random_flow()
    data = dump_weights(model, SMALL_FLOW, {})
    loaded = build(LATENT_FLOW, Given(SMALL_FLOW, data))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())
    assert config_from_json(config_to_json(SMALL_FLOW)) == SMALL_FLOW
    with pytest.raises(ModelError, match="not a latent flow"):
        build(LATENT_FLOW, Given(TINY, data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 5},
        {"heads": 3},
        {"codec": replace(TINY, codebook=Codebook("vq", 4, 64))},
        {"codec": replace(TINY, causal=False)},
    ],
)
def test_shapes_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        replace(SMALL_FLOW, **wrong)  # type: ignore[arg-type]
