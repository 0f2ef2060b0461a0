"""Which decoder a file is decoded with, and its weights: those of its own model, or of a diffusion decoder for it."""

from __future__ import annotations

from pathlib import Path

from vtok_codec.codec.diffusion import check_same_codec, load_diffusion
from vtok_codec.codec.tokenizer import PixelDecoder, check_same_weights, load_tokenizer
from vtok_codec.container.header import ModelId
from vtok_codec.registry import DETERMINISTIC, SUFFIX, WeightsFile, find_decoder, find_shipped, find_weights


def decoder_weights(model: ModelId, decoder: str = DETERMINISTIC, weights: str | Path | None = None) -> WeightsFile:
    """The weights that decode the tokens of a model.

    `decoder` is `deterministic`, the objective of a shipped diffusion decoder, or the path of one's weights; `weights`
    names the model's own where they are not shipped.

    Raises:
        ModelError: there are none, or they are for other tokens.
    """
    if decoder == DETERMINISTIC:
        file = find_weights(weights) if weights else find_shipped(model.name)
        check_same_weights(file, model)
        return file
    if not decoder.endswith(SUFFIX):
        return find_decoder(decoder, model.weights_sha256)
    file = find_weights(decoder)
    check_same_codec(file, model)
    return file


def load_decoder(
    file: WeightsFile, device: str = "auto", decoder: str = DETERMINISTIC, steps: int | None = None, seed: int = 0
) -> PixelDecoder:
    """A decoder that `decoder_weights` found, on the chosen device.

    Raises:
        ModelError: the weights, the device or the steps cannot be used.
    """
    return load_tokenizer(file, device) if decoder == DETERMINISTIC else load_diffusion(file, device, steps, seed)
