"""vtok: a video codec whose bitstream is made of tokens.

import vtok_codec

codec = vtok_codec.load("onevae-nano-4x8x8")
tokens = codec.tokenize(frames)              # uint8 T H W 3 → uint16 t h w n
frames = codec.detokenize(tokens)
codec.pack([tokens], stream, rate=30)        # write a .vtk file
with vtok_codec.open("clip.vtk") as clip:
    clip.tokens(gop=3)
    for frame in clip.frames(start=10.0):
        ...
windows = vtok_codec.TokenWindows("corpus")  # the tokens of many clips, for training
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vtok_codec import errors
from vtok_codec.version import __version__

if TYPE_CHECKING:
    from vtok_codec.api import Codec
    from vtok_codec.clip import Clip
    from vtok_codec.codec.drawing import Sampling, TokenDrawer
    from vtok_codec.corpus.joined_windows import JoinedWindows
    from vtok_codec.corpus.sampler import WindowSampler
    from vtok_codec.corpus.windows import TokenWindows

__all__ = [
    "JoinedWindows",
    "Sampling",
    "TokenWindows",
    "WindowSampler",
    "__version__",
    "errors",
    "load",
    "load_generator",
    "open",
]


def __getattr__(name: str) -> object:
    # They import packages that only a corpus needs.
    if name == "TokenWindows":
        from vtok_codec.corpus.windows import TokenWindows

        return TokenWindows
    if name == "JoinedWindows":
        from vtok_codec.corpus.joined_windows import JoinedWindows

        return JoinedWindows
    if name == "WindowSampler":
        from vtok_codec.corpus.sampler import WindowSampler

        return WindowSampler
    # It draws with torch, which takes a second to import.
    if name == "Sampling":
        from vtok_codec.codec.drawing import Sampling

        return Sampling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# torch takes a second to import, so it is imported only when a model is needed.
def load(model: str | Path = "onevae-nano-4x8x8", device: str = "auto") -> Codec:
    """Load a codec by the name of shipped weights, or by the path of a weights file; see `vtok_codec.api.load`."""
    from vtok_codec.api import load

    return load(model, device)


def load_generator(name: str | Path | None = None, device: str = "auto") -> TokenDrawer:
    """Load a generator of tokens or of latents.

    Args:
        name: The name of shipped weights, or the path of a weights file or of a training run's folder; None for the
            first shipped generator, if there is one.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        A `TokenGenerator` or a `LatentGenerator`.

    Raises:
        ModelError: There is none.
        SettingError: The device cannot be used.
    """
    from vtok_codec.codec.generators import load_generator

    return load_generator(name, device)


def open(path: str | Path | bytes, model: str | Path | None = None, device: str = "auto") -> Clip:
    """Open a `.vtk` file by its path, or from its bytes; see `vtok_codec.clip.Clip`."""
    from vtok_codec.clip import Clip

    return Clip(path, model, device)
