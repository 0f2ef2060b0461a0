"""Training crops, cut at random places, scales and speeds. A batch depends only on the seed and its number."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.errors import TrainingError
from vtok_codec.layout import GopLayout
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.recipe import Augmentation, CropShape

_AHEAD = 6
"""The batches that threads prepare while the model trains."""
_BLUR = (0.4, 2.0)
"""The smallest and the largest standard deviation of the blur of soft crops, in pixels."""


@dataclass(frozen=True)
class CropPlan:
    """Where a crop comes from and how it looks.

    For each frame of the crop, a square window is cut from a frame of the clip and scaled to the size of the crop.
    """

    path: Path
    """The file of the clip."""
    times: NDArray[np.int64]
    """For each frame of the crop, the number of the clip's frame that it is cut from."""
    tops: NDArray[np.int64]
    """For each frame of the crop, the first row of the window."""
    lefts: NDArray[np.int64]
    """For each frame of the crop, the first column of the window."""
    side: int
    """Height and width of the window in pixels. A window that is larger than the crop is scaled down. One that is
    smaller, because the clip is small, is padded by edge replication."""
    mirrored: bool
    """Whether left and right are exchanged."""
    gain: NDArray[np.float32]
    """Factors for red, green and blue, applied to pixels in [−1, 1]."""
    offset: NDArray[np.float32]
    """Offsets of red, green and blue, added after the gain."""
    blur: float
    """Standard deviation in pixels of the Gaussian that blurs the crop at the end; 0 for no blur."""


class CropSampler:
    """Makes random crops of the clips of a library. For one seed, crop `i` of batch `n` is always the same."""

    def __init__(self, library: ClipLibrary, augmentation: Augmentation, seed: int, layout: GopLayout) -> None:
        """Create a sampler.

        Args:
            library: The clips to cut crops from.
            augmentation: How crops are varied.
            seed: The seed of all random choices.
            layout: The layout of the model's frames, for crops that start a GOP.
        """
        self.library = library
        self._augmentation = augmentation
        self._seed = seed
        self._layout = layout

    def batch(self, number: int, shape: CropShape, first: int = 0) -> Tensor:
        """Return crops of a batch.

        Args:
            number: The number of the batch.
            shape: The shape of the crops, and how many to return.
            first: The number of the first crop to return. Processes that share a batch take different parts of it.

        Returns:
            The crops, `B 3 T H W` in [−1, 1].

        Raises:
            TrainingError: Too many files in a row cannot be read.
        """
        return torch.stack([self._crop(plan, shape.size) for plan in self.plans(number, shape, first)])

    def plans(self, number: int, shape: CropShape, first: int = 0) -> list[CropPlan]:
        """Return the plans of the crops that `batch` would cut for the same arguments."""
        places = range(first, first + shape.batch)
        return [self._plan(np.random.default_rng((self._seed, number, place)), shape) for place in places]

    def _plan(self, rng: np.random.Generator, shape: CropShape) -> CropPlan:
        augment, library = self._augmentation, self.library
        photo = bool(library.images) and (not library.videos or rng.random() < augment.photo)
        path, size = self._pick(rng, library.images if photo else library.videos)
        times, tops, lefts, side = _pan(rng, size, shape) if photo else _cut(rng, size, shape, augment)
        mirrored = rng.random() < 0.5
        order = np.arange(shape.frames)
        if rng.random() < 0.5:
            order = order[::-1]
        if rng.random() < augment.freeze:
            order = np.repeat(order[:1], shape.frames)
        gain, offset = _exposure(rng, augment)
        if rng.random() < augment.gop_start:
            repeats = self._layout.repeated_frames
            order = np.concatenate([np.repeat(order[:1], repeats), order[: shape.frames - repeats]])
        blur = rng.uniform(*_BLUR) if rng.random() < augment.soft else 0.0
        return CropPlan(path, times[order], tops[order], lefts[order], side, mirrored, gain, offset, blur)

    def _crop(self, plan: CropPlan, size: int) -> Tensor:
        clip = self.library.read(plan.path)
        if clip is None:
            raise TrainingError(f"{plan.path} cannot be read any more")
        side = plan.side
        windows = zip(plan.times, plan.tops, plan.lefts, strict=True)
        cut = np.stack([clip[time, top : top + side, left : left + side] for time, top, left in windows])
        video = torch.from_numpy(_fill(cut, size)).permute(3, 0, 1, 2).float() / 127.5 - 1
        if side > size:
            video = F.interpolate(video.transpose(0, 1), size=(size, size), mode="area").transpose(0, 1)
        if plan.mirrored:
            video = video.flip(3)
        gain, offset = (torch.from_numpy(values)[:, None, None, None] for values in (plan.gain, plan.offset))
        return blurred((video * gain + offset).clamp(-1, 1)[None], [plan.blur])[0].contiguous()

    def _pick(self, rng: np.random.Generator, paths: Sequence[Path]) -> tuple[Path, tuple[int, int, int]]:
        for _ in range(100):
            path = paths[int(rng.integers(len(paths)))]
            size = self.library.size(path)
            if size is not None:
                return path, size
        raise TrainingError("100 files in a row could not be read; see the messages above")


