"""How `vtok corpus encode` and `retry` make shards: the options they share, the run, and its progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from vtok_codec.cli.errors import notice
from vtok_codec.cli.options import GENERAL
from vtok_codec.errors import SettingError
from vtok_codec.text import counted

if TYPE_CHECKING:
    from vtok_codec.corpus.encoding import Progress
    from vtok_codec.corpus.engines import Engine
    from vtok_codec.corpus.plan import Plan

_RUN = "Run"
_ENGINES = ("local", "ray")
_PROGRESS = ("bar", "json", "none")
_HOURS = "{percentage:3.0f}%|{bar}| {n:.2f} of about {total:.2f} h of video [{elapsed}<{remaining}{postfix}]"
"""The bar of the hours of video."""
_WEEK_S = 7 * 24 * 3600

EngineName = Annotated[
    str,
    typer.Option(help=f"What runs the workers: {' or '.join(_ENGINES)}.", rich_help_panel=_RUN),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="For engine ray: the address of a cluster, auto for the one that this machine belongs to. By default Ray "
        "starts on this machine.",
        rich_help_panel=_RUN,
    ),
]
PartText = Annotated[
    str,
    typer.Option(
        "--part", help="I/N: make only every N-th shard, from shard I on; for job arrays.", rich_help_panel=_RUN
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", help="Number of workers; by default as cores and memory allow.", min=1, rich_help_panel=_RUN
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds after which a clip counts as stalled; 0 for no limit.", min=0, max=_WEEK_S, rich_help_panel=_RUN
    ),
]
Retries = Annotated[
    int,
    typer.Option(help="How often a clip is tried again that kills or stalls its worker.", min=0, rich_help_panel=_RUN),
]
MaxBad = Annotated[
    str,
    typer.Option(
        help="How many clips may be bad before the command ends with an error: a number, or a share such as 2%.",
        rich_help_panel=_RUN,
    ),
]
ProgressKind = Annotated[
    str,
    typer.Option(
        "--progress", help=f"How progress is shown on stderr: {', '.join(_PROGRESS)}.", rich_help_panel=GENERAL
    ),
]


@dataclass(frozen=True)
class ShardRun:
    """How to make the shards of a corpus, as the options say."""

    engine: str
    address: str | None
    part: str
    jobs: int | None
    timeout: float
    retries: int
    max_bad: str
    progress: str

    def check(self) -> None:
        """Check the options before anything is written or removed."""
        from vtok_codec.corpus.encoding import parse_part, parse_tolerance
        from vtok_codec.corpus.engines import require_engine

        parse_tolerance(self.max_bad)
        parse_part(self.part)
        self._engine(gpu=False)
        require_engine(self.engine)
        if self.progress not in _PROGRESS:
            raise SettingError(f"progress {self.progress!r}: use {', '.join(_PROGRESS)}")

    def make_shards(self, folder: Path, plan: Plan, quiet: bool) -> None:
        """Make the missing shards, show progress, and tell the result."""
        from vtok_codec.corpus.encoding import encode_shards, parse_part, parse_tolerance, require_few_bad

        tolerance, part = parse_tolerance(self.max_bad), parse_part(self.part)
        engine = self._engine(gpu=plan.device == "cuda")
        started = time.perf_counter()
        with _shown(self.progress) as show:
            statuses = encode_shards(folder, plan, part, engine, 1 + self.retries, self.timeout or None, show)
        if not quiet:
            kinds = ", ".join(f"{count} {name}" for name, count in statuses.most_common()) or "none"
            seconds = time.perf_counter() - started
            notice(f"{folder}: {counted(statuses.total(), 'clip')} ({kinds}) in {seconds:.0f} s")
        require_few_bad(statuses, tolerance)

    def _engine(self, gpu: bool) -> Engine:
        from vtok_codec.corpus.engines import LocalEngine, RayEngine, default_jobs

        if self.engine not in _ENGINES:
            raise SettingError(f"engine {self.engine!r}: use {' or '.join(_ENGINES)}")
        if self.address and self.engine != "ray":
            raise SettingError("an address goes with engine ray only")
        jobs = self.jobs or default_jobs()
        return LocalEngine(jobs) if self.engine == "local" else RayEngine(jobs, gpu, self.address)


@contextmanager
def _shown(kind: str) -> Iterator[Callable[[Progress], None]]:
    """Show progress on stderr: as bars of clips and of hours, as lines of JSON, or not at all."""
    if kind == "none":
        yield lambda progress: None
    elif kind == "json":
        yield lambda progress: print(json.dumps(asdict(progress)), file=sys.stderr, flush=True)
    else:
        started = time.perf_counter()
        begun: dict[str, float] = {}
        with _bar(" clips") as clips, _bar(" h", position=1, total=0, bar_format=_HOURS) as hours:

            def show(progress: Progress) -> None:
                clips.total = progress.all_clips
                clips.update(progress.clips - clips.n)
                # How long the other clips are is not known before they are read.
                hours.total = progress.seconds / 3600 * progress.all_clips / max(1, progress.clips)
                begun.setdefault("seconds", progress.seconds)
                speed = (progress.seconds - begun["seconds"]) / max(1e-3, time.perf_counter() - started)
                hours.set_postfix_str(f"{speed:.1f} times real time", refresh=False)
                hours.update(progress.seconds / 3600 - hours.n)

            yield show


def _bar(unit: str, **options: Any) -> tqdm[Any]:
    """Return a bar on stderr that shows only on a terminal."""
    return tqdm(unit=unit, leave=False, disable=None, file=sys.stderr, **options)
