"""Frames ↔ digits with a model on a device: padding, ranges and dtypes. State goes in and out with every call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vtok_codec.codec.slices import latents_at_once, slices
from vtok_codec.container.header import Header, ModelId
from vtok_codec.errors import FormatError, ModelError, SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB
from vtok_codec.models.precision import fast_type
from vtok_codec.models.weights import build_model
from vtok_codec.registry import WeightsFile
from vtok_codec.tokens.radix import Digits


@dataclass(frozen=True)
class Placement:
    """Where a model runs, and in which floating-point type."""

    device: torch.device
    dtype: torch.dtype


def choose_placement(device: str) -> Placement:
    """`auto` takes CUDA where there is one; bf16 where the machine computes in it, else fp32.

    Raises:
        SettingError: the device is unknown or absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise SettingError(f"device {device!r} is unknown; use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError("there is no CUDA device here; use device cpu")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return Placement(chosen, fast_type(chosen))


class Tokenizer:
    """A model ready to code: uint8 RGB frames `T H W 3` to digits `P t h w`, and back.

    Raises:
        ModelError: the weights cannot be used.
    """

    bytes_a_pixel = 900
    """Memory that a chunk takes while it is coded, for each pixel of a frame: measured at 854×480."""

    def __init__(self, weights: WeightsFile, placement: Placement) -> None:
        preset = weights.metadata.get("preset", "")
        model = build_model(preset, weights.data, str(weights.path))
        self.placement = placement
        self.model = model.to(placement.device, placement.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        config = model.config
        self.max_tokens = config.max_tokens
        self.id = ModelId(weights.name, weights.sha256, config.stride, config.fsq_levels, config.first_grid)

    @torch.inference_mode()
    def encode(self, frames: Pixels, tokens: int, state: State, stickiness: float = 0.0) -> tuple[Digits, State]:
        """The digits of a chunk, and the state after it. `state` None starts a GOP; `stickiness`: see `FSQ.digits`.

        The first frame of a GOP is repeated to fill a latent frame, so that a picture and a video are coded alike;
        the last one of a chunk likewise. Rows and columns are filled by the nearest pixels.
        """
        st, sh, sw = self.id.stride
        before = st - 1 if state is None else 0
        after, below, right = -(len(frames) + before) % st, -frames.shape[1] % sh, -frames.shape[2] % sw
        shown = np.clip(np.arange(-before, len(frames) + after), 0, len(frames) - 1)
        step, planes = st * latents_at_once(self.placement.device, frames.shape[1:3]), tokens * len(self.id.levels)
        parts: list[Digits] = []
        for begin in range(0, len(shown), step):
            part = np.pad(frames[shown[begin : begin + step]], ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
            digits, state = self.model.encode_digits(self._to_video(part), state, stickiness)
            parts.append(digits[0, :planes].cpu().numpy())
        return np.concatenate(parts, axis=1), state

    @torch.inference_mode()
    def decode(
        self, digits: Digits, size: tuple[int, int], frames: int, state: State, gop: int = 0
    ) -> tuple[Pixels, State]:
        """The `frames` frames of height and width `size` that a chunk stands for, and the state after it.

        The GOP's number is for decoders that make noise of it.
        """
        before, device = self.id.stride[0] - 1 if state is None else 0, self.placement.device
        parts: list[Pixels] = []
        for part, _ in slices(digits, self.id, state is None, latents_at_once(device, size)):
            video, state = self.model.decode_digits(torch.from_numpy(part)[None].to(device), state)
            parts.append(shown_pixels(video[0], size))
        return np.concatenate(parts)[before : before + frames], state

    def warm_up(self) -> None:
        """Code a small picture, so that what torch sets up at first use is not part of what is timed next."""
        digits, _ = self.encode(np.zeros((1, *self.id.stride[1:], RGB), np.uint8), self.max_tokens, None)
        self.decode(digits, self.id.stride[1:], 1, None)

    def _to_video(self, frames: Pixels) -> Tensor:
        """uint8 `T H W 3` → `1 3 T H W` in [−1, 1], channels-last."""
        pixels = torch.from_numpy(frames).to(self.placement.device)
        video = torch.empty(pixels.shape, dtype=self.placement.dtype, device=pixels.device)
        for frame, levels in zip(video, pixels, strict=True):
            # One by one, so that no more than a frame is fp32.
            frame.copy_(levels.float().div_(127.5).sub_(1))
        return video.permute(3, 0, 1, 2)[None]


def shown_pixels(video: Tensor, size: tuple[int, int]) -> Pixels:
    """Video `3 T H W` in [−1, 1] → uint8 `T h w 3`, cropped to height and width `size`."""
    height, width = size
    pixels = torch.empty((video.shape[1], height, width, RGB), dtype=torch.uint8, device=video.device)
    for frame, levels in zip(pixels, video.permute(1, 2, 3, 0)[:, :height, :width], strict=True):
        # One by one, so that no more than a frame is fp32.
        frame.copy_(levels.float().add_(1).mul_(127.5).round_().clamp_(0, 255))
    return pixels.cpu().numpy()


def load_tokenizer(weights: WeightsFile, device: str = "auto") -> Tokenizer:
    """A tokenizer on the chosen device.

    Raises:
        ModelError: the weights cannot be used.
        SettingError: the device cannot be used.
    """
    return Tokenizer(weights, choose_placement(device))


class PixelDecoder(Protocol):
    """What turns digits back into frames: the model's own decoder, or a diffusion decoder."""

    @property
    def id(self) -> ModelId:
        """The model whose digits it reads."""

    @property
    def max_tokens(self) -> int:
        """Tokens a position that the model has."""

    @property
    def placement(self) -> Placement:
        """Where it runs."""

    @property
    def bytes_a_pixel(self) -> int:
        """Memory that it takes while it decodes a chunk, for each pixel of a frame."""

    def decode(
        self, digits: Digits, size: tuple[int, int], frames: int, state: State, gop: int = 0
    ) -> tuple[Pixels, State]:
        """See `Tokenizer.decode`."""


def check_fits(decoder: PixelDecoder, header: Header) -> None:
    """Refuse a header that says other things of its model than the model itself.

    Raises:
        FormatError: it does.
    """
    model = header.model
    mine = decoder.id
    same = (model.stride, model.levels, model.first_grid) == (mine.stride, mine.levels, mine.first_grid)
    if not same or header.tokens > decoder.max_tokens:
        raise FormatError(f"the header does not fit its model, {decoder.id.name}")


def check_same_weights(weights: WeightsFile, name: str, sha256: str) -> None:
    """Refuse weights that read other tokens than a file holds: they would decode to noise.

    `name` and `sha256` are what the file says of the weights that made it.

    Raises:
        ModelError: they differ.
    """
    if sha256 not in weights.reads:
        raise ModelError(
            f"the file was made with weights {sha256[:12]!r} of {name}, {weights.path} holds "
            f"{weights.sha256[:12]}; name the right ones"
        )
