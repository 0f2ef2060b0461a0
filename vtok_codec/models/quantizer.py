"""The interface of quantizers, which turn latents with several tokens per position into codes and codebook entries.

A latent of `N·d` channels holds N tokens of d channels each; all tokens share one codebook (OneVAE, multi-token
quantization). *Codes* are the values that the decoder reads in place of the latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from vtok_codec.errors import ModelError

AFFINITY = 4.0
"""The sharpness of choices in the entropy term.

A latent takes a value at distance x with a probability that is proportional to exp(−AFFINITY·x²).
"""


class Quantized(NamedTuple):
    """What a quantizer makes of latents."""

    codes: Tensor
    """The codes `B (N·d) T H W`. Gradients pass to the latents as if nothing had been rounded (straight through)."""
    indices: Tensor
    """The codebook entry of each token, int64 `B N T H W`."""
    codebook_loss: Tensor
    """The loss that trains the codebook, a scalar; zero if the codebook does not learn by gradient descent."""


class Collective(Protocol):
    """Communication among the processes that train one model together."""

    def first(self, values: Tensor) -> Tensor:
        """Return the values of the first process, in every process."""

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the values over all processes, in every process."""


class Alone:
    """The stand-in for `Collective` if a single process trains the model."""

    def first(self, values: Tensor) -> Tensor:
        """Return the values unchanged."""
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the values unchanged."""
        return values


class Quantizer(nn.Module, ABC):
    """The base class of quantizers. They compute in fp32, whatever the type of their input.

    Args:
        tokens: Tokens per position, N.
        channels: Latent channels per token, d.
        codebook_size: The number of entries of the codebook.
    """

    collective: Collective = Alone()
    """The processes whose latents the codebook learns from. Training sets it."""

    def __init__(self, tokens: int, channels: int, codebook_size: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.channels = channels
        self.codebook_size = codebook_size

    @abstractmethod
    def continuous(self, latents: Tensor) -> Tensor:
        """Return the codes of latents without rounding: the continuous path (OneVAE, eq. 5).

        Args:
            latents: `B (N·d) T H W`.

        Returns:
            Codes in fp32, of the same shape.
        """

    @abstractmethod
    def quantize(self, latents: Tensor) -> Quantized:
        """Return the codes and codebook entries of latents `B (N·d) T H W`."""

    def learn(self, latents: Tensor, indices: Tensor) -> None:
        """Move the codebook towards the latents of a training step; do nothing if it does not learn in this way.

        Args:
            latents: Latents of a training step, `B (N·d) T H W`.
            indices: The codebook entry that each token chose, int64 `B N T H W`.
        """

    def entropy(self, latents: Tensor) -> Tensor:
        """Return a loss that is low if choices are certain and spread over the whole codebook (LFQ, eq. 4; VidTok).

        The loss is the mean entropy of the choice at each position minus the entropy of the choices of the whole batch,
        in nats per token. The channels of a token are treated as independent. If several processes train the model,
        each process uses its own samples as the batch.

        Args:
            latents: `B (N·d) T H W`.

        Raises:
            ModelError: This quantizer has no such term.
        """
        raise ModelError(f"{type(self).__name__} has no entropy term")

    def commitment(self, latents: Tensor, codes: Tensor) -> Tensor:
        """Return the mean squared distance between latents and their codes, a loss that trains the latents alone.

        Args:
            latents: `B (N·d) T H W`.
            codes: The codes that the latents were quantized to, of the same shape.
        """
        return (self.continuous(latents) - codes.detach()).square().mean()

    def split_tokens(self, latents: Tensor) -> Tensor:
        """Give each token an axis of its own: `B (N·d) T H W` → `B T H W N d`."""
        return latents.unflatten(1, (self.tokens, self.channels)).permute(0, 3, 4, 5, 1, 2)

    def join_tokens(self, vectors: Tensor) -> Tensor:
        """Put the tokens of each position into channels: `B T H W N d` → `B (N·d) T H W`, undoing `split_tokens`."""
        return vectors.permute(0, 4, 5, 1, 2, 3).flatten(1, 2)


def straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    """Return the values of `rounded` with the gradient of `exact`."""
    return exact + (rounded - exact).detach()


def factored_entropy(affinities: Tensor, tokens: int) -> Tensor:
    """Return the entropy term of `Quantizer.entropy` for channels that choose independently of each other.

    Args:
        affinities: The probabilities of the L values of each channel, `… C L`, where C counts the channels of all
            tokens.
        tokens: Tokens per position, N.

    Returns:
        A scalar, in nats per token.
    """
    each = _entropy(affinities).flatten(0, -2).mean(0).sum()
    together = _entropy(affinities.flatten(0, -3).mean(0)).sum()
    return (each - together) / tokens


def _entropy(probabilities: Tensor) -> Tensor:
    # Adding 1e-9 keeps the gradient finite where a probability is 0.
    return -(probabilities * (probabilities + 1e-9).log()).sum(-1)
