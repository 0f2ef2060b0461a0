"""Codes several GOPs at once, each in a lane, and gives the results in the order of the video.

A lane is a thread that codes one GOP at a time with its share of torch's threads. GOPs do not depend on each other, so
they can be coded at the same time. This is faster because a model with few channels cannot keep all cores busy with one
chunk, and because packing and colour conversion run in a single thread. The number of lanes is limited by the memory
that the GOPs take. With a live source, whose next GOP has not arrived yet, one lane uses all threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from vtok_codec.codec.heap import trim_heap
from vtok_codec.codec.prefetch import Prefetch
from vtok_codec.container.header import Header

Item = TypeVar("Item")
Result_co = TypeVar("Result_co", covariant=True)

_MAX_BYTES = 1 << 30
"""The most memory, in bytes, that all GOPs coded at once may take. A single GOP may take more."""
_BYTES_PER_PIXEL = 3
"""The bytes of a pixel of a frame."""
_MAX_AHEAD = 128
"""The most items that may be under way. It bounds memory, since one audio item may be as large as a record can be."""


@dataclass(frozen=True)
class Job(Generic[Result_co]):
    """Work on a part of a GOP. The jobs of a GOP run one after another, at the same time as those of other GOPs."""

    starts_gop: bool
    """Whether this is the first job of its GOP."""
    work: Callable[[], Result_co]
    """Does the work and returns its result."""


@dataclass(frozen=True)
class Lanes:
    """How many GOPs are coded at once, and how many items may be under way."""

    count: int
    """The number of lanes."""
    ahead: int
    """The number of items that may be under way."""


def plan_lanes(header: Header, bytes_per_pixel: int, most: int, parts: int) -> Lanes:
    """Choose the number of lanes.

    Args:
        header: The header of the file.
        bytes_per_pixel: The memory in bytes that coding a chunk takes for each pixel of a frame.
        most: The most GOPs that are worth coding at once.
        parts: The number of jobs per GOP.
    """
    gop_bytes = _BYTES_PER_PIXEL * header.gop_latents * header.model.stride[0]
    fitting = _MAX_BYTES // (header.width * header.height * (bytes_per_pixel + gop_bytes))
    # Between two jobs there may be one item of audio.
    items_per_job = 2 if header.audio else 1
    queued = 1 + (_MAX_AHEAD // items_per_job - 1) // parts
    count = max(1, min(fitting, queued, most))
    return Lanes(count, items_per_job * ((count - 1) * parts + 1))


def run_in_lanes(items: Iterable[Job[Item] | Item], lanes: Lanes) -> Generator[Item]:
    """Yield the items in order, with each job replaced by its result.

    An error of a job is raised in place of its result. With several lanes, a separate thread draws up to
    `lanes.ahead + 2` items from `items` before their results are asked for. Close the generator to end early: jobs that
    have not begun are dropped, and those that have begun are not waited for.

    Args:
        items: Jobs, and other items to pass on unchanged.
        lanes: The number of lanes and of items under way.
    """
    if lanes.count == 1:
        # A single lane runs in the caller's thread, since running the model in another thread takes more memory.
        for item in items:
            if isinstance(item, Job):
                trim_heap()
            yield item.work() if isinstance(item, Job) else item
        return
    import torch

    threads = torch.get_num_threads()
    pool = _Pool(lanes.count, threads)
    try:
        with Prefetch(_begun(items, pool), lanes.ahead) as begun:
            for future in begun:
                yield future.result() if isinstance(future, Future) else future
    finally:
        pool.close()
        # A thread that uses torch for the first time takes the number that was set last, which is a lane's share.
        torch.set_num_threads(threads)


def _begun(items: Iterable[Job[Item] | Item], pool: _Pool) -> Iterator[Future[Item] | Item]:
    """Yield the items, with each job put into its lane and replaced by its future."""
    for item in items:
        yield pool.begin(item) if isinstance(item, Job) else item


class _Pool:
    """The threads of the lanes. Each lane has its own executor, so that the jobs of a GOP run one after another."""

    def __init__(self, count: int, threads: int) -> None:
        self._executors = [ThreadPoolExecutor(1, "lane") for _ in range(count)]
        self._threads = threads
        self._lane = 0
        self._waiting = [0] * count
        self._lock = threading.Lock()

    def begin(self, job: Job[Item]) -> Future[Item]:
        """Submit a job to the lane of its GOP."""
        if job.starts_gop:
            self._lane = (self._lane + 1) % len(self._executors)
        lane = self._lane
        with self._lock:
            self._waiting[lane] += 1
        return self._executors[lane].submit(self._run, lane, job.work)

    def _run(self, lane: int, work: Callable[[], Item]) -> Item:
        import torch

        # torch keeps this number per calling thread. It does not change the result of the model.
        torch.set_num_threads(max(1, self._threads // sum(map(bool, self._waiting))))
        try:
            return work()
        finally:
            with self._lock:
                self._waiting[lane] -= 1

    def close(self) -> None:
        """Drop the jobs that have not begun, and do not wait for the others, which may take seconds."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
