"""What all generators share: how to draw, and the interface of what draws the tokens of a codec."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtok_codec.arguments import as_integer, as_number
from vtok_codec.codec.tokenizer import check_process, choose_placement
from vtok_codec.errors import InputError, SettingError
from vtok_codec.models.generator import Pick
from vtok_codec.models.sampling import check_steps
from vtok_codec.tokens.radix import Tokens, check_range
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

MAX_POSITIONS = 1 << 12
"""The largest number of positions of a latent frame: each attends to all others, so that memory grows with its square,
to a gigabyte for this number."""
CONTEXT_LATENTS = 24
"""The latent frames that a generator looks back on. Beyond its reach per block times its blocks it sees nothing."""
_TEMPERATURES = (0.01, 100.0)
"""The lowest and the highest temperature above 0."""
_MAX_GUIDANCE = 100.0
_MAX_STILLNESS = 100.0


@dataclass(frozen=True)
class Sampling:
    """How a generator draws."""

    seed: int = 0
    """The seed of all random choices."""
    temperature: float = 1.0
    """Of tokens, what the logits are divided by: below 1, likely values become likelier; 0 always takes the likeliest.
    For a latent flow, the standard deviation of the noise."""
    top_p: float = 0.95
    """Of each digit's values, only the likeliest are drawn that together have this probability (nucleus sampling)."""
    label: str = ""
    """The class of the video, one of `TokenGenerator.classes`; empty for any."""
    guidance: float = 1.0
    """How much the class counts: the logits with it, minus those without, are multiplied by this (classifier-free
    guidance, arXiv:2207.12598). Any number but 1 takes twice as long."""
    steps: int | None = None
    """The steps from noise to a latent frame, 1 to 16, if a latent flow draws; None for its default, 8."""
    stillness: float = 0.0
    """How strongly tokens are preferred that stood at the same place in the latent frame before: what is added to the
    logits of their digits, from 0 to 100. A latent flow has no use for it."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "guidance", "stillness"):
            object.__setattr__(self, name, as_number(getattr(self, name), name.replace("_", "-")))
        object.__setattr__(self, "seed", as_integer(self.seed, "seed"))
        if self.steps is not None:
            object.__setattr__(self, "steps", as_integer(self.steps, "steps"))
            check_steps(self.steps)
        if self.temperature and not _TEMPERATURES[0] <= self.temperature <= _TEMPERATURES[1]:
            raise SettingError(f"temperature {self.temperature}: give 0, or {_TEMPERATURES[0]} to {_TEMPERATURES[1]:g}")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top-p {self.top_p}: give a number above 0 and up to 1")
        if not 0 <= self.guidance <= _MAX_GUIDANCE:
            raise SettingError(f"guidance {self.guidance}: give a number from 0 to {_MAX_GUIDANCE:g}")
        if self.guidance != 1 and not self.label:
            raise SettingError(f"guidance {self.guidance}: name a label that is to guide")
        if not 0 <= self.stillness <= _MAX_STILLNESS:
            raise SettingError(f"stillness {self.stillness}: give a number from 0 to {_MAX_STILLNESS:g}")
        if not 0 <= self.seed < 1 << 63:
            raise SettingError(f"seed {self.seed}: give 0 to {(1 << 63) - 1}")

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


class TokenDrawer(ABC):
    """A generator ready to use, of whichever kind. One can draw several videos at once, since no call changes it.

    Args:
        weights: The weights of the generator.
        device: `auto`, `cpu` or `cuda`; see `choose_placement`.

    Raises:
        ModelError: The weights are not those of such a generator.
        SettingError: The device cannot be used.
    """

    def __init__(self, weights: WeightsFile, device: str = "auto") -> None:
        self._placement = choose_placement(device)
        self._process = os.getpid()
        self.name = weights.name
        """The name of the weights."""
        self.codec = weights.metadata.get("codec", "another codec")
        """The name of the codec whose tokens it draws."""
        self.codec_sha256 = weights.metadata.get(CODEC_SHA256, "")
        """The hash of that codec's weights."""

    @property
    @abstractmethod
    def tokens_per_position(self) -> int:
        """The tokens per latent position that it draws."""

    @property
    @abstractmethod
    def _levels(self) -> tuple[int, ...]:
        """The number of values of each digit of a token."""

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
            SettingError: A number is out of range, or the generator has no use for a setting.
        """
        return np.concatenate(list(self.stream(tokens, latents, sampling, before)))

    @abstractmethod
    def stream(
        self,
        tokens: Tokens,
        latents: int,
        sampling: Sampling | None = None,
        before: Sequence[Tokens] = (),
    ) -> Iterator[Tokens]:
        """Yield the latent frames of `continue_` one by one, each `1 h w n`."""

    def _check_alike(self, gops: Sequence[Tokens]) -> None:
        """Check the process, the tokens of GOPs, and that all have the same grid."""
        check_process(self._process)
        for tokens in gops:
            self._check(tokens)
        if len({tokens.shape[1:3] for tokens in gops}) > 1:
            raise InputError("GOPs of different grids do not follow each other")

    def _check(self, tokens: Tokens) -> None:
        wanted = self.tokens_per_position
        if not isinstance(tokens, np.ndarray):
            raise InputError(f"tokens must be a NumPy array, not {type(tokens).__name__}")
        if tokens.ndim != 4 or tokens.shape[3] != wanted:
            raise InputError(f"tokens must be t h w {wanted}, as {self.name} draws them, not {tokens.shape}")
        check_grid(*tokens.shape[1:3])
        try:
            check_range(tokens, math.prod(self._levels))
        except ValueError as error:
            raise InputError(str(error)) from None


def check_latents(latents: int) -> None:
    """Check the number of latent frames to draw.

    Raises:
        SettingError: It is less than 1.
    """
    if as_integer(latents, "latents") < 1:
        raise SettingError(f"latents {latents}: give at least 1")


def check_grid(rows: int, columns: int) -> None:
    """Check that a generator can draw latent frames of a size.

    Raises:
        InputError: They are empty, or too large.
    """
    if not 0 < rows * columns <= MAX_POSITIONS:
        what = "too large" if rows * columns else "empty"
        raise InputError(
            f"latent frames of {rows}x{columns} positions are {what}: a generator can draw 1 to {MAX_POSITIONS}"
        )
