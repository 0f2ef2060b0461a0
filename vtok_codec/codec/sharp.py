"""A sharp decoder ready to use: the network of a codec's own decoder, trained for how pictures look."""

from __future__ import annotations

import copy

import torch

from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.config import SharpConfig
from vtok_codec.models.weights import SHARP_DECODER, build
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits
from vtok_codec.weights_file import WeightsFile


class SharpDecoder:
    """A decoder that draws detail where the codec's own decoder blurs, at the same cost.

    Args:
        weights: The weights of the sharp decoder.
        tokenizer: The codec whose tokens it decodes.

    Raises:
        ModelError: The weights cannot be used, or are for the tokens of another codec.
    """

    def __init__(self, weights: WeightsFile, tokenizer: Tokenizer) -> None:
        decoder = build(SHARP_DECODER, weights).requires_grad_(False)
        fits = isinstance(weights.config, SharpConfig) and weights.config.decodes(tokenizer.model.config)
        tokenizer.check_made_for(weights, fits, "use the deterministic decoder")
        self.id, self.max_tokens, self.placement = tokenizer.id, tokenizer.max_tokens, tokenizer.placement
        self.bytes_per_pixel = tokenizer.bytes_per_pixel
        self.lanes, place = tokenizer.lanes, self.placement
        placed = decoder.to(place.device, place.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tokenizer = copy.copy(tokenizer)
        self._tokenizer.model = copy.copy(tokenizer.model)
        # A shallow copy of a module shares the table of its parts.
        self._tokenizer.model._modules = {**tokenizer.model._modules, "decoder": placed}
        self.weights_sha256 = weights.sha256

    @property
    def identity(self) -> dict[str, str]:
        """Everything that the decoded frames depend on, apart from the tokens and their codec."""
        return {"decoder": self.weights_sha256}

    @property
    def description(self) -> str:
        """The decoder in a few words, for reports."""
        return self.weights_sha256[:12]

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""
        return self._tokenizer.find_prior(sha256)

    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: State,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, State]:
        """Decode a chunk or a part of one; see `Tokenizer.decode`."""
        return self._tokenizer.decode(digits, size, frames, state, gop)

    def warm_up(self) -> None:
        """Code a small picture, so that later timings do not include what torch sets up at its first use."""
        self._tokenizer.warm_up()
