"""The plan of a corpus: its settings in `corpus.json`, fixed at the start like its inputs (`corpus.inputs`).

A shard follows from the plan and its number alone, so that shards can be made anywhere, in any order, and again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vtok_codec.corpus.clip_source import TAR_SUFFIX, ClipSource, is_url
from vtok_codec.corpus.inputs import check_inputs, input_names, inputs_table, write_inputs
from vtok_codec.corpus.journal import Journal
from vtok_codec.corpus.sources import find_clips
from vtok_codec.errors import InputError, SettingError, VtokError
from vtok_codec.files import replacing
from vtok_codec.media.filters import parse_filters
from vtok_codec.prior_files import find_prior, prior_of
from vtok_codec.registry import find_weights, is_shipped
from vtok_codec.stream.settings import EncodeSettings, check_settings, check_token_count
from vtok_codec.stream.unpacking import PriorFinder
from vtok_codec.text import counted
from vtok_codec.tokens.coders import CODERS
from vtok_codec.weights_file import SUFFIX, WeightsFile

_VERSION = 1
PLAN_NAME = "corpus.json"
_SHARDS = "shards"
_FEWEST, _MOST, _PARTS = 16, 1024, 64
"""By default a corpus has about `_PARTS` shards of at least `_FEWEST` and at most `_MOST` clips."""
_PLANNING = -1
"""The number of the journal, which no shard has, that is locked while the plan is written."""


@dataclass(frozen=True)
class Plan:
    """The settings of a corpus. They determine the tokens of every clip."""

    sources: tuple[str, ...]
    """What the user named as the sources."""
    model: str
    """The name or the path of the weights."""
    weights_sha256: str
    """The hash of the weights."""
    device: str
    """The kind of device that the model runs on: `cpu` or `cuda`."""
    dtype: str
    """The floating-point type of the model, such as `bfloat16`."""
    tokens_per_position: int
    """The number of tokens per latent position."""
    gop_latents: int
    """The time steps of the latent grid per GOP."""
    coder: str
    """The coder that packs the tokens."""
    rdo: float
    """The cost of a bit; see `EncodeSettings.rdo`."""
    filters: str
    """Filters for the frames; see `vtok_codec.media.filters.parse_filters`."""
    max_pixels: int
    """The largest number of pixels per frame; clips with more are left out as `too_large`."""
    keep: tuple[str, ...] | None
    """The user's columns that are kept; None for all."""
    clips_per_shard: int
    """The number of clips per shard; the last shard may have fewer."""
    clips: int
    """The number of clips."""
    inputs_sha256: str
    """The hash of `inputs.parquet`."""
    cut: tuple[str, str] | None = None
    """The columns that say where in its video a clip starts and ends; None for clips that are whole files."""
    prior_sha256: str = ""
    """The hash of the prior that packs the tokens; empty if none does, and in corpora of earlier versions."""
    version: int = _VERSION
    """The version of this layout."""

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.clips // self.clips_per_shard)

    @property
    def settings(self) -> EncodeSettings:
        """The settings with which a clip is encoded."""
        return EncodeSettings(
            tokens_per_position=self.tokens_per_position, gop_latents=self.gop_latents, coder=self.coder, rdo=self.rdo
        )


