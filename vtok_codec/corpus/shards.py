"""Makes one shard of a corpus. The result depends on the plan and the number of the shard alone."""

from __future__ import annotations

import faulthandler
import io
import json
import math
import multiprocessing
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from vtok_codec.codec.tokenizer import Tokenizer, choose_placement, load_tokenizer
from vtok_codec.corpus.clips import EncodedClip, encode_clip, failed_clip
from vtok_codec.corpus.index import CRASHED, ClipRow, write_index
from vtok_codec.corpus.journal import Journal, verdict
from vtok_codec.corpus.plan import Plan, index_path, is_done, read_inputs, read_plan, shard_path, user_fields
from vtok_codec.corpus.sources import Cell, ClipSource
from vtok_codec.errors import SettingError
from vtok_codec.files import replacing
from vtok_codec.registry import find_weights

_TAR_BLOCK = 512


class ShardWriter:
    """Writes a shard's tar: `KEY.vtk` and `KEY.json` for each clip, in the layout of WebDataset.

    The tar holds no times and no owners, so that the same clips always make the same bytes.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by close()

    def add(self, clip: EncodedClip, user: Mapping[str, Cell]) -> ClipRow:
        """Add a clip, if it has tokens.

        Args:
            clip: The clip.
            user: The user's columns of the clip.

        Returns:
            The row of the clip with its place in the tar.
        """
        row = clip.row
        if not clip.data:
            return row
        offset = self._put(f"{row.key}.vtk", clip.data)
        about = {
            "source": row.source,
            "status": row.status,
            "size": [row.height, row.width],
            "rate": row.rate,
            "frames": row.frames,
            "gop_latents": row.gop_latents,
            **user,
        }
        # JSON has no NaN and no infinity.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in about.items()}
        self._put(f"{row.key}.json", json.dumps(plain, ensure_ascii=False).encode())
        return replace(row, offset=offset)

    def close(self) -> None:
        """Finish the tar."""
        self._tar.close()

    def _put(self, name: str, data: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        return self._tar.offset - -(-len(data) // _TAR_BLOCK) * _TAR_BLOCK


def make_shard(folder: str, shard: int, tries: int, timeout_s: float | None) -> int:
    """Make a shard, unless it is there already. This is what the workers of every engine run.

    Args:
        folder: The folder of the corpus.
        shard: The number of the shard.
        tries: How often a clip is tried that kills or stalls its worker.
        timeout_s: The seconds after which a clip counts as stalled, which ends the process; None for no limit.

    Returns:
        The number of the shard.

    Raises:
        SettingError: The model would run on another device, or in another type, than in the rest of the corpus.
        ModelError: The weights are missing, or not those of the plan.
        OSError: The shard cannot be written.
    """
    place = Path(folder)
    journal = Journal(place, shard)
    _end_with_parent()
    with journal.locked():
        # Another run may have made it in the meantime.
        if not is_done(place, shard):
            _make(place, shard, journal, tries, timeout_s)
        journal.remove()
    return shard


def _make(place: Path, shard: int, journal: Journal, tries: int, timeout_s: float | None) -> None:
    """Make a shard: its tar, then its index."""
    plan = read_plan(place)
    tokenizer = _tokenizer(plan)
    inputs = read_inputs(place, shard)
    journal.open()
    made = dict(_suspects_first(inputs, journal, tokenizer, plan, tries, timeout_s))
    rows = []
    with replacing(shard_path(place, shard)) as partial, closing(ShardWriter(partial)) as writer:
        for key, source in inputs:
            clip = made.pop(key, None) or _attempt(key, source, journal, tokenizer, plan, timeout_s)
            rows.append(writer.add(clip, source.columns))
    write_index(index_path(place, shard), rows, [source.columns for _, source in inputs], user_fields(place))


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
