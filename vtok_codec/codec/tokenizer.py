"""Frames ↔ digits: a codec model on a device, with padding, value ranges and types taken care of.

The model's state is an argument and a result of every call, so that one model can code several videos at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.slices import latents_at_once, slices
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB
from vtok_codec.models.precision import fast_type, plain_types
from vtok_codec.models.weights import CODEC, build
from vtok_codec.prior_files import find_prior, prior_of
from vtok_codec.registry import find_codec, is_onedva
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Values
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

if TYPE_CHECKING:
    from vtok_codec.codec.onedva import OneDVACoder


MAX_LATENT = 1e4
"""The largest absolute value of a latent that is decoded; those of real video are below 10."""


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and in which floating-point type."""

    device: torch.device
    """The device."""
    dtype: torch.dtype
    """The floating-point type of weights and features."""

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype}".replace("torch.", "")


def choose_placement(device: str) -> Placement:
    """Choose where a model runs.

    Args:
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one. The type is bf16 where the machine computes in it,
            else fp32.

    Raises:
        SettingError: The device is unknown or absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"device {device!r} is unknown; use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError("there is no CUDA device here; use device cpu")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Placement(chosen, fast_type(chosen))


def lanes_on(device: torch.device) -> int:
    """Return the most GOPs that are worth coding at once on a device."""
    return torch.get_num_threads() if device.type == "cpu" else 1


class Tokenizer:
    """A codec model ready to use: it turns uint8 RGB frames `T H W 3` into digits `P t h w` and back.

    Args:
        weights: The weights of the model.
        placement: Where the model runs, and in which floating-point type.

    Raises:
        ModelError: The weights cannot be used.
    """

    def __init__(self, weights: WeightsFile, placement: Placement) -> None:
        model = build(CODEC, weights)
        self.weights = weights
        self.placement = placement
        self._process = os.getpid()
        # The only gradients that are ever asked for are those of the digits (`vtok_codec.codec.refinement`).
        model.requires_grad_(False)
        self.model = model.to(placement.device, placement.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.max_tokens = model.config.max_tokens
        self.id = weights.id
        self.layout = self.id.layout
        self.onedva: OneDVACoder | None = None
        """One-DVA's transformers, if the model has 1D tokens beside the first token of every position."""

    @property
    def bytes_per_pixel(self) -> int:
        """The memory in bytes that coding a chunk takes for each pixel of a frame, measured at 854×480."""
        return 500 * self.placement.dtype.itemsize

    @torch.inference_mode()
    @plain_types()
    def encode(
        self, frames: Pixels, tokens_per_position: int, state: State, stickiness: float = 0.0
    ) -> tuple[Digits, State]:
        """Encode a chunk.

        The first frame of a GOP is repeated in front of it, and the last frame of a chunk is repeated to fill its last
        latent frame. Rows and columns are padded with the nearest pixels.

        Args:
            frames: uint8 RGB `T H W 3`.
            tokens_per_position: Tokens to keep per latent position.
            state: The state after the chunk before, or None at the start of a GOP.
            stickiness: How far beyond half a step a latent may move before its digit changes; see `FSQ.digits`.

        Returns:
            The digits `P t h w`, and the state after the chunk.
        """
        planes, parts = tokens_per_position * len(self.id.levels), []
        for video in self._videos(frames, state is None):
            digits, state = self.model.encode_digits(video, state, stickiness)
            parts.append(digits[0, :planes].cpu().numpy())
        return np.concatenate(parts, axis=1), state

    @torch.inference_mode()
    @plain_types()
    def encode_values(self, frames: Pixels, tokens_per_position: int, state: State) -> tuple[Values, State]:
        """Encode a chunk to digits before rounding, from which a coder may choose the digits; see `encode`.

        Returns:
            The values, float32 `P t h w` in units of digits, and the state after the chunk.
        """
        planes, parts = tokens_per_position * len(self.id.levels), []
        for video in self._videos(frames, state is None):
            values, state = self.model.encode_values(video, state)
            parts.append(values[0, :planes].float().cpu().numpy())
        return np.concatenate(parts, axis=1), state

    def _videos(self, frames: Pixels, first: bool) -> Iterator[Tensor]:
        """Yield the parts of a padded chunk that pass through the model one by one, `1 3 T H W` in [−1, 1]."""
        self.check_process()
        layout = self.layout
        before, after = layout.filled_frames(first), layout.padding(len(frames), first)
        (height, width), size = layout.picture(*layout.grid(*frames.shape[1:3])), frames.shape[1:3]
        filled = np.clip(np.arange(-before, len(frames) + after), 0, len(frames) - 1)
        step = layout.stride[0] * latents_at_once(self.placement.device.type, size)
        padding = ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0))
        for begin in range(0, len(filled), step):
            yield self._to_video(np.pad(frames[filled[begin : begin + step]], padding, mode="edge"))

    @torch.inference_mode()
    @plain_types()
    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: State,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, State]:
        """Decode a chunk or a part of one.

        Args:
            digits: uint8 `P t h w`.
            size: The height and width of the video.
            frames: The number of frames that the digits stand for.
            state: The state after the digits before, or None at the start of a GOP.
            gop: The number of the GOP, which only decoders that draw noise use.
            window_tokens: The 1D tokens of the chunk, which only One-DVA's decoder reads.

        Returns:
            The frames, uint8 RGB `T H W 3`, and the state after them.
        """
        self.check_process()
        skipped, device = self.layout.filled_frames(state is None), self.placement.device
        parts: list[Pixels] = []
        for part, _ in slices(digits, self.layout, state is None, latents_at_once(device.type, size)):
            video, state = self.model.decode_digits(torch.from_numpy(part)[None].to(device), state)
            parts.append(to_pixels(video[0], size))
        return np.concatenate(parts)[skipped : skipped + frames], state

    @property
    def lanes(self) -> int:
        """The most GOPs that are worth coding at once: one for each of torch's threads, and one on a GPU."""
        return lanes_on(self.placement.device)

    @cached_property
    def prior(self) -> Prior | None:
        """The prior of the model's tokens; None if there is none."""
        return prior_of(self.weights)

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""
        return find_prior(sha256, self.weights.path.parent)

    def check_made_for(self, weights: WeightsFile, fits: bool, advice: str) -> None:
        """Check that weights without a codec are for this one's tokens.

        Args:
            weights: The weights, which name the codec by its hash.
            fits: Whether their network has the shape that the codec asks for.
            advice: What the user can do if they are not.

        Raises:
            ModelError: They are not.
        """
        made_for = weights.metadata.get(CODEC_SHA256, "")
        if made_for not in self.weights.reads or not fits:
            raise ModelError(
                f"{weights.path} is for the tokens of weights {made_for[:12] or 'unknown'}, not for those of "
                f"{self.id.weights_sha256[:12]}; {advice}"
            )

    def check_process(self) -> None:
        """Check that the model is used in the process that loaded it; see `check_process`."""
        check_process(self._process)

    def warm_up(self) -> None:
        """Code a small picture, so that later timings do not include what torch sets up at its first use."""
        digits, _ = self.encode(np.zeros((1, *self.id.stride[1:], RGB), np.uint8), self.max_tokens, None)
        self.decode(digits, self.id.stride[1:], 1, None)

    def _to_video(self, frames: Pixels) -> Tensor:
        """Convert frames, uint8 `T H W 3`, to video `1 3 T H W` in [−1, 1], channels-last in memory."""
        pixels = torch.from_numpy(frames).to(self.placement.device)
        video = torch.empty(pixels.shape, dtype=self.placement.dtype, device=pixels.device)
        for frame, levels in zip(video, pixels, strict=True):
            # Frame by frame, so that at most one frame is held in fp32.
            frame.copy_(levels.float().div_(127.5).sub_(1))
        return video.permute(3, 0, 1, 2)[None]


