"""Decodes files with 1D tokens, to the mean of what they can mean or from noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vtok_codec.codec.noise import check_seed, noise_of
from vtok_codec.codec.onedva import ONEDVA_STEPS, OneDVACoder, OneDVAState
from vtok_codec.container.header import ModelId
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import ModelError
from vtok_codec.media.types import Pixels
from vtok_codec.models.config import FLOW
from vtok_codec.models.precision import plain_types
from vtok_codec.models.sampling import check_steps
from vtok_codec.registry import DRAWS
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits


@dataclass(frozen=True)
class OneDVADecoder:
    """Decodes files with 1D tokens: it predicts the second token of every position, and lets the codec decode both."""

    coder: OneDVACoder
    """The transformers, and the codec."""
    steps: int | None = None
    """How often the transformer is evaluated to draw the second token from noise; None takes the mean of what it
    could be."""
    seed: int = 0
    """The seed of the noise."""

    def from_noise(self, steps: int | None, seed: int) -> OneDVADecoder:
        """Return a decoder with the same transformers that draws the second token from noise.

        Args:
            steps: How often the transformer is evaluated; None for the default.
            seed: The seed of the noise.

        Raises:
            ModelError: The transformers were not trained for it.
            SettingError: A number is out of range.
        """
        weights = self.coder.weights
        if weights.metadata.get(DRAWS) != FLOW:
            raise ModelError(
                f"{weights.name} was not trained to draw from noise; use the deterministic decoder, or train it: 'vtok "
                "train --stage onedva-noise'"
            )
        chosen = ONEDVA_STEPS if steps is None else steps
        check_steps(chosen)
        check_seed(seed)
        return replace(self, steps=chosen, seed=seed)

    @property
    def id(self) -> ModelId:
        """The model whose digits it reads."""
        return self.coder.tokenizer.id

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens per position that the decoder reads."""
        return 1

    @property
    def lanes(self) -> int:
        """The most GOPs that are worth decoding at once."""
        return self.coder.tokenizer.lanes

    @property
    def bytes_per_pixel(self) -> int:
        """The memory in bytes that decoding a chunk takes for each pixel of a frame."""
        return self.coder.tokenizer.bytes_per_pixel

    @property
    def identity(self) -> dict[str, str]:
        """Everything that the decoded frames depend on, apart from the tokens and their codec."""
        drawn = {} if self.steps is None else {"steps": str(self.steps), "seed": str(self.seed)}
        return {"decoder": self.coder.weights.sha256, **drawn}

    @property
    def description(self) -> str:
        """The decoder in a few words, for reports."""
        drawn = "" if self.steps is None else f" in {self.steps} steps"
        return f"One-DVA {self.coder.weights.sha256[:12]}{drawn}"

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""
        return self.coder.tokenizer.find_prior(sha256)

    @torch.inference_mode()
    @plain_types()
    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: OneDVAState | None,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, OneDVAState]:
        """Decode a whole chunk; see `Tokenizer.decode`. Where the 1D tokens are missing, it does without."""
        self.coder.tokenizer.check_process()
        begin = state.latents if state else 0
        if self.steps is None:
            tokens = self.coder.decode(digits, window_tokens, state)
        else:
            places = range(begin, begin + digits.shape[1])
            noise = [noise_of(self.seed, gop, place, (len(digits), *digits.shape[2:])) for place in places]
            tokens = self.coder.decode(digits, window_tokens, state, np.stack(noise, axis=1), self.steps)
        pixels, codec = self.coder.pictures(tokens, size, state)
        return pixels[:frames], OneDVAState(tokens.last, codec, begin + digits.shape[1])

    def warm_up(self) -> None:
        """Code a small picture, so that later timings do not include what torch sets up at its first use."""
        self.coder.tokenizer.warm_up()
