"""Draws continuous latents with a latent flow, and the tokens that they round to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.drawing import CONTEXT_LATENTS, Sampling, TokenDrawer, check_grid, check_latents
from vtok_codec.codec.latents import Latents
from vtok_codec.codec.tokenizer import MAX_LATENT, check_process
from vtok_codec.errors import InputError, SettingError
from vtok_codec.models.latent_flow import FlowState, LatentFlow
from vtok_codec.models.precision import plain_types
from vtok_codec.models.weights import LATENT_FLOW, build
from vtok_codec.tokens.codes import codes_to_values, nearest_digits, values_to_codes
from vtok_codec.tokens.radix import Tokens, digits_to_tokens, tokens_to_digits
from vtok_codec.weights_file import WeightsFile

FLOW_STEPS = 8
"""The default number of steps from noise to a latent frame."""


class LatentGenerator(TokenDrawer):
    """A latent flow ready to use: it draws continuous latents, or the tokens that these round to.

    Example:
        >>> codec, flow = vtok_codec.load("onevae-nano-4x16x16"), vtok_codec.load_generator("runs/latent-flow")
        >>> latents = codec.encode_latents(videos, flow.tokens_per_position)[0].cpu().numpy()
        >>> longer = np.concatenate([latents, flow.continue_latents(latents, count=12)], axis=1)
    """

    def __init__(self, weights: WeightsFile, device: str = "auto") -> None:
        self._model: LatentFlow = build(LATENT_FLOW, weights)
        super().__init__(weights, device)
        # Latents are shifted and scaled in fp32, whatever the network computes in.
        exact = self._model.mean.clone(), self._model.deviation.clone()
        self._model.to(self._placement.device, self._placement.dtype)
        self._model.mean, self._model.deviation = (buffer.to(self._placement.device) for buffer in exact)
        # Codes of neighbouring digits differ by 1 / ⌊L/2⌋.
        steps = 1 / (np.asarray(self._levels * self.tokens_per_position)[:, None, None] // 2)
        rounding = float(((steps / exact[1].cpu().numpy()) ** 2 / 12).mean() ** 0.5)
        self._rounded_time = rounding / (1 + rounding)
        """The time at which noise disturbs latents as much as rounding does."""

    @property
    def tokens_per_position(self) -> int:
        """The tokens per latent position whose channels it draws."""
        return self._model.config.tokens

    @property
    def _levels(self) -> tuple[int, ...]:
        return self._model.config.codec.fsq_levels

    def continue_latents(self, latents: Latents, count: int, sampling: Sampling | None = None) -> Latents:
        """Draw the continuous latents that follow on those of a GOP.

        Args:
            latents: The latent frames of the GOP so far, float32 `C t h w`; none at the start of a GOP.
            count: The number of latent frames to draw.
            sampling: How to draw; None for the defaults. The temperature is the standard deviation of the noise.

        Returns:
            The drawn latent frames alone, float32 `C count h w`.

        Raises:
            InputError: The latents have another shape, or one is not finite.
            SettingError: A number is out of range, or a setting is for generators of tokens alone.
        """
        return np.concatenate(list(self.stream_latents(latents, count, sampling)), axis=1)

    @torch.inference_mode()
    def stream_latents(
        self, latents: Latents, count: int, sampling: Sampling | None = None, rounded: bool = False
    ) -> Iterator[Latents]:
        """Yield the latent frames of `continue_latents` one by one, each `C 1 h w`.

        With `rounded`, the latents are those that tokens stand for, and are read as noisy ones.
        """
        check_latents(count)
        sampling = sampling or Sampling()
        _check_sampling(sampling, self.name)
        self._check_latents(latents)
        device, phases = self._placement.device, self._model.config.codec.layout.phases
        random = torch.Generator(device).manual_seed(sampling.seed)
        with plain_types():
            state = self._state(latents, self._rounded_time if rounded else 0.0)
        for latent in range(latents.shape[1], latents.shape[1] + count):
            kind = min(latent, phases)
            noise = torch.randn(state.latents[:, 0].shape, generator=random, device=device) * sampling.temperature
            with plain_types():
                drawn = self._model.draw(kind, state, noise.to(self._placement.dtype), sampling.steps or FLOW_STEPS)
                # The codes of digits lie in [−1, 1], so that everything beyond was not meant.
                made: Tensor = self._model.restored(drawn).clamp(-1, 1)
                state = self._model.read(kind, state, self._model.standardized(made))
            yield made[0, :, None].float().cpu().numpy()

    def stream(
        self,
        tokens: Tokens,
        latents: int,
        sampling: Sampling | None = None,
        before: Sequence[Tokens] = (),
    ) -> Iterator[Tokens]:
        """Yield the tokens that drawn latents round to, frame by frame; the latents go on from unrounded ones.

        A latent flow has learned from single GOPs, so it does not look at the GOPs before.
        """
        check_latents(latents)
        self._check_alike([*before, tokens])
        for drawn in self.stream_latents(self._codes(tokens), latents, sampling, rounded=True):
            digits = nearest_digits(codes_to_values(drawn, self._levels), self._levels)
            yield digits_to_tokens(digits, self._levels)

    def _codes(self, tokens: Tokens) -> Latents:
        """Return the latents that tokens stand for."""
        return values_to_codes(tokens_to_digits(tokens, self._levels), self._levels)

    def _check_latents(self, latents: Latents) -> None:
        wanted = self._model.config.channels
        check_process(self._process)
        if not isinstance(latents, np.ndarray) or latents.dtype.kind != "f":
            raise InputError(f"latents must be a NumPy array of floats, not {getattr(latents, 'dtype', type(latents))}")
        if latents.ndim != 4 or len(latents) != wanted:
            raise InputError(f"latents must be {wanted} t h w, as {self.name} draws them, not {latents.shape}")
        check_grid(*latents.shape[2:])
        if not (np.abs(latents) <= MAX_LATENT).all():
            raise InputError(f"a latent is not a number from −{MAX_LATENT:g} to {MAX_LATENT:g}")

    def _state(self, latents: Latents, time: float) -> FlowState:
        """Return the state after the latent frames of a GOP, of which only the last ones are looked at.

        Args:
            latents: The latent frames, `C t h w`.
            time: The time to which their noise belongs, 0 if they have none.
        """
        phases, device = self._model.config.codec.layout.phases, self._placement.device
        state = self._model.start(1, *latents.shape[2:])
        for latent in range(max(0, latents.shape[1] - CONTEXT_LATENTS), latents.shape[1]):
            frame = torch.from_numpy(np.ascontiguousarray(latents[:, latent], np.float32)).to(device)
            known = (1 - time) * self._model.standardized(frame[None])
            state = self._model.read(min(latent, phases), state, known, time)
        return state


def _check_sampling(sampling: Sampling, name: str) -> None:
    """Refuse what only a generator that predicts tokens can do."""
    if sampling.top_p != Sampling.top_p:
        raise SettingError(f"top-p {sampling.top_p}: {name} draws latents, not values with probabilities")
    if sampling.stillness:
        raise SettingError(f"stillness {sampling.stillness}: {name} draws latents, not values with probabilities")
    if sampling.label:
        raise SettingError(f"label {sampling.label!r}: {name} has no classes")
