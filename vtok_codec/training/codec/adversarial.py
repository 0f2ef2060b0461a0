"""A discriminator for sharper pictures: a temporal PatchGAN (Chang et al. 2019) with hinge loss and adaptive weight."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal import FrameConv, TemporalConv, unshuffle
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.processes import Processes
from vtok_codec.training.subject import Adversary

_WIDTHS = (48, 96, 192)
"""The number of channels of each level of the discriminator."""
_LEAK = 0.2
"""The slope of the leaky ReLU for negative inputs."""
_MAX_ADAPTIVE_WEIGHT = 1e4
"""The largest adaptive weight of the adversarial loss."""
_BETAS = (0.5, 0.9)
"""AdamW's decay rates for the discriminator (OneVAE, section 4.1, after VQGAN)."""


class PatchDiscriminator(nn.Module):
    """A network that scores patches of a video: high for source video, low for reconstructions.

    Each level halves height and width and mixes every frame with the frames before and after it. There is no
    normalization over the batch, so every patch gets its score independently of the other videos.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        self.time = nn.ModuleList()
        channels = 3
        for width in _WIDTHS:
            self.down.append(FrameConv(4 * channels, width))
            self.time.append(TemporalConv(width, width, causal=False))
            channels = width
        self.score = FrameConv(channels, 1)

    def forward(self, video: Tensor) -> Tensor:
        """Score the patches of a batch of videos.

        Args:
            video: Videos, `B 3 T H W` in [−1, 1]; height and width are multiples of 8.

        Returns:
            One score for each patch of 8×8 pixels in each frame, `B 1 T H/8 W/8`.
        """
        x = video.to(memory_format=torch.channels_last_3d)
        for down, time in zip(self.down, self.time, strict=True):
            x = F.leaky_relu(down(unshuffle(x, (1, 2, 2))), _LEAK)
            mixed, _ = time(x, None)
            x = F.leaky_relu(x + mixed, _LEAK)
        return self.score(x)


class PatchAdversary(Adversary):
    """A `PatchDiscriminator` and the optimizer that trains it."""

    def __init__(self, recipe: CodecRecipe, device: torch.device, processes: Processes) -> None:
        self.starts_at = recipe.adversarial_start
        self.network = PatchDiscriminator().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shared = processes.wrap(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, betas=_BETAS, weight_decay=0.0
        )
        self._peak_rate = recipe.learning_rate
        self._clip_norm = recipe.clip_norm

    def learn(self, real: Tensor, made: Tensor, factor: float) -> Tensor:
        """Train the discriminator for one step.

        Args:
            real: Source videos, `B 3 T H W` in [−1, 1].
            made: Reconstructions of them, of the same shape.
            factor: The learning rate as a fraction of its peak.

        Returns:
            The loss of the discriminator, detached.
        """
        self.optimizer.param_groups[0]["lr"] = self._peak_rate * factor
        self.optimizer.zero_grad()
        loss = discriminator_loss(self._shared, real, made)
        loss.backward()
        # The averaged gradients have the same norm in all processes, so either all of them step or none does.
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self._clip_norm)
        if math.isfinite(float(norm)):
            self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint stores of the discriminator."""
        return {"discriminator": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.network.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


def discriminator_loss(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Return the hinge loss, which wants scores above 1 for the source and below −1 for reconstructions.

    Args:
        discriminator: A `PatchDiscriminator`.
        real: Source videos, `B 3 T H W` in [−1, 1].
        made: Reconstructions of them, of the same shape. They get no gradient.
    """
    scores = discriminator(torch.cat([real, made.detach()])).float()
    of_real, of_made = scores.chunk(2)
    return 0.5 * (F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean())


def generator_loss(discriminator: nn.Module, made: Tensor) -> Tensor:
    """Return the adversarial loss of the decoder: the negative mean score of its output `made`, `B 3 T H W`."""
    return -discriminator(made).float().mean()


def adaptive_weight(distortion: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """Return the weight at which both losses have equally large gradients for the weights `last` (VQGAN, eq. 7).

    If several processes train together, each computes the weight from its own samples.

    Args:
        distortion: The reconstruction loss, a scalar.
        adversarial: The adversarial loss of the decoder, a scalar.
        last: The weights of the decoder's last layer.

    Returns:
        A factor for the adversarial loss, detached.
    """
    (wanted,) = torch.autograd.grad(distortion, last, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-6)).clamp(0, _MAX_ADAPTIVE_WEIGHT).detach()
