"""Makes items ahead in a thread of its own, so that reading overlaps with the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")

_JOIN_S = 1.0
"""How long to wait for a thread that is inside a decoder. One that waits for a pipe is left."""
_POLL_S = 0.1
"""How often a thread that waits looks whether it still should."""


class Prefetch(Generic[Item]):
    """An iterator over items that a thread makes up to `depth` ahead. An error of theirs is raised by `next`.

    Use it as a context: leaving it ends the thread at its next item, and whoever waits for one. A thread that waits
    for a pipe dies with the process.
    """

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._items = items
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
        while not self._stopped.is_set():
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
        """Whether anyone still wants items."""
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False


class _End:
    """Stands after the last item; with the error that ended them, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
