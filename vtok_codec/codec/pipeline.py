"""Runs a stage of work in a thread of its own, so that reading, the model and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item]:
    """The items, in order, made up to `depth` ahead in a thread. An error of theirs is raised here.

    Closing the iterator ends the thread at its next item. A thread that waits for a pipe dies with the process.
    """
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[bool, Item | BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(entry, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # handed over, and raised where the items are used
            put((False, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            more, value = ready.get()
            if more:
                yield value  # type: ignore[misc]
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        stopped.set()
