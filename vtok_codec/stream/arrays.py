"""Reads and writes tokens and latents as an array in a `.npy` or `.safetensors` file, to exchange them with models.

Tokens are uint16 `t h w n`, latents are floats `C t h w`; the GOPs of a file follow one another along the axis t. The
metadata of a `.safetensors` file hold what is needed to turn the array back into video:

* `model` and `weights_sha256`: the name and the hash of the model that made the array;
* `size`: the height and width of the video in pixels;
* `rate`: frames per second as a ratio, or `still` for a still image;
* `sar`, `color` and `rotation`: as in the header of a `.vtk` file;
* `gop_latents` and `gop_frames`: the number of latent frames and of frames of each GOP.

A `.npy` file cannot hold metadata. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from vtok_codec.container.header import Header, ModelId
from vtok_codec.errors import InputError, OutputError, SettingError
from vtok_codec.media.types import DEFAULT_RATE, Color, VideoInfo
from vtok_codec.stream.headers import video_info
from vtok_codec.stream.reading import Gop

SUFFIXES = (".npy", ".safetensors")
"""The suffixes of the files that can be written."""
STILL = "still"
"""The value of `rate` in the metadata of a still image."""
_LONGEST_RATE = 32
"""The largest number of characters in a rate."""
_LARGEST_TERM = 100_000
"""The largest denominator of a rate that a user gives."""
_LARGEST_RATIO_TERM = _LARGEST_INTEGER = (1 << 31) - 1
"""The largest numerator and the largest denominator of a ratio, as in a `.vtk` file, and the largest other integer."""
_LARGEST_CODE, _LARGEST_ROTATION = 255, 360
"""The largest code point of a colour, and the largest rotation in degrees, as in a `.vtk` file."""
_SLOWEST, _FASTEST = Fraction(1, 1000), Fraction(1_000_000)
"""The range of rates, in frames per second."""


def check_suffix(name: str) -> None:
    """Check that a file name ends in one of `SUFFIXES`.

    Raises:
        OutputError: The name has another suffix.
    """
    if Path(name).suffix not in SUFFIXES:
        raise OutputError(f"{name}: use a .npy or .safetensors file")


def as_rate(given: object) -> Fraction:
    """Convert a frame rate to a fraction.

    Args:
        given: Frames per second as a number or as text, such as `30`, `29.97` or `30000/1001`.

    Raises:
        SettingError: The value is not a number, or lies outside 1/1000 to 1,000,000.
    """
    text = str(given)
    try:
        # Long text and exponents are refused, since a number with a billion digits takes hours to parse.
        if len(text) > _LONGEST_RATE or "e" in text.lower():
            raise ValueError
        rate = Fraction(text).limit_denominator(_LARGEST_TERM)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not _SLOWEST <= rate <= _FASTEST:
        raise SettingError(f"rate {text[:_LONGEST_RATE]!r}: give frames per second, such as 30 or 30000/1001")
    return rate


@dataclass(frozen=True)
class Content:
    """What an array holds."""

    name: str
    """The name of the array in a `.safetensors` file."""
    axes: str
    """Its axes, for messages."""
    time: int
    """The axis along which GOPs follow one another."""


TOKENS = Content("tokens", "t h w n", 0)
"""Tokens."""
LATENTS = Content("latents", "C t h w", 1)
"""Continuous latents."""


def write_tokens(path: Path, suffix: str, header: Header, gops: Sequence[Gop]) -> None:
    """Write the tokens of GOPs to a file.

    Args:
        path: The file to write.
        suffix: The format of the file, one of `SUFFIXES`. The name in `path` may have another suffix.
        header: The header of the `.vtk` file that the GOPs were read from.
        gops: The GOPs.
    """
    tokens = np.concatenate([gop.tokens for gop in gops])
    gop_latents, gop_frames = [len(gop.tokens) for gop in gops], [gop.frames for gop in gops]
    _write(path, suffix, TOKENS, tokens, header.model, video_info(header), gop_latents, gop_frames)


def write_latents(
    path: Path,
    suffix: str,
    latents: NDArray[np.floating],
    model: ModelId,
    info: VideoInfo,
    gop_latents: Sequence[int],
    gop_frames: Sequence[int],
) -> None:
    """Write continuous latents to a file.

    Args:
        path: The file to write.
        suffix: The format of the file, one of `SUFFIXES`. The name in `path` may have another suffix.
        latents: The latents, `C t h w`.
        model: The model that made them.
        info: The description of the video.
        gop_latents: The number of latent frames of each GOP.
        gop_frames: The number of frames of each GOP.
    """
    _write(path, suffix, LATENTS, latents, model, info, gop_latents, gop_frames)


def _write(
    path: Path,
    suffix: str,
    content: Content,
    array: NDArray[Any],
    model: ModelId,
    info: VideoInfo,
    gop_latents: Sequence[int],
    gop_frames: Sequence[int],
) -> None:
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, array)
        return
    about = {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "size": f"{info.height} {info.width}",
        "rate": str(info.rate) if info.rate else STILL,
        "sar": str(info.sar),
        "color": " ".join(map(str, info.color)),
        "rotation": str(info.rotation),
        "gop_latents": " ".join(map(str, gop_latents)),
        "gop_frames": " ".join(map(str, gop_frames)),
    }
    # safetensors writes memory as it lies, whatever the order of the axes.
    path.write_bytes(save({content.name: np.ascontiguousarray(array)}, about))


@dataclass(frozen=True)
class StoredArray:
    """The content of a file of tokens or latents."""

    array: NDArray[Any]
    """The tokens or latents of all GOPs."""
    about: Mapping[str, str] = field(default_factory=dict)
    """The metadata of the file, without any guarantee that they are valid; empty for a `.npy` file."""
    content: Content = TOKENS
    """What the array holds."""

    def info(self, whole: tuple[int, int]) -> VideoInfo:
        """Return the description of the video that the array stands for.

        Where the metadata lack a value, the video has the size `whole`, 25 frames per second, square pixels, unknown
        colour and no rotation.

        Args:
            whole: The height and width in pixels of the pictures that the array stands for, padding included.

        Raises:
            InputError: The metadata hold an invalid value.
        """
        height, width = self._integers("size", 2) or whole
        rate, color, turned = self._rate(), self._integers("color", 4), self._integers("rotation", 1) or [0]
        if min(color, default=0) < 0 or max(color, default=0) > _LARGEST_CODE or abs(turned[0]) > _LARGEST_ROTATION:
            raise InputError(f"color {color} or rotation {turned[0]} is out of range")
        return VideoInfo(
            width=width,
            height=height,
            rate=rate,
            time_base=1 / (rate or DEFAULT_RATE),
            sar=self._ratio("sar", Fraction(1)),
            color=Color(*color),
            rotation=turned[0],
        )

    def gops(self) -> list[tuple[NDArray[Any], int | None]]:
        """Split the array into GOPs. Without metadata, the whole array is one GOP.

        Returns:
            The array and the number of frames of each GOP. The number is None where the file does not hold it.

        Raises:
            InputError: The array has other axes, or the metadata do not fit its length.
        """
        content = self.content
        if self.array.ndim != len(content.axes.split()) or not self.array.size:
            raise InputError(f"{content.name} must be {content.axes}, not {self.array.shape}")
        length = self.array.shape[content.time]
        latents = self._integers("gop_latents") or [length]
        frames: Sequence[int | None] = self._integers("gop_frames") or [None] * len(latents)
        if min(latents) < 1:
            raise InputError(f"gop_latents has {min(latents)}; a GOP has at least 1 latent frame")
        if sum(latents) != length:
            raise InputError(f"gop_latents sum up to {sum(latents)}, the array has {length} latent frames")
        if len(frames) != len(latents):
            raise InputError(f"gop_frames has {len(frames)} numbers for {len(latents)} GOPs")
        parts = np.split(self.array, np.cumsum(latents)[:-1], axis=content.time)
        return list(zip(parts, frames, strict=True))

    def _rate(self) -> Fraction | None:
        text = self.about.get("rate", str(DEFAULT_RATE))
        if text == STILL:
            return None
        # vtok writes the ratio of the video as it is; others may write a decimal number.
        with suppress(InputError):
            return self._ratio("rate", DEFAULT_RATE)
        try:
            return as_rate(text)
        except SettingError as error:
            raise InputError(str(error)) from None

    def _ratio(self, key: str, default: Fraction) -> Fraction:
        text = self.about.get(key, str(default))
        try:
            numerator, _, denominator = text.partition("/")
            ratio = Fraction(int(numerator), int(denominator or 1))
            if ratio <= 0 or max(ratio.numerator, ratio.denominator) > _LARGEST_RATIO_TERM:
                raise ValueError
            return ratio
        except (ValueError, ZeroDivisionError):
            raise InputError(f"{key} {text[:40]!r} is no ratio of numbers above 0") from None

    def _integers(self, key: str, count: int | None = None) -> list[int]:
        """Return the integers that the metadata hold under a key, or an empty list where the key is missing.

        Args:
            key: The key.
            count: The number of integers that must be there; None for any number.
        """
        text = self.about.get(key, "")
        try:
            numbers = [int(number) for number in text.split()]
            if (count and len(numbers) not in (0, count)) or any(abs(each) > _LARGEST_INTEGER for each in numbers):
                raise ValueError
        except ValueError:
            wanted = f"{count} integers" if count else "integers"
            raise InputError(f"{key} {text[:40]!r} is no list of {wanted} below 2³¹") from None
        return numbers


def read_array(path: Path, content: Content = TOKENS) -> StoredArray:
    """Read tokens or latents from a `.npy` or `.safetensors` file.

    In a `.safetensors` file, they are the array of the content's name, or the only array.

    Raises:
        InputError: The file cannot be read, or holds no such array.
    """
    try:
        return _read_npy(path, content) if path.suffix == ".npy" else _read_safetensors(path, content)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # The parsers of NumPy and safetensors raise many types of exceptions on a damaged file.
        text = " ".join(str(error).split())
        raise InputError(f"{path} is not a .npy or .safetensors file that can be read: {text[:200]}") from error


def _read_npy(path: Path, content: Content) -> StoredArray:
    with path.open("rb") as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its version is {version}")
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        # A false shape in the header must not make NumPy allocate more than the file can hold.
        if math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise ValueError(f"it is too short for an array of {shape}")
        file.seek(0)
        return StoredArray(npy.read_array(file, allow_pickle=False), content=content)


def _read_safetensors(path: Path, content: Content) -> StoredArray:
    with safe_open(path, "np") as file:
        names = list(file.keys())
        if content.name not in names and len(names) != 1:
            raise InputError(f"{path} has no array called {content.name}")
        name = content.name if content.name in names else names[0]
        return StoredArray(file.get_tensor(name), file.metadata() or {}, content)
