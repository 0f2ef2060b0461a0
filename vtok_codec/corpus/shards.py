"""Makes one shard of a corpus. The result depends on the plan and the number of the shard alone."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

from vtok_codec.codec.tokenizer import Tokenizer, choose_placement, load_tokenizer
from vtok_codec.corpus.clip_source import ClipSource
from vtok_codec.corpus.clips import encode_clip, failed_clip
from vtok_codec.corpus.index import CRASHED, OK, ClipRow, read_index, rows_of, write_index
from vtok_codec.corpus.inputs import read_inputs, user_fields
from vtok_codec.corpus.journal import Journal, verdict
from vtok_codec.corpus.plan import Plan, index_path, is_done, priors_of_corpus, read_plan, shard_path
from vtok_codec.corpus.shard_tar import EncodedClip, ShardWriter, rows_in_tar, wrong_with
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.files import replacing
from vtok_codec.prior_files import prior_of
from vtok_codec.registry import find_weights
from vtok_codec.stream.unpacking import PriorFinder


def make_shard(folder: str, shard: int, tries: int, timeout_s: float | None, wait: bool = True) -> None:
    """Make a shard, unless it is there already. This is what the workers of every engine run.

    Args:
        folder: The folder of the corpus.
        shard: The number of the shard.
        tries: How often a clip is tried that kills or stalls its worker.
        timeout_s: The seconds after which a clip counts as stalled, which ends the process; None for no limit.
        wait: Whether to wait for another worker that is at the shard; if not, the shard is left to that one.

    Raises:
        SettingError: The model would run on another device, or in another type, than in the rest of the corpus.
        ModelError: The weights or the prior are missing, or not those of the plan.
        OSError: The shard cannot be written.
    """
    place = Path(folder)
    journal = Journal(place, shard)
    _end_with_parent()
    if not wait and journal.is_locked():
        return
    with journal.locked():
        _finish(place, shard, journal)
        # Another run may have made it in the meantime; and more clips may be asked for while it is being made.
        while needs_work(place, shard):
            _make(place, shard, journal, tries, timeout_s)
        journal.remove()


def needs_work(folder: Path, shard: int) -> bool:
    """Return whether a shard is not done yet, or holds clips that are to be tried again."""
    return not is_done(folder, shard) or Journal(folder, shard).asked_again() is not None


def _finish(place: Path, shard: int, journal: Journal) -> None:
    """Finish what a worker left that died between the two steps in which tar and index are replaced."""
    staged, tar = journal.staged_path, shard_path(place, shard)
    if not staged.exists():
        return
    rows = rows_of(read_index(staged))
    priors = priors_of_corpus(read_plan(place).model)
    if tar.exists() and all(_is_whole(tar, row, priors) for row in rows):
        os.replace(staged, index_path(place, shard))
        journal.answer()


def _make(place: Path, shard: int, journal: Journal, tries: int, timeout_s: float | None) -> None:
    """Make a shard: its tar, then its index."""
    plan = read_plan(place)
    inputs = read_inputs(place, shard)
    again = journal.take() or set()
    there = _clips_there(place, shard, plan, inputs)
    wanted = {key for key, _ in inputs if key in again or key not in there}
    journal.start()
    todo = [(key, source) for key, source in inputs if key in wanted]
    tokenizer = _tokenizer(plan)
    made = dict(_suspects_first(todo, journal, tokenizer, plan, tries, timeout_s))
    rows = []
    with replacing(shard_path(place, shard)) as partial, partial.open("wb") as file:
        with closing(ShardWriter(file)) as writer:
            for key, source in inputs:
                kept = _stored(shard_path(place, shard), there[key]) if key in there else None
                if key in wanted:
                    new = made.pop(key, None) or _attempt(key, source, journal, tokenizer, plan, timeout_s)
                    kept = _better(new, kept)
                assert kept is not None
                rows.append(writer.add(kept, source.columns))
        write_index(journal.staged_path, rows, [source.columns for _, source in inputs], user_fields(place))
    os.replace(journal.staged_path, index_path(place, shard))
    journal.answer()


def _clips_there(place: Path, shard: int, plan: Plan, inputs: Sequence[tuple[str, ClipSource]]) -> dict[str, ClipRow]:
    """Return the rows of the clips of a shard that is there already, but for damaged ones."""
    priors, tar = priors_of_corpus(plan.model), shard_path(place, shard)
    if is_done(place, shard):
        rows = rows_of(read_index(index_path(place, shard)))
    else:
        # The index may have been lost or damaged.
        rows = rows_in_tar(tar, inputs) if tar.exists() else []
    return {row.key: row for row in rows if _is_whole(tar, row, priors)}


def _stored(tar: Path, row: ClipRow) -> EncodedClip:
    """Return a clip as a shard holds it."""
    if not row.size:
        return EncodedClip(row)
    with tar.open("rb") as file:
        file.seek(row.offset)
        return EncodedClip(row, file.read(row.size))


def _is_whole(tar: Path, row: ClipRow, priors: PriorFinder) -> bool:
    """Return whether a clip is what the index says, which may be that it has no tokens."""
    try:
        return not row.size or not wrong_with(_stored(tar, row).data, row, priors)
    except FileNotFoundError:
        return False


def _better(new: EncodedClip, old: EncodedClip | None) -> EncodedClip:
    """Return what was made of a clip now, unless there was more of it before: its source may be gone."""
    if old is None or new.row.status == OK or not old.data:
        return new
    return new if old.row.status != OK and new.row.frames >= old.row.frames else old


def _suspects_first(
    inputs: list[tuple[str, ClipSource]],
    journal: Journal,
    tokenizer: Tokenizer,
    plan: Plan,
    tries: int,
    timeout_s: float | None,
) -> Iterator[tuple[str, EncodedClip]]:
    """Try the clips under which a worker died, or give them up. They come first, since they may kill this one too."""
    failures = journal.state().failures
    for key, source in inputs:
        if key not in failures:
            continue
        given_up = verdict(failures[key], tries)
        if given_up:
            yield key, failed_clip(key, source, *given_up)
        else:
            yield key, _attempt(key, source, journal, tokenizer, plan, timeout_s)


def _attempt(
    key: str, source: ClipSource, journal: Journal, tokenizer: Tokenizer, plan: Plan, timeout_s: float | None
) -> EncodedClip:
    """Encode a clip, and note in the journal that it is under way."""
    journal.begin(key)
    with _ends_when_stalled(journal.stall_path, timeout_s):
        try:
            clip = encode_clip(key, source, tokenizer, plan)
        except Exception as error:
            # A fault of ours must not stop a run of a million clips; the row tells it.
            clip = failed_clip(key, source, CRASHED, f"internal error: {type(error).__name__}: {error}")
    journal.end(key, clip.row.seconds)
    return clip


@contextmanager
def _ends_when_stalled(path: Path, timeout_s: float | None) -> Iterator[None]:
    """End the process if the block takes too long, and leave where it was in the file `path`.

    `faulthandler` watches from a thread of its own in C, which also works while a decoder holds Python's lock.
    """
    if timeout_s is None:
        yield
        return
    with path.open("w") as file:
        faulthandler.dump_traceback_later(timeout_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@lru_cache(maxsize=1)
def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even by SIGKILL: nobody would wait for the shard."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def check_worker(plan: Plan) -> None:
    """Check that workers on this machine can go on with a corpus, before anything of it is removed.

    Raises:
        SettingError, ModelError: See `make_shard`.
    """
    weights = find_weights(plan.model)
    if weights.sha256 != plan.weights_sha256:
        raise SettingError(f"the weights of {plan.model} have changed since the corpus began; begin another corpus")
    prior = prior_of(weights) if plan.prior_sha256 else None
    if plan.prior_sha256 and prior is None:
        raise ModelError(
            f"tokens are packed with the prior {plan.prior_sha256[:12]}, which is not here; put it beside its weights"
        )
    if prior and prior.sha256 != plan.prior_sha256:
        raise SettingError(f"the prior of {plan.model} has changed since the corpus began; begin another corpus")
    placement = choose_placement(plan.device)
    if str(placement.dtype).removeprefix("torch.") != plan.dtype:
        raise SettingError(
            f"the corpus began in {plan.dtype}, and this machine computes in {placement}: tokens could differ; go on "
            "with a machine like the first, or begin another corpus"
        )


@lru_cache(maxsize=1)
def _tokenizer(plan: Plan) -> Tokenizer:
    """Load the model of a plan once per process."""
    import torch

    # There are as many workers as cores.
    torch.set_num_threads(1)
    check_worker(plan)
    return load_tokenizer(find_weights(plan.model), plan.device)
