"""The prior over digits that the rate stage trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import TINY

from vtok_codec.models.fsq import FSQ
from vtok_codec.training.codec.prior import DigitPrior

pytestmark = pytest.mark.usefixtures("one_thread")


def random_codes(frames: int, seed: int = 0) -> torch.Tensor:
    """Codes `1 P t 4 5` of random digits."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(TINY.fsq_levels * TINY.max_tokens).view(-1, 1, 1, 1)
    digits = (torch.rand((len(levels), frames, 4, 5), generator=generator) * levels).floor()
    return ((digits - levels // 2) / (levels // 2))[None]


def random_prior() -> DigitPrior:
    prior = DigitPrior(TINY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        prior.out.weight.copy_(torch.randn(prior.out.weight.shape, generator=generator) * 0.3)
    return prior


@torch.inference_mode()
def test_the_prior_is_a_distribution_over_each_digit() -> None:
    prior, codes = random_prior(), random_codes(3)
    for plane in (0, 5, 13, 23):
        levels = TINY.fsq_levels[plane % 6]
        mass = torch.zeros(4, 5)
        for digit in range(levels):
            changed = codes.clone()
            changed[:, plane, 2] = (digit - levels // 2) / (levels // 2)
            mass += torch.exp2(-prior(changed)[0, plane, 2])
        assert torch.allclose(mass, torch.ones(4, 5), atol=1e-4)


@torch.inference_mode()
def test_the_prior_sees_what_a_decoder_has() -> None:
    """A digit may change the cost of itself, of later tokens of its frame, and of later frames; of nothing else."""
    prior, codes = random_prior(), random_codes(5)
    changed = codes.clone()
    plane, frame = 8, 2
    changed[:, plane, frame, 1, 1] *= -1
    differs = (prior(codes) != prior(changed))[0].any(dim=-1).any(dim=-1)
    assert not differs[:, :frame].any()
    token = plane // 6
    of_own_token = differs[: 6 * (token + 1), frame]
    assert of_own_token.nonzero().flatten().tolist() == [plane]
    assert differs[6 * (token + 1) :, frame].all() and differs[:, frame + 1].all() and differs[:, frame + 2].all()


def test_the_prior_learns_what_repeats() -> None:
    prior = DigitPrior(TINY)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    for step in range(60):
        still = random_codes(1, seed=step).expand(-1, -1, 4, -1, -1)
        bits = prior(still)
        optimizer.zero_grad()
        bits.mean().backward()
        optimizer.step()
    later = float(bits[:, :, 1:].detach().mean())
    first = float(bits[:, :, 0].detach().mean())
    uniform = float(np.log2(TINY.fsq_levels).mean())
    assert later < 0.6 and uniform - 0.1 < first < uniform + 0.4


def test_the_rate_term_makes_digits_cheaper() -> None:
    """Latents free to move must become cheap long before they become wrong."""
    fsq, prior = FSQ(TINY.fsq_levels, TINY.max_tokens), DigitPrior(TINY)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, TINY.latent_channels, 4, 6, 6, generator=generator)
    wanted = fsq.straight_through(latents)
    latents.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [latents], "lr": 0.05}, {"params": prior.parameters(), "lr": 0.005}])
    bits = []
    for _ in range(80):
        codes = fsq.straight_through(latents)
        cost = prior(codes).mean()
        distortion = (codes - wanted).square().mean()
        optimizer.zero_grad()
        (3 * distortion + 0.1 * cost).backward()
        optimizer.step()
        bits.append(float(cost.detach()))
    assert bits[-1] < 0.6 * bits[0]
    assert float(distortion.detach()) < 0.05 * float(wanted.square().mean())
