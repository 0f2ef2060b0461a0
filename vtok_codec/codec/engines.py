"""Chooses and loads what decodes files: torch, or ONNX Runtime. Nothing here imports either before it is needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from vtok_codec.codec.pixel_decoder import DecoderChoice, PixelDecoder
from vtok_codec.container.header import Header, ModelId, WindowHeader
from vtok_codec.errors import PackageError, SettingError
from vtok_codec.registry import (
    DETERMINISTIC,
    DRAWS,
    STRUCTURAL,
    decoder_name,
    find_shipped,
    find_weights,
    is_decoder,
    shipped_weights,
    weights_of,
)
from vtok_codec.weights_file import CODEC_SHA256

if TYPE_CHECKING:
    from vtok_codec.codec.decoders import Decoders

AUTO, TORCH, ONNX = "auto", "torch", "onnx"
"""The names of engines; `auto` takes torch if it is installed."""


def chosen_engine(name: str, choice: DecoderChoice, device: str) -> str:
    """Return the engine that a name stands for, `torch` or `onnx`.

    Args:
        name: `auto`, `torch` or `onnx`.
        choice: The decoder to run.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        SettingError: There is no such engine, or it does not have what is asked for.
        PackageError: Neither engine is installed.
    """
    if name not in (AUTO, TORCH, ONNX):
        raise SettingError(f"engine {name!r}: use {AUTO}, {TORCH} or {ONNX}")
    if name == TORCH or (name == AUTO and find_spec("torch")):
        return TORCH
    if name == AUTO and not find_spec("onnxruntime"):
        raise PackageError("this needs the package torch, or onnxruntime: pip install 'vtok-codec[torch]' or [onnx]")
    if choice not in (DecoderChoice(), DecoderChoice(STRUCTURAL)) or device == "cuda":
        raise SettingError("engine onnx has the deterministic decoder on the CPU only; for others install torch")
    return ONNX


class DecoderLoader:
    """Loads decoders, each model once. Threads may share a loader.

    Args:
        weights: A shipped name or the path of the weights of the model; None for the shipped one that a file names.
        device: `auto`, `cpu` or `cuda`.
        engine: `torch` or `onnx`; see `chosen_engine`.
    """

    def __init__(self, weights: str | Path | None, device: str, engine: str) -> None:
        self.weights, self.engine = weights, engine
        self._device = device
        self._loaded: dict[tuple[str, DecoderChoice, WindowHeader | None], tuple[PixelDecoder, str]] = {}
        self._decoders: dict[str, Decoders] = {}
        self._loading = Lock()

    def load(
        self, model: ModelId, choice: DecoderChoice, windows: WindowHeader | None = None
    ) -> tuple[PixelDecoder, str]:
        """Return a decoder for the tokens of a file, and where it runs, in words.

        Args:
            model: What the file says about its model.
            choice: The decoder.
            windows: What the file says about its 1D tokens; None if it has none.

        Raises:
            ModelError: The model or the decoder is missing, or does not read the file's tokens.
            SettingError: A number is out of range, or the device cannot be used.
        """
        key = model.weights_sha256, choice, windows
        with self._loading:
            if key not in self._loaded:
                self._loaded[key] = self._load(model, choice, windows)
            return self._loaded[key]

    def _load(self, model: ModelId, choice: DecoderChoice, windows: WindowHeader | None) -> tuple[PixelDecoder, str]:
        if self.engine == ONNX:
            if windows and choice.name == DETERMINISTIC:
                raise SettingError(
                    f"engine onnx does not read the 1D tokens of {windows.name}; install torch, or leave them out with "
                    f"--decoder {STRUCTURAL}"
                )
            from vtok_codec.codec.onnx_decoder import OnnxDecoder

            return OnnxDecoder(weights_of(model, self.weights)), "ONNX Runtime, cpu"
        from vtok_codec.codec.decoders import Decoders, tokenizer_of

        wanted = model.weights_sha256
        if wanted not in self._decoders:
            self._decoders[wanted] = Decoders(tokenizer_of(model, self.weights, self._device))
        decoders = self._decoders[wanted]
        return decoders.choose(choice, windows), str(decoders.tokenizer.placement)

    def choices(self, header: Header) -> tuple[str, ...]:
        """Return the names of the decoders that can decode a file, the one that does so by default first.

        Raises:
            ModelError: The model of the file is missing.
        """
        if self.engine != TORCH:
            return (STRUCTURAL if header.windows else DETERMINISTIC,)
        if header.windows:
            named = find_weights(self.weights) if self.weights else find_shipped(header.windows.name)
            draws = named.metadata.get(DRAWS)
            return (DETERMINISTIC, STRUCTURAL, *([draws] if draws else []))
        reads = weights_of(header.model, self.weights).reads
        fitting = (each for each in filter(is_decoder, shipped_weights()) if each.metadata.get(CODEC_SHA256) in reads)
        return (DETERMINISTIC, *dict.fromkeys(map(decoder_name, fitting)))
