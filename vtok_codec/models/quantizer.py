"""What all quantizers have in common: latents of several tokens a position in, codes and codebook entries out.

A latent of `N·d` channels holds N tokens of d channels each; all tokens share one codebook (OneVAE, multi-token
quantization). *Codes* are what the decoder reads in place of the latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from vtok_codec.errors import ModelError

AFFINITY = 4.0
"""Of the entropy term: a latent takes a level at distance x with a probability in proportion to exp(−AFFINITY·x²)."""


class Quantized(NamedTuple):
    """Latents after a quantizer."""

    codes: Tensor
    """`B (N·d) T H W`, with a gradient to the latents as if nothing had been rounded (straight through)."""
    indices: Tensor
    """int64 `B N T H W`: the codebook entry of each token."""
    codebook_loss: Tensor
    """What the codebook itself is to minimize; zero for one that does not learn by gradient."""


class Quantizer(nn.Module, ABC):
    """The interface. It computes in fp32, whatever the input."""

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.channels = channels
        self.codebook_size = codebook_size

    @abstractmethod
    def continuous(self, latents: Tensor) -> Tensor:
        """Codes without rounding: the continuous path (OneVAE eq. 5)."""

    @abstractmethod
    def quantize(self, latents: Tensor) -> Quantized:
        """Latents `B (N·d) T H W` → their codes and codebook entries."""

    def learn(self, latents: Tensor, indices: Tensor) -> None:
        """Move the codebook towards the latents of a training step, if that is how it learns."""

    def entropy(self, latents: Tensor) -> Tensor:
        """Entropy of each position's choice less that of the whole batch, nats a token: low where choices are sure
        and spread over the codebook (LFQ, eq. 4; VidTok). The channels of a token count as independent; of several
        processes each takes its own samples for the batch.

        Raises:
            ModelError: this quantizer has no such term.
        """
        raise ModelError(f"{type(self).__name__} has no entropy term")

    def commitment(self, latents: Tensor, codes: Tensor) -> Tensor:
        """How far latents lie from their codes: mean square."""
        return (self.continuous(latents) - codes.detach()).square().mean()

    def split_tokens(self, latents: Tensor) -> Tensor:
        """`B (N·d) T H W` → `B T H W N d`."""
        return latents.unflatten(1, (self.tokens, self.channels)).permute(0, 3, 4, 5, 1, 2)

    def join_tokens(self, vectors: Tensor) -> Tensor:
        """`B T H W N d` → `B (N·d) T H W`: the inverse of `split_tokens`."""
        return vectors.permute(0, 4, 5, 1, 2, 3).flatten(1, 2)


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `exact`."""
    return exact + (rounded - exact).detach()


def factored_entropy(affinities: Tensor, tokens: int) -> Tensor:
    """Of choice probabilities `… C L`, where C are the channels of all tokens: see `Quantizer.entropy`."""
    each = _entropy(affinities).flatten(0, -2).mean(0).sum()
    together = _entropy(affinities.flatten(0, -3).mean(0)).sum()
    return (each - together) / tokens


def _entropy(probabilities: Tensor) -> Tensor:
    # The logarithm of what is added keeps the gradient of an impossible choice finite.
    return -(probabilities * (probabilities + 1e-9).log()).sum(-1)
