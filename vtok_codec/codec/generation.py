"""Draws tokens with a generator: the latent frames that go on with a video, or a video from nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.tokenizer import choose_placement
from vtok_codec.errors import InputError, SettingError
from vtok_codec.models.generator import Generator, GeneratorState, Pick, kinds
from vtok_codec.models.weights import build_generator
from vtok_codec.registry import CODEC_SHA256, WeightsFile, find_generator
from vtok_codec.tokens.radix import Digits, Tokens, check_range, digits_to_tokens, tokens_to_digits

MAX_POSITIONS = 1 << 12
"""The largest number of positions of a latent frame: each attends to all others, so that memory grows with its square,
to a gigabyte for this number."""
_SHOWN_CLASSES = 20
"""The most classes that a message names."""
_TEMPERATURES = (0.01, 100.0)
"""The lowest and the highest temperature above 0."""
_MAX_GUIDANCE = 100.0
_CONTEXT_LATENTS = 24
"""The latent frames that a generator looks back on. Beyond its reach per block times its blocks it sees nothing."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from the distributions that a generator predicts."""

    seed: int = 0
    """The seed of all random choices."""
    temperature: float = 1.0
    """What the logits are divided by: below 1, likely values become likelier; 0 always takes the likeliest."""
    top_p: float = 0.95
    """Of each digit's values, only the likeliest are drawn that together have this probability (nucleus sampling)."""
    label: str = ""
    """The class of the video, one of `TokenGenerator.classes`; empty for any."""
    guidance: float = 1.0
    """How much the class counts: the logits with it, minus those without, are multiplied by this (classifier-free
    guidance, arXiv:2207.12598). Any number but 1 takes twice as long."""

    def __post_init__(self) -> None:
        if self.temperature and not _TEMPERATURES[0] <= self.temperature <= _TEMPERATURES[1]:
            raise SettingError(f"temperature {self.temperature}: give 0, or {_TEMPERATURES[0]} to {_TEMPERATURES[1]:g}")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top-p {self.top_p}: give a number above 0 and up to 1")
        if not 0 <= self.guidance <= _MAX_GUIDANCE:
            raise SettingError(f"guidance {self.guidance}: give a number from 0 to {_MAX_GUIDANCE:g}")
        if self.guidance != 1 and not self.label:
            raise SettingError(f"guidance {self.guidance}: name a label that is to guide")
        if not 0 <= self.seed < 1 << 63:
            raise SettingError(f"seed {self.seed}: give a number of at least 0")

    def picker(self, device: torch.device) -> Pick:
        """Return a function that draws values from logits."""
        random = torch.Generator(device).manual_seed(self.seed)

        def pick(logits: Tensor) -> Tensor:
            if not self.temperature:
                return logits.argmax(-1)
            sorted_, order = (logits / self.temperature).softmax(-1).sort(-1, descending=True)
            # A value is kept while those before it have not reached the probability.
            kept = sorted_ * (sorted_.cumsum(-1) - sorted_ < self.top_p)
            return order.gather(-1, torch.multinomial(kept, 1, generator=random))[:, 0]

        return pick


class TokenGenerator:
    """A generator ready to use. One generator can draw several videos at once, since no call changes it.

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
        self._model: Generator = build_generator(weights.config, weights.data, str(weights.path))
        self._placement = choose_placement(device)
        self._model.to(self._placement.device, self._placement.dtype)
        self.name = weights.name
        """The name of the weights."""
        self.codec = weights.metadata.get("codec", "another codec")
        """The name of the codec whose tokens it draws."""
        self.codec_sha256 = weights.metadata.get(CODEC_SHA256, "")
        """The hash of that codec's weights."""

    @property
    def tokens_per_position(self) -> int:
        """The tokens per latent position that it draws."""
        return self._model.config.tokens

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of videos that it can draw; none if it was trained without."""
        return self._model.config.classes

    def continue_(
        self,
        tokens: Tokens,
        latents: int,
        sampling: Sampling | None = None,
        before: Sequence[Tokens] = (),
    ) -> Tokens:
        """Draw the latent frames that follow on those of a GOP.

        Args:
            tokens: The latent frames of the GOP so far, uint16 `t h w n`; none at the start of a GOP.
            latents: The number of latent frames to draw.
            sampling: How to draw; None for the defaults.
            before: The GOPs before, the last one at the end. They are optional.

        Returns:
            The drawn latent frames alone, uint16 `latents h w n`.

        Raises:
            InputError: The tokens have another shape, or a value is not one of the codec's tokens.
            SettingError: A number is out of range.
        """
        return np.concatenate(list(self.stream(tokens, latents, sampling, before)))

    @torch.inference_mode()
    def stream(
        self,
        tokens: Tokens,
        latents: int,
        sampling: Sampling | None = None,
        before: Sequence[Tokens] = (),
    ) -> Iterator[Tokens]:
        """Yield the latent frames of `continue_` one by one, each `1 h w n`."""
        if latents < 1:
            raise SettingError(f"latents {latents}: give at least 1")
        self._check_alike([*before, tokens])
        sampling = sampling or Sampling()
        labels, pick = self._labels(sampling), sampling.picker(self._placement.device)
        if labels is not None and len(labels) > 1:
            pick = _guided(pick, sampling.guidance)
        state = self._state([*before, tokens], labels)
        phases = self._model.config.codec.layout.phases
        for latent in range(len(tokens), len(tokens) + latents):
            drawn, state = self._model.draw(min(latent, phases), state, pick, labels)
            yield digits_to_tokens(_as_digits(drawn), self._levels)

    @torch.inference_mode()
    def bits(self, gops: Sequence[Tokens]) -> float:
        """Return how many bits tokens would take if they were packed with the generator's predictions.

        Args:
            gops: The tokens `t h w n` of each GOP.

        Raises:
            InputError: See `continue_`.
        """
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

    def _check_alike(self, gops: Sequence[Tokens]) -> None:
        """Check the tokens of GOPs, and that all have the same grid."""
        for tokens in gops:
            self._check(tokens)
        if len({tokens.shape[1:3] for tokens in gops}) > 1:
            raise InputError("GOPs of different grids do not follow each other")

    def _check(self, tokens: Tokens) -> None:
        wanted = self.tokens_per_position
        if tokens.ndim != 4 or tokens.shape[3] != wanted or not tokens.shape[1] * tokens.shape[2]:
            raise InputError(f"tokens must be t h w {wanted}, as {self.name} draws them, not {tokens.shape}")
        if tokens.shape[1] * tokens.shape[2] > MAX_POSITIONS:
            raise InputError(
                f"latent frames of {tokens.shape[1]}x{tokens.shape[2]} positions are too large for a generator: it can "
                f"draw up to {MAX_POSITIONS}"
            )
        try:
            check_range(tokens, math.prod(self._levels))
        except ValueError as error:
            raise InputError(str(error)) from None

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
        skipped = max(0, sum(map(len, gops)) - _CONTEXT_LATENTS)
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


def load_generator(
    name: str | Path | None = None, device: str = "auto", codec_hashes: frozenset[str] | None = None
) -> TokenGenerator:
    """Load a generator.

    Args:
        name: The name of shipped weights, or the path of a weights file or of a training run's folder; None for the
            first shipped generator.
        device: `auto`, `cpu` or `cuda`.
        codec_hashes: The hashes of the codec weights whose tokens it must draw (`WeightsFile.reads`); None for any.

    Raises:
        ModelError: There is none, or it draws the tokens of other weights.
        SettingError: The device cannot be used.
    """
    return TokenGenerator(find_generator(name, codec_hashes), device)
