"""Draws tokens with a generator that predicts them digit by digit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.drawing import CONTEXT_LATENTS, Sampling, TokenDrawer, check_latents
from vtok_codec.errors import InputError, SettingError
from vtok_codec.models.generator import Generator, GeneratorState, Pick, kinds
from vtok_codec.models.precision import plain_types
from vtok_codec.models.weights import GENERATOR, build
from vtok_codec.tokens.radix import Digits, Tokens, digits_to_tokens, tokens_to_digits
from vtok_codec.weights_file import WeightsFile

_SHOWN_CLASSES = 20
"""The most classes that a message names."""


class TokenGenerator(TokenDrawer):
    """A generator that predicts tokens, ready to use.

    Args:
        weights: The weights of the generator.
        device: `auto`, `cpu` or `cuda`; see `choose_placement`.

    Raises:
        ModelError: The weights are not those of a generator.
        SettingError: The device cannot be used.

    Example:
        >>> generator = vtok_codec.load_generator("runs/generator")
        >>> with vtok_codec.open("clip.vtk") as clip:
        ...     gop = clip.tokens(gop=0)[..., : generator.tokens_per_position]
        >>> longer = np.concatenate([gop, generator.continue_(gop, latents=12)])
    """

    def __init__(self, weights: WeightsFile, device: str = "auto") -> None:
        self._model: Generator = build(GENERATOR, weights)
        super().__init__(weights, device)
        self._model.to(self._placement.device, self._placement.dtype)

    @property
    def tokens_per_position(self) -> int:
        """The tokens per latent position that it draws."""
        return self._model.config.tokens

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of videos that it can draw; none if it was trained without."""
        return self._model.config.classes

    @torch.inference_mode()
    def stream(
        self,
        tokens: Tokens,
        latents: int,
        sampling: Sampling | None = None,
        before: Sequence[Tokens] = (),
    ) -> Iterator[Tokens]:
        """Yield the latent frames of `continue_` one by one, each `1 h w n`."""
        check_latents(latents)
        self._check_alike([*before, tokens])
        sampling = sampling or Sampling()
        if sampling.steps is not None:
            raise SettingError(f"steps {sampling.steps}: {self.name} draws each token at once, and takes no steps")
        labels, pick = self._labels(sampling), sampling.picker(self._placement.device)
        if labels is not None and len(labels) > 1:
            pick = _guided(pick, sampling.guidance)
        with plain_types():
            state = self._state([*before, tokens], labels)
        phases = self._model.config.codec.layout.phases
        for latent in range(len(tokens), len(tokens) + latents):
            # A phase of the first frame, and what follows on the last of them, resemble nothing before them.
            stillness = sampling.stillness if latent > phases else 0.0
            with plain_types():
                drawn, state = self._model.draw(min(latent, phases), state, pick, labels, stillness)
            yield digits_to_tokens(_as_digits(drawn), self._levels)

    @torch.inference_mode()
    @plain_types()
    def bits(self, gops: Sequence[Tokens]) -> float:
        """Return how many bits tokens would take if they were packed with the generator's predictions.

        Args:
            gops: The tokens `t h w n` of each GOP.

        Raises:
            InputError: See `continue_`.
        """
        if isinstance(gops, np.ndarray) or not isinstance(gops, Sequence):
            raise InputError("gops must be a list of arrays, one per GOP")
        if not gops:
            return 0.0
        self._check_alike(gops)
        total, state = 0.0, self._model.start(1, *gops[0].shape[1:3])
        for tokens in gops:
            bits, state = self._read(tokens, state, None)
            total += bits
        return total

    @property
    def _levels(self) -> tuple[int, ...]:
        return self._model.config.codec.fsq_levels

    def _labels(self, sampling: Sampling) -> Tensor | None:
        """Return the class of each video of a batch: with guidance, there is one with the class and one without."""
        if not sampling.label:
            return None
        if sampling.label not in self.classes:
            known = f"it knows {', '.join(self.classes[:_SHOWN_CLASSES])}" if self.classes else "it has no classes"
            more = len(self.classes) - _SHOWN_CLASSES
            raise SettingError(f"label {sampling.label!r}: {known}{f' and {more} more' if more > 0 else ''}")
        number = self.classes.index(sampling.label) + 1
        both = [number] if sampling.guidance == 1 else [number, 0]
        return torch.tensor(both, device=self._placement.device)

    def _state(self, gops: Sequence[Tokens], labels: Tensor | None) -> GeneratorState:
        """Return the state after GOPs, of which only the last latent frames are looked at."""
        rows, columns = gops[-1].shape[1:3]
        state = self._model.start(1 if labels is None else len(labels), rows, columns)
        skipped = max(0, sum(map(len, gops)) - CONTEXT_LATENTS)
        for tokens in gops:
            begin = min(skipped, len(tokens))
            skipped -= begin
            _, state = self._read(tokens, state, labels, begin)
        return state

    def _read(
        self, tokens: Tokens, state: GeneratorState, labels: Tensor | None, begin: int = 0
    ) -> tuple[float, GeneratorState]:
        """Read the latent frames of a GOP from `begin` on. Returns what they cost in bits, and the state after them."""
        phases, device = self._model.config.codec.layout.phases, self._placement.device
        total = 0.0
        # One at a time, since a mask for several would take much memory.
        for latent in range(begin, len(tokens)):
            digits = torch.from_numpy(tokens_to_digits(tokens[latent : latent + 1], self._levels)).to(device)
            batch = digits.expand(len(state.digits), -1, -1, -1, -1)
            kind = kinds(1, phases, latent).expand(len(batch), -1).to(device)
            costs, state = self._model.costs(batch, kind, state, labels)
            total += float(costs.sum())
        return total, state


def _guided(pick: Pick, guidance: float) -> Pick:
    """Return a function that draws the same values for videos with a class and for as many without, guided by it."""

    def draw(logits: Tensor) -> Tensor:
        labelled, free = logits.chunk(2)
        # Impossible values have −∞ in both.
        difference = torch.where(torch.isinf(free), 0, labelled - free)
        return pick(free + guidance * difference).repeat(2)

    return draw


def _as_digits(drawn: Tensor) -> Digits:
    """Convert the drawn digits of the first video, int64 `B P h w`, to uint8 `P 1 h w`."""
    return drawn[0, :, None].to(torch.uint8).cpu().numpy()
