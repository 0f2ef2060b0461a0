"""Encodes single pictures as PNG."""

from __future__ import annotations

from fractions import Fraction

import av

from vtok_codec.media.types import Pixels


def png_bytes(picture: Pixels) -> bytes:
    """Encode a picture, RGB uint8 `H W 3`, as the contents of a PNG file."""
    codec = av.CodecContext.create("png", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = picture.shape[1], picture.shape[0], "rgb24"
    codec.framerate = Fraction(1)
    packets = codec.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")) + codec.encode(None)
    return b"".join(bytes(packet) for packet in packets)
