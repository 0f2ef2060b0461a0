"""Finite scalar quantization (FSQ, arXiv:2309.15505; OneVAE, eq. 4) with several tokens per position.

A latent of `N·d` channels holds N tokens of d digits each. The *levels*, such as [8, 8, 8, 5, 5, 5] for six digits, are
the numbers of values that the digits can take. They are the same for every token, so all tokens share one implicit
codebook (OneVAE, multi-token quantization). *Digits* are integers 0…L−1, where L is the digit's number of values;
*codes* are the values in [−1, 1] that the decoder reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vtok_codec.models.quantizer import AFFINITY, Quantized, Quantizer, factored_entropy, straight_through

_MARGIN = 1e-3
"""The fraction by which the bound is widened (FSQ, appendix A.1).

With it, latents reach the outermost digits before tanh becomes flat.
"""


class FSQ(Quantizer):
    """Round each channel of latents `B (N·d) T H W` to one of L values.

    Args:
        levels: The number of values L that each digit of a token can take.
        tokens: Tokens per position, N.
    """

    def __init__(self, levels: Sequence[int], tokens: int) -> None:
        super().__init__(tokens, len(levels), math.prod(levels))
        # Integers keep their type when the module changes its floating-point type.
        self.levels: Tensor
        self.register_buffer("levels", torch.tensor(list(levels) * tokens).view(-1, 1, 1, 1), persistent=False)

    @property
    def zero_digit(self) -> Tensor:
        """The digit of each channel that stands for the code 0, `(N·d) 1 1 1`."""
        return self.levels // 2

    def bound(self, latents: Tensor) -> Tensor:
        """Bound latents to the range of their digits, without rounding.

        Args:
            latents: `B (N·d) T H W`.

        Returns:
            fp32 values of the same shape, in units of digits; 0 stands for the digit `zero_digit`.
        """
        half = (self.levels - 1).float() * ((1 + _MARGIN) / 2)
        offset = 0.5 - 0.5 * (self.levels % 2)
        shift = torch.atanh(offset / half)
        return torch.tanh(latents.float() + shift) * half - offset

    def continuous(self, latents: Tensor) -> Tensor:
        """Return the codes in [−1, 1] of latents without rounding: the continuous path (OneVAE, eq. 5)."""
        return self.bound(latents) / self.zero_digit

    def straight_through(self, latents: Tensor) -> Tensor:
        """Return the rounded codes in [−1, 1] of latents, with the gradient of the codes without rounding."""
        bounded = self.bound(latents)
        return straight_through(bounded, bounded.round()) / self.zero_digit

    def quantize(self, latents: Tensor) -> Quantized:
        """Quantize latents `B (N·d) T H W`.

        The index of a token is the sum of its digits, each multiplied by the product of the levels of the digits before
        it. The first digit counts ones.
        """
        codes = self.straight_through(latents)
        digits = self.split_tokens((codes.detach() * self.zero_digit).round() + self.zero_digit).long()
        levels = self.levels[: self.channels].flatten()
        basis = levels.cumprod(0) // levels
        return Quantized(codes, (digits * basis).sum(-1).permute(0, 4, 1, 2, 3), codes.new_zeros(()))

    def entropy(self, latents: Tensor) -> Tensor:
        """Return the entropy term of latents `B (N·d) T H W`, in nats per token; see `Quantizer.entropy`."""
        exact = (self.bound(latents) + self.zero_digit).movedim(1, -1)[..., None]
        levels = torch.arange(int(self.levels.max()), device=latents.device)
        logits = -AFFINITY * (exact - levels).square()
        logits = logits.masked_fill(levels >= self.levels.view(-1, 1), -math.inf)
        return factored_entropy(logits.softmax(-1), self.tokens)

    def digits(self, latents: Tensor, previous: Tensor | None = None, stickiness: float = 0.0) -> Tensor:
        """Return the digits of latents.

        With a stickiness δ above 0, a digit keeps the value that it had in the preceding latent frame as long as the
        latent lies within 0.5 + δ of that value. Digits that waver only a little then repeat, which costs very few
        bits.

        Args:
            latents: `B (N·d) T H W`.
            previous: The digits of the latent frame before these, uint8 `B (N·d) 1 H W`; None at the start of a GOP.
            stickiness: δ, in units of digits; 0 rounds every latent to the nearest digit.

        Returns:
            Digits 0…L−1, uint8 `B (N·d) T H W`.
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
        """Turn digits 0…L−1, `B (N·d) T H W`, into the codes in [−1, 1] that the decoder reads, in fp32."""
        return (digits.float() - self.zero_digit) / self.zero_digit
