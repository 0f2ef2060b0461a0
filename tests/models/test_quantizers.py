"""Quantizers beside FSQ: what they round to, how they learn, and that the model runs with each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import TINY, randomized
from torch import Tensor

from vtok_codec.errors import ModelError, TrainingError
from vtok_codec.models.codebook import LFQ, VQ, SimVQ, nearest
from vtok_codec.models.config import Codebook
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE, make_quantizer
from vtok_codec.models.quantizer import Quantizer
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.stages import STAGES

QUANTIZERS = {
    "fsq": lambda: FSQ((8, 5, 5), 2),
    "vq": lambda: VQ(2, 3, 64),
    "simvq": lambda: SimVQ(2, 3, 64),
    "lfq": lambda: LFQ(2, 3),
}


def latents(batch: int = 2, channels: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def made(name: str) -> Quantizer:
    quantizer: Quantizer = QUANTIZERS[name]()
    quantizer.train().quantize(latents())
    return quantizer.eval()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_equal_entries_have_equal_codes(name: str) -> None:
    """All tokens share one codebook, whatever their place."""
    quantizer = made(name)
    codes, indices, _ = quantizer.quantize(latents(seed=1))
    assert codes.shape == (2, 6, 3, 4, 5) and indices.shape == (2, 2, 3, 4, 5) and indices.dtype == torch.int64
    vectors = quantizer.split_tokens(codes).flatten(0, -2)
    entries = indices.permute(0, 2, 3, 4, 1).flatten()
    assert int(entries.min()) >= 0 and int(entries.max()) < quantizer.codebook_size
    table: dict[int, Tensor] = {}
    for entry, vector in zip(entries.tolist(), vectors, strict=True):
        assert torch.allclose(table.setdefault(entry, vector), vector, atol=1e-6)
    distinct = torch.stack(list(table.values()))
    assert len(distinct) > 5 and torch.cdist(distinct, distinct).fill_diagonal_(1).min() > 1e-4


@pytest.mark.parametrize("name", QUANTIZERS)
def test_gradients_pass_straight_through(name: str) -> None:
    quantizer = made(name)
    x = latents(seed=2).requires_grad_()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    (rounded,) = torch.autograd.grad((quantizer.quantize(x).codes * weight).sum(), x)
    (smooth,) = torch.autograd.grad((quantizer.continuous(x) * weight).sum(), x)
    assert torch.allclose(rounded, smooth, atol=1e-6)


def test_splitting_and_joining_tokens_are_inverse() -> None:
    quantizer, x = FSQ((8, 5, 5), 2), latents()
    assert torch.equal(quantizer.join_tokens(quantizer.split_tokens(x)), x)
    assert torch.equal(quantizer.split_tokens(x)[0, 1, 2, 3, 1], x[0, 3:, 1, 2, 3])


def test_nearest_is_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, codebook = torch.randn(5000, 4, generator=generator), torch.randn(70, 4, generator=generator)
    exact = torch.cdist(rows, codebook).argmin(1)
    assert torch.equal(nearest(rows, codebook), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(rows, codebook), exact)


def test_vq_moves_to_what_chose_it() -> None:
    quantizer = VQ(1, 2, 2).train()
    near, far = torch.tensor([0.1, 0.1]), torch.tensor([2.0, -2.0])
    x = torch.stack([near, far]).T.reshape(1, 2, 2, 1, 1)
    quantizer.quantize(x)
    moved = x * 1.5
    for _ in range(600):
        quantizer.learn(moved, quantizer.quantize(moved).indices)
    assert torch.allclose(quantizer.quantize(moved).codes, moved.tanh(), atol=1e-3)
    before = quantizer.codebook.clone()
    quantizer.learn(moved * torch.nan, quantizer.quantize(moved).indices)
    assert torch.equal(quantizer.codebook, before)


def test_simvq_learns_by_gradient() -> None:
    torch.manual_seed(0)
    quantizer, x = SimVQ(2, 3, 64), latents() * 0.2
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = quantizer.quantize(x).codebook_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["fsq", "lfq"])
def test_the_entropy_term_prefers_sure_and_varied_choices(name: str) -> None:
    quantizer = made(name)
    wavering = quantizer.entropy(torch.zeros(2, 6, 3, 4, 5))
    alike = quantizer.entropy(torch.full((2, 6, 3, 4, 5), 1.0))
    varied = latents() * 3
    assert quantizer.entropy(varied) < min(wavering, alike) - 0.3
    varied.requires_grad_()
    quantizer.entropy(varied).backward()
    assert torch.isfinite(varied.grad).all() and varied.grad.abs().sum() > 0


@pytest.mark.parametrize("codebook", [Codebook("vq", 6, 128), Codebook("simvq", 6, 128), Codebook("lfq", 7)])
def test_a_model_trains_with_each(codebook: Codebook) -> None:
    config = replace(TINY, codebook=codebook)
    model = randomized(OneVAE(config))
    stage = replace(STAGES["discrete"].recipe, lpips_weight=0.0, discrete_share=1.0, commitment_weight=0.25)
    loss = CodecObjective(stage, config, None)(
        model, torch.rand(2, 3, 8, 32, 32) * 2 - 1, torch.Generator().manual_seed(0)
    )
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert loss.parts["commitment"] > 0 and ("codebook" in loss.parts) == (codebook.kind == "simvq")
    with pytest.raises(ModelError, match="has no digits"):
        model.encode_digits(torch.zeros(1, 3, 4, 8, 8), None)
    with pytest.raises(TrainingError, match="no rate"):
        CodecObjective(replace(stage, rate_weights=(0.1,) * 4), config, None)


def test_a_learned_codebook_has_no_entropy_term() -> None:
    with pytest.raises(ModelError, match="VQ has no entropy term"):
        made("vq").entropy(latents())


def test_an_unknown_quantizer_is_refused() -> None:
    with pytest.raises(ModelError, match="use fsq, vq, simvq, lfq"):
        make_quantizer(replace(TINY, codebook=Codebook("rvq", 6, 8)))