def check_process(loaded_in: int) -> None:
    """Check that a model is used in the process that loaded it: torch's threads do not survive a fork.

    Args:
        loaded_in: The number of that process.

    Raises:
        SettingError: It is used in a child of that process.
    """
    if os.getpid() != loaded_in:
        raise SettingError(
            "a model cannot be used after a fork; start the process by 'spawn', and load the model there"
        )


def to_pixels(video: Tensor, size: tuple[int, int]) -> Pixels:
    """Convert video `3 T H W` in [−1, 1] to uint8 `T h w 3`, cropped to the height and width `size`."""
    height, width = size
    pixels = torch.empty((video.shape[1], height, width, RGB), dtype=torch.uint8, device=video.device)
    for frame, levels in zip(pixels, video.permute(1, 2, 3, 0)[:, :height, :width], strict=True):
        # Frame by frame, so that at most one frame is held in fp32.
        frame.copy_(levels.float().add_(1).mul_(127.5).round_().clamp_(0, 255))
    return pixels.cpu().numpy()


def load_tokenizer(weights: WeightsFile, device: str = "auto") -> Tokenizer:
    """Load a tokenizer onto a device; see `choose_placement` for `device`.

    Args:
        weights: The weights of a codec, or those of One-DVA, which bring their codec along.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        ModelError: The weights, or those of the codec that they are for, cannot be used.
        SettingError: The device cannot be used.
    """
    if not is_onedva(weights):
        return Tokenizer(weights, choose_placement(device))
    from vtok_codec.codec.onedva import OneDVACoder

    tokenizer = Tokenizer(find_codec(weights), choose_placement(device))
    tokenizer.onedva = OneDVACoder(weights, tokenizer)
    return tokenizer
