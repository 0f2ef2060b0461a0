"""The order in which a training loop sees the windows of a corpus: shuffled, in batches, shared among processes."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtok_codec.arguments import as_integer
from vtok_codec.errors import SettingError

_SHUFFLES = ("shard", "all", "none")
_SHARDS_AT_ONCE = 8
"""How many shards are mixed with each other by the shuffle `shard`."""


class SampledWindows(ABC):
    """Windows of tokens that a `WindowSampler` can put into batches."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def grids(self) -> NDArray[np.int64]:
        """Return the latent grid of each window as its rows and columns, `(windows, 2)`."""

    @abstractmethod
    def shards(self) -> NDArray[np.int64]:
        """Return the number of the shard that holds each window, `(windows,)`."""

    def sampler(
        self,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: str = "shard",
        bucket: str | None = "grid",
        drop_last: bool = False,
    ) -> WindowSampler:
        """Return batches of windows for `DataLoader(batch_sampler=…)`; see `WindowSampler`.

        Args:
            batch_size: Windows per batch.
            seed: The seed of the order.
            rank: The number of this process among those that train together, from 0 on.
            world: The number of processes that train together.
            shuffle: See `WindowSampler`.
            bucket: `grid` for batches of windows of the same size; None where all clips have one size.
            drop_last: See `WindowSampler`.
        """
        if bucket not in ("grid", None):
            raise SettingError(f"bucket {bucket!r}: use grid or None")
        grids = self.grids() if bucket else np.zeros((len(self), 2), np.int64)
        return WindowSampler(self.shards(), grids, batch_size, seed, rank, world, shuffle, drop_last)


