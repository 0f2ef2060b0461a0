"""Training crops that are cut on a GPU from decoded clips in its memory, since a CPU cannot cut them fast enough."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.cores import usable_cores
from vtok_codec.training.data.crops import Batches, CropPlan, CropSampler, ThreadedBatches, blurred
from vtok_codec.training.recipe import CropShape

_SUBSAMPLES = 3
"""A pixel of a scaled-down crop is the mean of this many rows and columns of samples. Windows are at most 2.5 times as
large as crops, so three suffice."""
_SHARE = 0.5
"""The fraction of a GPU's free memory that decoded clips may take."""


def batches_for(device: torch.device, sampler: CropSampler, rank: int = 0) -> Batches:
    """Create the batches of a sampler for training on a device.

    They are cut on the device if it is a GPU whose memory can hold all clips beside the training, and otherwise by
    threads of the CPU.

    Args:
        device: The device that the model trains on.
        sampler: The sampler that plans the crops.
        rank: The number of this process among those that share each batch.
    """
    if device.type != "cuda":
        return ThreadedBatches(sampler, rank)
    free, _ = torch.cuda.mem_get_info(device)
    resident = ResidentCrops.load(sampler, device, round(free * _SHARE), rank)
    return resident or ThreadedBatches(sampler, rank, threads=usable_cores())


class ResidentCrops:
    """Cuts the batches of a sampler from clips in the memory of a device.

    Crops that are not scaled down are the same as those of the sampler, value by value. In a crop that is scaled down,
    each pixel is the mean of nine samples instead of the mean of an area.
    """

    def __init__(
        self, sampler: CropSampler, clips: Tensor, places: dict[Path, tuple[int, int, int]], rank: int = 0
    ) -> None:
        """Cut crops from clips that are on a device already.

        Args:
            sampler: The sampler that plans the crops.
            clips: The pixels of all clips one after another, uint8 `P 3`.
            places: For each clip, the number of its first pixel, its height and its width.
            rank: The number of this process among those that share each batch.
        """
        self._sampler = sampler
        self._clips = clips
        self._places = places
        self._rank = rank
        self._planner = ThreadPoolExecutor(1, "plans")
        self._next: tuple[tuple[int, CropShape], Future[list[CropPlan]]] | None = None

    @classmethod
    def load(cls, sampler: CropSampler, device: torch.device, budget_bytes: int, rank: int = 0) -> ResidentCrops | None:
        """Decode all clips of a sampler's library into the memory of a device.

        Args:
            sampler: The sampler that plans the crops.
            device: The device to cut crops on.
            budget_bytes: The memory that this may take on the device, in bytes.
            rank: The number of this process among those that share each batch.

        Returns:
            The batches, or None if the budget is too small or no clip can be read.
        """
        library = sampler.library
        paths = [*library.videos, *library.images]
        places: dict[Path, tuple[int, int, int]] = {}
        parts: list[Tensor] = []
        pixels = 0
        with ThreadPoolExecutor(usable_cores(), "clips") as pool:
            for path, clip in zip(paths, pool.map(library.read, paths), strict=True):
                if clip is None:
                    continue
                places[path] = (pixels, clip.shape[1], clip.shape[2])
                pixels += clip.size // 3
                # Concatenation needs twice the memory, since it copies the clips.
                if 2 * 3 * pixels > budget_bytes:
                    pool.shutdown(cancel_futures=True)
                    return None
                parts.append(torch.from_numpy(clip).view(-1, 3).to(device))
        return cls(sampler, torch.cat(parts), places, rank) if parts else None

    def batch(self, number: int, shape: CropShape) -> Tensor:
        """Return this process's share of batch `number`, `B 3 T H W` in [−1, 1]."""
        plans = self._plans(number, shape)
        scaled = [plan.side > shape.size for plan in plans]
        order = np.argsort(scaled, kind="stable")
        usual = len(plans) - sum(scaled)
        groups = ((order[:usual], 1), (order[usual:], _SUBSAMPLES))
        made = torch.cat(
            [self._cut([plans[i] for i in group], shape, samples) for group, samples in groups if len(group)]
        )
        made = made[torch.from_numpy(np.argsort(order)).to(made.device)].permute(0, 4, 1, 2, 3)
        return blurred(made, [plan.blur for plan in plans])

    def close(self) -> None:
        """Drop the plans of the next batch, and end the thread that makes them."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    def _plans(self, number: int, shape: CropShape) -> list[CropPlan]:
        """Return the plans of a batch, and start to make those of the next one while the GPU works."""
        made = self._next[1] if self._next and self._next[0] == (number, shape) else self._plan(number, shape)
        self._next = (number + 1, shape), self._plan(number + 1, shape)
        return made.result()

    def _plan(self, number: int, shape: CropShape) -> Future[list[CropPlan]]:
        return self._planner.submit(self._sampler.plans, number, shape, self._rank * shape.batch)

    def _cut(self, plans: Sequence[CropPlan], shape: CropShape, samples: int) -> Tensor:
        """Cut crops `B T H W 3`. Each pixel is the mean of `samples` × `samples` pixels of the window."""
        first, heights, widths = (self._column([self._places[plan.path][i] for plan in plans]) for i in range(3))
        times, tops, lefts = (
            self._column([getattr(plan, name) for plan in plans]) for name in ("times", "tops", "lefts")
        )
        sides = self._column([plan.side for plan in plans])
        mirrored = self._column([plan.mirrored for plan in plans])
        starts = (first[:, None] + times * (heights * widths)[:, None] + tops * widths[:, None] + lefts)[
            ..., None, None
        ]
        total = torch.zeros(1, device=self._clips.device)
        for row_sample in range(samples):
            rows = _window(sides, shape.size, row_sample, samples)
            for column_sample in range(samples):
                columns = _window(sides, shape.size, column_sample, samples)
                columns = torch.where(mirrored[:, None] > 0, columns.flip(1), columns)
                inside = (rows * widths[:, None])[:, :, None] + columns[:, None, :]
                total = total + self._clips[starts + inside[:, None]]
        gain, offset = (
            torch.from_numpy(np.stack([getattr(plan, name) for plan in plans])).to(total.device)[:, None, None, None]
            for name in ("gain", "offset")
        )
        video = total / (127.5 * samples**2) - 1
        return torch.addcmul(offset, video, gain).clamp_(-1, 1)

    def _column(self, values: Sequence[object]) -> Tensor:
        return torch.from_numpy(np.array(values, dtype=np.int64)).to(self._clips.device)


def _window(sides: Tensor, size: int, sample: int, samples: int) -> Tensor:
    """Return the rows (or columns) of windows at which the rows of crops take their samples, int64 `B size`.

    Args:
        sides: The sides of the windows in pixels, `B`.
        size: The side of the crops in pixels.
        sample: The number of the sample within each pixel, 0…`samples` − 1.
        samples: The number of samples for each row of a pixel.
    """
    places = (torch.arange(size, device=sides.device) + (sample + 0.5) / samples).double()
    scaled = (places * (sides[:, None] / size).clamp_min(1)).long()
    return torch.minimum(scaled, sides[:, None] - 1)
