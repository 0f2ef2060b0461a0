"""Quantizers with a codebook of vectors, to compare FSQ with: VQ, SimVQ, and LFQ, whose codebook is implicit.

All bound their latents by tanh, as FSQ does about, so that a decoder trained on one finds its feet with another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.quantizer import AFFINITY, Quantized, Quantizer, factored_entropy, straight_through

_DECAY = 0.99
"""Of VQ's moving averages."""
_ROWS_AT_ONCE = 4096
"""Vectors whose distances to the codebook are in memory together."""


class VQ(Quantizer):
    """The nearest entry of a codebook that follows the mean of what chose it (van den Oord et al. 2017, appendix A.1).

    The codebook starts as latents of the first training step.
    """

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__(tokens, channels, codebook_size)
        self.codebook: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("codebook", torch.zeros(codebook_size, channels))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, channels))

    def continuous(self, latents: Tensor) -> Tensor:
        return latents.float().tanh()

    def quantize(self, latents: Tensor) -> Quantized:
        vectors = self.split_tokens(self.continuous(latents))
        if self.training and not self.counts.any():
            self._start(vectors.detach().flatten(0, -2))
        indices = nearest(vectors.detach().flatten(0, -2), self.codebook).view(vectors.shape[:-1])
        codes = self.join_tokens(straight_through(vectors, self.codebook[indices]))
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    @torch.no_grad()
    def learn(self, latents: Tensor, indices: Tensor) -> None:
        vectors = self.split_tokens(self.continuous(latents)).flatten(0, -2)
        chosen = indices.permute(0, 2, 3, 4, 1).flatten()
        counts = torch.bincount(chosen, minlength=self.codebook_size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, vectors)
        counts, sums = _summed(counts), _summed(sums)
        if not torch.isfinite(sums).all():
            # Such a step is skipped; a moving average would never forget it.
            return
        self.counts.lerp_(counts, 1 - _DECAY)
        self.sums.lerp_(sums, 1 - _DECAY)
        used = self.counts > 1e-3
        self.codebook[used] = self.sums[used] / self.counts[used, None]

    def _start(self, vectors: Tensor) -> None:
        rows = torch.arange(self.codebook_size, device=vectors.device)
        # Spread over the batch; a small one is used several times over, each time a little off.
        picked = vectors[rows * max(1, len(vectors) // self.codebook_size) % len(vectors)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(picked.shape, generator=generator).to(picked.device)
        self.codebook.copy_(_of_the_first(picked + 1e-3 * vectors.std() * noise))
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)


class SimVQ(Quantizer):
    """The nearest entry of a fixed random codebook seen through one trained linear map (arXiv:2411.02038): all
    entries move together, so that none is left behind."""

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__(tokens, channels, codebook_size)
        self.entries: Tensor
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("entries", torch.randn(codebook_size, channels, generator=generator))
        self.map = nn.Linear(channels, channels, bias=False)
        nn.init.eye_(self.map.weight)

    def continuous(self, latents: Tensor) -> Tensor:
        return latents.float().tanh()

    def quantize(self, latents: Tensor) -> Quantized:
        vectors = self.split_tokens(self.continuous(latents))
        with torch.autocast(latents.device.type, enabled=False):
            codebook = F.linear(self.entries, self.map.weight.float())
        indices = nearest(vectors.detach().flatten(0, -2), codebook.detach()).view(vectors.shape[:-1])
        chosen = codebook[indices]
        loss = (vectors.detach() - chosen).square().mean()
        codes = self.join_tokens(straight_through(vectors, chosen))
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), loss)


class LFQ(Quantizer):
    """The sign of each channel (MAGVIT-v2, lookup-free quantization): 2^d entries without a table."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__(tokens, channels, 1 << channels)

    def continuous(self, latents: Tensor) -> Tensor:
        return latents.float().tanh()

    def quantize(self, latents: Tensor) -> Quantized:
        exact = self.continuous(latents)
        above = exact > 0
        codes = straight_through(exact, above.float() * 2 - 1)
        weights = 1 << torch.arange(self.channels, device=latents.device)
        indices = (self.split_tokens(above).long() * weights).sum(-1)
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    def entropy(self, latents: Tensor) -> Tensor:
        exact = self.continuous(latents).movedim(1, -1)
        logits = -AFFINITY * torch.stack([exact - 1, exact + 1], dim=-1).square()
        return factored_entropy(logits.softmax(-1), self.tokens)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """For each row of `vectors` the row of `codebook` nearest to it, int64."""
    # In bf16, which autocast would take, one row in twenty finds another than the nearest.
    with torch.autocast(vectors.device.type, enabled=False):
        norms = codebook.square().sum(1)
        parts = [(norms - 2 * rows @ codebook.T).argmin(1) for rows in vectors.split(_ROWS_AT_ONCE)]
        return torch.cat(parts)


def _of_the_first(values: Tensor) -> Tensor:
    """Those of the first of all processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(values, 0)
    return values


def _summed(values: Tensor) -> Tensor:
    """Over all processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
