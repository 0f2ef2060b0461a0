"""Which decoder a file is decoded with, and its weights: its own model's, or a diffusion decoder's beside it."""

from __future__ import annotations

from pathlib import Path

from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.tokenizer import PixelDecoder, Tokenizer, check_same_weights, load_tokenizer
from vtok_codec.container.header import ModelId
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.sampling import PATHS
from vtok_codec.registry import DETERMINISTIC, SUFFIX, WeightsFile, find_decoder, find_shipped, find_weights


def tokenizer_of(model: ModelId, weights: str | Path | None = None, device: str = "auto") -> Tokenizer:
    """The model that made a file: the shipped one of its name, or the one that `weights` names.

    Raises:
        ModelError: it is not here, or is another one.
        SettingError: the device cannot be used.
    """
    file = find_weights(weights) if weights else find_shipped(model.name)
    check_same_weights(file, model.name, model.weights_sha256)
    return load_tokenizer(file, device)


def decoder_file(tokenizer: Tokenizer, decoder: str | Path) -> WeightsFile:
    """The weights of a diffusion decoder: of an objective, where one is shipped for these tokens, or of a path.

    Raises:
        ModelError: there are none.
    """
    if str(decoder).endswith(SUFFIX) or Path(decoder).is_dir():
        return find_weights(decoder)
    if decoder not in PATHS:
        raise ModelError(
            f"no decoder {str(decoder)!r}; use {DETERMINISTIC}, {' or '.join(PATHS)}, or name a weights file"
        )
    return find_decoder(str(decoder), tokenizer.id.weights_sha256)


def pixel_decoder(
    tokenizer: Tokenizer, decoder: str | Path = DETERMINISTIC, steps: int | None = None, seed: int = 0
) -> PixelDecoder:
    """What turns digits into frames: `deterministic`, or else see `decoder_file`, and `DiffusionDecoder.chosen`.

    Raises:
        ModelError: there is no such decoder, or it is for other tokens.
        SettingError: a number is out of its range.
    """
    if decoder == DETERMINISTIC:
        if steps is not None or seed:
            raise SettingError("the deterministic decoder has no steps and no noise; leave out steps and seed")
        return tokenizer
    return DiffusionDecoder(decoder_file(tokenizer, decoder), tokenizer, steps, seed)
