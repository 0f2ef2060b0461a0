"""The ways from clean video to noise along which diffusion decoders and flows are trained and draw.

Both methods, DDIM and flow matching, lead from clean video x₀ to noise ε along a *path* x_t = a(t)·x₀ + b(t)·ε, with t
from 0 to 1. In both, the network predicts x₀. A DDIM step (DDIM, eq. 12 with η = 0; CDT, eq. 12) and an Euler step
along the velocity dx/dt = ε − x₀ (One-DVA, eq. 2) are then the same computation: find the noise that x_t and x₀ imply,
and combine both to x_s at the next time s. The methods differ only in a and b and in how the loss weighs each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vtok_codec.errors import ModelError
from vtok_codec.models.config import DDIM, FLOW

_SNR_LIMITS = (0.2, 5.0)
"""The limits of the signal-to-noise ratio, which is the weight of the DDIM loss at each time (CDT, eq. 10).

Without limits, the loss would neglect the noisiest times, at which decoding in few steps begins, and be dominated by
almost clean times, which such decoding never visits.
"""
_LEAST_TIME = 0.1
"""The time below which the weight of the flow loss, 1/t², grows no further."""


@dataclass(frozen=True)
class Path:
    """The way from clean video to noise, x_t = a(t)·x₀ + b(t)·ε."""

    signal: Callable[[Tensor], Tensor]
    """The factor a(t) of the clean video at time t."""
    noise: Callable[[Tensor], Tensor]
    """The factor b(t) of the noise at time t."""
    weight: Callable[[Tensor], Tensor]
    """The weight of the squared error of x₀ in the loss at time t."""

    def noisy(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Mix videos with noise at given times.

        Args:
            clean: Clean videos x₀, `B …`.
            noise: Noise ε of the same shape.
            time: The time t of each video in [0, 1], `B`.

        Returns:
            The noisy videos x_t, of the same shape.
        """
        return _wide(self.signal(time), clean) * clean + _wide(self.noise(time), clean) * noise

    def step(self, noisy: Tensor, clean: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """Move noisy videos from time t to time s along the path.

        Args:
            noisy: Noisy videos x_t.
            clean: The network's prediction of the clean videos x₀, of the same shape.
            time: The time t of `noisy`, a scalar in (0, 1].
            to: The time s to go to, a scalar in [0, 1].

        Returns:
            The videos x_s, of the same shape.
        """
        noise = (noisy - self.signal(time) * clean) / self.noise(time)
        return self.signal(to) * clean + self.noise(to) * noise


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1)).to(like.dtype)


def _snr_weight(time: Tensor) -> Tensor:
    snr = 1 / torch.tan(time * (math.pi / 2)).square().clamp_min(1e-12)
    return snr.clamp(*_SNR_LIMITS)


PATHS = {
    # The cosine schedule (CDT, section 3.2; Nichol and Dhariwal, eq. 17, without its offset).
    DDIM: Path(
        signal=lambda t: torch.cos(t * (math.pi / 2)),
        noise=lambda t: torch.sin(t * (math.pi / 2)),
        weight=_snr_weight,
    ),
    # The straight line (One-DVA, eq. 1). The velocity that x₀ implies is (x_t − x₀)/t, so its squared error is that of
    # x₀ times 1/t².
    FLOW: Path(
        signal=lambda t: 1 - t,
        noise=lambda t: t,
        weight=lambda t: 1 / t.clamp_min(_LEAST_TIME).square(),
    ),
}
"""The path of each objective (`vtok_codec.models.config.OBJECTIVES`)."""


def path_of(objective: str) -> Path:
    """Return the path of a training objective.

    Args:
        objective: The name of the objective, one of `vtok_codec.models.config.OBJECTIVES`.

    Raises:
        ModelError: There is no objective of that name.
    """
    if objective not in PATHS:
        raise ModelError(f"no objective {objective!r}; use {', '.join(PATHS)}")
    return PATHS[objective]
