"""What refined digits make small: how far decoded frames are from their source, as a gradient.

The squared error alone leads to the best PSNR. With LPIPS beside it, the frames look closer to their source.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vtok_codec.codec.tokenizer import Placement
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS, grown, load_lpips
from vtok_codec.stream.effort import Tune

_LEVEL = 1 / 127.5
"""The distance of neighbouring levels of 8 bits on the scale from −1 to 1."""
_LEAST_LPIPS = 1e-3
"""The least LPIPS that a gradient is divided by."""


class _View(NamedTuple):
    """How LPIPS looks at a frame."""

    down: int
    """Rows by which the picture is moved down."""
    right: int
    """Columns by which the picture is moved to the right."""
    mirrored: bool
    """Whether the picture is mirrored."""


_VIEWS = (_View(0, 0, False), _View(2, 1, True), _View(1, 3, False), _View(3, 2, True), _View(0, 2, False))
"""The views of successive steps. LPIPS looks at every fourth pixel first. With a single view, refinement would please
that grid rather than the eye, which has none."""


class Distortion:
    """The squared error of frames, and LPIPS beside it.

    With weight w, LPIPS adds w·E·log L to a frame's squared error E, where L is its LPIPS and the factor E counts as a
    constant. So one percent of LPIPS weighs as much as w percent of the squared error.

    Args:
        placement: Where LPIPS is computed, and in which floating-point type.
        lpips: The LPIPS network; None for the squared error alone.
        lpips_weight: The weight w.
    """

    def __init__(self, placement: Placement, lpips: LPIPS | None = None, lpips_weight: float = 0.0) -> None:
        self._placement, self._lpips, self._lpips_weight = placement, lpips, lpips_weight

    def gradient(self, shown: Tensor, source: Pixels, step: int) -> Tensor:
        """Return the gradient of the distortion by the decoded frames, in squared levels of 0 to 255.

        Args:
            shown: The decoded frames, fp32 `T 3 H W` in [−1, 1], not clamped.
            source: Their source, uint8 RGB `T H W 3`.
            step: The number of the step, which chooses the view of LPIPS.

        Returns:
            The gradient, of the shape of `shown`.
        """
        frames = torch.from_numpy(source).to(shown.device).permute(0, 3, 1, 2) * _LEVEL - 1
        error = (shown - frames) / _LEVEL
        gradient = 2 * error / _LEVEL
        if self._lpips is not None:
            # One frame at a time, so that memory holds the features of one.
            for index, total in enumerate(error.square().flatten(1).sum(1)):
                distance, change = self._lpips_gradient(self._lpips, shown[index], frames[index], step)
                gradient[index] += self._lpips_weight * total / distance.clamp(min=_LEAST_LPIPS) * change
        return gradient

    def _lpips_gradient(self, lpips: LPIPS, shown: Tensor, source: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return the LPIPS of a frame `3 H W`, and its gradient by the decoded frame."""
        view, place = _VIEWS[step % len(_VIEWS)], self._placement
        in_bf16 = torch.autocast(place.device.type, torch.bfloat16, enabled=place.dtype is torch.bfloat16)
        with torch.enable_grad(), in_bf16:
            leaf = shown.clone().requires_grad_()
            distance = lpips(_seen(leaf.clamp(-1, 1), view), _seen(source, view)).sum()
            (change,) = torch.autograd.grad(distance, leaf)
        return distance.detach(), change


def _seen(picture: Tensor, view: _View) -> Tensor:
    """Return a picture `3 H W` as LPIPS looks at it, `1 3 H W`; one that is too small grows by copies of its edge."""
    picture = picture.flip(-1) if view.mirrored else picture
    return grown(F.pad(picture[None], (view.right, 0, view.down, 0), mode="replicate"))


def make_distortion(tune: Tune, placement: Placement) -> Distortion:
    """Make the distortion that a tune names.

    Args:
        tune: What to make small.
        placement: Where the model runs, and in which floating-point type.

    Raises:
        ModelError: The weights of LPIPS are missing or unreadable.
    """
    if not tune.lpips_weight:
        return Distortion(placement)
    return Distortion(placement, _lpips_on(placement.device), tune.lpips_weight)


@lru_cache(maxsize=1)
def _lpips_on(device: torch.device) -> LPIPS:
    """Return the LPIPS network on a device, which is loaded once."""
    return load_lpips().to(device)
