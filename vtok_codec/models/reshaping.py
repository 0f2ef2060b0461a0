"""Changes the shape of a codec model by settings given as text. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import Codebook, OneVAEConfig, integers

SHAPE_KEYS = (
    "quantizer",
    "fsq_levels",
    "max_tokens",
    "widths",
    "encoder_blocks",
    "decoder_blocks",
    "blocks",
    "resampling",
    "expansion",
    "causal",
    "enhanced_first_frame",
)
"""The keys that `reshaped` accepts."""


def reshaped(config: OneVAEConfig, changes: Sequence[tuple[str, str]]) -> OneVAEConfig:
    """Return a copy of a configuration in which some values are replaced by values given as text.

    The values have these formats:

    - `quantizer`: `fsq`, `vq:CHANNELS:SIZE`, `simvq:CHANNELS:SIZE` or `lfq:CHANNELS`.
    - `widths`, `encoder_blocks`, `decoder_blocks`: one integer per level, from the finest on, separated by commas.
    - `fsq_levels`: one integer per digit, separated by commas.
    - `max_tokens`: an integer.
    - `expansion`: a number above 0, up to 16.
    - `blocks`, `resampling`: one of `BLOCK_KINDS` or `RESAMPLING_KINDS`.
    - `causal`, `enhanced_first_frame`: `true` or `false`.

    Args:
        config: The configuration to start from.
        changes: Pairs of a key from `SHAPE_KEYS` and the text of its new value.

    Raises:
        SettingError: A key is unknown or a value does not fit it.
    """
    for key, text in changes:
        try:
            config = _changed(config, key, text)
        except ModelError as error:
            raise SettingError(f"shape {key}={text}: {error}") from None
        except (ValueError, TypeError, KeyError):
            raise SettingError(f"shape {key}={text}: that value does not fit; see 'vtok train --help'") from None
    return config


def _changed(config: OneVAEConfig, key: str, text: str) -> OneVAEConfig:
    per_level = {"widths": "channels", "encoder_blocks": "encoder_blocks", "decoder_blocks": "decoder_blocks"}
    if key in per_level:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < (1 if key == "widths" else 0):
            raise ValueError
        levels = tuple(
            replace(level, **{per_level[key]: number})  # type: ignore[arg-type]
            for level, number in zip(config.levels, numbers, strict=True)
        )
        return replace(config, levels=levels)
    if key == "quantizer":
        return replace(config, codebook=_codebook(text))
    if key == "fsq_levels":
        return replace(config, fsq_levels=integers([int(part) for part in text.split(",")], key, 2))
    if key in ("causal", "enhanced_first_frame"):
        return replace(config, **{key: {"true": True, "false": False}[text]})  # type: ignore[arg-type]
    if key == "max_tokens":
        return replace(config, max_tokens=integers([int(text)], key, 1)[0])
    if key == "expansion":
        return replace(config, expansion=float(text))
    if key in ("blocks", "resampling"):
        return replace(config, **{key: text})  # type: ignore[arg-type]
    raise ModelError(f"there is no such key; use {', '.join(SHAPE_KEYS)}")


def _codebook(text: str) -> Codebook | None:
    kind, *numbers = text.split(":")
    if kind == "fsq" and not numbers:
        return None
    return Codebook(kind, *integers([int(number) for number in numbers], "quantizer", 1))
