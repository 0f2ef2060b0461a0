"""The header of a `.vtk` file: what the video is, which model made its tokens, and how its records are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vtok_codec.audio import AudioTrack, Tags
from vtok_codec.layout import GopLayout, Stride

MAX_SIDE = 1 << 15
"""The largest width and the largest height, in pixels."""
MAX_PIXELS = 1 << 26
"""The largest number of pixels per frame."""
MAX_CHUNK_LATENTS = 64
"""The largest number of latent time steps per chunk. All phases of a first latent frame count as one step."""
MAX_GOP_LATENTS = 1 << 20
"""The largest number of latent time steps per GOP. All phases of a first latent frame count as one step."""
MAX_TOKENS = 16
"""The largest number of tokens per latent position."""
MAX_CODES = 1 << 16
"""The largest number of values that a token can take."""
MAX_CHUNK_DIGITS = 1 << 28
"""The largest number of digits per chunk. A digit takes one byte, so this limits what a reader allocates."""
MAX_PER_WINDOW = 255
"""The largest number of 1D tokens of a window, so that one byte counts them."""
MAX_WINDOW_TOKENS = 1 << 22
"""The largest number of 1D tokens per chunk."""
MAX_TRACKS = 32
"""The largest number of audio tracks."""
ID_BYTES = 16
"""The size of the identifier of a file, in bytes."""
MAX_TAGS = 64
"""The largest number of tags of a file or of a track."""
MAX_TAG_CHARACTERS = 4096
"""The largest number of characters of the name and the text of a tag together."""


@dataclass(frozen=True)
class ModelId:
    """The model that made the tokens, and what a reader must know about it to unpack them."""

    name: str
    """The name under which the model is shipped, or the name of its weights file."""
    weights_sha256: str
    """The SHA-256 of the weights file that made the tokens, as 64 lower-case hexadecimal digits."""
    stride: Stride
    """The number of frames, rows and columns of the video that one latent position stands for."""
    levels: tuple[int, ...]
    """The number of values that each digit of a token can take."""
    first_grid: tuple[int, int] = (1, 1)
    """The number of rows and columns of a GOP's first latent frame per row and column of a later one."""

    @property
    def layout(self) -> GopLayout:
        """The rule that maps frames to latent frames."""
        return GopLayout(self.stride, self.first_grid)


@dataclass(frozen=True)
class WindowHeader:
    """What the header of a file says about its 1D tokens."""

    name: str
    """The name of the model that made them."""
    weights_sha256: str
    """The SHA-256 of the weights of that model, in hexadecimal."""
    window: tuple[int, int, int]
    """The time steps, rows and columns of the latent grid that a window spans."""
    most: int
    """The largest number of 1D tokens of a window."""
    levels: tuple[int, ...]
    """The number of values of each digit of a 1D token."""

    def count(self, layout: GopLayout, height: int, width: int) -> int:
        """Return the number of windows of a chunk, whose pictures have a height and a width in pixels."""
        rows, columns = layout.grid(height, width)
        return -(-rows // self.window[1]) * -(-columns // self.window[2])

    def most_bytes(self, windows: int) -> int:
        """Return the largest size of the 1D tokens of so many windows in a file, in bytes."""
        return windows * (1 + 2 * self.most)


@dataclass(frozen=True)
class Header:
    """The contents of the header, which comes before the records."""

    width: int
    """The width of the video in pixels, before padding."""
    height: int
    """The height of the video in pixels, before padding."""
    rate: Fraction | None
    """The nominal number of frames per second; None for a still image."""
    time_base: Fraction
    """The length in seconds of one tick of all video times."""
    frame_ticks: int
    """The ticks from one frame to the next in chunks that do not list their own; 0 for a still image."""
    sar: Fraction
    """The sample aspect ratio, which is the width of a pixel over its height."""
    color: tuple[int, int, int, int]
    """The colour range (0 unknown, 1 limited, 2 full), then primaries, transfer and matrix as in ISO/IEC 23091-2."""
    rotation: int
    """The angle by which a player turns the pictures, in degrees counter-clockwise, −360 to 360."""
    model: ModelId
    """The model that made the tokens."""
    tokens_per_position: int
    """The number of tokens per latent position."""
    gop_latents: int
    """The largest number of latent time steps per GOP."""
    chunk_latents: int
    """The number of latent time steps per chunk; only the last chunk of a GOP may have fewer."""
    audio: tuple[AudioTrack, ...] = ()
    """The audio tracks."""
    tags: Tags = ()
    """What the source says about itself, such as its title, as pairs of a name and a text."""
    prior_sha256: str | None = None
    """The SHA-256 of the prior with which the tokens were packed, in hexadecimal; None if no chunk needs one."""
    windows: WindowHeader | None = None
    """What the file says about its 1D tokens; None if it has none."""
    file_id: bytes = b""
    """The identifier of the file, `ID_BYTES` bytes that enter the CRC of every record; empty in format 1.0."""
    writer: str = ""
    """The program that wrote the file."""

    @property
    def coded_size(self) -> tuple[int, int]:
        """The height and width in pixels, padded to multiples of the stride."""
        layout = self.model.layout
        return layout.picture(*layout.grid(self.height, self.width))

    @property
    def planes(self) -> int:
        """The number of digit planes P, which is the number of digits per latent position."""
        return self.tokens_per_position * len(self.model.levels)

    def chunk_latent_shape(self, frames: int, first: bool) -> tuple[int, int, int]:
        """Return the number of latent frames, rows and columns of a chunk: the `t h w` of its digits.

        Args:
            frames: The number of frames in the chunk.
            first: Whether the chunk is the first of its GOP.
        """
        layout = self.model.layout
        return layout.latents(frames, first), *layout.grid(self.height, self.width)

    def max_chunk_frames(self, first: bool) -> int:
        """Return the number of frames in a full chunk, which is the first of its GOP or a later one."""
        return self.model.layout.chunk_frames(self.chunk_latents, first)
