"""How the frames of a group of pictures (GOP) map to latent frames: the one home of this rule.

A model with a temporal stride of s turns every s frames into one latent frame. A GOP starts with a single frame that
has a latent frame of its own: it is repeated s − 1 times in front of itself, so that images and videos are coded alike.
A GOP of n latent frames therefore holds (n − 1)·s + 1 frames.

A model with first-frame enhancement stores the first latent frame of a GOP on a finer grid, as several latent frames of
the usual grid, its *phases* (`vtok_codec.models.first_frame`). A GOP then has `extra_latents` more latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Stride: TypeAlias = tuple[int, int, int]
"""Frames, rows and columns of the video that one latent position stands for."""


@dataclass(frozen=True)
class GopLayout:
    """The map between frames and latent frames of a GOP."""

    stride: Stride
    """Frames, rows and columns that one latent position stands for."""
    first_grid: tuple[int, int] = (1, 1)
    """Rows and columns of the first latent frame of a GOP for each row and column of a later latent frame."""

    @property
    def phases(self) -> int:
        """The number of latent frames of the usual grid that hold the first latent frame of a GOP."""
        return math.prod(self.first_grid)

    @property
    def extra_latents(self) -> int:
        """The number of latent frames that a GOP has beyond one for every `stride[0]` frames."""
        return self.phases - 1

    @property
    def repeated_frames(self) -> int:
        """How many copies of its first frame stand in front of a GOP."""
        return self.stride[0] - 1

    def filled_frames(self, first: bool) -> int:
        """The number of repeated frames in front of a chunk, which is the first of its GOP or a later one."""
        return self.repeated_frames if first else 0

    def latents(self, frames: int, first: bool) -> int:
        """The number of latent frames that a chunk of `frames` frames takes.

        Args:
            frames: The number of frames in the chunk.
            first: Whether the chunk is the first of its GOP.
        """
        extra = self.extra_latents if first else 0
        return -(-(frames + self.filled_frames(first)) // self.stride[0]) + extra

    def frames(self, latents: int, first: bool) -> int:
        """The largest number of frames that `latents` latent frames can stand for: the inverse of `latents`."""
        extra = self.extra_latents if first else 0
        return (latents - extra) * self.stride[0] - self.filled_frames(first)

    def holds(self, latents: int, frames: int) -> bool:
        """Whether `frames` frames fill the last of the `latents` latent frames of a GOP, at least in part."""
        most = self.frames(latents, first=True)
        return max(0, most - self.stride[0]) < frames <= most

    def chunk_frames(self, steps: int, first: bool) -> int:
        """The number of frames in a chunk that covers `steps` time steps of the latent grid.

        The phases of an enhanced first frame count as one time step.
        """
        return steps * self.stride[0] - self.filled_frames(first)

    def chunks(self, frames: int, steps: int) -> Iterator[tuple[int, int]]:
        """Yield the first and the end of the frames of each chunk of a GOP.

        Args:
            frames: The number of frames in the GOP.
            steps: The time steps that a chunk covers.
        """
        begin = 0
        while begin < frames:
            end = begin + self.chunk_frames(steps, first=begin == 0)
            yield begin, min(frames, end)
            begin = end

    def time_steps(self, latents: int, first: bool) -> int:
        """The number of time steps that `latents` latent frames cover: all phases count as one."""
        return latents - (self.extra_latents if first else 0)

    def stored_latents(self, steps: int, first: bool) -> int:
        """The number of latent frames that hold `steps` time steps: the inverse of `time_steps`."""
        return steps + (self.extra_latents if first else 0)

    def whole_frames(self, frames: int) -> int:
        """`frames` rounded down to a multiple of the temporal stride."""
        return frames // self.stride[0] * self.stride[0]

    def padding(self, frames: int, first: bool) -> int:
        """How often the last frame of a chunk is repeated to fill its last latent frame."""
        return -(frames + self.filled_frames(first)) % self.stride[0]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The rows and columns of the latent grid of a picture, after padding to the stride."""
        _, rows, columns = self.stride
        return -(-height // rows), -(-width // columns)

    def picture(self, rows: int, columns: int) -> tuple[int, int]:
        """The height and width in pixels, padding included, that a latent grid stands for."""
        return rows * self.stride[1], columns * self.stride[2]
