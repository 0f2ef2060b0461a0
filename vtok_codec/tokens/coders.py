"""The table of coders, which pack the digits of a GOP's chunks into bytes and unpack them again.

Each coder is implemented in a module of its own, which is imported when the coder is first used: the table is needed
for help texts, the coders need NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from vtok_codec.tokens.radix import Digits

CoderId: TypeAlias = tuple[int, int]
"""The number and the version of a coder, as stored in every token record."""


class Coder(Protocol):
    """A coder for the chunks of one GOP. It takes them in order and may adapt to the earlier ones."""

    def pack(self, digits: Digits) -> bytes:
        """Pack the digits of the next chunk, uint8 `P t h w`, into bytes."""

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """Unpack the digits of the next chunk.

        Args:
            data: The bytes that `pack` returned.
            shape: The shape `P t h w` of the digits.

        Returns:
            The digits, uint8 `P t h w`.

        Raises:
            ValueError: The data do not hold exactly these digits.
        """


@dataclass(frozen=True)
class CoderSpec:
    """The properties by which a coder is chosen and created."""

    name: str
    """The name by which users choose the coder."""
    id: CoderId
    """The number and the version that identify the coder in files."""
    summary: str
    """A short description for help texts."""
    make: Callable[[Sequence[int], int], Coder]
    """Creates the coder of a new GOP from the levels of a token's digits and the number of tokens per position."""
    fits: Callable[[Sequence[int], int], bool] = lambda levels, digits: True
    """Returns whether the coder can pack chunks, from the levels of a token's digits and the digits per chunk."""


def _make_zstd(levels: Sequence[int], tokens_per_position: int) -> Coder:
    from vtok_codec.tokens.zstd_groups import GroupCoder

    return GroupCoder(levels, tokens_per_position)


def _make_waves(levels: Sequence[int], tokens_per_position: int) -> Coder:
    from vtok_codec.tokens.waves import WaveCoder

    return WaveCoder(levels, tokens_per_position)


def _fits_waves(levels: Sequence[int], digits: int) -> bool:
    from vtok_codec.tokens.waves import fits

    return fits(levels, digits)


ZSTD = CoderSpec("zstd", (1, 1), "files are a third larger but read faster", _make_zstd)
WAVES = CoderSpec("waves", (2, 1), "smallest files", _make_waves, _fits_waves)

CODERS: dict[str, CoderSpec] = {spec.name: spec for spec in (WAVES, ZSTD)}
"""All coders by name, the default first. `ZSTD` can pack all digits."""
DEFAULT_CODER = WAVES.name
"""The name of the default coder."""


def make_coder(coder: CoderId, levels: Sequence[int], tokens_per_position: int) -> Coder:
    """Create the coder of a new GOP from the number and version in a file.

    Args:
        coder: The number and the version of the coder.
        levels: The number of values of each digit of a token.
        tokens_per_position: The number of tokens per latent position.

    Returns:
        A coder that has not seen any chunk.

    Raises:
        LookupError: The coder is unknown, or cannot pack digits with these levels.
    """
    for spec in CODERS.values():
        if spec.id == coder and spec.fits(levels, 0):
            return spec.make(levels, tokens_per_position)
    raise LookupError(f"coder {coder[0]} version {coder[1]}")


def fitting_coder(wanted: CoderSpec, levels: Sequence[int], most_digits: int) -> CoderSpec:
    """Return the wanted coder, or `ZSTD` if the wanted one cannot pack the chunks.

    Args:
        wanted: The preferred coder.
        levels: The number of values of each digit of a token.
        most_digits: The largest number of digits per chunk.
    """
    return wanted if wanted.fits(levels, most_digits) else ZSTD
