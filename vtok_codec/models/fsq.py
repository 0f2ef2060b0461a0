"""Finite scalar quantization (FSQ, arXiv:2309.15505; OneVAE eq. 4), with several tokens a position.

A latent of `N·d` channels holds N tokens of d digits each. The d levels, such as [8, 8, 8, 5, 5, 5], are the same for
every token: one implicit codebook (OneVAE, multi-token quantization). *Digits* are integers 0…L−1, *codes* the values
in [−1, 1] that the decoder reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vtok_codec.models.quantizer import AFFINITY, Quantized, Quantizer, factored_entropy, straight_through

_MARGIN = 1e-3
"""Widens the bound so that the outermost digits are reached before tanh is flat (FSQ, appendix A.1)."""


class FSQ(Quantizer):
    """Rounds each channel of `B (N·d) T H W` to one of its L levels."""

    def __init__(self, levels: Sequence[int], tokens: int) -> None:
        super().__init__(tokens, len(levels), math.prod(levels))
        # Integers, which a change of the module's floating-point type leaves alone; never saved with the weights.
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(list(levels) * tokens).view(-1, 1, 1, 1), persistent=False)

    @property
    def zero_digit(self) -> Tensor:
        """The digit of each channel that stands for the code 0."""
        return self.levels // 2

    def bound(self, latents: Tensor) -> Tensor:
        """The unrounded, bounded latents, in units of digits around zero (fp32)."""
        half = (self.levels - 1).float() * ((1 + _MARGIN) / 2)
        offset = 0.5 - 0.5 * (self.levels % 2)
        shift = torch.atanh(offset / half)
        return torch.tanh(latents.float() + shift) * half - offset

    def continuous(self, latents: Tensor) -> Tensor:
        """Codes in [−1, 1] without rounding: the continuous path (OneVAE eq. 5)."""
        return self.bound(latents) / self.zero_digit

    def straight_through(self, latents: Tensor) -> Tensor:
        """Rounded codes in [−1, 1] whose gradient is that of the unrounded ones."""
        bounded = self.bound(latents)
        return straight_through(bounded, bounded.round()) / self.zero_digit

    def quantize(self, latents: Tensor) -> Quantized:
        """The index of a token is Σ digit·basis, its first digit being the least."""
        codes = self.straight_through(latents)
        digits = self.split_tokens((codes.detach() * self.zero_digit).round() + self.zero_digit).long()
        levels = self.levels[: self.channels].flatten()
        basis = levels.cumprod(0) // levels
        return Quantized(codes, (digits * basis).sum(-1).permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    def entropy(self, latents: Tensor) -> Tensor:
        exact = (self.bound(latents) + self.zero_digit).movedim(1, -1)[..., None]
        levels = torch.arange(int(self.levels.max()), device=latents.device)
        logits = -AFFINITY * (exact - levels).square()
        logits = logits.masked_fill(levels >= self.levels.view(-1, 1), -math.inf)
        return factored_entropy(logits.softmax(-1), self.tokens)

    def digits(self, latents: Tensor, previous: Tensor | None = None, stickiness: float = 0.0) -> Tensor:
        """The digits 0…L−1 of each channel, uint8.

        With a stickiness δ above 0 a digit keeps its value of the latent frame before while the latent lies within
        0.5 + δ of it: digits that barely waver repeat, and cost next to nothing. `previous` are the digits of the last
        latent frame before these, `B (N·d) 1 H W`; None at the start of a GOP.
        """
        exact = self.bound(latents) + self.zero_digit
        nearest = exact.round().to(torch.uint8)
        if stickiness <= 0 or not latents.shape[2]:
            return nearest
        frames = []
        for frame in range(latents.shape[2]):
            chosen = nearest[:, :, frame : frame + 1]
            if previous is not None:
                near = (exact[:, :, frame : frame + 1] - previous).abs() <= 0.5 + stickiness
                chosen = torch.where(near, previous, chosen)
            frames.append(chosen)
            previous = chosen
        return torch.cat(frames, dim=2)

    def codes(self, digits: Tensor) -> Tensor:
        """What the decoder reads: digits 0…L−1 → codes in [−1, 1] (fp32)."""
        return (digits.float() - self.zero_digit) / self.zero_digit
