"""A discriminator for sharper pictures: temporal PatchGAN, hinge loss, adaptive weight (Chang et al. 2019; VQGAN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.models.causal import FrameConv, TemporalConv, unshuffle

_WIDTHS = (48, 96, 192)
_LEAK = 0.2
_MAX_ADAPTIVE_WEIGHT = 1e4


class PatchDiscriminator(nn.Module):
    """Video `B 3 T H W` in [−1, 1] → a score for each patch, `B 1 T H/8 W/8`: high for real video.

    Every level halves the picture and looks at the frames on both sides. Frames and places are judged alone; nothing
    is normed over the batch.
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
        x = video.to(memory_format=torch.channels_last_3d)
        for down, time in zip(self.down, self.time, strict=True):
            x = F.leaky_relu(down(unshuffle(x, (1, 2, 2))), _LEAK)
            mixed, _ = time(x, None)
            x = F.leaky_relu(x + mixed, _LEAK)
        return self.score(x)


def discriminator_loss(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss: real patches above 1, made ones below −1."""
    scores = discriminator(torch.cat([real, made.detach()])).float()
    of_real, of_made = scores.chunk(2)
    return 0.5 * (F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean())


def generator_loss(discriminator: nn.Module, made: Tensor) -> Tensor:
    """What the decoder minimizes: the negative score of its output."""
    return -discriminator(made).float().mean()


def adaptive_weight(distortion: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """The weight at which both losses pull equally hard at the decoder's `last` weights (VQGAN, eq. 7).

    Of several processes each has its own, from its own samples.
    """
    (wanted,) = torch.autograd.grad(distortion, last, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-6)).clamp(0, _MAX_ADAPTIVE_WEIGHT).detach()
