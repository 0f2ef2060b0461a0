"""GOPs side by side: each is coded in a lane, a thread with its share of torch's; results come in the video's order.

A model with few channels cannot keep all cores busy with one chunk, and packing and conversion are work of one thread
alone. GOPs know nothing of each other, so they may be coded at the same time. How many are follows from the memory that
they take; a live source, whose next GOP is not there yet, is coded with all threads in one lane.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from vtok_codec.codec.heap import trim_heap
from vtok_codec.codec.pipeline import Prefetch
from vtok_codec.container.header import Header
from vtok_codec.models.onevae import RGB

Item = TypeVar("Item")
Result_co = TypeVar("Result_co", covariant=True)

_MAX_BYTES = 1 << 30
"""Of the GOPs that are coded at once; one is, whatever it takes."""
_MAX_AHEAD = 128
"""Items under way; of audio, one may have all the bytes that a record may."""


@dataclass(frozen=True)
class Job(Generic[Result_co]):
    """Work on a part of a GOP: it follows the jobs before it in the same GOP, and runs beside those of others."""

    starts_gop: bool
    work: Callable[[], Result_co]


@dataclass(frozen=True)
class Lanes:
    """How many GOPs are coded at once, and how many items may be under way."""

    count: int
    ahead: int


def plan_lanes(header: Header, bytes_a_pixel: int, device: torch.device, parts: int) -> Lanes:
    """As many lanes as there are threads, if the memory allows.

    `bytes_a_pixel`: of a frame, which the model takes for one chunk. `parts`: jobs that a GOP has.
    """
    gop_bytes = RGB * header.gop_latents * header.model.stride[0]
    fitting = _MAX_BYTES // (header.width * header.height * (bytes_a_pixel + gop_bytes))
    # Audio comes between the jobs, once a chunk.
    items_a_job = 2 if header.audio else 1
    queued = 1 + (_MAX_AHEAD // items_a_job - 1) // parts
    count = max(1, min(fitting, queued, torch.get_num_threads())) if device.type == "cpu" else 1
    return Lanes(count, items_a_job * ((count - 1) * parts + 1))


def run_in_lanes(items: Iterable[Job[Item] | Item], lanes: Lanes) -> Generator[Item]:
    """The items in their order, each job replaced by what its work gives. An error of one is raised in its place.

    For several lanes the items are made in a thread of their own, up to `lanes.ahead` and two more before they are
    asked for. Close the generator to end it early: what has not begun is dropped, and nothing is waited for.
    """
    if lanes.count == 1:
        # All in the caller's thread: one of its own for the model cost 120 to 350 MiB at 1280×720 (bench/speed.py).
        # Several lanes are for pictures that need little.
        for item in items:
            if isinstance(item, Job):
                trim_heap()
            yield item.work() if isinstance(item, Job) else item
        return
    threads = torch.get_num_threads()
    pool = _Pool(lanes.count, threads)
    try:
        with Prefetch(_begun(items, pool), lanes.ahead) as begun:
            for future in begun:
                yield future.result() if isinstance(future, Future) else future
    finally:
        pool.close()
        # A lane's share must not become that of threads which ask for the first time.
        torch.set_num_threads(threads)


def _begun(items: Iterable[Job[Item] | Item], pool: _Pool) -> Iterator[Future[Item] | Item]:
    for item in items:
        yield pool.begin(item) if isinstance(item, Job) else item


class _Pool:
    """The lanes' threads. Each has an executor of its own, so that a GOP's jobs run one after another."""

    def __init__(self, count: int, threads: int) -> None:
        self._executors = [ThreadPoolExecutor(1, "lane") for _ in range(count)]
        self._threads = threads
        self._lane = 0
        self._waiting = [0] * count
        self._lock = threading.Lock()

    def begin(self, job: Job[Item]) -> Future[Item]:
        """Put a job into the lane of its GOP."""
        if job.starts_gop:
            self._lane = (self._lane + 1) % len(self._executors)
        lane = self._lane
        with self._lock:
            self._waiting[lane] += 1
        return self._executors[lane].submit(self._run, lane, job.work)

    def _run(self, lane: int, work: Callable[[], Item]) -> Item:
        # The number of threads is one of the calling thread, and changes nothing in what the model computes.
        torch.set_num_threads(max(1, self._threads // sum(map(bool, self._waiting))))
        try:
            return work()
        finally:
            with self._lock:
                self._waiting[lane] -= 1

    def close(self) -> None:
        """Drop what has not begun. What has may take seconds, for which an interrupt should not wait."""
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
