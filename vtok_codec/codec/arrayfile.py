"""Tokens as an array in a `.npy` or `.safetensors` file: how they leave vtok for a video model, and come back.

GOPs stand one after another along the first axis. The metadata of a `.safetensors` file says what it takes to make
frames of them: `model`, `weights_sha256`, `size` (height and width), `rate` (a ratio, or `still`), `sar`, `color` and
`rotation` as the header has them, and for each GOP `gop_latents` and `gop_frames`. A `.npy` file has no place for any
of it. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open
from safetensors.numpy import save

from vtok_codec.codec.tokenfile import Gop
from vtok_codec.container.header import Header
from vtok_codec.errors import InputError, OutputError, SettingError
from vtok_codec.media.types import DEFAULT_RATE, Color, VideoInfo
from vtok_codec.tokens.radix import Tokens

SUFFIXES = (".npy", ".safetensors")
STILL = "still"
_LONGEST_RATE = 32
_LARGEST_TERM = 100_000
_SLOWEST, _FASTEST = Fraction(1, 1000), Fraction(1_000_000)


def check_suffix(name: str) -> None:
    """Raises:
    OutputError: it is not the name of such a file.
    """
    if Path(name).suffix not in SUFFIXES:
        raise OutputError(f"{name}: use a .npy or .safetensors file")


def as_rate(given: object) -> Fraction:
    """Frames a second: `30`, `29.97`, `30000/1001`, or a float near one of these.

    Raises:
        SettingError: it is none, or beyond 1/1000 to a million.
    """
    text = str(given)
    try:
        # Short, and without an exponent: a number of a billion digits takes hours to read.
        if len(text) > _LONGEST_RATE or "e" in text.lower():
            raise ValueError
        rate = Fraction(text).limit_denominator(_LARGEST_TERM)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not _SLOWEST <= rate <= _FASTEST:
        raise SettingError(f"rate {text[:_LONGEST_RATE]!r}: give frames a second, such as 30 or 30000/1001")
    return rate


def write_array(path: Path, suffix: str, header: Header, gops: Sequence[Gop]) -> None:
    """Write GOPs of a file with this header; `suffix`, one of `SUFFIXES`, says how."""
    tokens = np.concatenate([gop.tokens for gop in gops])
    if suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, tokens)
        return
    about = {
        "model": header.model.name,
        "weights_sha256": header.model.weights_sha256,
        "size": f"{header.height} {header.width}",
        "rate": str(header.rate) if header.rate else STILL,
        "sar": str(header.sar),
        "color": " ".join(map(str, header.color)),
        "rotation": str(header.rotation),
        "gop_latents": " ".join(str(len(gop.tokens)) for gop in gops),
        "gop_frames": " ".join(str(gop.frames) for gop in gops),
    }
    path.write_bytes(save({"tokens": tokens}, about))


@dataclass(frozen=True)
class TokenArray:
    """What such a file holds, as far as it says."""

    tokens: Tokens
    about: Mapping[str, str] = field(default_factory=dict)

    def info(self, whole: tuple[int, int]) -> VideoInfo:
        """How the video is shown. A file that does not say: `whole`, height and width, and 25 frames a second.

        Raises:
            InputError: the file says what cannot be.
        """
        height, width = self._integers("size", 2) or whole
        rate = self._rate()
        return VideoInfo(
            width=width,
            height=height,
            rate=rate,
            time_base=1 / (rate or DEFAULT_RATE),
            sar=self._ratio("sar", Fraction(1)),
            color=Color(*self._integers("color", 4)),
            rotation=(self._integers("rotation", 1) or [0])[0],
        )

    def gops(self) -> list[tuple[Tokens, int | None]]:
        """Each GOP's tokens and frames, None where the file does not say how many; all is one GOP if it says nothing.

        Raises:
            InputError: the array is not `t h w n`, or they are not as long as it.
        """
        if self.tokens.ndim != 4 or not self.tokens.size:
            raise InputError(f"tokens must be t h w n, not {self.tokens.shape}")
        latents = self._integers("gop_latents") or [len(self.tokens)]
        frames: Sequence[int | None] = self._integers("gop_frames") or [None] * len(latents)
        if sum(latents) != len(self.tokens) or min(latents) < 1:
            raise InputError(f"gop_latents sum up to {sum(latents)}, the array has {len(self.tokens)} latent frames")
        if len(frames) != len(latents):
            raise InputError(f"gop_frames has {len(frames)} numbers for {len(latents)} GOPs")
        ends = np.cumsum(latents)
        return [
            (self.tokens[end - count : end], shown) for end, count, shown in zip(ends, latents, frames, strict=True)
        ]

    def _rate(self) -> Fraction | None:
        text = self.about.get("rate", str(DEFAULT_RATE))
        try:
            return None if text == STILL else as_rate(text)
        except SettingError as error:
            raise InputError(str(error)) from None

    def _ratio(self, key: str, default: Fraction) -> Fraction:
        text = self.about.get(key, str(default))
        try:
            numerator, _, denominator = text.partition("/")
            return Fraction(int(numerator), int(denominator or 1))
        except (ValueError, ZeroDivisionError):
            raise InputError(f"{key} {text[:40]!r} is no ratio") from None

    def _integers(self, key: str, count: int | None = None) -> list[int]:
        """Those that the file has under a key, none where it has not; `count` of them if it has."""
        text = self.about.get(key, "")
        try:
            numbers = [int(number) for number in text.split()]
            if count and len(numbers) not in (0, count):
                raise ValueError
        except ValueError:
            raise InputError(f"{key} {text[:40]!r} is no list of {count or ''} integers") from None
        return numbers


def read_array(path: Path) -> TokenArray:
    """The array named `tokens` of a file, or its only one.

    Raises:
        InputError: it cannot be read, or holds no such array.
    """
    try:
        return _read_npy(path) if path.suffix == ".npy" else _read_safetensors(path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # Parsers of foreign files fail in many ways: tokenizer, integers, archives, types that NumPy has not.
        text = " ".join(str(error).split())
        raise InputError(f"{path} is not a .npy or .safetensors file that can be read: {text[:200]}") from error


def _read_npy(path: Path) -> TokenArray:
    with path.open("rb") as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its version is {version}")
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        # A header may lie about how much there is to allocate.
        if math.prod(shape) * dtype.itemsize > path.stat().st_size:
            raise ValueError(f"it is too short for an array of {shape}")
        file.seek(0)
        return TokenArray(npy.read_array(file, allow_pickle=False))


def _read_safetensors(path: Path) -> TokenArray:
    with safe_open(path, "np") as file:
        names = list(file.keys())
        if "tokens" not in names and len(names) != 1:
            raise InputError(f"{path} has no array called tokens")
        return TokenArray(file.get_tensor("tokens" if "tokens" in names else names[0]), file.metadata() or {})
