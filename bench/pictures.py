"""Draws the middle frame of each clip as a row of a JPEG: the source, then the output of each decoder.

    .venv/bin/python bench/pictures.py CLIPS --tokens 1 --out docs/pictures/decoders.jpg
    .venv/bin/python bench/pictures.py tests/data/lanes.mp4 --tokens 2 --rdo 0.02 --decoders deterministic \\
        --against x264 --out docs/pictures/overview.jpg

A frame that is larger than 256×256 is cropped to its centre.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np

from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.evaluation.anchors import ANCHORS, Anchor
from vtok_codec.evaluation.clips import SourceClip, open_clip
from vtok_codec.evaluation.codecs import VtokCodec, model_codecs
from vtok_codec.evaluation.comparison import anchor_of_size, centre, frame_at
from vtok_codec.media.types import Pixels
from vtok_codec.registry import DEFAULT_MODEL, find_weights

_SIDE = 256
"""The height and width of each picture in pixels."""
_GAP = 4
"""The gap between pictures in pixels."""


def row(clip: SourceClip, codecs: list[VtokCodec], anchor: Anchor | None, folder: Path) -> Pixels:
    """Draw the middle frame of a clip beside the reconstructions of the codecs, and an anchor's at the same size."""
    middle = clip.frames // 2
    pictures = [frame_at(clip.pixels(), middle)]
    for codec in codecs:
        coded = folder / "coded.vtk"
        codec.encode(clip, coded)
        pictures.append(frame_at(codec.frames(coded), middle))
    if anchor:
        other = anchor_of_size(clip, anchor, coded.stat().st_size, folder)
        coded = folder / f"coded{other.suffix}"
        other.encode(clip, coded)
        pictures.append(frame_at(other.frames(coded), middle))
    return np.concatenate([_framed(picture) for picture in pictures], axis=1)


def _framed(picture: Pixels) -> Pixels:
    """Draw the centre of a picture on a white square."""
    shown = centre(picture, (_SIDE, _SIDE))
    square = np.full((_SIDE + _GAP, _SIDE + _GAP, 3), 255, np.uint8)
    square[: shown.shape[0], : shown.shape[1]] = shown
    return square


def write_jpeg(path: Path, picture: Pixels) -> None:
    """Write an RGB picture `H W 3` as a JPEG file."""
    with av.open(path, "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=1, options={"qmin": "3", "qmax": "3"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuvj444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def main() -> None:
    """Code the clips and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rdo", type=float, default=0.0)
    parser.add_argument("--decoders", default="deterministic,ddim,flow")
    parser.add_argument("--against", choices=ANCHORS, help="an encoder to show at the size of the last file")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    tokenizer = load_tokenizer(find_weights(chosen.model))
    codecs = model_codecs([tokenizer], [chosen.tokens], decoders=chosen.decoders.split(","), rdos=[chosen.rdo])
    with tempfile.TemporaryDirectory() as folder:
        anchor = ANCHORS[chosen.against] if chosen.against else None
        rows = [row(open_clip(path), codecs, anchor, Path(folder)) for path in chosen.clips]
    write_jpeg(chosen.out, np.ascontiguousarray(np.concatenate(rows)))


if __name__ == "__main__":
    main()
