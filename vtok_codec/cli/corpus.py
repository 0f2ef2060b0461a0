"""`vtok corpus`: many clips as shards of tokens, for training."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from vtok_codec.cli.corpus_run import (
    Address,
    EngineName,
    Jobs,
    MaxBad,
    PartText,
    ProgressKind,
    Retries,
    ShardRun,
    Timeout,
)
from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.options import (
    DEFAULT_MAX_PIXELS,
    INPUT,
    MODEL,
    OUTPUT,
    PICTURE,
    AsJson,
    Device,
    Filters,
    MaxPixels,
    Quiet,
    given_options,
)
from vtok_codec.errors import CorpusError, InputError, SettingError
from vtok_codec.registry import DEFAULT_MODEL
from vtok_codec.text import counted, printable
from vtok_codec.tokens.coders import CODERS, ZSTD

if TYPE_CHECKING:
    from vtok_codec.corpus.plan import Plan

corpus = typer.Typer(
    help="Encode many clips as shards of tokens, for training.", no_args_is_help=True, rich_markup_mode="markdown"
)
_BAD_SHOWN = 20

Folder = Annotated[Path, typer.Argument(help="Folder of the corpus.", show_default=False)]
_WHILE_GOING_ON = {
    *("sources", "output_dir", "engine", "address", "part", "jobs", "timeout", "retries", "max_bad", "progress"),
    "quiet",
}
"""The options that may be given for a corpus that goes on; it keeps everything else from its beginning."""


@corpus.command(epilog="Example: `vtok corpus encode clips/ -o corpus --filter fps=16,scale=-2:256`")
@reports_errors
def encode(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders, videos, patterns, lists (.txt, .csv, .tsv, .jsonl, .parquet), WebDataset tars, or URLs. "
            "Without any, an existing corpus goes on.",
            show_default=False,
        ),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("-o", "--output-dir", help="Folder of the corpus.", rich_help_panel=OUTPUT)
    ] = Path("corpus"),
    clips_per_shard: Annotated[
        int | None,
        typer.Option(help="Clips per shard; by default 16 to 1024.", min=1, rich_help_panel=OUTPUT),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="The columns of lists and tars to keep, such as caption,label; by default all.", rich_help_panel=OUTPUT
        ),
    ] = None,
    cut: Annotated[
        str | None,
        typer.Option(
            help="The columns that say where in its video a clip starts and ends, in seconds or as 0:01:30.5, such as "
            "start,end. By default, each clip is a whole file.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    filters: Filters = "",
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    tokens: Annotated[
        int, typer.Option("--tokens", "-t", help="Tokens per latent position.", rich_help_panel=PICTURE)
    ] = 2,
    gop_latents: Annotated[
        int,
        typer.Option(
            help="Length of a group of pictures in time steps of the latent grid; 17 are 65 frames at a stride of 4.",
            min=1,
            rich_help_panel=PICTURE,
        ),
    ] = 17,
    rdo: Annotated[
        float,
        typer.Option(
            help="What a bit costs when tokens are chosen by rate and error; 0 takes the nearest. Needs coder prior.",
            rich_help_panel=PICTURE,
        ),
    ] = 0.0,
    coder: Annotated[
        str,
        typer.Option(
            help="How tokens are packed: "
            + "; ".join(f"{spec.name}, {spec.summary}" for spec in CODERS.values())
            + ".",
            rich_help_panel=PICTURE,
        ),
    ] = ZSTD.name,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A shipped model, weights file or run folder.", rich_help_panel=MODEL)
    ] = DEFAULT_MODEL,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    part: PartText = "1/1",
    jobs: Jobs = None,
    timeout: Timeout = 600.0,
    retries: Retries = 1,
    max_bad: MaxBad = "0",
    progress: ProgressKind = "bar",
    quiet: Quiet = False,
) -> None:
    """Encode clips as a corpus of shards. A rerun goes on where an earlier one stopped."""
    from vtok_codec.corpus.plan import has_plan

    run = ShardRun(engine, address, part, jobs, timeout, retries, max_bad, "none" if quiet else progress)
    run.check()
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(output_dir)):
        raise SettingError(f"{output_dir}: a corpus is made in a folder; copy it to its address when it is done")
    if sources:
        from vtok_codec.corpus.inputs import parquet
        from vtok_codec.corpus.plan import begin_corpus

        parquet()
        plan = begin_corpus(
            output_dir,
            sources,
            None if keep is None else [name.strip() for name in keep.split(",") if name.strip()],
            clips_per_shard,
            device,
            notice,
            _two_columns(cut),
            model=model,
            tokens_per_position=tokens,
            gop_latents=gop_latents,
            coder=coder,
            rdo=rdo,
            filters=filters,
            max_pixels=max_pixels,
        )
    elif has_plan(output_dir):
        if kept := [name for name in given_options(context) if name not in _WHILE_GOING_ON]:
            raise typer.BadParameter(f"the corpus goes on with the {kept[0]} that it began with; leave it out")
        plan = _plan_of(output_dir)
    else:
        raise InputError(f"{output_dir} is not a corpus yet; name the clips to encode")
    run.make_shards(output_dir, plan, quiet)


@corpus.command(epilog="Example: `vtok corpus retry corpus --timeout 3600`")
@reports_errors
def retry(
    folder: Folder,
    status: Annotated[
        str,
        typer.Option(help="The statuses of the clips to try again, separated by commas.", rich_help_panel=INPUT),
    ] = "unreadable,truncated,timeout,crashed",
    damaged: Annotated[
        bool,
        typer.Option(
            "--damaged", help="Also make shards again in which `verify` finds a fault.", rich_help_panel=INPUT
        ),
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
    jobs: Jobs = None,
    timeout: Timeout = 600.0,
    retries: Retries = 1,
    max_bad: MaxBad = "0",
    progress: ProgressKind = "bar",
    quiet: Quiet = False,
) -> None:
    """Make the shards with bad clips, and damaged ones, again."""
    plan = _plan_of(folder)
    from vtok_codec.corpus.index import STATUSES
    from vtok_codec.corpus.inputs import check_inputs
    from vtok_codec.corpus.report import check_corpus, try_again, try_damaged_again
    from vtok_codec.corpus.shards import check_worker

    wanted = status.split(",")
    if unknown := set(wanted) - set(STATUSES):
        raise SettingError(f"status {min(unknown)!r}: use some of {', '.join(STATUSES)}")
    run = ShardRun(engine, address, "1/1", jobs, timeout, retries, max_bad, "none" if quiet else progress)
    run.check()
    # What could keep the shards from being made again is told before any of them is given up.
    check_inputs(folder, plan.inputs_sha256)
    if engine == "local":
        check_worker(plan)
    faulty = {fault.shard for fault in check_corpus(folder, plan) if fault.done} if damaged else set()
    for shard in faulty:
        try_damaged_again(folder, shard)
    clips = try_again(folder, plan, wanted)
    if not quiet:
        again = f" and {counted(len(faulty), 'damaged shard')}" if damaged else ""
        notice(f"{folder}: {counted(clips, 'clip')}{again} to try again")
    run.make_shards(folder, plan, quiet)


@corpus.command(epilog="Example: `vtok corpus status corpus --bad`")
@reports_errors
def status(
    folder: Folder,
    bad: Annotated[bool, typer.Option("--bad", help="List every bad clip.", rich_help_panel=OUTPUT)] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a corpus has come, and which clips are bad."""
    plan = _plan_of(folder)
    from vtok_codec.corpus.report import bad_clips, status_of

    found = status_of(folder, plan)
    clips = list(bad_clips(folder, plan))
    if as_json:
        listed = [dict(zip(("source", "status", "error"), clip, strict=True)) for clip in clips]
        print(json.dumps({**asdict(found), "bad": listed}))
        return
    done = sum(found.statuses.values())
    print(f"{printable(str(folder))}: {found.shards_done} of {counted(found.shards, 'shard')} done")
    print(f"  clips  {done} of {found.clips}: " + ", ".join(f"{n} {name}" for name, n in found.statuses.items()))
    for shard, clip in found.in_work.items():
        print(f"  shard {shard} is in work or was interrupted" + (f", at {printable(clip)}" if clip else ""))
    shown = clips if bad else clips[:_BAD_SHOWN]
    for source, what, error in shown:
        print(f"  {what:10s} {printable(source)}: {printable(error)}")
    if len(clips) > len(shown):
        print(f"  and {len(clips) - len(shown)} more; --bad lists all")


