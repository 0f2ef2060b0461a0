"""Chooses what a file is decoded with: the decoder of its own model, or another one for the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.pixel_decoder import DecoderChoice, PixelDecoder
from vtok_codec.codec.sharp import SharpDecoder
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.header import ModelId
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import OBJECTIVES, SHARP, SharpConfig
from vtok_codec.registry import (
    DETERMINISTIC,
    SUFFIX,
    WeightsFile,
    find_decoder,
    find_weights,
    weights_of,
)

OtherDecoder: TypeAlias = "DiffusionDecoder | SharpDecoder"
"""A decoder that lies beside the model's own one."""


class Decoders:
    """The decoders of one codec. Each is loaded when it is first chosen, and kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._loaded: dict[str, OtherDecoder] = {}

    def choose(self, choice: DecoderChoice) -> PixelDecoder:
        """Return the decoder of a choice.

        Raises:
            ModelError: There is no such decoder, or it is for the tokens of other weights.
            SettingError: A number is out of range, or a decoder without noise is given steps or a seed.
        """
        return self.other(choice) or self.tokenizer

    def other(self, choice: DecoderChoice) -> OtherDecoder | None:
        """Return the decoder of a choice, or None where the choice is the model's own decoder.

        Raises:
            ModelError, SettingError: See `choose`.
        """
        decoder = None if choice.name == DETERMINISTIC else self._load(choice.name)
        if isinstance(decoder, DiffusionDecoder):
            return decoder.chosen(choice.steps, choice.seed)
        if choice.steps is not None or choice.seed:
            raise SettingError(f"the decoder {choice.name} has no steps and no noise; leave out steps and seed")
        return decoder

    def _load(self, name: str) -> OtherDecoder:
        if name not in self._loaded:
            weights = self._weights(name)
            kind = SharpDecoder if isinstance(weights.config, SharpConfig) else DiffusionDecoder
            self._loaded[name] = kind(weights, self.tokenizer)
        return self._loaded[name]

    def _weights(self, name: str) -> WeightsFile:
        if name.endswith(SUFFIX) or Path(name).is_dir():
            return find_weights(name)
        if name not in (SHARP, *OBJECTIVES):
            known = ", ".join((DETERMINISTIC, SHARP, *OBJECTIVES))
            raise ModelError(f"no decoder {name!r}; use one of {known}, or name a weights file")
        return find_decoder(name, self.tokenizer.weights.reads)


def tokenizer_of(model: ModelId, weights: str | Path | None = None, device: str = "auto") -> Tokenizer:
    """Load the model that made a file.

    Args:
        model: What the file says about the model.
        weights: A shipped name or a path; None for the shipped model that the file names.
        device: `auto`, `cpu` or `cuda`; see `choose_placement`.

    Raises:
        ModelError: The model is missing, or does not read the file's tokens.
        SettingError: The device cannot be used.
    """
    return load_tokenizer(weights_of(model, weights), device)
