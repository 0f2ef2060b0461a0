"""Training crops cut on the GPU: all clips lie there decoded, since no CPU cuts as fast as a GPU trains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtok_codec.training.crops import Batches, CropPlan, CropSampler, CropShape, Prefetcher, blurred

_SUBSAMPLES = 3
"""Rows and columns of samples whose mean is a pixel of a scaled crop: windows are scaled down by 2.5 at most."""
_SHARE = 0.5
"""Of a GPU's free memory, what decoded clips may take."""


def batches_for(device: torch.device, sampler: CropSampler, rank: int = 0) -> Batches:
    """A sampler's batches for a model that trains on a device: cut there, if it is a GPU and the clips fit beside the
    training, else by threads of the CPU."""
    if device.type != "cuda":
        return Prefetcher(sampler, rank)
    free, _ = torch.cuda.mem_get_info(device)
    resident = ResidentCrops.load(sampler, device, round(free * _SHARE), rank)
    return resident or Prefetcher(sampler, rank, threads=os.cpu_count() or 1)


class ResidentCrops:
    """The batches of a sampler, from clips that lie on a device.

    A crop of its own size is, value by value, what the sampler gives; one that is scaled down takes the mean of nine
    samples in place of an area.
    """

    def __init__(
        self, sampler: CropSampler, clips: Tensor, places: dict[Path, tuple[int, int, int]], rank: int = 0
    ) -> None:
        """`clips`: the pixels `P 3`, uint8, of all clips one after another; `places`: of each the first pixel, its
        height and its width; `rank`: the number of this process among those that share each batch."""
        self._sampler = sampler
        self._clips = clips
        self._places = places
        self._rank = rank
        self._planner = ThreadPoolExecutor(1, "plans")
        self._next: tuple[tuple[int, CropShape], Future[list[CropPlan]]] | None = None

    @classmethod
    def load(cls, sampler: CropSampler, device: torch.device, budget_bytes: int, rank: int = 0) -> ResidentCrops | None:
        """Decode the sampler's library onto the device; None if that takes more than so many bytes."""
        library = sampler.library
        paths = [*library.videos, *library.images]
        places: dict[Path, tuple[int, int, int]] = {}
        parts: list[Tensor] = []
        pixels = 0
        with ThreadPoolExecutor(os.cpu_count(), "clips") as pool:
            for path, clip in zip(paths, pool.map(library.read, paths), strict=True):
                if clip is None:
                    continue
                places[path] = (pixels, clip.shape[1], clip.shape[2])
                pixels += clip.size // 3
                # They lie there twice while they are put together.
                if 2 * 3 * pixels > budget_bytes:
                    pool.shutdown(cancel_futures=True)
                    return None
                parts.append(torch.from_numpy(clip).view(-1, 3).to(device))
        return cls(sampler, torch.cat(parts), places, rank) if parts else None

    def batch(self, number: int, shape: CropShape) -> Tensor:
        """This process' share of batch `number`, `B 3 T H W` in [−1, 1]."""
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
        """Drop the plans of the batch that would be next."""
        self._planner.shutdown(wait=False, cancel_futures=True)

    def _plans(self, number: int, shape: CropShape) -> list[CropPlan]:
        """What the batch's crops are to be. Those of the next one are made while the model waits for the GPU: they
        take a tenth as long as a step."""
        made = self._next[1] if self._next and self._next[0] == (number, shape) else self._plan(number, shape)
        self._next = (number + 1, shape), self._plan(number + 1, shape)
        return made.result()

    def _plan(self, number: int, shape: CropShape) -> Future[list[CropPlan]]:
        return self._planner.submit(self._sampler.plans, number, shape, self._rank * shape.batch)

    def _cut(self, plans: Sequence[CropPlan], shape: CropShape, samples: int) -> Tensor:
        """`B T H W 3`, each pixel the mean of so many samples a row and a column of it."""
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
    """The rows or columns of windows of these sides that each pixel of a crop takes its sample from, `B size`."""
    places = (torch.arange(size, device=sides.device) + (sample + 0.5) / samples).double()
    scaled = (places * (sides[:, None] / size).clamp_min(1)).long()
    return torch.minimum(scaled, sides[:, None] - 1)
