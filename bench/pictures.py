"""The middle frame of clips as decoders show it, one row a clip: the source, then each decoder, as a JPEG.

    .venv/bin/python bench/pictures.py CLIPS --tokens 1 --out docs/decoders.jpg

Of a frame that is larger than 256×256 the centre is shown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np

from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.evaluation.clips import Clip, open_clip
from vtok_codec.evaluation.codecs import VtokCodec, model_codecs
from vtok_codec.evaluation.comparison import centre, frame_at
from vtok_codec.media.types import Pixels
from vtok_codec.registry import DEFAULT_MODEL, find_weights

_SIDE = 256
_GAP = 4
"""Pixels between pictures."""


def row(clip: Clip, codecs: list[VtokCodec], folder: Path) -> Pixels:
    """A clip's middle frame and what the codecs make of it."""
    middle = clip.frames // 2
    pictures = [frame_at(clip.pixels(), middle)]
    for codec in codecs:
        coded = folder / "coded.vtk"
        codec.encode(clip, coded)
        pictures.append(frame_at(codec.frames(coded), middle))
    return np.concatenate([_framed(picture) for picture in pictures], axis=1)


def _framed(picture: Pixels) -> Pixels:
    """The centre of a picture on a white square."""
    shown = centre(picture, (_SIDE, _SIDE))
    square = np.full((_SIDE + _GAP, _SIDE + _GAP, 3), 255, np.uint8)
    square[: shown.shape[0], : shown.shape[1]] = shown
    return square


def write_jpeg(path: Path, picture: Pixels) -> None:
    """RGB `H W 3` as a JPEG file."""
    with av.open(path, "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=1, options={"qmin": "3", "qmax": "3"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuvj444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Parse, decode, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--decoders", default="deterministic,ddim,flow")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    tokenizer = load_tokenizer(find_weights(chosen.model))
    codecs = model_codecs([tokenizer], [chosen.tokens], decoders=chosen.decoders.split(","))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(open_clip(path), codecs, Path(folder)) for path in chosen.clips]
    write_jpeg(chosen.out, np.ascontiguousarray(np.concatenate(rows)))


if __name__ == "__main__":
    main()
