"""Chooses what a file is decoded with: the decoder of its own model, or another one for the same tokens."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TypeAlias

from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.onedva import OneDVACoder
from vtok_codec.codec.onedva_decoder import OneDVADecoder
from vtok_codec.codec.pixel_decoder import DecoderChoice, PixelDecoder
from vtok_codec.codec.sharp import SharpDecoder
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.header import ModelId, WindowHeader
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import FLOW, OBJECTIVES, SHARP, SharpConfig
from vtok_codec.registry import (
    DETERMINISTIC,
    STRUCTURAL,
    check_same_weights,
    find_decoder,
    find_shipped,
    find_weights,
    is_onedva,
    weights_of,
)
from vtok_codec.weights_file import SUFFIX, WeightsFile

OtherDecoder: TypeAlias = "DiffusionDecoder | SharpDecoder | OneDVADecoder"
"""A decoder that lies beside the model's own one."""


class Decoders:
    """The decoders of one codec. Each is loaded when it is first chosen, and kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        """Held while weights are loaded, so that threads do not load the same ones twice."""
        self._loaded: dict[str, OtherDecoder] = {}
        self._onedva: dict[str, OneDVADecoder] = {}
        """The decoders that read 1D tokens, by the hash of the weights that made those."""

    def choose(self, choice: DecoderChoice, windows: WindowHeader | None = None) -> PixelDecoder:
        """Return the decoder of a choice.

        Args:
            choice: The choice. For a file with 1D tokens, `deterministic` and `flow` are those of One-DVA.
            windows: What the file says about its 1D tokens; None if it has none.

        Raises:
            ModelError: There is no such decoder, or it is for the tokens of other weights.
            SettingError: A number is out of range, or a decoder without noise is given steps or a seed.
        """
        return self.other(choice, windows) or self.tokenizer

    def other(self, choice: DecoderChoice, windows: WindowHeader | None = None) -> OtherDecoder | None:
        """Return the decoder of a choice, or None where the choice is the model's own decoder.

        Raises:
            ModelError, SettingError: See `choose`.
        """
        if windows and choice.name == FLOW:
            return self._with_windows(windows).from_noise(choice.steps, choice.seed)
        own = choice.name in (DETERMINISTIC, STRUCTURAL)
        decoder = None if own else self._load(choice.name)
        if windows and choice.name == DETERMINISTIC:
            decoder = self._with_windows(windows)
        if isinstance(decoder, DiffusionDecoder):
            return decoder.chosen(choice.steps, choice.seed)
        if choice.steps is not None or choice.seed:
            raise SettingError(f"the decoder {choice.name} has no steps and no noise; leave out steps and seed")
        return decoder

    def _with_windows(self, windows: WindowHeader) -> OneDVADecoder:
        """Return the decoder that reads 1D tokens."""
        with self._lock:
            if windows.weights_sha256 not in self._onedva:
                own = self.tokenizer.onedva
                if own is None or windows.weights_sha256 not in own.weights.reads:
                    own = OneDVACoder(_weights_of_windows(windows), self.tokenizer)
                self._onedva[windows.weights_sha256] = OneDVADecoder(own)
        found = self._onedva[windows.weights_sha256]
        found.coder.check_fits(windows)
        return found

    def _load(self, name: str) -> OtherDecoder:
        with self._lock:
            if name not in self._loaded:
                weights = self._weights(name)
                kind = SharpDecoder if isinstance(weights.config, SharpConfig) else DiffusionDecoder
                self._loaded[name] = kind(weights, self.tokenizer)
            return self._loaded[name]

    def _weights(self, name: str) -> WeightsFile:
        if name.endswith(SUFFIX) or Path(name).is_dir():
            return find_weights(name)
        if name not in (SHARP, *OBJECTIVES):
            known = ", ".join((DETERMINISTIC, STRUCTURAL, SHARP, *OBJECTIVES))
            raise ModelError(f"no decoder {name!r}; use one of {known}, or name a weights file")
        return find_decoder(name, self.tokenizer.weights.reads)


def _weights_of_windows(windows: WindowHeader) -> WeightsFile:
    """Return the shipped weights of One-DVA that made the 1D tokens of a file.

    Raises:
        ModelError: They are not here.
    """
    try:
        weights = find_shipped(windows.name)
        check_same_weights(weights, windows.name, windows.weights_sha256)
    except ModelError as error:
        raise ModelError(f"{error}; or leave out the 1D tokens that it made (--decoder {STRUCTURAL})") from None
    return weights


def tokenizer_of(model: ModelId, weights: str | Path | None = None, device: str = "auto") -> Tokenizer:
    """Load the model that made a file.

    Args:
        model: What the file says about the model.
        weights: A shipped name or a path, of the model or of One-DVA's transformers for it; None for the shipped model
            that the file names.
        device: `auto`, `cpu` or `cuda`; see `choose_placement`.

    Raises:
        ModelError: The model is missing, or does not read the file's tokens.
        SettingError: The device cannot be used.
    """
    named = find_weights(weights) if weights else None
    if named and is_onedva(named):
        tokenizer = load_tokenizer(named, device)
        check_same_weights(tokenizer.weights, model.name, model.weights_sha256)
        return tokenizer
    return load_tokenizer(weights_of(model, weights), device)
