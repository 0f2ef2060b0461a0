"""Training crops: which part of which clip, at which scale, speed and exposure. A batch depends on its number only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.errors import TrainingError
from vtok_codec.training.library import ClipLibrary

_BLUR = (0.4, 2.0)
"""Least and largest standard deviation of soft crops, pixels."""


@dataclass(frozen=True)
class CropShape:
    """Size of a batch of crops."""

    batch: int
    frames: int
    size: int
    """Height and width, pixels."""


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied; each is a probability."""

    photo: float = 0.15
    """A pan and zoom over a photograph instead of a video."""
    shrink: float = 0.4
    """A larger crop, scaled down by up to 2.5."""
    skip: float = 1.0
    """Every second or third frame only: faster motion (VidTok, section 3.4), 0.4 dB better than every frame."""
    color: float = 0.5
    """Contrast, brightness and channel gains."""
    flat: float = 0.03
    """Contrast almost removed: nested models fail on flat pictures that they never saw."""
    freeze: float = 0.04
    """The first frame repeated: still pictures."""
    gop_start: float = 0.0
    """The first frame repeated as often as at the start of a GOP, and as many fewer after it."""
    soft: float = 0.0
    """Blurred, as a scaled-up or poor source is."""


@dataclass(frozen=True)
class CropPlan:
    """Where a crop comes from, and how it looks: a window of each of its frames, turned to its own size."""

    path: Path
    times: NDArray[np.int64]
    """Frame numbers of the clip, one for each frame of the crop."""
    tops: NDArray[np.int64]
    """The window's first row and, in `lefts`, its first column in each of these frames."""
    lefts: NDArray[np.int64]
    side: int
    """Height and width of the window, pixels. A larger one is scaled down to the crop; a smaller one, where the clip is
    no larger, is filled up by edge replication."""
    mirrored: bool
    gain: NDArray[np.float32]
    """Of red, green and blue; then `offset` is added, both on pixels in [−1, 1]."""
    offset: NDArray[np.float32]
    blur: float
    """Standard deviation of the Gaussian that blurs it in the end, pixels of the crop; 0 for none."""


class CropSampler:
    """Crops of a library, `B 3 T H W` in [−1, 1]. Crop `i` of batch `n` of a seed is always the same."""

    def __init__(self, library: ClipLibrary, augmentation: Augmentation, seed: int, stride: int = 4) -> None:
        """`stride`: frames that a latent frame stands for."""
        self.library = library
        self._augmentation = augmentation
        self._seed = seed
        self._stride = stride

    def batch(self, number: int, shape: CropShape, first: int = 0) -> Tensor:
        """Batch `number`, of any shape: its crops from `first` on, where several processes share it."""
        return torch.stack([self._crop(plan, shape.size) for plan in self.plans(number, shape, first)])

    def plans(self, number: int, shape: CropShape, first: int = 0) -> list[CropPlan]:
        """What the crops of a batch are to be."""
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
            repeats = self._stride - 1
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
        raise TrainingError("a hundred files in a row could not be read; look at the lines above")


def blurred(videos: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Square videos `B C T S S`, each blurred by a Gaussian of its standard deviation, pixels; 0 leaves it."""
    chosen = [number for number, sigma in enumerate(sigmas) if sigma > 0]
    if not chosen:
        return videos
    sigma = torch.tensor([sigmas[number] for number in chosen], device=videos.device)
    places = torch.arange(videos.shape[-1], device=videos.device)
    weights = torch.exp(-0.5 * ((places[:, None] - places) / sigma[:, None, None]).square())
    # What lies beyond the border weighs nothing.
    weights = (weights / weights.sum(2, keepdim=True))[:, None, None]
    made = videos.clone()
    made[chosen] = weights @ videos[chosen] @ weights.mT
    return made


Windows: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], int]"
"""Of each frame of a crop its frame of the clip, first row and first column; and the side of all windows."""


def _cut(rng: np.random.Generator, clip_size: tuple[int, int, int], shape: CropShape, augment: Augmentation) -> Windows:
    """One place of a clip from one time on, which runs back where the clip ends."""
    length, height, width = clip_size
    step = int(rng.integers(2, 4)) if rng.random() < augment.skip else 1
    zoom = rng.uniform(1, 2.5) if rng.random() < augment.shrink else 1.0
    side = min(round(shape.size * zoom), height, width)
    start = int(rng.integers(max(1, length - (shape.frames - 1) * step)))
    times = _mirror(start + np.arange(shape.frames) * step, length)
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return times, np.full(shape.frames, top), np.full(shape.frames, left), side


def _pan(rng: np.random.Generator, photo_size: tuple[int, int, int], shape: CropShape) -> Windows:
    """A straight camera move over a still picture, whole pixels a frame."""
    _, height, width = photo_size
    side = min(shape.size, height, width)
    speed = rng.normal(0, 2.5, size=2)
    start = rng.uniform(0, 1, size=2) * (height - side, width - side)
    path = start + np.arange(shape.frames)[:, None] * speed
    tops = np.clip(path[:, 0].round().astype(int), 0, height - side)
    lefts = np.clip(path[:, 1].round().astype(int), 0, width - side)
    return np.zeros(shape.frames, int), tops, lefts, side


def _mirror(times: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Frame numbers reflected at both ends of a clip of `length` frames."""
    period = max(1, 2 * (length - 1))
    times = times % period
    return np.minimum(times, period - times)


def _fill(cut: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pad a cut of a picture smaller than the crop, by edge replication."""
    missing = max(0, size - cut.shape[1])
    return np.pad(cut, ((0, 0), (0, missing), (0, missing), (0, 0)), mode="edge") if missing else cut


def _exposure(rng: np.random.Generator, augment: Augmentation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gain and offset of each channel."""
    gain, offset = np.ones(3), np.zeros(3)
    if rng.random() < augment.flat:
        offset, gain = rng.uniform(-1, 1, size=3), gain * rng.uniform(0, 0.1)
    elif rng.random() < augment.color:
        gain = rng.uniform(0.6, 1.3) * rng.uniform(0.85, 1.15, size=3)
        offset = offset + rng.uniform(-0.3, 0.3)
    return gain.astype(np.float32), offset.astype(np.float32)


class Batches(Protocol):
    """Where a run's batches come from."""

    def batch(self, number: int, shape: CropShape) -> Tensor:
        """Batch `number`, `B 3 T H W` in [−1, 1], of which this process has its share."""

    def close(self) -> None:
        """End what works ahead."""


class Prefetcher:
    """Makes the next batches in threads while the model works; they come out in order."""

    def __init__(self, sampler: CropSampler, rank: int = 0, ahead: int = 6, threads: int = 2) -> None:
        """`rank`: the number of this process among those that share each batch."""
        self._sampler = sampler
        self._rank = rank
        self._ahead = ahead
        # One core a thread: the model's own threads have the rest.
        self._pool = ThreadPoolExecutor(threads, "crops", initializer=torch.set_num_threads, initargs=(1,))
        self._pending: dict[tuple[int, CropShape], Future[Tensor]] = {}

    def batch(self, number: int, shape: CropShape) -> Tensor:
        """Batch `number`; the ones after it, of the same shape, are started."""
        wanted = [(n, shape) for n in range(number, number + self._ahead)]
        for key in self._pending.keys() - wanted:
            self._pending.pop(key).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._sampler.batch, *key, self._rank * shape.batch)
        return self._pending.pop((number, shape)).result()

    def close(self) -> None:
        """Drop what has not started, and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
