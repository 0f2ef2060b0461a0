"""The journal of a shard in work: which clip is under way, and which clips have killed or stalled their worker.

A worker notes every clip that it begins and ends. If it dies, whoever started it notes so, with the clip that was under
way. The next worker tries such clips first, and gives up on those that have failed too often.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from vtok_codec.corpus.index import CRASHED, TIMEOUT
from vtok_codec.files import replacing

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock.
    fcntl = None  # type: ignore[assignment]

_JOURNALS = "journal"
_START, _BEGIN, _END, _DEATH = "start", "begin", "end", "death"


@dataclass(frozen=True)
class JournalState:
    """What a journal says."""

    under_way: str | None = None
    """The clip that was begun and has not ended, by its key."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """For each clip under which workers died since it last ended well, how: `TIMEOUT` or `CRASHED` each time."""
    ended: int = 0
    """How many clips the present attempt has ended."""
    seconds: float = 0.0
    """The duration of these clips' videos in seconds."""
    lost_starts: int = 0
    """How often in a row a worker died before it began a clip."""


class Journal:
    """The journal of a shard.

    Args:
        folder: The folder of the corpus.
        shard: The number of the shard.
    """

    def __init__(self, folder: Path, shard: int) -> None:
        self._path = folder / _JOURNALS / f"{shard:06d}.log"
        self._again_path = folder / _JOURNALS / f"{shard:06d}.again"
        self._taken_path = folder / _JOURNALS / f"{shard:06d}.taken"
        self.staged_path = folder / _JOURNALS / f"{shard:06d}.parquet"
        """The index of the shard's new tar, which may not have taken the place of the old one yet."""
        self.stall_path = folder / _JOURNALS / f"{shard:06d}.stalled"
        """A file that is not empty if the worker was ended because a clip took too long."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until no other worker is at the shard, and keep others waiting. Some file systems have no locks."""
        with self._locked_log():
            yield

    def _locked_log(self) -> TextIO:
        while True:
            file = self._appending()
            if fcntl is None:
                return file
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return file
            # The worker that held the lock has removed the file since.
            file.close()

    def is_locked(self) -> bool:
        """Return whether another worker is at the shard."""
        if fcntl is None or not self._path.exists():
            return False
        with self._path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False
        return False

    def ask_again(self, keys: Collection[str]) -> None:
        """Note which clips of a done shard to try again. Until then, the shard stays as it is.

        Args:
            keys: The clips, by their keys.
        """
        self._write_keys(self._again_path, {*keys, *(self._read_keys(self._again_path) or ())})

    def asked_again(self) -> set[str] | None:
        """Return the clips that are to be tried again; None if nobody has asked for any."""
        found = [self._read_keys(path) for path in (self._again_path, self._taken_path)]
        return None if found == [None, None] else set().union(*(keys or () for keys in found))

    def take(self) -> set[str] | None:
        """Return the clips that are to be tried again, as `asked_again` does; those asked for from now on come later.

        Whoever holds the lock may take them; `answer` forgets them.
        """
        keys = self.asked_again()
        if keys is not None:
            self._write_keys(self._taken_path, keys)
            self._again_path.unlink(missing_ok=True)
        return keys

    def answer(self) -> None:
        """Forget what has been taken."""
        self._taken_path.unlink(missing_ok=True)

    @staticmethod
    def _read_keys(path: Path) -> set[str] | None:
        try:
            return set(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    @staticmethod
    def _write_keys(path: Path, keys: Collection[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(sorted(keys)), encoding="utf-8")

    def start(self) -> None:
        """Note that a worker starts on the shard."""
        self._note(_START, "")

    def begin(self, key: str) -> None:
        """Note that work on a clip begins."""
        self._note(_BEGIN, key)

    def end(self, key: str, seconds: float) -> None:
        """Note that work on a clip has ended, whatever came of it, and the duration of its video."""
        self._note(f"{_END} {seconds:.3f}", key)

    def note_death(self) -> None:
        """Note that the worker of the shard has died."""
        stalled = self.stall_path.exists() and self.stall_path.stat().st_size > 0
        self._note(f"{_DEATH} {TIMEOUT if stalled else CRASHED}", self.state().under_way or "")

    def state(self) -> JournalState:
        """Read the journal."""
        try:
            # A power loss may leave half a line, or zeros.
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return JournalState()
        under_way: str | None = None
        failures: dict[str, list[str]] = {}
        ended, seconds, lost = 0, 0.0, 0
        for line in lines:
            what, tab, key = line.partition("\t")
            kind, _, detail = what.partition(" ")
            if not tab or (kind == _END and not re.fullmatch(r"\d+\.\d+", detail)):
                continue
            if kind == _START:
                under_way, ended, seconds = None, 0, 0.0
            elif kind == _BEGIN:
                under_way, lost = key, 0
            elif kind == _END:
                failures.pop(key, None)
                under_way, ended, seconds = None, ended + 1, seconds + float(detail)
            elif kind == _DEATH and key:
                failures.setdefault(key, []).append(detail)
                under_way = None
            elif kind == _DEATH:
                lost += 1
        return JournalState(under_way, failures, ended, seconds, lost)

    def remove(self) -> None:
        """Remove the journal of a shard that is done, which ends the lock of whoever holds it."""
        for path in (self._path, self.stall_path, self._taken_path, self.staged_path):
            path.unlink(missing_ok=True)

    def _note(self, what: str, key: str) -> None:
        # One write of one short line, so that lines of several processes stay whole.
        with self._appending() as file:
            file.write(f"{what}\t{key}\n")

    def _appending(self) -> TextIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("a", encoding="utf-8")


def shards_in_work(folder: Path) -> set[int]:
    """Return the numbers of the shards that have a journal: those in work, and those that were interrupted."""
    return {int(path.stem) for path in (folder / _JOURNALS).glob("[0-9]*.log")}


def verdict(failures: list[str], tries: int) -> tuple[str, str] | None:
    """Return the status and the error of a clip under which workers died, or None if it is to be tried again.

    Args:
        failures: How they died (`JournalState.failures`).
        tries: How often a clip is tried.
    """
    if len(failures) < tries:
        return None
    kinds = Counter(failures)
    status = TIMEOUT if kinds[TIMEOUT] == len(failures) else CRASHED
    reason = "it took too long" if status == TIMEOUT else "its worker died"
    return status, f"{reason} in each of {len(failures)} attempts"
