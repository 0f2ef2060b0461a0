"""What steps the weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import TINY, randomized
from torch import nn
from training_helpers import codec_recipe

from vtok_codec.errors import SettingError
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.codec.subject import CodecSubject
from vtok_codec.training.muon import Muon
from vtok_codec.training.optimizer import StageOptimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_muon_steps_as_torchs_does() -> None:
    """Wide, tall and square matrices, several of a shape, one of which has no gradient in one step."""
    torch.manual_seed(0)
    shapes = [(8, 24), (8, 24), (24, 8), (16, 16), (8, 24)]
    ours = [torch.randn(shape) for shape in shapes]
    theirs = [nn.Parameter(matrix.clone()) for matrix in ours]
    muon = Muon(ours, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    muon.rate = 0.02
    for step in range(4):
        for place, matrix in enumerate(theirs):
            matrix.grad = None if step == place == 2 else torch.randn(matrix.shape)
        reference.step()
        muon.step([matrix.grad for matrix in theirs])
    for mine, matrix, shape in zip(ours, theirs, shapes, strict=True):
        # Both compute in bf16, in another order.
        torch.testing.assert_close(mine, matrix.detach(), rtol=0, atol=4 * 0.02 * 0.2 * max(shape) ** 0.5 * 0.02)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_steps_have_the_size_of_their_kind(optimizer: str) -> None:
    """Every weight moves; the hidden matrices by Muon's orthogonal steps, the linear paths by little."""
    model = randomized(OneVAE(TINY)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in model.named_parameters()}
    stage = replace(codec_recipe("discrete"), optimizer=optimizer, weight_decay=0.0)
    steps = StageOptimizer(model, CodecSubject(TINY, []), [], stage)
    assert {id(p) for p in steps.parameters} == {id(p) for p in model.parameters()}
    steps.set_rate(0.01)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.contiguous(memory_format=torch.channels_last) if gradient.ndim == 4 else gradient
    steps.step()
    moved = {name: value.detach() - before[name].detach() for name, value in model.named_parameters()}
    assert all(move.abs().max() > 0 for move in moved.values())
    hidden = moved["decoder.chain.layers.0.spatial.weight"]
    spectrum = torch.linalg.svdvals(hidden.permute(0, 2, 3, 1).flatten(1))
    if optimizer == "muon":
        # Newton–Schulz brings singular values near to one, and the root mean square to 0.2 of the rate.
        assert spectrum.max() / spectrum.min() < 2
        assert float(hidden.square().mean().sqrt()) == pytest.approx(0.002, rel=0.3)
    else:
        assert torch.allclose(hidden.abs(), torch.full_like(hidden, 0.01), rtol=1e-3)
    linear = moved["encoder.linear.weight"].square().mean().sqrt()
    size = before["encoder.linear.weight"].detach().square().mean().sqrt()
    assert float(linear / size) == pytest.approx(0.02, rel=1e-3)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(SettingError, match="use adamw or muon"):
        CodecObjective(replace(codec_recipe("discrete"), lpips_weight=0.0, optimizer="sgd"), TINY, None)
