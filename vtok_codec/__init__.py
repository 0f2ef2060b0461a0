"""vtok: a video codec whose bitstream is made of tokens. The Python API.

codec = vtok_codec.load("onevae-nano-4x8x8")
tokens = codec.tokenize(frames)              # uint8 T H W 3 → uint16 t h w n
frames = codec.detokenize(tokens)
codec.pack([tokens], stream, rate=30)        # a .vtk file
with vtok_codec.open("clip.vtk") as clip:
    clip.info, clip.tokens(gop=3)
    for frame in clip.frames(start=10.0): ...
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtok_codec.api import Clip, Codec

__version__ = "0.1.0"
__all__ = ["load", "open"]


# torch is imported only when a model is wanted: `vtok --help` and `vtok info` start without it.
def load(model: str | Path = "onevae-nano-4x8x8", device: str = "auto") -> Codec:
    """A codec by the name of shipped weights, or by the path of a weights file: see `vtok_codec.api.load`."""
    from vtok_codec.api import load

    return load(model, device)


def open(path: str | Path, model: str | Path | None = None, device: str = "auto") -> Clip:
    """An open `.vtk` file: see `vtok_codec.api.Clip`."""
    from vtok_codec.api import Clip

    return Clip(path, model, device)
