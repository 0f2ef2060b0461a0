"""What a codec minimizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import TINY, randomized
from prior_helpers import LATER, PHASES
from training_helpers import codec_recipe

from vtok_codec.errors import SettingError
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import parse_tensors
from vtok_codec.registry import find_weights
from vtok_codec.training.codebook_use import CodebookUse
from vtok_codec.training.codec.objective import DISTORTIONS, CodecObjective
from vtok_codec.training.codec.subject import train_only
from vtok_codec.training.objective import perceptual_distance
from vtok_codec.training.prior.network import PriorModel
from vtok_codec.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_perceptual_distance_looks_from_every_place() -> None:
    """Dots on the grid of LPIPS's first layer are now between its places, now on them."""
    lpips = LPIPS(parse_tensors(find_weights("lpips-alex").data, "lpips"))
    video = torch.rand(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dotted = video.clone()
    dotted[..., ::4, ::4] = -1
    seen = {float(perceptual_distance(lpips, video, dotted, 1, torch.Generator().manual_seed(n))) for n in range(80)}
    assert len(seen) == 16


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.kind == "codec"])
def test_every_parameter_of_a_stage_gets_a_gradient(name: str) -> None:
    model = randomized(OneVAE(TINY))
    train_only(model, codec_recipe(name).trains)
    lpips = LPIPS(parse_tensors(find_weights("lpips-alex").data, "lpips"))
    stage = replace(codec_recipe(name), lpips_frames=2)
    prior = PriorModel(PHASES, LATER, TINY.fsq_levels, TINY.max_tokens) if any(stage.rate_weights) else None
    objective = CodecObjective(stage, TINY, lpips, prior=prior)
    video = torch.rand(8, 3, 8, 32, 32) * 2 - 1
    loss = objective(model, video, torch.Generator().manual_seed(0))
    loss.total.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        else:
            assert parameter.grad is None and parameter_name.startswith("encoder."), parameter_name


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingError, match="name some of encoder, quantizer, decoder"):
        train_only(OneVAE(TINY), ("encoder", "head"))


def test_the_quantizer_alone_trains_the_layers_beside_it() -> None:
    model = OneVAE(TINY)
    train_only(model, ("quantizer",))
    trained = {name.rpartition(".")[0] or name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"encoder.out", "encoder.linear", "decoder.enter", "decoder.linear", "decoder"}


def test_a_stage_may_start_continuous() -> None:
    stage = replace(codec_recipe("compress"), lpips_weight=0.0, continuous_until=0.5, discrete_share=1.0)
    model, objective = randomized(OneVAE(TINY)), CodecObjective(stage, TINY, None)
    video = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    rounded = []
    for progress in (0.4, 0.6):
        loss = objective(model, video, torch.Generator().manual_seed(0), progress)
        codes = model.quantizer.quantize(model.encoder(video, None)[0]).codes
        counts, _ = objective._draw(video, torch.Generator().manual_seed(0), progress)
        discrete = model.decoder(codes, None, counts)[0]
        rounded.append(torch.allclose(loss.reconstruction, discrete, atol=1e-5))
    assert rounded == [False, True]


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_distortions_grow_with_the_error(distortion: str) -> None:
    error = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    small, large = (float(DISTORTIONS[distortion](scale * error)) for scale in (0.1, 0.2))
    assert 1.9 * small < large < 4.1 * small
    assert float(DISTORTIONS[distortion](0 * error)) <= 1.001e-3


def test_codebook_use_is_counted() -> None:
    use = CodebookUse(8)
    use.add(torch.tensor([[0, 0], [3, 3]]))
    figures = use.take()
    assert figures["codebook_used"] == 0.25 and figures["codebook_perplexity"] == pytest.approx(2.0)
    assert use.take()["codebook_used"] == 0


def test_each_token_has_its_own_rate_weight() -> None:
    model = randomized(OneVAE(TINY))
    video = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    plain = replace(codec_recipe("rate"), lpips_weight=0.0, token_weights=(0.0, 1.0, 0.0, 0.0))

    def cost(*weights: float) -> float:
        torch.manual_seed(0)
        prior = PriorModel(PHASES, LATER, TINY.fsq_levels, TINY.max_tokens)
        objective = CodecObjective(replace(plain, rate_weights=weights), TINY, None, prior=prior)
        loss = objective(model, video, torch.Generator().manual_seed(0))
        return float(loss.total.detach() - loss.parts["rmse"])

    first, second = cost(0.1, 0.0, 9.0, 9.0), cost(0.0, 0.1, 9.0, 9.0)
    assert first > 0 and second > 0 and first != pytest.approx(second, rel=1e-3)
    # Tokens that are not read cost nothing.
    assert cost(0.3, 0.2, 9.0, 9.0) == pytest.approx(3 * first + 2 * second, rel=1e-3)
    with pytest.raises(SettingError, match="4 tokens"):
        cost(0.1, 0.2)


def test_the_temporal_loss_is_the_error_of_changes() -> None:
    """It grows with its weight, and a single frame has none."""
    model = randomized(OneVAE(TINY)).eval()
    video = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    recipe = replace(codec_recipe("decoder"), lpips_weight=0.0, token_weights=())
    losses = [
        CodecObjective(replace(recipe, temporal_weight=weight), TINY, None)(
            model, video, torch.Generator().manual_seed(0)
        )
        for weight in (0.0, 0.5)
    ]
    changes = (losses[1].reconstruction.float() - losses[1].video).diff(dim=2)
    expected = float(DISTORTIONS["rmse"](changes))
    assert float(losses[1].parts["temporal"]) == pytest.approx(expected, rel=1e-4)
    assert float((losses[1].total - losses[0].total).detach()) == pytest.approx(0.5 * expected, rel=1e-3)
    assert float(losses[0].parts["temporal"]) == 0
    starts = replace(recipe, temporal_weight=1.0, augmentation=replace(recipe.augmentation, gop_start=1.0))
    single = CodecObjective(starts, TINY, None)(model, video[:, :, :4], torch.Generator().manual_seed(0))
    assert single.video.shape[2] == 1 and torch.isfinite(single.total)
