"""From noise to video in a few steps: DDIM and flow matching behind one interface.

Both lead from clean video x₀ to noise ε on a *path* x_t = a(t)·x₀ + b(t)·ε, t from 0 to 1, and both networks tell x₀.
Then a DDIM step (DDIM, eq. 12 with η = 0; CDT, eq. 12) and an Euler step along the velocity dx/dt = ε − x₀ (One-DVA,
eq. 2) are the same: take the noise that x_t and x₀ imply, and go to the time s with both. What differs is a and b, and
how the loss weighs times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.causal import State
from vtok_codec.models.denoiser import Denoiser

_SNR_LIMITS = (0.2, 5.0)
"""Of the weight of DDIM's loss, the signal-to-noise ratio (CDT, eq. 10). Unlimited, it leaves out the noisiest times,
with which decoding in few steps begins, and counts almost clean ones, which it never sees, thousands of times."""
_LEAST_TIME = 0.1
"""Below it the weight of the flow's loss, 1/t², grows no further."""
DEFAULT_STEPS = 1
"""Measured: a further step of the shipped weights costs time and brings no LPIPS (docs/training.md)."""
MAX_STEPS = 16
"""Each keeps a state as large as the deterministic decoder's and a half."""


@dataclass(frozen=True)
class Path:
    """How video turns into noise."""

    signal: Callable[[Tensor], Tensor]
    """a(t)."""
    noise: Callable[[Tensor], Tensor]
    """b(t)."""
    weight: Callable[[Tensor], Tensor]
    """Of the squared error of x₀ at a time."""

    def noisy(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t of videos `B …` at times `B`."""
        return _wide(self.signal(time), clean) * clean + _wide(self.noise(time), clean) * noise

    def step(self, noisy: Tensor, clean: Tensor, time: Tensor, to: Tensor) -> Tensor:
        """x_s from x_t and what the network says of x₀; times are scalars."""
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
    # The straight line (One-DVA, eq. 1). The velocity that x₀ implies is (x_t − x₀)/t, so its squared error is 1/t² of
    # that of x₀.
    "flow": Path(
        signal=lambda t: 1 - t,
        noise=lambda t: t,
        weight=lambda t: 1 / t.clamp_min(_LEAST_TIME).square(),
    ),
}
"""By the names of the objectives."""


def path_of(objective: str) -> Path:
    """The path of an objective.

    Raises:
        ModelError: there is none of that name.
    """
    if objective not in PATHS:
        raise ModelError(f"no objective {objective!r}; use {', '.join(PATHS)}")
    return PATHS[objective]


def check_steps(steps: int) -> None:
    """Raises:
    SettingError: nobody decodes in so many steps.
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
    """Video `B 3 T H W` in [−1, 1] from codes `B (N·d) t h w` and noise of its shape.

    `counts`, int64 `B`: the tokens that each sample reads; None reads all. Every step has a state of its own, since it
    sees its own x_t; so chunks give what the whole gives on the same noise.

    Raises:
        SettingError: the number of steps is out of range.
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
