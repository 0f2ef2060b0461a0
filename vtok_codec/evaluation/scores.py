"""Measures how far decoded frames are from their source, in 8-bit RGB and in the same way for every codec."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

from vtok_codec.evaluation.vmaf import VmafScores
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.gradients import gradient_energy
from vtok_codec.metrics.lpips import LEAST_SIDE, LPIPS
from vtok_codec.metrics.squared_error import SquaredError

_PEAK = 255
"""The largest value of a channel."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""The weights of red, green and blue in luma (ITU-R BT.601)."""
_LEAST_SIDES = {"ssim": 11, "ms_ssim": 161, "lpips": LEAST_SIDE}
"""The smallest side of a picture, in pixels, that a measure applies to.

SSIM needs one window, and MS-SSIM one window at each of five scales.
"""


@dataclass(frozen=True)
class Scores:
    """The measures of one clip. A measure is None where it was not taken or does not apply to the clip."""

    psnr_db: float
    """PSNR in dB, from the mean squared error over all frames and channels of the clip; infinite for a copy."""
    ssim: float | None
    """Structural similarity (Wang 2004) of RGB with 11×11 Gaussian windows, as a mean over frames; 1 for a copy."""
    ms_ssim: float | None
    """Structural similarity over five scales (Wang 2003), as a mean over frames; 1 for a copy."""
    lpips: float | None
    """LPIPS v0.1 with AlexNet, as a mean over frames; 0 for a copy, and lower is better."""
    energy: float | None
    """`gradient_energy` of all frames, divided by that of the source: 1 for a copy, less if the clip is blurred, more
    if detail or noise was added. None if the source is flat."""
    flicker: float | None
    """Mean absolute difference between the output's and the source's change of luma from one frame to the next, on a
    scale of 0 to 255. 0 for a copy; None for a single frame."""
    vmaf: float | None
    """VMAF v0.6.1 from 0 to 100, as a mean over frames."""
    vmaf_neg: float | None
    """VMAF-NEG v0.6.1, which gives no credit for enhancement, from 0 to 100, as a mean over frames."""


HIGHER_IS_BETTER = {
    "psnr_db": True,
    "ssim": True,
    "ms_ssim": True,
    "lpips": False,
    "flicker": False,
    "vmaf": True,
    "vmaf_neg": True,
}
"""Whether a higher value is better, for each measure that orders codecs by quality.

`energy` is not among them, since it is best at 1.
"""
assert {*HIGHER_IS_BETTER, "energy"} == {field.name for field in fields(Scores)}


class Flicker:
    """Accumulates flicker: changes from one frame to the next that the source does not have."""

    def __init__(self) -> None:
        self._previous: NDArray[np.float32] | None = None
        self._sum = 0.0
        self._pairs = 0

    def add(self, source: Pixels, output: Pixels) -> None:
        """Add the next frame `H W 3` of the source and of the output."""
        # Luma is linear in RGB, so both changes of luma differ by the change of the error's luma.
        error = ((output.astype(np.float32) - source) @ _LUMA).astype(np.float32, copy=False)
        if self._previous is not None:
            self._sum += float(np.abs(error - self._previous).mean(dtype=np.float64))
            self._pairs += 1
        self._previous = error

    @property
    def mean(self) -> float | None:
        """The flicker on a scale of 0 to 255, as in `Scores.flicker`; None for fewer than two frames."""
        return self._sum / self._pairs if self._pairs else None


class ScoreMeter:
    """Compares a decoded clip with its source, frame by frame.

    Args:
        structural: Whether to measure SSIM and MS-SSIM.
        lpips: The network for LPIPS; None to leave LPIPS out. Its device is used for the other measures too.
    """

    def __init__(self, structural: bool, lpips: LPIPS | None) -> None:
        self._device = next(lpips.buffers()).device if lpips is not None else torch.device("cpu")
        self._structural = structural
        self._lpips = lpips
        self._side = 0
        self._error = SquaredError()
        self._flicker = Flicker()
        self._energies = [0.0, 0.0]
        self._sums = {"ssim": 0.0, "ms_ssim": 0.0, "lpips": 0.0}
        self._frames = 0

    @torch.inference_mode()
    def add(self, source: Pixels, output: Pixels) -> None:
        """Compare the next frame of the source and of the output, uint8 RGB `H W 3`.

        Raises:
            ValueError: The sizes of the frames differ.
        """
        if source.shape != output.shape:
            raise ValueError(f"a frame of {output.shape} cannot be compared with one of {source.shape}")
        self._error.add(source, output)
        self._flicker.add(source, output)
        self._frames += 1
        a, b = self._picture(source), self._picture(output)
        self._energies = [total + gradient_energy(x) for total, x in zip(self._energies, (a, b), strict=True)]
        self._side = min(source.shape[:2])
        if self._measures("ssim"):
            self._sums["ssim"] += float(ssim(a, b, data_range=_PEAK))
        if self._measures("ms_ssim"):
            self._sums["ms_ssim"] += float(ms_ssim(a, b, data_range=_PEAK))
        if self._lpips is not None and self._measures("lpips"):
            self._sums["lpips"] += float(self._lpips(a / 127.5 - 1, b / 127.5 - 1))

    def _measures(self, name: str) -> bool:
        """Return whether a measure was asked for and applies to pictures of this size."""
        wanted = self._lpips is not None if name == "lpips" else self._structural
        return wanted and self._side >= _LEAST_SIDES[name]

    def _picture(self, pixels: Pixels) -> Tensor:
        """Convert a frame `H W 3` to float `1 3 H W` in 0…255 on the device."""
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device).permute(2, 0, 1)[None].float()

    def scores(self, vmaf: VmafScores | None) -> Scores:
        """Return the scores of all frames so far.

        Args:
            vmaf: The scores of a `VmafMeter` for the same frames; None if VMAF was not measured.
        """
        means = {name: total / self._frames if self._measures(name) else None for name, total in self._sums.items()}
        source_energy, energy = self._energies
        return Scores(
            psnr_db=self._error.psnr_db,
            energy=energy / source_energy if source_energy else None,
            flicker=self._flicker.mean,
            vmaf=vmaf.vmaf if vmaf else None,
            vmaf_neg=vmaf.neg if vmaf else None,
            **means,
        )
