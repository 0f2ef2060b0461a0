"""Training crops: which part of which clip, at which scale, speed and exposure. A batch depends on its number only."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.errors import TrainingError
from vtok_codec.training.library import ClipLibrary


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


class CropSampler:
    """Crops of a library, `B 3 T H W` in [−1, 1]. Crop `i` of batch `n` of a seed is always the same."""

    def __init__(self, library: ClipLibrary, augmentation: Augmentation, seed: int, stride: int = 4) -> None:
        """`stride`: frames that a latent frame stands for."""
        self._library = library
        self._augmentation = augmentation
        self._seed = seed
        self._stride = stride

    def batch(self, number: int, shape: CropShape, first: int = 0) -> Tensor:
        """Batch `number`, of any shape: its crops from `first` on, where several processes share it."""
        places = range(first, first + shape.batch)
        return torch.stack([self._crop(np.random.default_rng((self._seed, number, place)), shape) for place in places])

    def _crop(self, rng: np.random.Generator, shape: CropShape) -> Tensor:
        augment = self._augmentation
        library = self._library
        photo = bool(library.images) and (not library.videos or rng.random() < augment.photo)
        clip = self._pick(rng, library.images if photo else library.videos)
        cut = _pan(rng, clip[0], shape) if photo else _cut(rng, clip, shape, augment)
        video = torch.from_numpy(cut).permute(3, 0, 1, 2).float() / 127.5 - 1
        if cut.shape[1] != shape.size:
            video = F.interpolate(video.transpose(0, 1), size=(shape.size,) * 2, mode="area").transpose(0, 1)
        if rng.random() < 0.5:
            video = video.flip(3)
        if rng.random() < 0.5:
            video = video.flip(1)
        if rng.random() < augment.freeze:
            video = video[:, :1].expand(-1, shape.frames, -1, -1)
        video = _expose(rng, video, augment)
        if rng.random() < augment.gop_start:
            repeats = self._stride - 1
            video = torch.cat([video[:, :1].expand(-1, repeats, -1, -1), video[:, : shape.frames - repeats]], dim=1)
        return video.contiguous()

    def _pick(self, rng: np.random.Generator, paths: Sequence[Path]) -> NDArray[np.uint8]:
        for _ in range(100):
            clip = self._library.read(paths[int(rng.integers(len(paths)))])
            if clip is not None:
                return clip
        raise TrainingError("a hundred files in a row could not be read; look at the lines above")


def _cut(
    rng: np.random.Generator, clip: NDArray[np.uint8], shape: CropShape, augment: Augmentation
) -> NDArray[np.uint8]:
    """`T S S 3` with S ≥ the crop's size, taken from a place and time of the clip, mirrored at its ends."""
    length, height, width = clip.shape[:3]
    step = int(rng.integers(2, 4)) if rng.random() < augment.skip else 1
    zoom = rng.uniform(1, 2.5) if rng.random() < augment.shrink else 1.0
    side = min(round(shape.size * zoom), height, width)
    start = int(rng.integers(max(1, length - (shape.frames - 1) * step)))
    times = _mirror(start + np.arange(shape.frames) * step, length)
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return _fill(clip[times, top : top + side, left : left + side], shape.size)


def _pan(rng: np.random.Generator, photo: NDArray[np.uint8], shape: CropShape) -> NDArray[np.uint8]:
    """A straight camera move over a still picture, whole pixels a frame."""
    height, width = photo.shape[:2]
    side = min(shape.size, height, width)
    speed = rng.normal(0, 2.5, size=2)
    start = rng.uniform(0, 1, size=2) * (height - side, width - side)
    path = start + np.arange(shape.frames)[:, None] * speed
    tops = np.clip(path[:, 0].round().astype(int), 0, height - side)
    lefts = np.clip(path[:, 1].round().astype(int), 0, width - side)
    frames = [photo[t : t + side, x : x + side] for t, x in zip(tops, lefts, strict=True)]
    return _fill(np.stack(frames), shape.size)


def _mirror(times: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Frame numbers reflected at both ends of a clip of `length` frames."""
    period = max(1, 2 * (length - 1))
    times = times % period
    return np.minimum(times, period - times)


def _fill(cut: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Pad a cut of a picture smaller than the crop, by edge replication."""
    missing = max(0, size - cut.shape[1])
    return np.pad(cut, ((0, 0), (0, missing), (0, missing), (0, 0)), mode="edge") if missing else cut


def _expose(rng: np.random.Generator, video: Tensor, augment: Augmentation) -> Tensor:
    if rng.random() < augment.flat:
        mean = torch.from_numpy(rng.uniform(-1, 1, size=(3, 1, 1, 1)).astype(np.float32))
        return (mean + video * float(rng.uniform(0, 0.1))).clamp(-1, 1)
    if rng.random() < augment.color:
        contrast = float(rng.uniform(0.6, 1.3))
        gains = torch.from_numpy(rng.uniform(0.85, 1.15, size=(3, 1, 1, 1)).astype(np.float32))
        return (video * contrast * gains + float(rng.uniform(-0.3, 0.3))).clamp(-1, 1)
    return video


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
