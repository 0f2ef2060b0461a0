"""The Python API: what a notebook or another program calls. `vtok_codec` re-exports it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vtok_codec.codec.arrayfile import as_rate
from vtok_codec.codec.assembler import assemble, check_tokens, most_frames, whole_gop, whole_size
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.encoder import EncodeSettings, check_stickiness
from vtok_codec.codec.loading import decoder_file, pixel_decoder, tokenizer_of
from vtok_codec.codec.slices import slices
from vtok_codec.codec.tokenfile import FileSummary, read_gops, read_tokens, verify
from vtok_codec.codec.tokenizer import PixelDecoder, Tokenizer, load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError, InputError, SettingError
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.registry import DEFAULT_MODEL, DETERMINISTIC, find_weights
from vtok_codec.tokens.radix import Tokens, digits_to_tokens, tokens_to_digits

_CHUNK_LATENTS = EncodeSettings.chunk_latents
"""Latent frames that pass through the model at once: as in a file, so that the tokens are the same."""


class Codec:
    """A model that turns frames into tokens and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._diffusion: dict[str, DiffusionDecoder] = {}

    @property
    def name(self) -> str:
        return self.tokenizer.id.name

    def tokenize(self, frames: NDArray[np.uint8], tokens: int = 2, stickiness: float = 0.0) -> Tokens:
        """uint8 RGB `T H W 3` → uint16 `t h w n`, as one GOP: t = ⌈(T + 3) / 4⌉ with a stride of 4 in time.

        Of a model with an enhanced first frame t is 3 more: that frame's finer grid comes as four of the usual one.

        They are the tokens that a file has with the same `tokens` and `stickiness` (see `EncodeSettings`).

        Raises:
            InputError: the frames are of another shape or type, or there are none.
            SettingError: the tokens or the stickiness are out of range.
        """
        _require_array(frames, "frames")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
            raise InputError(f"frames must be uint8 T H W 3, not {frames.dtype} {frames.shape}")
        check_stickiness(stickiness)
        if not 1 <= tokens <= self.tokenizer.max_tokens:
            raise SettingError(f"{self.name} has 1 to {self.tokenizer.max_tokens} tokens a position, not {tokens}")
        stride = self.tokenizer.id.stride[0]
        parts, state, begin = [], None, 0
        while begin < len(frames):
            end = begin + _CHUNK_LATENTS * stride - (stride - 1 if begin == 0 else 0)
            digits, state = self.tokenizer.encode(frames[begin:end], tokens, state, stickiness)
            parts.append(digits_to_tokens(digits, self.tokenizer.id.levels))
            begin = end
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
        """uint16 `t h w n` of one GOP → uint8 RGB `T H W 3`.

        `size` (height, width) and `frames` crop what padding added; by default nothing is cropped. `decoder`: see
        `pixel_decoder`; a diffusion decoder takes `steps`, and makes its noise from `seed` and the number of the GOP.

        Raises:
            InputError: the tokens are of another shape, or above the codebook.
            SettingError: another argument is out of range.
            ModelError: there is no such decoder for this model.
        """
        _require_array(tokens, "tokens")
        check_tokens(tokens, self.tokenizer)
        digits = tokens_to_digits(tokens, self.tokenizer.id.levels)
        whole = whole_size(tokens, self.tokenizer.id)
        size = size or whole
        if not all(0 < side <= most for side, most in zip(size, whole, strict=True)):
            raise SettingError(f"size {size} is not within the {whole} that the tokens stand for")
        most = most_frames(len(tokens), self.tokenizer.id)
        if frames is not None and not 1 <= frames <= most:
            raise SettingError(f"frames {frames}: the tokens stand for 1 to {most}")
        left = most if frames is None else frames
        parts, state = [], None
        frames_of = self.decoder(decoder, steps, seed)
        for part, whole_frames in slices(digits, self.tokenizer.id, fresh=True):
            shown = min(left, whole_frames)
            pixels, state = frames_of.decode(part, size, shown, state, gop)
            parts.append(pixels)
            left -= shown
            if not left:
                break
        return np.concatenate(parts)

    def pack(
        self,
        gops: Sequence[Tokens],
        stream: BinaryIO,
        rate: float | Fraction = 25,
        size: tuple[int, int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        """Write tokens `t h w n`, each GOP an array of its own, as a `.vtk` file of `rate` frames a second.

        `size` (height, width) and `frames`, of each GOP, crop what padding added; by default nothing is cropped.

        Raises:
            InputError: the tokens are of another shape or above the codebook, or not of the size or the frames given.
            SettingError: the rate is out of range, or `frames` has another length.
        """
        for tokens in gops:
            _require_array(tokens, "tokens")
        counts: Sequence[int | None] = [None] * len(gops) if frames is None else frames
        if len(counts) != len(gops):
            raise SettingError(f"frames has {len(counts)} numbers for {len(gops)} GOPs")
        whole = [whole_gop(tokens, self.tokenizer, count) for tokens, count in zip(gops, counts, strict=True)]
        if not whole:
            raise InputError("there are no tokens")
        ticks = as_rate(rate)
        height, width = size or whole_size(gops[0], self.tokenizer.id)
        assemble(whole, self.tokenizer, VideoInfo(width, height, ticks, 1 / ticks), stream)

    def decoder(self, name: str | Path = DETERMINISTIC, steps: int | None = None, seed: int = 0) -> PixelDecoder:
        """What turns digits into frames, see `pixel_decoder`; its weights are read once."""
        if name == DETERMINISTIC:
            return pixel_decoder(self.tokenizer, name, steps, seed)
        if str(name) not in self._diffusion:
            self._diffusion[str(name)] = DiffusionDecoder(decoder_file(self.tokenizer, name), self.tokenizer)
        return self._diffusion[str(name)].chosen(steps, seed)


def _require_array(value: object, name: str) -> None:
    if not isinstance(value, np.ndarray):
        raise InputError(f"{name} must be a NumPy array, not {type(value).__module__}.{type(value).__name__}")


def load(model: str | Path = DEFAULT_MODEL, device: str = "auto") -> Codec:
    """A codec by the name of shipped weights, or by the path of a weights file.

    Raises:
        ModelError: there are no such weights, or they cannot be used.
        SettingError: the device cannot be used.
    """
    return Codec(load_tokenizer(find_weights(model), device))


class Clip:
    """A `.vtk` file. As a context it lets go of its model at the end."""

    def __init__(self, path: str | Path, model: str | Path | None = None, device: str = "auto") -> None:
        self._path = Path(path)
        self._model = model
        self._device = device
        self._codec: Codec | None = None
        with self._open() as stream:
            try:
                self.header = VtkReader(stream).header
            except FormatError as error:
                raise type(error)(f"{path}: {error}") from None

    def __enter__(self) -> Clip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._codec = None

    @property
    def info(self) -> FileSummary:
        """What the file holds; reading it checks the whole file."""
        with self._open() as stream:
            return verify(stream)

    def tokens(self, gop: int | None = None) -> Tokens:
        """The tokens `t h w n` of one GOP, which `Codec.detokenize` takes, or of all GOPs, one after another."""
        with self._open() as stream:
            return read_tokens(stream, gop)

    def gops(self) -> Iterator[Tokens]:
        """The tokens of each GOP in turn; `Codec.detokenize` takes them one by one."""
        with self._open() as stream:
            yield from (gop.tokens for gop in read_gops(VtkReader(stream)))

    def frames(
        self,
        start: float = 0.0,
        duration: float | None = None,
        tokens: int | None = None,
        decoder: str | Path = DETERMINISTIC,
        steps: int | None = None,
        seed: int = 0,
    ) -> Iterator[Frame]:
        """The decoded frames from `start` seconds on; see `decode_events`, and for the decoder `Codec.detokenize`."""
        if self._codec is None:
            self._codec = Codec(tokenizer_of(self.header.model, self._model, self._device))
        chosen = self._codec.decoder(decoder, steps, seed)
        with (
            self._open() as stream,
            closing(decode_events(VtkReader(stream), chosen, tokens, start, duration)) as events,
        ):
            for event in events:
                if isinstance(event, Frame):
                    yield event

    def _open(self) -> BinaryIO:
        """A stream of its own for each use, so that one does not move another's place."""
        try:
            return self._path.open("rb")
        except OSError as error:
            raise InputError(f"cannot read {self._path}: {error.strerror}") from error
