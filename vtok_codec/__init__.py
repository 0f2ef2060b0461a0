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

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from vtok_codec import errors
from vtok_codec.version import __version__

if TYPE_CHECKING:
    from vtok_codec.api import Codec
    from vtok_codec.clip import Clip
    from vtok_codec.codec.drawing import Sampling
    from vtok_codec.codec.generation import TokenGenerator
    from vtok_codec.codec.latent_generation import LatentGenerator
    from vtok_codec.corpus.joined_windows import JoinedWindows
    from vtok_codec.corpus.sampler import WindowSampler
    from vtok_codec.corpus.windows import TokenWindows

__all__ = [
    "Clip",
    "Codec",
    "JoinedWindows",
    "LatentGenerator",
    "Sampling",
    "TokenGenerator",
    "TokenWindows",
    "WindowSampler",
    "__version__",
    "errors",
    "load",
    "load_generator",
    "open",
]

_PLACES = {
    "Clip": "clip",
    "Codec": "api",
    "JoinedWindows": "corpus.joined_windows",
    "LatentGenerator": "codec.latent_generation",
    "Sampling": "codec.drawing",
    "TokenGenerator": "codec.generation",
    "TokenWindows": "corpus.windows",
    "WindowSampler": "corpus.sampler",
}
"""The modules of the classes. They import torch, which takes a second, or packages that only a corpus needs."""


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# torch takes a second to import, so it is imported only when a model is needed.
def load(model: str | Path = "onevae-nano-4x8x8", device: str = "auto") -> Codec:
    """Load a codec by the name of shipped weights, or by the path of a weights file; see `vtok_codec.api.load`."""
    from vtok_codec.api import load

    return load(model, device)


def load_generator(name: str | Path | None = None, device: str = "auto") -> TokenGenerator | LatentGenerator:
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


def open(
    path: str | Path | bytes | bytearray | memoryview, model: str | Path | None = None, device: str = "auto"
) -> Clip:
    """Open a `.vtk` file by its path, or from its bytes; see `vtok_codec.clip.Clip`."""
    from vtok_codec.clip import Clip

    return Clip(path, model, device)