class WindowSampler:
    """Batches of window numbers, epoch after epoch, for `torch.utils.data.DataLoader(batch_sampler=…)`.

    Every iteration yields the batches of one epoch that are left, for one of several processes. In each step every
    process takes the next batch, so that together they see each window once per epoch. The state is the epoch and the
    number of batches that all processes have taken together; it can be resumed with another number of processes.

    A `DataLoader` with workers draws batches ahead of the training loop. Count the steps of the loop and call `seek`,
    rather than save the state of a sampler that is ahead.

    Args:
        shards: The shard of each window, `(windows,)`.
        grids: The rows and columns of each window, `(windows, 2)`. A batch holds windows of one grid.
        batch_size: Windows per batch.
        seed: The seed of the order; each epoch has an order of its own.
        rank: The number of this process, from 0 on.
        world: The number of processes.
        shuffle: `shard` shuffles shards, and windows among a few shards, so that reading stays local; `all` shuffles
            all windows; `none` keeps the order of the corpus.
        drop_last: Whether to leave out batches that are not full, and the last steps that would not give every process
            a batch. Needed where all processes must take the same number of steps.

    Raises:
        SettingError: An argument is out of range, or no batch is left.
    """

    def __init__(
        self,
        shards: NDArray[np.int64],
        grids: NDArray[np.int64],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: str = "shard",
        drop_last: bool = False,
    ) -> None:
        batch_size, seed = as_integer(batch_size, "batch_size"), as_integer(seed, "seed")
        rank, world, drop_last = as_integer(rank, "rank"), as_integer(world, "world"), bool(drop_last)
        shards, grids = np.asarray(shards, np.int64), np.asarray(grids, np.int64)
        if grids.shape != (len(shards), 2):
            raise SettingError(f"grids of shape {grids.shape} are not the rows and columns of {len(shards)} windows")
        if batch_size < 1 or not 0 <= rank < world or seed < 0:
            raise SettingError(f"batch size {batch_size}, rank {rank} of {world}, seed {seed}: out of range")
        if shuffle not in _SHUFFLES:
            raise SettingError(f"shuffle {shuffle!r}: use {', '.join(_SHUFFLES)}")
        self._shards, self._seed, self._shuffle = shards, seed, shuffle
        _, self._bucket = np.unique(grids[:, 0] * (grids[:, 1].max(initial=0) + 1) + grids[:, 1], return_inverse=True)
        self._batch_size, self._drop_last = batch_size, drop_last
        self._rank, self._world = rank, world
        about = repr((seed, shuffle, batch_size, drop_last)).encode() + shards.tobytes() + self._bucket.tobytes()
        self._order_id = hashlib.sha256(about).hexdigest()
        """What the order of the windows follows from."""
        if not self._batches_per_epoch():
            raise SettingError(f"batch size {batch_size}: there is no full batch for every process")
        self.epoch = 0
        """The epoch that the next iteration goes through."""
        self.position = 0
        """The number of batches of the epoch that all processes have taken together."""
        self._over = False
        """Whether this process has taken its last batch of the epoch, though others may not have."""

    def __len__(self) -> int:
        """The number of batches that this process takes in a whole epoch."""
        return len(range(self._rank, self._batches_per_epoch(), self._world))

    def __iter__(self) -> Iterator[list[int]]:
        count = self._batches_per_epoch()
        if self._over or self.position + (self._world - 1 if self._drop_last else 0) >= count:
            # A loop that counts batches leaves the generator before it can end the epoch.
            self.epoch, self.position = self.epoch + 1, 0
        self._over = False
        batches = self._batches(self.epoch)
        # What is left after a state of another number of processes may not be a multiple of this one.
        while self.position + (self._world - 1 if self._drop_last else 0) < count:
            mine = self.position + self._rank
            self.position += self._world
            self._over = mine + self._world >= count or (self._drop_last and self.position + self._world > count)
            if mine < count:
                yield batches[mine].tolist()
        self.epoch, self.position, self._over = self.epoch + 1, 0, False

    def seek(self, step: int) -> None:
        """Go to the place after `step` steps of every process, counted from the very beginning of training.

        Raises:
            SettingError: `step` is no whole number from 0 on.
        """
        step = as_integer(step, "step")
        if step < 0:
            raise SettingError(f"step {step}: give a number from 0 on")
        steps = -(-self._batches_per_epoch() // self._world)
        self.epoch, done = divmod(step, steps)
        self.position, self._over = done * self._world, False

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the order."""
        return {"epoch": self.epoch, "position": self.position, "order": self._order_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place that `state_dict` returned, in this or another process.

        Raises:
            SettingError: The state is damaged; or the order was another one, so that the place would mean something
                else. Windows of the same shards and sizes pass for the same.
        """
        if not isinstance(state, dict) or not {"epoch", "position", "order"} <= state.keys():
            raise SettingError("the state of the sampler must be a dictionary that state_dict returned")
        if state["order"] != self._order_id:
            raise SettingError(
                "the state of the sampler is of other windows, or of another seed, shuffle or batch size"
            )
        epoch, position = as_integer(state["epoch"], "epoch"), as_integer(state["position"], "position")
        if epoch < 0 or position < 0:
            raise SettingError(f"the state of the sampler has epoch {epoch} and position {position}: it is damaged")
        self.epoch, self.position, self._over = epoch, position, False

    def _batches_per_epoch(self) -> int:
        sizes = np.bincount(self._bucket)
        if not self._drop_last:
            return int((-(-sizes // self._batch_size)).sum())
        return int((sizes // self._batch_size).sum()) // self._world * self._world

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the batches of an epoch in the order in which the processes take them."""
        rng = np.random.default_rng((self._seed, epoch))
        order = self._order(rng)
        # Within a bucket the order stays; full batches take the place of their first window.
        buckets = self._bucket[order]
        batches: list[tuple[int, NDArray[np.int64]]] = []
        for bucket in range(int(buckets.max()) + 1):
            places = np.flatnonzero(buckets == bucket)
            for begin in range(0, len(places), self._batch_size):
                part = places[begin : begin + self._batch_size]
                if len(part) == self._batch_size or not self._drop_last:
                    batches.append((int(part[0]), order[part]))
        batches.sort(key=lambda batch: batch[0])
        return [windows for _, windows in batches]

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return all windows in the order of an epoch, before they are grouped into batches."""
        count = len(self._shards)
        if self._shuffle == "none":
            return np.arange(count)
        if self._shuffle == "all":
            return rng.permutation(count)
        rank = rng.permutation(int(self._shards.max()) + 1)[self._shards] // _SHARDS_AT_ONCE
        mixed = rng.permutation(count)
        return mixed[np.argsort(rank[mixed], kind="stable")]
