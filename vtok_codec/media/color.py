"""Converts between pixel formats and 8-bit RGB, according to the colour range and the matrix of the video."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vtok_codec.media.types import Color, Pixels

# Without full chroma interpolation and accurate rounding, swscale shifts colours by up to 3 of 255.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND

_BT601 = 5
"""swscale's number of the BT.601 matrix."""
_BT470BG_ALIASES = (5, 6)
"""The code points of BT.470BG and SMPTE 170M, which have the BT.601 matrix in common."""
_SWSCALE_MATRICES = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9} | dict.fromkeys(_BT470BG_ALIASES, _BT601)
"""swscale's number of each matrix, by its code point in ISO/IEC 23091-2."""


def swscale_matrix(color: Color) -> int:
    """Return swscale's number of the matrix of a video. An untagged video counts as BT.601, as in ffmpeg."""
    return _SWSCALE_MATRICES.get(color.matrix, _BT601)


class RGBConverter:
    """Converts decoded frames to 8-bit RGB.

    All frames share one scaler context. Without the converter, every frame would hold a context of its own.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, color: Color) -> Pixels:
        """Convert a decoded frame, whose colours `color` describes, to RGB, uint8 `H W 3`."""
        matrix = swscale_matrix(color)
        # Planar RGB has the same values as packed RGB, but swscale converts to it faster, with vector code. It does not
        # stretch samples of less than 8 bits to the whole range, though.
        coarse = is_rgb_format(frame.format.name) and min(part.bits for part in frame.format.components) < 8
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24" if coarse else "gbrp",
            interpolation=_SCALING,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_source_range(frame, color),
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray())


class YUVConverter:
    """Converts RGB to the pixel format of an output, with the colour range and the matrix that `color` names."""

    def __init__(self, pixel_format: str, color: Color) -> None:
        self._reformatter = VideoReformatter()
        self._format = pixel_format
        self._color = color

    def __call__(self, pixels: Pixels) -> av.VideoFrame:
        """Convert RGB pixels, uint8 `H W 3`, to a frame in the pixel format of the output. The frame has no pts yet."""
        rgb = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        rgb.color_range = ColorRange.JPEG
        if self._format == "rgb24":
            return rgb
        matrix = swscale_matrix(self._color)
        full = is_rgb_format(self._format) or self._color.range == ColorRange.JPEG
        return self._reformatter.reformat(
            rgb,
            format=self._format,
            interpolation=_SCALING,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            threads=1,
        )


def is_rgb_format(pixel_format: str) -> bool:
    """Return whether a pixel format, given by FFmpeg's name, stores RGB rather than YUV."""
    return av.VideoFormat(pixel_format, 16, 16).is_rgb


def _source_range(frame: av.VideoFrame, color: Color) -> int:
    """Return the colour range of a decoded frame. YUV counts as limited unless its format or its tags say full."""
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    return ColorRange.JPEG if color.range == ColorRange.JPEG else ColorRange.MPEG
