"""Runs shards in worker processes, on this machine or on a Ray cluster, and survives the death of workers."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

from vtok_codec.cores import usable_cores
from vtok_codec.errors import SettingError
from vtok_codec.extras import missing_package

ShardWork: TypeAlias = Callable[[int], None]
"""Makes a shard and returns its number. It can be pickled."""

_POLL_S = 0.5
"""How long an engine waits for a shard before it says that there is no news."""
_GPU_SHARE = 0.25
"""The part of a GPU that a worker takes on a cluster: reading video keeps the cores busier than the GPU."""
_WORKER_BYTES = 1_500_000_000
"""The memory in bytes that a worker takes for clips of up to 480p."""


@dataclass(frozen=True)
class Outcome:
    """What became of a shard."""

    shard: int
    """The number of the shard."""
    died: bool
    """Whether its worker died; otherwise its work ended, or another worker has the shard."""


class Engine(Protocol):
    """Runs work in worker processes."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[Outcome | None]:
        """Make shards, and yield what becomes of each; None while there is no news.

        A shard whose worker died is made again. The first error that the work raises is raised, and ends the others.
        """


def default_jobs() -> int:
    """Return the number of workers that this machine has cores and free memory for."""
    return max(1, min(usable_cores(), _free_bytes() // _WORKER_BYTES))


def _free_bytes() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split(":") for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # Elsewhere the number of cores alone decides.
        return 1 << 62


def _call(work: ShardWork, shard: int) -> None:
    """Call work. Ray takes plain functions only."""
    work(shard)


def require_engine(name: str) -> None:
    """Check that the package of an engine, `local` or `ray`, is installed.

    Raises:
        PackageError: It is not.
    """
    package, user = {"local": ("pebble", "a corpus"), "ray": ("ray", "engine ray")}[name]
    if find_spec(package) is None:
        raise missing_package(package, user)


@dataclass(frozen=True)
class LocalEngine:
    """Runs workers on this machine."""

    jobs: int
    """The number of workers."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[Outcome | None]:
        """See `Engine.run`."""
        try:
            from pebble import ProcessExpired, ProcessPool
        except ImportError:
            raise missing_package("pebble", "a corpus") from None
        pool = ProcessPool(min(self.jobs, len(shards)), context=multiprocessing.get_context("spawn"))
        try:
            running: dict[Any, int] = {pool.schedule(work, args=(shard,)): shard for shard in shards}
            while running:
                ready, _ = wait(running, _POLL_S, FIRST_COMPLETED)
                if not ready:
                    yield None
                for future in ready:
                    shard = running.pop(future)
                    try:
                        future.result()
                        yield Outcome(shard, died=False)
                    except ProcessExpired:
                        yield Outcome(shard, died=True)
                        running[pool.schedule(work, args=(shard,))] = shard
            pool.close()
        except BaseException:
            pool.stop()
            raise
        finally:
            pool.join()


@dataclass(frozen=True)
class RayEngine:
    """Runs workers on a Ray cluster, or on a Ray instance of its own on this machine."""

    jobs: int
    """The number of workers of an instance of its own."""
    gpu: bool
    """Whether the workers use GPUs; several then share each."""
    address: str | None = None
    """The address of a cluster, `auto` for the one that this machine belongs to; None for an instance of its own."""

    def run(self, work: ShardWork, shards: Sequence[int]) -> Iterator[Outcome | None]:
        """See `Engine.run`."""
        try:
            import ray
            from ray import exceptions
        except ImportError:
            raise missing_package("ray", "engine ray") from None
        own: dict[str, Any] = {"num_cpus": self.jobs, "include_dashboard": False}
        try:
            ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **({} if self.address else own))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SettingError(f"no Ray cluster at {self.address!r}: {error}") from None
        deaths = (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)
        try:
            # Whoever counts the deaths of workers decides how often a shard is tried.
            gpus = _GPU_SHARE if self.gpu else 0
            task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_call)
            waiting = list(reversed(shards))
            most = max(1, int(ray.cluster_resources().get("CPU", 1)))
            running: dict[Any, int] = {}
            while waiting or running:
                while waiting and len(running) < 2 * most:
                    shard = waiting.pop()
                    running[task.remote(work, shard)] = shard
                ready, _ = ray.wait(list(running), timeout=_POLL_S)
                if not ready:
                    yield None
                for result in ready:
                    shard = running.pop(result)
                    try:
                        ray.get(result)
                        yield Outcome(shard, died=False)
                    except deaths:
                        yield Outcome(shard, died=True)
                        waiting.append(shard)
                    except exceptions.RayTaskError as error:
                        raise error.cause or error from None
        finally:
            # A cluster that is gone already raises one of many errors; what it did is told by its results.
            with suppress(Exception):
                ray.shutdown()