@corpus.command(epilog="Example: `vtok corpus stats corpus`")
@reports_errors
def stats(folder: Folder, as_json: AsJson = False) -> None:
    """Say what a corpus holds: clips, hours, tokens and sizes."""
    plan = _plan_of(folder)
    from vtok_codec.corpus.report import stats_of

    found = stats_of(folder, plan)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    part = "" if found.shards_done == found.shards else f" {found.shards_done} of {counted(found.shards, 'shard')}"
    print(f"{printable(str(folder))}:{part}")
    print(f"  clips  {found.clips}, {timedelta(seconds=round(3600 * found.hours))}, {counted(found.frames, 'frame')}")
    print(f"  tokens {found.tokens}, {found.bytes_per_token:.3f} bytes per token; the longest clip has "
          f"{counted(found.longest_latents, 'latent frame')}")  # fmt: skip
    print(f"  size   {found.bytes} bytes, {found.bits_per_pixel:.4f} bits/pixel")
    grids = ", ".join(f"{grid} ({n})" for grid, n in list(found.grids.items())[:8])
    print(f"  grids  {grids}" + (f" and {len(found.grids) - 8} more" if len(found.grids) > 8 else ""))


@corpus.command(epilog="Example: `vtok corpus verify corpus`")
@reports_errors
def verify(folder: Folder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Check that every shard is there, and every clip whole and what its index says."""
    plan = _plan_of(folder)
    from vtok_codec.corpus.report import check_corpus

    def advance(shard: int) -> None:
        bar.update()

    with tqdm(total=plan.shards, unit=" shards", leave=False, disable=True if quiet else None, file=sys.stderr) as bar:
        faults = []
        for fault in check_corpus(folder, plan, advance):
            faults.append(str(fault))
            if not as_json:
                notice(str(fault))
    if as_json:
        print(json.dumps({"shards": plan.shards, "clips": plan.clips, "faults": faults}))
    elif not quiet and not faults:
        print(f"{printable(str(folder))}: whole, {counted(plan.clips, 'clip')} in {counted(plan.shards, 'shard')}")
    if faults:
        raise CorpusError(f"{folder} is not whole: {counted(len(faults), 'fault')}")


def _two_columns(cut: str | None) -> tuple[str, str] | None:
    """Return the names in `--cut`."""
    if cut is None:
        return None
    start, comma, end = cut.partition(",")
    if not (start and comma and end) or "," in end:
        raise SettingError(f"cut {cut!r}: give the columns of start and end, such as start,end")
    return start.strip(), end.strip()


def _plan_of(folder: Path) -> Plan:
    from vtok_codec.corpus.inputs import parquet
    from vtok_codec.corpus.plan import read_plan

    parquet()
    return read_plan(folder)
