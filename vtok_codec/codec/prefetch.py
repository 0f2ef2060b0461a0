"""Draws items from an iterable ahead of time in a separate thread, so that reading overlaps with the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

_JOIN_S = 1.0
"""Seconds to wait for the thread to end, since it may be inside a decoder. After that it is left running."""
_POLL_S = 0.1
"""Seconds between two checks of a waiting thread whether it should stop."""


class Prefetch(Generic[Item]):
    """An iterator over items that a thread draws up to `depth` items ahead.

    An error that is raised while an item is drawn is raised again by `next`. Use the object as a context manager:
    leaving the context stops the thread at its next item, and ends the iteration in any thread that waits for one. A
    thread that waits for a pipe ends with the process.

    Args:
        items: The items.
        depth: How many of them are drawn ahead.
        ends: Returns whether the iteration shall end before the next item, even while that is waited for.
    """

    def __init__(self, items: Iterable[Item], depth: int, ends: Callable[[], bool] = lambda: False) -> None:
        self._items, self._ends = items, ends
        self._ready: queue.Queue[Item | _End] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Prefetch[Item]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(_JOIN_S)

    def __iter__(self) -> Prefetch[Item]:
        return self

    def __next__(self) -> Item:
        while not self._stopped.is_set() and not self._ends():
            try:
                item = self._ready.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if not isinstance(item, _End):
                return item
            self._stopped.set()
            if item.error is not None:
                raise item.error
        raise StopIteration

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    return
            self._put(_End(None))
        except BaseException as error:
            self._put(_End(error))

    def _put(self, item: Item | _End) -> bool:
        """Put an item into the queue. Returns False if the iteration was stopped instead."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


class _End:
    """Marks the end of the items. It holds the error that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
