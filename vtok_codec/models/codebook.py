"""Quantizers to compare FSQ with: VQ and SimVQ, which have a codebook of vectors, and LFQ, whose codebook is implicit.

All of them bound their latents by tanh, much as FSQ does, so that a decoder that was trained with one quantizer adapts
easily to another.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.quantizer import AFFINITY, Quantized, Quantizer, factored_entropy, straight_through

_DECAY = 0.99
"""The decay rate per training step of VQ's moving averages."""
_ROWS_AT_ONCE = 4096
"""The number of vectors whose distances to the codebook are in memory at the same time."""


class _TanhQuantizer(Quantizer):
    """A quantizer that bounds its latents by tanh."""

    def continuous(self, latents: Tensor) -> Tensor:
        """Return the latents bounded to (−1, 1) by tanh, in fp32 and of the same shape."""
        return latents.float().tanh()


class VQ(_TanhQuantizer):
    """Vector quantization with moving averages (van den Oord et al. 2017, appendix A.1).

    Each token becomes the nearest entry of the codebook, and each entry follows the mean of the vectors that chose it.
    The codebook is initialized with latents of the first training step.

    Args:
        tokens: Tokens per position, N.
        channels: Latent channels per token, d.
        codebook_size: The number of entries of the codebook.
    """

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__(tokens, channels, codebook_size)
        self.codebook: Tensor
        self.counts: Tensor
        self.sums: Tensor
        self.register_buffer("codebook", torch.zeros(codebook_size, channels))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, channels))

    def quantize(self, latents: Tensor) -> Quantized:
        """Quantize latents `B (N·d) T H W`. In training mode, this also initializes a codebook that is still empty."""
        vectors = self.split_tokens(self.continuous(latents))
        if self.training and not self.counts.any():
            self._start(vectors.detach().flatten(0, -2))
        indices = nearest(vectors.detach().flatten(0, -2), self.codebook).view(vectors.shape[:-1])
        codes = self.join_tokens(straight_through(vectors, self.codebook[indices]))
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    @torch.no_grad()
    def learn(self, latents: Tensor, indices: Tensor) -> None:
        """Move each entry of the codebook towards the mean of the vectors that chose it.

        Args:
            latents: Latents of a training step, `B (N·d) T H W`.
            indices: The codebook entry that each token chose, int64 `B N T H W`.
        """
        vectors = self.split_tokens(self.continuous(latents)).flatten(0, -2)
        chosen = indices.permute(0, 2, 3, 4, 1).flatten()
        counts = torch.bincount(chosen, minlength=self.codebook_size).float()
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, vectors)
        counts, sums = self.collective.total(counts), self.collective.total(sums)
        if not torch.isfinite(sums).all():
            # Skip this step, since a moving average never gets rid of a value that is not finite.
            return
        self.counts.lerp_(counts, 1 - _DECAY)
        self.sums.lerp_(sums, 1 - _DECAY)
        used = self.counts > 1e-3
        self.codebook[used] = self.sums[used] / self.counts[used, None]

    def _start(self, vectors: Tensor) -> None:
        rows = torch.arange(self.codebook_size, device=vectors.device)
        # Spread the choice over the batch. A batch with too few vectors is used several times; noise tells them apart.
        picked = vectors[rows * max(1, len(vectors) // self.codebook_size) % len(vectors)]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(picked.shape, generator=generator).to(picked.device)
        self.codebook.copy_(self.collective.first(picked + 1e-3 * vectors.std() * noise))
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)


class SimVQ(_TanhQuantizer):
    """Vector quantization with a fixed random codebook and one trained linear map (SimVQ, arXiv:2411.02038).

    Each token becomes the nearest mapped entry of the codebook. Training the map moves all entries together, so that
    none falls out of use.

    Args:
        tokens: Tokens per position, N.
        channels: Latent channels per token, d.
        codebook_size: The number of entries of the codebook.
    """

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__(tokens, channels, codebook_size)
        self.entries: Tensor
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("entries", torch.randn(codebook_size, channels, generator=generator))
        self.map = nn.Linear(channels, channels, bias=False)
        nn.init.eye_(self.map.weight)

    def quantize(self, latents: Tensor) -> Quantized:
        """Quantize latents `B (N·d) T H W`; the codebook loss of the result trains the linear map."""
        vectors = self.split_tokens(self.continuous(latents))
        with torch.autocast(latents.device.type, enabled=False):
            codebook = F.linear(self.entries, self.map.weight.float())
        indices = nearest(vectors.detach().flatten(0, -2), codebook.detach()).view(vectors.shape[:-1])
        chosen = codebook[indices]
        loss = (vectors.detach() - chosen).square().mean()
        codes = self.join_tokens(straight_through(vectors, chosen))
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), loss)


class LFQ(_TanhQuantizer):
    """Lookup-free quantization (MAGVIT-v2): each channel becomes its sign, so that 2^d entries need no table.

    Args:
        tokens: Tokens per position, N.
        channels: Latent channels per token, d.
    """

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__(tokens, channels, 1 << channels)

    def quantize(self, latents: Tensor) -> Quantized:
        """Quantize latents `B (N·d) T H W` to codes −1 and 1.

        The first channel of a token gives the lowest bit of its index.
        """
        exact = self.continuous(latents)
        above = exact > 0
        codes = straight_through(exact, above.float() * 2 - 1)
        weights = 1 << torch.arange(self.channels, device=latents.device)
        indices = (self.split_tokens(above).long() * weights).sum(-1)
        return Quantized(codes, indices.permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    def entropy(self, latents: Tensor) -> Tensor:
        """Return the entropy term of latents `B (N·d) T H W`, in nats per token; see `Quantizer.entropy`."""
        exact = self.continuous(latents).movedim(1, -1)
        logits = -AFFINITY * torch.stack([exact - 1, exact + 1], dim=-1).square()
        return factored_entropy(logits.softmax(-1), self.tokens)


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Find the entry of a codebook that is nearest to each vector.

    Args:
        vectors: `M d`.
        codebook: `K d`.

    Returns:
        The row of the nearest entry for each vector, int64 `M`.
    """
    # bf16, which autocast would use, is too coarse to find the nearest entry of every vector.
    with torch.autocast(vectors.device.type, enabled=False):
        norms = codebook.square().sum(1)
        parts = [(norms - 2 * rows @ codebook.T).argmin(1) for rows in vectors.split(_ROWS_AT_ONCE)]
        return torch.cat(parts)