def blurred(videos: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur each video with a Gaussian of its own.

    Args:
        videos: Square videos, `B C T S S`.
        sigmas: The standard deviation for each video in pixels; 0 leaves the video as it is.
    """
    chosen = [number for number, sigma in enumerate(sigmas) if sigma > 0]
    if not chosen:
        return videos
    sigma = torch.tensor([sigmas[number] for number in chosen], device=videos.device)
    places = torch.arange(videos.shape[-1], device=videos.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma[:, None, None]).square())
    # Weights are normalized, so that pixels beyond the border do not count.
    weights = (weights / weights.sum(2, keepdim=True))[:, None, None]
    made = videos.clone()
    made[chosen] = weights @ videos[chosen] @ weights.mT
    return made


Windows: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]"
"""The frame numbers, first rows and first columns of the windows of a crop, and the side of all windows."""


def _cut(rng: np.random.Generator, clip_size: tuple[int, int, int], shape: CropShape, augment: Augmentation) -> Windows:
    """Choose windows at one place of a clip. A clip that is too short is played backwards from its end."""
    length, height, width = clip_size
    step = int(rng.integers(2, 4)) if rng.random() < augment.skip else 1
    zoom = rng.uniform(1, 2.5) if rng.random() < augment.shrink else 1.0
    side = min(round(shape.size * zoom), height, width)
    start = int(rng.integers(max(1, length - (shape.frames - 1) * step)))
    times = _mirror(start + np.arange(shape.frames) * step, length)
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return times, np.full(shape.frames, top), np.full(shape.frames, left), side


def _pan(rng: np.random.Generator, photo_size: tuple[int, int, int], shape: CropShape) -> Windows:
    """Choose windows that move over a still picture in a straight line, in whole pixels per frame."""
    _, height, width = photo_size
    side = min(shape.size, height, width)
    speed = rng.normal(0, 2.5, size=2)
    start = rng.uniform(0, 1, size=2) * (height - side, width - side)
    path = start + np.arange(shape.frames)[:, None] * speed
    tops = np.clip(path[:, 0].round().astype(int), 0, height - side)
    lefts = np.clip(path[:, 1].round().astype(int), 0, width - side)
    return np.zeros(shape.frames, int), tops, lefts, side


def _mirror(times: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Reflect frame numbers at both ends of a clip of `length` frames."""
    period = max(1, 2 * (length - 1))
    times = times % period
    return np.minimum(times, period - times)


def _fill(cut: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pad windows `T H W 3` that are smaller than the crop by edge replication."""
    missing = max(0, size - cut.shape[1])
    return np.pad(cut, ((0, 0), (0, missing), (0, missing), (0, 0)), mode="edge") if missing else cut


def _exposure(rng: np.random.Generator, augment: Augmentation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the gain and the offset of each colour channel."""
    gain, offset = np.ones(3), np.zeros(3)
    if rng.random() < augment.flat:
        offset, gain = rng.uniform(-1, 1, size=3), gain * rng.uniform(0, 0.1)
    elif rng.random() < augment.color:
        gain = rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, size=3)
        offset = offset + rng.uniform(-0.3, 0.3)
    return gain.astype(np.float32), offset.astype(np.float32)


class Batches(Protocol):
    """A source of batches for a run."""

    def batch(self, number: int, shape: CropShape) -> Any:
        """Return this process's share of batch `number`: crops `B 3 T H W` in [−1, 1], or tokens, or latents."""

    def close(self) -> None:
        """Stop preparing later batches."""


class ThreadedBatches:
    """Cuts the next batches in threads of the CPU while the model trains."""

    def __init__(self, sampler: CropSampler, rank: int = 0, threads: int = 2) -> None:
        """Start the threads.

        Args:
            sampler: The sampler that cuts the crops.
            rank: The number of this process among those that share each batch.
            threads: The number of threads.
        """
        self._sampler = sampler
        self._rank = rank
        # Each thread uses one core, which leaves the other cores to the model.
        self._pool = ThreadPoolExecutor(threads, "crops", initializer=torch.set_num_threads, initargs=(1,))
        self._pending: dict[tuple[int, CropShape], Future[Tensor]] = {}

    def batch(self, number: int, shape: CropShape) -> Tensor:
        """Return this process's share of batch `number`, and start to cut the following batches of the same shape."""
        wanted = [(n, shape) for n in range(number, number + _AHEAD)]
        for key in self._pending.keys() - wanted:
            self._pending.pop(key).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._sampler.batch, *key, self._rank * shape.batch)
        return self._pending.pop((number, shape)).result()

    def close(self) -> None:
        """Cancel the batches that have not started, and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
