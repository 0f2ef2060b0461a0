"""How far decoded frames are from their source: one measure for every codec, on 8-bit RGB, frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_msssim import ms_ssim, ssim
from torch import Tensor

from vtok_codec.evaluation.energy import gradient_energy
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.evaluation.vmaf import VmafScores
from vtok_codec.media.types import Pixels

_PEAK = 255
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601."""
_LEAST_SIDES = {"ssim": 11, "ms_ssim": 161, "lpips": 32}
"""Of a picture, that a measure applies to: one window of SSIM, five scales of them, what AlexNet's strides leave."""


@dataclass(frozen=True)
class Quality:
    """The figures of one clip; None where a measure does not apply to it."""

    psnr_db: float
    """Of the clip's mean squared error over all frames and channels; infinite for a lossless copy."""
    ssim: float | None
    """Structural similarity (Wang 2004) of RGB, 11×11 Gaussian windows; mean over frames, 1 for a copy."""
    ms_ssim: float | None
    """Over five scales (Wang 2003)."""
    lpips: float | None
    """LPIPS v0.1 with AlexNet: 0 for a copy, lower is better."""
    energy: float | None
    """`gradient_energy` of all frames as a part of the source's: 1 for a copy, less where it is blurred, more where
    something was added. None where the source is flat."""
    flicker: float | None
    """Mean over pixels of |change of luma from frame to frame, less the source's own change|, of 255."""
    vmaf: float | None
    """VMAF v0.6.1, mean over frames."""
    vmaf_neg: float | None
    """VMAF v0.6.1 without credit for enhancement."""


HIGHER_IS_BETTER = {
    "psnr_db": True,
    "ssim": True,
    "ms_ssim": True,
    "lpips": False,
    "flicker": False,
    "vmaf": True,
    "vmaf_neg": True,
}
"""Of the measures that order codecs; the energy of gradients is best at 1."""
assert {*HIGHER_IS_BETTER, "energy"} == {field.name for field in fields(Quality)}


class SquaredError:
    """The mean squared error of frames, added up one by one."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def add(self, a: Pixels, b: Pixels) -> None:
        """Compare two frames of one size."""
        difference = a.astype(np.int32) - b
        self._sum += int(np.einsum("hwc,hwc->", difference, difference, dtype=np.int64))
        self._count += difference.size

    @property
    def psnr_db(self) -> float:
        """Peak signal-to-noise ratio for a peak of 255."""
        if not self._count:
            raise ValueError("no frame was compared")
        return 10 * math.log10(_PEAK**2 * self._count / self._sum) if self._sum else math.inf


class Flicker:
    """Changes from frame to frame that the source does not have: what still frames do not show."""

    def __init__(self) -> None:
        self._previous: NDArray[np.float32] | None = None
        self._sum = 0.0
        self._pairs = 0

    def add(self, source: Pixels, output: Pixels) -> None:
        """The next frame of both. Luma's change differs by the change of its error."""
        error = ((output.astype(np.float32) - source) @ _LUMA).astype(np.float32, copy=False)
        if self._previous is not None:
            self._sum += float(np.abs(error - self._previous).mean(dtype=np.float64))
            self._pairs += 1
        self._previous = error

    @property
    def mean(self) -> float | None:
        return self._sum / self._pairs if self._pairs else None


class QualityMeter:
    """Compares a decoded clip with its source, frame by frame, and sums up."""

    def __init__(self, structural: bool, lpips: LPIPS | None) -> None:
        """`structural`: SSIM and MS-SSIM too. The measures run where LPIPS's weights lie."""
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
        """Compare the next frame of both, `H W 3`.

        Raises:
            ValueError: their sizes differ.
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
        """Whether a measure is wanted, and pictures of this size have it."""
        wanted = self._lpips is not None if name == "lpips" else self._structural
        return wanted and self._side >= _LEAST_SIDES[name]

    def _picture(self, pixels: Pixels) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device).permute(2, 0, 1)[None].float()

    def quality(self, vmaf: VmafScores | None) -> Quality:
        """The figures of all frames so far, with VMAF's, which come from elsewhere."""
        means = {name: total / self._frames if self._measures(name) else None for name, total in self._sums.items()}
        source_energy, energy = self._energies
        return Quality(
            psnr_db=self._error.psnr_db,
            energy=energy / source_energy if source_energy else None,
            flicker=self._flicker.mean,
            vmaf=vmaf.vmaf if vmaf else None,
            vmaf_neg=vmaf.neg if vmaf else None,
            **means,
        )
