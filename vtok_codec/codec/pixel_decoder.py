"""What decoding a file needs of a decoder, whatever runs its network. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from vtok_codec.arguments import as_integer
from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import FormatError
from vtok_codec.media.types import Pixels
from vtok_codec.registry import DETERMINISTIC
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits

DecoderState: TypeAlias = Any
"""What a decoder remembers of the digits before; None at the start of a GOP. Its type is the decoder's own."""


@dataclass(frozen=True)
class DecoderChoice:
    """Which decoder to use, and how."""

    name: str = DETERMINISTIC
    """`deterministic`, `structural` (without the 1D tokens of a file), `sharp`, the objective of a shipped diffusion
    decoder (`ddim` or `flow`), or the path of a weights file or of a training run's folder. For a file with 1D tokens,
    `flow` draws what they add from noise."""
    steps: int | None = None
    """How often a decoder that draws from noise evaluates its network; None for its default."""
    seed: int = 0
    """The seed of the noise."""

    def __post_init__(self) -> None:
        as_integer(self.seed, "seed")
        if self.steps is not None:
            as_integer(self.steps, "steps")


class PixelDecoder(Protocol):
    """Anything that turns digits into frames: a codec's own decoder, or another one for the same tokens."""

    @property
    def id(self) -> ModelId:
        """The model whose digits it reads."""

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens per position that the decoder reads."""

    @property
    def lanes(self) -> int:
        """The most GOPs that are worth decoding at once."""

    @property
    def bytes_per_pixel(self) -> int:
        """The memory in bytes that decoding a chunk takes for each pixel of a frame."""

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""

    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: DecoderState,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, DecoderState]:
        """Decode a chunk or a part of one; see `vtok_codec.codec.tokenizer.Tokenizer.decode`."""


def check_fits(decoder: PixelDecoder, header: Header) -> None:
    """Check that what a header says about its model is true of the model itself.

    Raises:
        FormatError: The header says something else.
    """
    said, true = header.model, decoder.id
    same = (said.layout, said.levels) == (true.layout, true.levels)
    if not same or header.tokens_per_position > decoder.max_tokens:
        raise FormatError(f"the header does not fit its model, {decoder.id.name}")
