"""The table of coders, which pack the digits of a GOP's chunks into bytes and unpack them again.

Each coder is implemented in a module of its own, which is imported when the coder is first used: the table is needed
for help texts, the coders need NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from vtok_codec.tokens.prior.prior import Prior
    from vtok_codec.tokens.radix import Digits, Values

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


class ChoosingCoder(Coder, Protocol):
    """A coder that can choose digits by what they cost."""

    def choose(self, values: Values, rdo: float) -> tuple[Digits, bytes]:
        """Choose the digits of the next chunk by rate and error, and pack them.

        Args:
            values: The digits before rounding, float32 `P t h w`.
            rdo: How much a bit costs, relative to the squared error of a digit that is off by 1; 0 rounds to the
                nearest digit.

        Returns:
            The digits, uint8 `P t h w`, and the bytes.
        """

    def tried(self, values: Values, rdo: float) -> Digits:
        """Return the digits that `choose` would choose, and leave the coder as it is."""


@dataclass(frozen=True)
class DigitLayout:
    """What a coder must know about the digits of a file."""

    levels: tuple[int, ...]
    """The number of levels of each digit of a token."""
    tokens_per_position: int
    """The number of tokens per latent position."""
    phases: int = 1
    """The number of latent frames that hold the first frame of a GOP."""
    prior: Prior | None = None
    """The prior of the model that makes the digits; None if it has none, or none is at hand."""
    grid: tuple[int, int] = (1, 1)
    """The rows and columns of a latent frame."""


@dataclass(frozen=True)
class CoderSpec:
    """The properties by which a coder is chosen and created."""

    name: str
    """The name by which users choose the coder."""
    id: CoderId
    """The number and the version that identify the coder in files."""
    summary: str
    """A short description for help texts."""
    make: Callable[[DigitLayout], Coder]
    """Creates the coder of a new GOP."""
    fits: Callable[[DigitLayout, int], bool] = lambda layout, digits: True
    """Returns whether the coder can pack chunks with so many digits."""
    chooses: bool = False
    """Whether its coders are `ChoosingCoder`s."""


def _make_zstd(layout: DigitLayout) -> Coder:
    from vtok_codec.tokens.zstd_groups import GroupCoder

    return GroupCoder(layout.levels)


def _make_waves(layout: DigitLayout) -> Coder:
    from vtok_codec.tokens.waves import WaveCoder

    return WaveCoder(layout.levels, layout.tokens_per_position)


def _fits_waves(layout: DigitLayout, digits: int) -> bool:
    from vtok_codec.tokens.waves import fits

    return fits(layout.levels, layout.grid, digits)


def _make_prior(layout: DigitLayout) -> Coder:
    from vtok_codec.tokens.prior.coder import PriorCoder

    assert layout.prior is not None
    return PriorCoder(layout.prior, layout.tokens_per_position, layout.phases)


def _fits_prior(layout: DigitLayout, digits: int) -> bool:
    from vtok_codec.tokens.prior.coder import fits

    tokens, (rows, columns) = layout.tokens_per_position, layout.grid
    frame_digits = len(layout.levels) * tokens * rows * columns
    return layout.prior is not None and fits(layout.prior, layout.levels, tokens, frame_digits, digits)


ZSTD = CoderSpec("zstd", (1, 1), "the fastest to read", _make_zstd)
WAVES = CoderSpec("waves", (2, 1), "adapts to the video alone; for models without a prior", _make_waves, _fits_waves)
PRIOR = CoderSpec(
    "prior", (3, 1), "the smallest files: a trained network predicts the digits", _make_prior, _fits_prior, chooses=True
)


@dataclass(frozen=True)
class ChosenCoder:
    """A coder with the digits that it is to pack."""

    spec: CoderSpec
    """The coder."""
    layout: DigitLayout
    """The digits of the file."""

    def make(self) -> Coder:
        """Create the coder of a new GOP."""
        return self.spec.make(self.layout)


CODERS: dict[str, CoderSpec] = {spec.name: spec for spec in (PRIOR, WAVES, ZSTD)}
"""All coders by name, the default first. Where one cannot pack the digits, the next one is tried; `ZSTD` always can."""
DEFAULT_CODER = PRIOR.name
"""The name of the default coder."""


def make_coder(coder: CoderId, layout: DigitLayout) -> Coder:
    """Create the coder of a new GOP from the number and version in a file.

    Args:
        coder: The number and the version of the coder.
        layout: The digits of the file.

    Returns:
        A coder that has not seen any chunk.

    Raises:
        LookupError: The coder is unknown, or cannot pack such digits.
    """
    for spec in CODERS.values():
        if spec.id == coder and spec.fits(layout, 0):
            return spec.make(layout)
    raise LookupError(f"coder {coder[0]} version {coder[1]}")


def fitting_coder(wanted: CoderSpec, layout: DigitLayout, most_digits: int) -> ChosenCoder:
    """Choose the wanted coder, or the first one after it in `CODERS` that can pack the chunks.

    Args:
        wanted: The preferred coder.
        layout: The digits of the file.
        most_digits: The largest number of digits per chunk.
    """
    specs = list(CODERS.values())
    tried = specs[specs.index(wanted) :]
    return ChosenCoder(next((spec for spec in tried if spec.fits(layout, most_digits)), ZSTD), layout)
