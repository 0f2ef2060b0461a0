"""Tokens as an array in a `.npy` or `.safetensors` file: how they leave vtok for a video model, and come back.

GOPs stand one after another along the first axis. The metadata of a `.safetensors` file says what it takes to make
frames of them: `model`, `weights_sha256`, `size` (height and width), `rate`, and for each GOP `gop_latents` and
`gop_frames`. A `.npy` file has no place for any of it. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vtok_codec.codec.tokenfile import Gop
from vtok_codec.container.header import Header
from vtok_codec.errors import InputError, OutputError
from vtok_codec.tokens.radix import Tokens

SUFFIXES = (".npy", ".safetensors")


def check_suffix(name: str) -> None:
    """Raises:
    OutputError: it is not the name of such a file.
    """
    if Path(name).suffix not in SUFFIXES:
        raise OutputError(f"{name}: use a .npy or .safetensors file")


def write_array(path: Path, header: Header, gops: Sequence[Gop]) -> None:
    """Write GOPs of a file with this header; the suffix says how."""
    tokens = np.concatenate([gop.tokens for gop in gops])
    if path.suffix == ".npy":
        with path.open("wb") as file:
            np.save(file, tokens)
        return
    about = {
        "model": header.model.name,
        "weights_sha256": header.model.weights_sha256,
        "size": f"{header.height} {header.width}",
        "gop_latents": " ".join(str(len(gop.tokens)) for gop in gops),
        "gop_frames": " ".join(str(gop.frames) for gop in gops),
    } | ({"rate": str(header.rate)} if header.rate else {})
    path.write_bytes(save({"tokens": tokens}, about))


@dataclass(frozen=True)
class TokenArray:
    """What such a file holds, as far as it says."""

    tokens: Tokens
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the frames.

        Raises:
            InputError: the file says something else.
        """
        if "size" not in self.about:
            return None
        numbers = self._integers("size")
        if len(numbers) != 2:
            raise InputError(f"size {self.about['size']!r} is no height and width")
        return numbers[0], numbers[1]

    def gops(self) -> list[tuple[Tokens, int | None]]:
        """Each GOP's tokens and frames, None where the file does not say how many; all is one GOP if it says nothing.

        Raises:
            InputError: the array is not `t h w n`, or they are not as long as it.
        """
        if self.tokens.ndim != 4 or not self.tokens.size:
            raise InputError(f"tokens must be t h w n, not {self.tokens.shape}")
        latents = self._integers("gop_latents") or [len(self.tokens)]
        frames: Sequence[int | None] = self._integers("gop_frames") or [None] * len(latents)
        if sum(latents) != len(self.tokens) or min(latents) < 1 or len(frames) != len(latents):
            raise InputError(f"the file's GOPs have {sum(latents)} latent frames, its array {len(self.tokens)}")
        ends = np.cumsum(latents)
        return [
            (self.tokens[end - count : end], shown) for end, count, shown in zip(ends, latents, frames, strict=True)
        ]

    def _integers(self, key: str) -> list[int]:
        try:
            return [int(number) for number in self.about.get(key, "").split()]
        except ValueError:
            raise InputError(f"{key} {self.about[key]!r} is no list of integers") from None


def read_array(path: Path) -> TokenArray:
    """The array named `tokens` of a file, or its only one.

    Raises:
        InputError: it cannot be read, or holds no such array.
    """
    try:
        if path.suffix == ".npy":
            return TokenArray(np.load(path, allow_pickle=False))
        with safe_open(path, "np") as file:
            names = list(file.keys())
            if "tokens" not in names and len(names) != 1:
                raise InputError(f"{path} has no array called tokens")
            return TokenArray(file.get_tensor("tokens" if "tokens" in names else names[0]), file.metadata() or {})
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, TypeError, SafetensorError) as error:
        raise InputError(f"{path} is not a .npy or .safetensors file that can be read: {error}") from error
