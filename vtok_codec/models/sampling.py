"""Generates from noise in a few steps: video with a diffusion decoder, codes with One-DVA."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vtok_codec.errors import SettingError
from vtok_codec.models.causal import State
from vtok_codec.models.config import FLOW
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onedva import Group, NoisyCodes, OneDVA, Prediction
from vtok_codec.models.paths import path_of

DIFFUSION_STEPS = 1
"""The default number of denoising steps. With the shipped weights, more steps do not lower LPIPS."""
MAX_STEPS = 16
"""The largest number of denoising steps. Each step keeps a state 1.5 times as large as the deterministic decoder's."""


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
