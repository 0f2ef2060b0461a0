"""The Python API of models, which `vtok_codec` re-exports: tokens from frames, and frames from tokens."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.arguments import as_integer, as_integers, as_size
from vtok_codec.codec import batches
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.slices import slices
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.errors import InputError, SettingError
from vtok_codec.media.types import VideoInfo
from vtok_codec.registry import DEFAULT_MODEL, DETERMINISTIC, find_weights
from vtok_codec.stream.arrays import as_rate
from vtok_codec.stream.assembling import TokenModel, assemble
from vtok_codec.stream.settings import check_stickiness, check_token_count
from vtok_codec.tokens.radix import Tokens, digits_to_tokens, tokens_to_digits

_DEFAULT_TOKENS = 2
"""The tokens per position where no number is given, if the model has so many."""


class Codec:
    """A model that turns frames into tokens and back.

    Example:
        >>> codec = vtok_codec.load("onevae-nano-4x8x8")
        >>> tokens = codec.tokenize(frames)
        >>> frames = codec.detokenize(tokens)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._decoders = Decoders(tokenizer)
        self._model = TokenModel(tokenizer.id, tokenizer.max_tokens, tokenizer.prior)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.tokenizer.id.name

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process loads the weights anew.
        weights = self.tokenizer.onedva.weights if self.tokenizer.onedva else self.tokenizer.weights
        return load, (str(weights.path), self.tokenizer.placement.device.type)

    def tokenize(self, frames: NDArray[np.uint8], tokens: int | None = None, stickiness: float = 0.0) -> Tokens:
        """Encode frames as one GOP of tokens, each latent value rounded.

        Files with tokens chosen by rate and error, with sound, or of any length are made by `vtok encode`.

        Args:
            frames: uint8 RGB `T H W 3`.
            tokens: Tokens per latent position; None for two, or as many as the model has. More give a better picture.
            stickiness: How far beyond half a step a latent may move before its digit changes; see `EncodeSettings`.

        Returns:
            uint16 `t h w n`, the same tokens that a file with these settings and `EncodeSettings.rdo` 0 holds. With a
            temporal stride of 4, t = ⌈(T + 3) / 4⌉. A model with first-frame enhancement adds 3, because it stores its
            first frame on a finer grid as four latent frames.

        Raises:
            InputError: The frames have another shape or type, or there are none.
            SettingError: `tokens` or `stickiness` is out of range.
        """
        _require_array(frames, "frames")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise InputError(f"frames must be uint8 T H W 3, not {frames.dtype} {frames.shape}")
        check_stickiness(stickiness)
        count = self._count(tokens)
        parts, state = [], None
        for begin, end in self.tokenizer.layout.chunks(len(frames), batches.CHUNK_STEPS):
            digits, state = self.tokenizer.encode(frames[begin:end], count, state, stickiness)
            parts.append(digits_to_tokens(digits, self.tokenizer.id.levels))
        return np.concatenate(parts)

    def detokenize(
        self,
        tokens: Tokens,
        size: tuple[int, int] | None = None,
        frames: int | None = None,
        decoder: str | Path = DETERMINISTIC,
        steps: int | None = None,
        seed: int = 0,
        gop: int = 0,
    ) -> NDArray[np.uint8]:
        """Decode one GOP of tokens.

        Args:
            tokens: uint16 `t h w n`.
            size: The height and width to crop the frames to; by default nothing is cropped.
            frames: The number of frames to return; by default all that the tokens stand for.
            decoder: `deterministic`, `ddim`, `flow`, or the path of the weights of a diffusion or sharp decoder. In
                `Clip.frames`, also `structural` for a file with 1D tokens; `flow` then draws what they add from noise.
            steps: How often a decoder that draws from noise evaluates its network; by default once, with 1D tokens four
                times.
            seed: The seed of the noise.
            gop: The number of the GOP, from which the noise follows too.

        Returns:
            uint8 RGB `T H W 3`.

        Raises:
            InputError: The tokens have another shape, or a value is not one of the model's tokens.
            SettingError: Another argument is out of range.
            ModelError: There is no such decoder for this model.
        """
        _require_array(tokens, "tokens")
        self._model.check(tokens)
        digits = tokens_to_digits(tokens, self.tokenizer.id.levels)
        whole = self._model.picture(tokens)
        size = whole if size is None else as_size(size)
        if not all(0 < side <= most for side, most in zip(size, whole, strict=True)):
            raise SettingError(f"size {size} is not within the {whole} that the tokens stand for")
        most = self._model.frames(tokens)
        left = most if frames is None else as_integer(frames, "frames")
        if not 1 <= left <= most:
            raise SettingError(f"frames {frames}: the tokens stand for 1 to {most}")
        gop = as_integer(gop, "gop")
        if not 0 <= gop < 1 << 63:
            raise SettingError(f"gop {gop}: give a number from 0 on")
        parts, state = [], None
        pixel_decoder = self._decoders.choose(DecoderChoice(str(decoder), steps, seed))
        for part, count in slices(digits, self.tokenizer.layout, first=True):
            wanted = min(left, count)
            pixels, state = pixel_decoder.decode(part, size, wanted, state, gop)
            parts.append(pixels)
            left -= wanted
            if not left:
                break
        return np.concatenate(parts)

    def pack(
        self,
        gops: Iterable[Tokens],
        stream: BinaryIO,
        rate: float | Fraction = 25,
        size: tuple[int, int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        """Write tokens as a `.vtk` file.

        Args:
            gops: The tokens `t h w n` of each GOP.
            stream: A binary stream to write to.
            rate: Frames per second.
            size: The height and width of the video, where padding is to be cropped.
            frames: The number of frames of each GOP, where padding is to be cropped.

        Raises:
            InputError: The tokens have another shape, or a value is not one of the model's tokens; or they do not stand
                for the size or the number of frames given; or `gops` or `stream` is of another type.
            SettingError: The rate is out of range, or `frames` has another length than `gops`.
        """
        if not hasattr(stream, "write") or isinstance(stream, io.TextIOBase):
            raise InputError(f"stream must be a binary stream that can be written to, not {type(stream).__name__}")
        if isinstance(stream, io.IOBase) and (stream.closed or not stream.writable()):
            raise InputError("stream is closed, or not open for writing")
        if isinstance(gops, np.ndarray) or not isinstance(gops, Iterable):
            raise InputError("gops must be a list of arrays, one per GOP")
        arrays = list(gops)
        for tokens in arrays:
            _require_array(tokens, "tokens")
        counts = [None] * len(arrays) if frames is None else as_integers(frames, "frames")
        if len(counts) != len(arrays):
            raise SettingError(f"frames has {len(counts)} numbers for {len(arrays)} GOPs")
        whole = [self._model.gop(tokens, count) for tokens, count in zip(arrays, counts, strict=True)]
        if not whole:
            raise InputError("there are no tokens")
        per_second = as_rate(rate)
        height, width = self._model.picture(arrays[0]) if size is None else as_size(size)
        assemble(whole, self._model, VideoInfo(width, height, per_second, 1 / per_second), stream)

    def tokenize_batch(self, videos: Tensor, tokens: int | None = None) -> Tensor:
        """Encode a batch of videos on the model's device, each as one GOP.

        Args:
            videos: A torch tensor `B 3 T H W`, uint8 or floats in [−1, 1].
            tokens: Tokens per latent position; see `tokenize`.

        Returns:
            A tensor of tokens, int32 `B t h w n`; see `tokenize`.

        Raises:
            InputError: The tensor has another shape or type.
            SettingError: `tokens` is out of range.
        """
        return batches.tokenize_batch(self.tokenizer, videos, self._count(tokens))

    def detokenize_batch(self, tokens: Tensor) -> Tensor:
        """Decode a batch of GOPs on the model's device with the deterministic decoder.

        Args:
            tokens: A torch tensor of integers `B t h w n`.

        Returns:
            Videos, float32 `B 3 T H W` in [−1, 1], rows and columns of padding included.

        Raises:
            InputError: The tensor has another shape or type, or a value is not one of the model's tokens.
        """
        return batches.detokenize_batch(self.tokenizer, tokens)

    def encode_latents(self, videos: Tensor, tokens: int | None = None) -> Tensor:
        """Encode a batch of videos to continuous latents: what `tokenize_batch` rounds to tokens. No gradients flow.

        Args:
            videos: A torch tensor `B 3 T H W`, uint8 or floats in [−1, 1].
            tokens: How many tokens' channels to keep per latent position; None for all.

        Returns:
            Latents, float32 `B C t h w`, mostly in [−1, 1], with C = n·d channels for n tokens of d digits.

        Raises:
            InputError: The tensor has another shape or type.
            SettingError: `tokens` is out of range.
        """
        return batches.encode_latents(self.tokenizer, videos, tokens)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode a batch of continuous latents with the deterministic decoder. No gradients flow back to the latents.

        Args:
            latents: A torch tensor of floats `B C t h w`, from `encode_latents` or from a diffusion model.

        Returns:
            Videos, float32 `B 3 T H W` in [−1, 1], rows and columns of padding included.

        Raises:
            InputError: The tensor has another shape or type.
        """
        return batches.decode_latents(self.tokenizer, latents)

    def codes(self, tokens: Tensor) -> Tensor:
        """Return the codes that tokens stand for, a continuous representation for diffusion models.

        Args:
            tokens: A torch tensor of integers `B t h w n`.

        Returns:
            Codes, float32 `B C t h w` in [−1, 1], with C = n·d channels for tokens of d digits.

        Raises:
            InputError: See `detokenize_batch`.
        """
        return batches.codes_of(self.tokenizer, tokens)

    def _count(self, tokens: int | None) -> int:
        """Return how many tokens per position to write.

        Raises:
            SettingError: The model does not have so many.
        """
        most = self.tokenizer.max_tokens
        if tokens is None:
            return min(_DEFAULT_TOKENS, most)
        check_token_count(tokens, most, self.name)
        return tokens


def _require_array(value: object, name: str) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name} must be a NumPy array, not {type(value).__module__}.{type(value).__name__}")


def load(model: str | Path = DEFAULT_MODEL, device: str = "auto") -> Codec:
    """Load a codec.

    Weights of One-DVA give the codec that they are for. Its tokens and frames are the structural ones; 1D tokens are
    read by `vtok_codec.open(…).frames()`.

    Args:
        model: The name of shipped weights, or the path of a weights file or of a training run's folder.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ModelError: There are no such weights, or they cannot be used.
        SettingError: The device cannot be used.
    """
    return Codec(load_tokenizer(find_weights(model), device))