def default_clips_per_shard(clips: int) -> int:
    """Return how many clips a shard gets by default: few in a small corpus, so that workers can share it."""
    return max(_FEWEST, min(_MOST, -(-clips // _PARTS)))


def has_plan(folder: Path) -> bool:
    """Return whether a folder holds the plan of a corpus."""
    return (folder / PLAN_NAME).is_file()


def read_plan(folder: Path) -> Plan:
    """Read the plan of a corpus.

    Raises:
        InputError: The folder holds no plan, or one that cannot be read.
    """
    path = folder / PLAN_NAME
    try:
        members = json.loads(path.read_text(encoding="utf-8"))
        if members.get("version") != _VERSION:
            raise InputError(f"{path} needs a newer vtok")
        lists = {name: _as_tuple(members.get(name)) for name in ("sources", "keep", "cut")}
        plan = Plan(**{**members, **lists})
    except FileNotFoundError:
        raise InputError(f"{folder} is not a corpus: it has no {PLAN_NAME}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not the plan of a corpus: {error}") from None
    return plan


def _as_tuple(values: list[str] | None) -> tuple[str, ...] | None:
    """Return a list of JSON as a tuple, since a plan can be hashed."""
    return None if values is None else tuple(values)


def write_plan(folder: Path, plan: Plan, clips: Sequence[ClipSource]) -> Plan:
    """Begin a corpus: write its inputs, then its plan.

    Several processes may do so at once; the plan of the first one counts.

    Args:
        folder: The folder of the corpus, which is created if it does not exist.
        plan: The plan, without the number and the hash of the inputs.
        clips: The clips, sorted.

    Returns:
        The plan that counts.

    Raises:
        SettingError: A column to keep does not exist.
        InputError: A name or a column cannot be stored.
        OSError: The files cannot be written.
    """
    table = inputs_table(clips, plan.keep)
    (folder / _SHARDS).mkdir(parents=True, exist_ok=True)
    journal = Journal(folder, _PLANNING)
    with journal.locked():
        if has_plan(folder):
            return read_plan(folder)
        digest = write_inputs(folder, table, plan.clips_per_shard)
        whole = dataclasses.replace(plan, clips=len(clips), inputs_sha256=digest)
        with replacing(folder / PLAN_NAME) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(whole), indent=2) + "\n", encoding="utf-8")
        journal.remove()
    return whole


def begin_corpus(
    folder: Path,
    sources: Sequence[str],
    keep: Sequence[str] | None,
    clips_per_shard: int | None,
    device: str,
    on_problem: Callable[[str], None] = lambda problem: None,
    cut: tuple[str, str] | None = None,
    **settings: Any,
) -> Plan:
    """Begin a corpus, or return the plan of the one that is there, if it is the same.

    Args:
        folder: The folder of the corpus.
        sources: The clips; see `find_clips`.
        keep: The user's columns to keep; None keeps all.
        clips_per_shard: The number of clips per shard; None for one that suits the number of clips.
        device: Where the model runs; see `choose_placement`.
        on_problem: Called with each thing in the sources that cannot be read and is passed over.
        cut: The columns of the start and the end of each clip; see `find_clips`.
        settings: The fields of `Plan` from `tokens_per_position` to `max_pixels`, and `model`.

    Raises:
        InputError: A source cannot be read, or has no clip.
        SettingError: A setting is out of range, or the corpus in the folder began with other ones.
        ModelError: There are no such weights.
        OSError: The folder cannot be written.
    """
    from vtok_codec.codec.tokenizer import choose_placement

    weights = find_weights(settings["model"])
    if not is_shipped(settings["model"]):
        # Workers may run in another folder.
        settings["model"] = str(Path(settings["model"]).resolve())
    placement = choose_placement(device)
    plan = Plan(
        sources=_places(sources),
        weights_sha256=weights.sha256,
        device=placement.device.type,
        dtype=str(placement.dtype).removeprefix("torch."),
        keep=None if keep is None else tuple(keep),
        clips_per_shard=clips_per_shard or 0,
        clips=0,
        inputs_sha256="",
        cut=cut,
        prior_sha256=_prior_hash(settings["coder"], weights),
        **settings,
    )
    _check_settings(plan, weights)
    if has_plan(folder):
        there = _same_plan(folder, plan)
        check_inputs(folder, there.inputs_sha256)
        _tell_new_clips(folder, sources, cut, on_problem)
        return there
    clips = find_clips(sources, on_problem, cut)
    whole = dataclasses.replace(plan, clips_per_shard=clips_per_shard or default_clips_per_shard(len(clips)))
    return _same_plan(folder, write_plan(folder, whole, clips))


def _tell_new_clips(
    folder: Path, sources: Sequence[str], cut: tuple[str, str] | None, on_problem: Callable[[str], None]
) -> None:
    """Tell how many clips the sources of a corpus have that were not there when it began.

    Addresses and tars are not looked through again, since that takes long.
    """
    known = input_names(folder)
    if any(is_url(source) for source in sources) or any(f"{TAR_SUFFIX}::" in name for name in known):
        return
    try:
        now = find_clips(sources, cut=cut)
    except VtokError:
        # Clips that are done may be gone.
        return
    if new := len({clip.name for clip in now} - known):
        on_problem(
            f"{counted(new, 'clip')} of the sources {'is' if new == 1 else 'are'} newer than {folder}, whose clips "
            "were fixed when it began; encode them as another corpus"
        )


def _check_settings(plan: Plan, weights: WeightsFile) -> None:
    """Check the settings once, rather than with every clip."""
    check_token_count(plan.tokens_per_position, weights.codec_config.max_tokens, weights.name)
    check_settings(plan.settings)
    if plan.rdo and not CODERS[plan.coder].chooses:
        raise SettingError(f"rdo {plan.rdo:g}: coder {plan.coder} takes the nearest tokens; choose coder prior")
    if plan.filters:
        parse_filters(plan.filters)


def _prior_hash(coder: str, weights: WeightsFile) -> str:
    """Return the hash of the prior with which a coder packs the tokens of a model; empty if it needs none.

    Raises:
        SettingError: It needs one, and the model has none.
    """
    if coder not in CODERS or not CODERS[coder].chooses:
        return ""
    prior = prior_of(weights)
    if prior is None:
        raise SettingError(f"coder {coder}: {weights.name} has no prior; choose another coder")
    return prior.sha256


def _places(sources: Sequence[str]) -> tuple[str, ...]:
    """Return sources as they are called from any folder."""
    return tuple(source if is_url(source) else os.path.abspath(source) for source in sources)


def _same_plan(folder: Path, wanted: Plan) -> Plan:
    """Return the plan in a folder, if what was asked for is the same.

    Raises:
        SettingError: It is not.
    """
    plan = read_plan(folder)
    for field in dataclasses.fields(Plan):
        there, asked = getattr(plan, field.name), getattr(wanted, field.name)
        if field.name == "prior_sha256" and not there:
            continue
        if field.name == "sources":
            # Corpora of earlier versions have them as they were typed.
            there = _places(there)
        # What follows from the clips is fixed at the beginning.
        follows = field.name in ("clips", "inputs_sha256") or (field.name == "clips_per_shard" and not asked)
        if there != asked and not follows:
            raise SettingError(
                f"the corpus in {folder} began with {field.name} {there!r}, not {asked!r}; give the same settings, "
                "leave out the sources to go on with those that it has, or name another folder"
            )
    return plan


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard's tar."""
    return folder / _SHARDS / f"{shard:06d}.tar"


def index_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard's index, which is written last."""
    return folder / _SHARDS / f"{shard:06d}.parquet"


def is_done(folder: Path, shard: int) -> bool:
    """Return whether a shard is done: it has an index that can be read. Its clips may still be tried again.

    Raises:
        OSError: The index is there and cannot be read, which says nothing about what it holds.
    """
    from vtok_codec.corpus.index import read_index

    try:
        read_index(index_path(folder, shard))
    except (FileNotFoundError, InputError):
        return False
    return True


def priors_of_corpus(model: str) -> PriorFinder:
    """Return what finds the priors that clips of a corpus name.

    Args:
        model: The model of its plan. If it did not come with vtok, its prior lies beside it, and neither need be here.
    """
    weights = Path(model)
    if not weights.is_absolute():
        return find_prior
    return partial(find_prior, beside=weights.parent if weights.suffix == SUFFIX else weights)
