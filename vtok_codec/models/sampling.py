"""Generate video from noise in a few steps, by DDIM or by flow matching.

Both methods lead from clean video x₀ to noise ε along a *path* x_t = a(t)·x₀ + b(t)·ε, with t from 0 to 1. In both, the
network predicts x₀. A DDIM step (DDIM, eq. 12 with η = 0; CDT, eq. 12) and an Euler step along the velocity
dx/dt = ε − x₀ (One-DVA, eq. 2) are then the same computation: find the noise that x_t and x₀ imply, and combine both to
x_s at the next time s. The methods differ only in a and b and in how the loss weighs each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.causal import State
from vtok_codec.models.config import FLOW
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onedva import Group, NoisyCodes, OneDVA, Prediction

_SNR_LIMITS = (0.2, 5.0)
"""The limits of the signal-to-noise ratio, which is the weight of the DDIM loss at each time (CDT, eq. 10).

Without limits, the loss would neglect the noisiest times, at which decoding in few steps begins, and be dominated by
almost clean times, which such decoding never visits.
"""
_LEAST_TIME = 0.1
"""The time below which the weight of the flow loss, 1/t², grows no further."""
DIFFUSION_STEPS = 1
"""The default number of denoising steps. With the shipped weights, more steps do not lower LPIPS."""
MAX_STEPS = 16
"""The largest number of denoising steps. Each step keeps a state 1.5 times as large as the deterministic decoder's."""


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
    "ddim": Path(
        signal=lambda t: torch.cos(t * (math.pi / 2)),
        noise=lambda t: torch.sin(t * (math.pi / 2)),
        weight=_snr_weight,
    ),
    # The straight line (One-DVA, eq. 1). The velocity that x₀ implies is (x_t − x₀)/t, so its squared error is that of
    # x₀ times 1/t².
    "flow": Path(
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


def check_steps(steps: int) -> None:
    """Check that a diffusion decoder may take this many denoising steps.

    Raises:
        SettingError: The number is not from 1 to `MAX_STEPS`.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise SettingError(f"steps {steps}: give 1 to {MAX_STEPS}")


def sample(
    model: Denoiser,
    codes: Tensor,
    noise: Tensor,
    state: State,
    counts: Tensor | None = None,
    steps: int = 1,
) -> tuple[Tensor, State]:
    """Decode a chunk of codes to video with a diffusion decoder.

    Each denoising step keeps a state of its own, since it reads its own x_t. Decoding a video chunk by chunk therefore
    gives the same result as decoding it at once from the same noise.

    Args:
        model: The network of the diffusion decoder.
        codes: The codes of the chunk, `B (N·d) t h w` in [−1, 1].
        noise: Normal noise of the shape of the video, `B 3 T H W`.
        state: The state after the preceding chunk, or None at the start of a GOP.
        counts: The number of tokens to read for each sample, 1…N; int64 `B`. None reads all tokens.
        steps: The number of denoising steps, 1 to `MAX_STEPS`.

    Returns:
        Video `B 3 T H W` in [−1, 1], not clamped, and the state after this chunk.

    Raises:
        SettingError: The number of steps is out of range.
    """
    check_steps(steps)
    if counts is None:
        counts = torch.full((len(codes),), model.config.codec.max_tokens, device=codes.device)
    path = path_of(model.config.objective)
    before: tuple[State, ...] = (None,) * (steps + 1) if state is None else tuple(state)
    condition, kept = model.condition(codes, before[0], counts)
    after = [kept]
    times = torch.linspace(1, 0, steps + 1, device=noise.device)
    x = noise
    for number in range(steps):
        time = times[number]
        clean, kept = model(x, before[1 + number], time.expand(len(x)), condition)
        after.append(kept)
        x = path.step(x.float(), clean.float(), time, times[number + 1]).to(noise.dtype)
    return x, tuple(after)


def sample_second(
    model: OneDVA, structural: Tensor, tokens: Tensor, counts: Tensor, group: Group, noise: Tensor, steps: int
) -> Prediction:
    """Draw what 1D tokens add to a group from noise, along the path of flow matching (One-DVA, eq. 1 and 2).

    Args:
        model: One-DVA, trained with noise.
        structural: See `QueryDecoder.forward`, also for the next three.
        tokens: The codes of the 1D tokens.
        counts: How many of them each window reads.
        group: The place of the group.
        noise: Normal noise of the shape of the second token's codes, `B d t h w`.
        steps: The number of steps, 1 to `MAX_STEPS`. A single step gives about the mean of what could have been there.

    Returns:
        The codes of the second token that were drawn, and the features that the last step adds to them.

    Raises:
        SettingError: The number of steps is out of range.
    """
    check_steps(steps)
    path, x = path_of(FLOW), noise
    times = torch.linspace(1, 0, steps + 1, device=noise.device)
    for time, to in pairwise(times):
        noisy = NoisyCodes(x.to(structural.dtype), time.expand(len(x)))
        made = model.decode(structural, tokens, counts, group, noisy)
        x = path.step(x.float(), made.second.float(), time, to)
    return made._replace(second=x.to(made.second.dtype))
