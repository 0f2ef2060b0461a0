"""Between a decoder's pixel formats and 8-bit RGB, obeying the colour range and matrix of the video."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vtok_codec.media.types import Color, Pixels

# Full chroma interpolation and accurate rounding: swscale's fast paths shift colours by up to 3 of 255.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND

_BT601 = 5
_BT470BG_ALIASES = (5, 6)
"""BT.470BG and SMPTE 170M: the same matrix, for which swscale has one number."""
_SWSCALE_MATRICES = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9} | dict.fromkeys(_BT470BG_ALIASES, _BT601)


def swscale_matrix(color: Color) -> int:
    """swscale's number of the video's matrix. An untagged video is taken as BT.601, as ffmpeg does."""
    return _SWSCALE_MATRICES.get(color.matrix, _BT601)


class RGBConverter:
    """Turns decoded frames into RGB. It owns one scaler context, since each kept frame would otherwise own one."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, color: Color) -> Pixels:
        """RGB `H W 3` of a decoded frame, which `color` describes."""
        matrix = swscale_matrix(color)
        # To planes: the same values as packed RGB, three times as fast, since swscale has vector code for it.
        rgb = self._reformatter.reformat(
            frame,
            format="gbrp",
            interpolation=_SCALING,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_source_range(frame, color),
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray())


class YUVConverter:
    """Turns RGB into the pixel format of an output, tagged and scaled as `color` says."""

    def __init__(self, pixel_format: str, color: Color) -> None:
        self._reformatter = VideoReformatter()
        self._format = pixel_format
        self._color = color

    def __call__(self, pixels: Pixels) -> av.VideoFrame:
        """A frame of the output's format; its pts is for the caller to set."""
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
    """Whether a pixel format stores RGB rather than YUV."""
    return av.VideoFormat(pixel_format, 16, 16).is_rgb


def _source_range(frame: av.VideoFrame, color: Color) -> int:
    if frame.format.is_rgb or frame.format.name.startswith("yuvj"):
        return ColorRange.JPEG
    return ColorRange.JPEG if color.range == ColorRange.JPEG else ColorRange.MPEG
