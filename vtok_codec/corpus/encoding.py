"""Encodes a corpus: makes the shards that are not there yet, and counts what became of the clips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vtok_codec.corpus.engines import Engine
from vtok_codec.corpus.index import OK, read_index
from vtok_codec.corpus.inputs import check_inputs
from vtok_codec.corpus.journal import Journal, shards_in_work
from vtok_codec.corpus.plan import Plan, index_path
from vtok_codec.corpus.shards import make_shard, needs_work
from vtok_codec.errors import CorpusError, SettingError

_MOST_LOST_STARTS = 3
"""How often a worker may die before it has begun a clip; then no clip is to blame."""


@dataclass(frozen=True)
class CorpusPart:
    """A part of a corpus, for one of several machines: every `count`-th shard."""

    number: int = 1
    """The number of the part, from 1 on."""
    count: int = 1
    """The number of parts."""

    def shards(self, plan: Plan) -> range:
        """Return the numbers of the shards of this part."""
        return range(self.number - 1, plan.shards, self.count)


def parse_part(text: str) -> CorpusPart:
    """Parse a part such as `2/8`.

    Raises:
        SettingError: It is not of the form I/N, with I from 1 to N.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    part = CorpusPart(*map(int, found.groups())) if found else None
    if part is None or not 1 <= part.number <= part.count:
        raise SettingError(f"part {text!r}: give I/N with I from 1 to N, such as 2/8")
    return part


@dataclass(frozen=True)
class Tolerance:
    """How many bad clips a corpus may have."""

    number: float
    """The number of clips; below 1 in `share`."""
    share: bool = False
    """Whether the number is a share of all clips."""

    def admits(self, bad: int, clips: int) -> bool:
        """Return whether so many bad clips out of `clips` are admitted."""
        return bad <= (self.number * clips if self.share else self.number)


def parse_tolerance(text: str) -> Tolerance:
    """Parse a number of clips such as `20`, or a share of them such as `2%`.

    Raises:
        SettingError: It is neither.
    """
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)(%?)", text)
    if not found or (not found[2] and "." in found[1]):
        raise SettingError(f"max-bad {text!r}: give a number of clips, such as 20, or a share of them, such as 2%")
    number = float(found[1])
    return Tolerance(number / 100, share=True) if found[2] else Tolerance(number)


@dataclass(frozen=True)
class Progress:
    """How far a corpus, or a part of one, has come."""

    shards: int
    """The shards that are done."""
    all_shards: int
    """All shards."""
    clips: int
    """The clips that are done, those of shards in work included."""
    all_clips: int
    """All clips."""
    seconds: float
    """The duration of the videos of the clips that are done."""


def encode_shards(
    folder: Path,
    plan: Plan,
    part: CorpusPart,
    engine: Engine,
    tries: int = 2,
    timeout_s: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Counter[str]:
    """Make all shards of a part that are not there yet.

    Args:
        folder: The folder of the corpus.
        plan: Its plan.
        part: The part.
        engine: What runs the workers.
        tries: How often a clip is tried that kills or stalls its worker.
        timeout_s: The seconds after which a clip counts as stalled; None for no limit.
        on_progress: Called now and then.

    Returns:
        The number of clips of the part by status.

    Raises:
        InputError: The inputs of the corpus have changed.
        CorpusError: Workers die before they begin a clip.
        SettingError, ModelError, OSError: See `make_shard`.
    """
    check_inputs(folder, plan.inputs_sha256)
    counts = _Counts(folder, plan, part)
    missing = counts.add_done()
    on_progress(counts.progress(set()))
    # Workers may run in another folder.
    work = partial(make_shard, str(folder.resolve()), tries=tries, timeout_s=timeout_s)
    left = set(missing)
    # Shards at which another run works come last, so that runs share the work.
    for wait in (False, True):
        shards = sorted(left)
        for outcome in engine.run(partial(work, wait=wait), shards) if shards else ():
            if outcome is not None and outcome.died:
                _note_death(folder, outcome.shard)
            elif outcome is not None and (wait or not needs_work(folder, outcome.shard)):
                left.remove(outcome.shard)
                counts.add(outcome.shard)
            on_progress(counts.progress(left))
    return counts.statuses


def _note_death(folder: Path, shard: int) -> None:
    journal = Journal(folder, shard)
    journal.note_death()
    if journal.state().lost_starts >= _MOST_LOST_STARTS:
        raise CorpusError(
            f"workers die before they begin a clip of shard {shard}; if memory is short, run fewer workers"
        )


class _Counts:
    """Counts the clips of the shards that are done, and looks into the journals of those that are not."""

    def __init__(self, folder: Path, plan: Plan, part: CorpusPart) -> None:
        self._folder, self._plan = folder, plan
        self._shards = part.shards(plan)
        self._done = 0
        self._seconds = 0.0
        self.statuses: Counter[str] = Counter()

    def add_done(self) -> list[int]:
        """Count the shards that are done already, and return the others."""
        missing = []
        for shard in self._shards:
            if needs_work(self._folder, shard):
                missing.append(shard)
            else:
                self.add(shard)
        return missing

    def add(self, shard: int) -> None:
        """Count a shard that is done."""
        table = read_index(index_path(self._folder, shard))
        self.statuses.update(table["status"].to_pylist())
        self._seconds += sum(table["seconds"].to_pylist())
        self._done += 1

    def progress(self, left: AbstractSet[int]) -> Progress:
        """Return how far the part has come, with the shards `left` still to be made."""
        states = [Journal(self._folder, shard).state() for shard in left & shards_in_work(self._folder)]
        return Progress(
            self._done,
            len(self._shards),
            self.statuses.total() + sum(state.ended for state in states),
            sum(clips_of(self._plan, shard) for shard in self._shards),
            self._seconds + sum(state.seconds for state in states),
        )


def clips_of(plan: Plan, shard: int) -> int:
    """Return the number of clips of a shard."""
    return min(plan.clips_per_shard, plan.clips - shard * plan.clips_per_shard)


def require_few_bad(statuses: Counter[str], tolerance: Tolerance) -> None:
    """Check that no more clips are bad than the user admits.

    Raises:
        CorpusError: More are.
    """
    clips = statuses.total()
    bad = clips - statuses[OK]
    if tolerance.admits(bad, clips):
        return
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()) if status != OK)
    raise CorpusError(
        f"{bad} of {clips} clips are bad ({kinds}), more than admitted; the rest is done. "
        "'vtok corpus status' lists them, 'vtok corpus retry' tries them again"
    )
