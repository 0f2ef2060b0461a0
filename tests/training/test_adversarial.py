"""The discriminator of the adversarial stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import settings_of

from vtok_codec.registry import RUN_WEIGHTS
from vtok_codec.training.codec.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from vtok_codec.training.codec.subject import CodecSubject
from vtok_codec.training.run import run_training
from vtok_codec.training.schedule import Budget

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_compiled_decoder_can_be_judged(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adaptive weight goes back through the compiled decoder before the loss does."""
    # What goes back goes through the same graph; the frozen encoder and the code of kernels would take minutes.
    monkeypatch.setattr(
        CodecSubject, "compile", lambda self, model: model.decoder.compile(dynamic=False, backend="aot_eager")
    )
    run_training(settings_of(data, "continuous"), tmp_path / "start", Budget(steps=1), quiet=True)
    settings = settings_of(data, "adversarial", str(tmp_path / "start"))
    overrides = (*settings.overrides, ("adversarial_start", "0"), ("lpips_weight", "0"))
    settings = replace(settings, compiled=True, overrides=overrides)
    run_training(settings, tmp_path / "run", Budget(steps=2), quiet=True)
    assert (tmp_path / "run" / RUN_WEIGHTS).exists()


def test_a_discriminator_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses = []
    for _ in range(30):
        sharp = torch.rand(2, 3, 4, 32, 32) * 2 - 1
        blurred = torch.nn.functional.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
        loss = discriminator_loss(discriminator, sharp, blurred)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.8 and losses[-1] < 0.3
    assert generator_loss(discriminator, blurred) > generator_loss(discriminator, sharp)
    assert discriminator(sharp).shape == (2, 1, 4, 4, 4)


def test_the_adaptive_weight_makes_both_losses_pull_alike() -> None:
    last = torch.randn(5, requires_grad=True)
    weight = adaptive_weight((3 * last).sum(), (0.5 * last).sum(), last)
    assert float(weight) == pytest.approx(6.0, rel=1e-4)
