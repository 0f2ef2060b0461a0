"""The rate term of a codec: the bits that the coder `prior` spends on its tokens, with a gradient for the encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.layout import GopLayout
from vtok_codec.training.prior.network import ABSENT, PriorModel, TrainedNetwork


class RateEstimate(nn.Module):
    """Estimates the cost of each digit by a prior, which trains along with the codec.

    Its gradient makes the encoder choose digits that are easy to predict, and that make later ones easy to predict.
    """

    def __init__(self, prior: PriorModel, layout: GopLayout) -> None:
        """Create the estimate.

        Args:
            prior: The prior.
            layout: The layout of the codec's GOPs.
        """
        super().__init__()
        self.prior = prior
        self._phases = layout.phases
        levels = torch.tensor(prior.levels * prior.tokens).view(-1, 1, 1, 1)
        self.zero_digits: Tensor
        self.register_buffer("zero_digits", levels // 2, persistent=False)

    def forward(self, codes: Tensor, counts: Tensor | None = None) -> Tensor:
        """Estimate the cost of each digit.

        Args:
            codes: Codes of FSQ, `B P t h w` in [−1, 1]; the first latent frame starts a GOP. P may be smaller than the
                planes of the prior.
            counts: The number of tokens per position that each sample has, int64 `B`; None for all.

        Returns:
            The cost of each digit in bits, of the same shape. That of digits that a sample does not have is undefined.
        """
        zero = self.zero_digits[: codes.shape[1]]
        exact = codes * zero + zero
        # Codes in bf16 are only near their digits.
        digits = exact + (exact.round() - exact).detach()
        if counts is not None:
            token = torch.arange(codes.shape[1], device=codes.device) // len(self.prior.levels)
            digits = torch.where((token < counts[:, None])[..., None, None, None], digits, ABSENT)
        first = _costs(self.prior.first, digits[:, :, : self._phases], 0)
        if digits.shape[2] <= self._phases:
            return first
        return torch.cat([first, _costs(self.prior.later, digits, self._phases)], dim=2)


def _costs(network: TrainedNetwork, digits: Tensor, begin: int) -> Tensor:
    """Return the costs of digits `B P t h w` by one network, for the latent frames from `begin` on."""
    slots, batch = network.config.slots, len(digits)
    chosen = digits[:, :, begin:].transpose(1, 2).flatten(0, 1)
    delayed = [_delay(digits, count + 1)[:, :, begin:] for count in range(slots)]
    if delayed:
        past = torch.stack(delayed, 2).permute(0, 3, 2, 1, 4, 5).flatten(0, 1)
    else:
        past = chosen.new_zeros(len(chosen), 0, *chosen.shape[1:])
    place = torch.arange(digits.shape[2] - begin, device=digits.device).clamp(max=network.config.places - 1)
    return network.bits(past, chosen, place.repeat(batch)).unflatten(0, (batch, -1)).transpose(1, 2)


def _delay(digits: Tensor, frames: int) -> Tensor:
    """Delay digits `B P t h w` by some latent frames, with absent ones before the first."""
    return F.pad(digits, (0, 0, 0, 0, frames, 0), value=ABSENT)[:, :, : digits.shape[2]]
