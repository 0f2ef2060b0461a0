"""`vtok eval`: measures models and the usual encoders on real files, all in the same way."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import STANDARD_STREAM, require_absent, whole_output
from vtok_codec.cli.options import GENERAL, MODEL, OUTPUT, AsJson, Device, Force, Quiet, given_options
from vtok_codec.errors import InputError, OutputError, SettingError
from vtok_codec.extras import missing_package
from vtok_codec.registry import DEFAULT_MODEL, DETERMINISTIC, find_weights
from vtok_codec.stream.effort import DEFAULT_EFFORT, DEFAULT_TUNE, EFFORTS, TUNES
from vtok_codec.text import counted
from vtok_codec.version import __version__

if TYPE_CHECKING:
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.evaluation.campaign import Evaluation
    from vtok_codec.evaluation.clips import SourceClip
    from vtok_codec.evaluation.codecs import CodecUnderTest
    from vtok_codec.evaluation.measure import ClipResult, Measures

Number = TypeVar("Number", int, float)

_FVD_LEFT_OUT = "FVD was left out: it needs the I3D network, which --i3d names"
_PAGE = "index.html"
_PACKAGES = ("imageio_ffmpeg", "matplotlib", "pytorch_msssim", "scipy")
_USUAL = ("psnr", "ssim", "lpips", "vmaf")
_MEASURES = (*_USUAL, "fd")
_COMPARISON = "Comparison"


@reports_errors
def evaluate(
    command: typer.Context,
    clips: Annotated[list[Path], typer.Argument(help="Videos or images.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", help="A shipped model, weights file or run folder; may be repeated.", rich_help_panel=MODEL
        ),
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(
            "--tokens", "-t", help="Tokens per latent position to try, separated by commas.", rich_help_panel=MODEL
        ),
    ] = "1,2,4",
    sticky: Annotated[
        str,
        typer.Option(help="Values of encode's --sticky to try, separated by commas.", rich_help_panel=MODEL),
    ] = "0",
    rdo: Annotated[
        str,
        typer.Option(
            help="Costs of a bit to try (encode --rdo), separated by commas.",
            rich_help_panel=MODEL,
        ),
    ] = "0",
    effort: Annotated[
        str,
        typer.Option(
            help=f"Efforts to try (encode --effort), separated by commas: {', '.join(EFFORTS)}.", rich_help_panel=MODEL
        ),
    ] = DEFAULT_EFFORT,
    tune: Annotated[
        str,
        typer.Option(
            help=f"Tunes to try (encode --tune), separated by commas: {', '.join(TUNES)}.", rich_help_panel=MODEL
        ),
    ] = DEFAULT_TUNE,
    window_tokens: Annotated[
        str,
        typer.Option(
            help="Numbers of 1D tokens per window to try (encode --window-tokens), for One-DVA models.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    decoder: Annotated[
        str,
        typer.Option(
            help="Decoders to try, separated by commas: deterministic, ddim:STEPS, flow:STEPS or FILE:STEPS.",
            rich_help_panel=MODEL,
        ),
    ] = DETERMINISTIC,
    device: Device = "auto",
    against: Annotated[
        str,
        typer.Option(
            help="Encoders to compare with, separated by commas: x264, x265, av1.", rich_help_panel=_COMPARISON
        ),
    ] = "",
    measures: Annotated[
        str,
        typer.Option(
            help="What to measure; fd is the Fréchet distance in the features of a codec's encoder (FD-codec). PSNR, "
            "gradient energy and flicker are always measured.",
            rich_help_panel=_COMPARISON,
        ),
    ] = ",".join(_USUAL),
    protocol: Annotated[
        str | None,
        typer.Option(help="Prepare clips as a paper does: vidtok, onevae, cdt or onedva.", rich_help_panel=_COMPARISON),
    ] = None,
    i3d: Annotated[
        Path | None,
        typer.Option(help="The I3D network as TorchScript, to measure FVD.", rich_help_panel=_COMPARISON),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page to this folder.", rich_help_panel=OUTPUT)
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV with one row per result.", rich_help_panel=OUTPUT)
    ] = False,
    force: Force = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="How many clips to measure side by side; times and memory are then shared.",
            rich_help_panel=GENERAL,
        ),
    ] = 1,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps results for the next time.", rich_help_panel=GENERAL)
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither use nor keep earlier results.", rich_help_panel=GENERAL)
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Encode and decode clips, and print size, quality, time and memory; compare with x264, x265 and SVT-AV1."""
    counts, stickinesses = _numbers(tokens, "--tokens", int), _numbers(sticky, "--sticky", float)
    anchors, wanted, decoders = _names(against), _names(measures), _names(decoder)
    efforts, tunes = _names(effort), _names(tune)
    if not decoders:
        raise typer.BadParameter("--decoder: name one or more, such as deterministic,ddim:2")
    if not efforts or not tunes:
        raise typer.BadParameter("--effort and --tune: name one or more, such as fast,slow and psnr,lpips")
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv do not go together")
    if unknown := set(wanted) - set(_MEASURES):
        raise typer.BadParameter(f"--measures {min(unknown)}: choose from {', '.join(_MEASURES)}")
    if report:
        _claim_page(report, force)
    _require_packages()
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.evaluation.anchors import anchor_codecs
    from vtok_codec.evaluation.cache import ResultCache, default_folder
    from vtok_codec.evaluation.campaign import evaluate_all
    from vtok_codec.evaluation.codecs import model_codecs, model_name
    from vtok_codec.evaluation.protocols import open_groups
    from vtok_codec.evaluation.table import to_csv, to_json

    tokenizers = [load_tokenizer(find_weights(name), device) for name in dict.fromkeys(model or [DEFAULT_MODEL])]
    ignored = _ignored(given_options(command), tokenizers)
    jobs = min(jobs, len(clips))
    rdos, lengths = _numbers(rdo, "--rdo", float), _names(window_tokens) or [""]
    of_models = model_codecs(tokenizers, counts, stickinesses, decoders, rdos, efforts, tunes, lengths)
    codecs: list[CodecUnderTest] = [*of_models, *(codec for name in anchors for codec in anchor_codecs(name))]
    taken = _taken(wanted, i3d, tokenizers[0])
    kept = ResultCache(None if no_cache else cache or default_folder())
    with tempfile.TemporaryDirectory(prefix="vtok-eval-") as folder:
        groups, notes = open_groups(clips, protocol, Path(folder))
        notes += [] if i3d or wanted != list(_USUAL) else [_FVD_LEFT_OUT]
        notes += [] if jobs == 1 else [f"{jobs} clips were measured side by side, so that times and memory are shared"]
        notes += ignored
        used = [codec.tokenizer for codec in of_models]
        notes += [f"{model_name(each)} was left out: no --decoder is for it" for each in tokenizers if each not in used]
        for model_codec in of_models:
            model_codec.warm_up()
        evaluations = []
        for title, opened in groups.items():
            shown = None if as_json or as_csv else _Lines(title if len(groups) > 1 else None, opened, codecs, taken)
            on_result = shown.row if shown else _unseen if quiet else _progress
            evaluations.append(evaluate_all(title, opened, codecs, taken, Path(folder), kept, on_result, jobs))
            if shown:
                shown.summary(evaluations[-1])
        if kept.found:
            notes.append(f"{counted(kept.found, 'result')} came from earlier runs; --no-cache measures them anew")
        context = _context(codecs, notes)
        if as_json:
            print(json.dumps(to_json(evaluations, context), indent=1))
        if as_csv:
            print(to_csv(evaluations), end="")
        if report:
            _write_page(report, evaluations, codecs, context, force)
    _tell([] if quiet else notes, [failure for evaluation in evaluations for failure in evaluation.failures])


def _ignored(given: list[str], tokenizers: list[Tokenizer]) -> list[str]:
    """Return notes about the options that do not apply to some of the models.

    Raises:
        SettingError: An option applies to none of them.
    """
    from vtok_codec.evaluation.codecs import model_name

    options = [f"--{name}" for name in ("tokens", "sticky", "effort", "tune") if name in given]
    models = [model_name(tokenizer) for tokenizer in tokenizers if tokenizer.onedva]
    if options and len(models) == len(tokenizers):
        raise SettingError(
            f"{options[0]} does not apply to {models[0]}, whose files have one token per position and 1D tokens; use "
            "--window-tokens"
        )
    return [f"{option} does not apply to {model}" for option in options for model in models]


class _Lines:
    """Prints results as they come."""

    def __init__(
        self, title: str | None, clips: list[SourceClip], codecs: list[CodecUnderTest], taken: Measures
    ) -> None:
        from vtok_codec.evaluation.table import TextTable

        self._table = TextTable(clips, codecs, taken.names)
        print("\n".join([*([title] if title else []), self._table.heading()]))

    def row(self, result: ClipResult) -> None:
        print(self._table.row(result), flush=True)

    def summary(self, evaluation: Evaluation) -> None:
        from vtok_codec.evaluation.table import bd_lines, distance_lines

        means = evaluation.means() if len(evaluation.clips) > 1 else []
        for line in [*map(self._table.row, means), *bd_lines(evaluation), *distance_lines(evaluation)]:
            print(line)


def _unseen(result: ClipResult) -> None:
    """Print nothing."""


def _progress(result: ClipResult) -> None:
    """Tell on stderr that a result is there, where the figures themselves are printed at the end."""
    notice(f"{result.clip}: {result.codec}, {result.setting}: {result.bits_per_pixel:.4f} bits/pixel")


def _tell(notes: list[str], failures: list[str]) -> None:
    for note in notes:
        notice(note)
    for failure in failures:
        notice(f"not measured: {failure}")
    if failures:
        raise typer.Exit(InputError.exit_code)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part for part in text.split(",") if part))


def _numbers(text: str, option: str, kind: type[Number]) -> list[Number]:
    try:
        return list(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write numbers with commas, such as 1,2,4") from None


def _claim_page(folder: Path, force: bool) -> None:
    """Check before the work whether the page can be written after it."""
    require_absent(folder / _PAGE, force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise missing_package(missing[0], "eval")


def _taken(wanted: list[str], i3d: Path | None, tokenizer: Tokenizer) -> Measures:
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.evaluation.fd_codec import CodecFeatures
    from vtok_codec.evaluation.frechet import FeatureNetwork
    from vtok_codec.evaluation.fvd import I3D
    from vtok_codec.evaluation.measure import Measures
    from vtok_codec.metrics.lpips import load_lpips

    device = tokenizer.placement.device
    networks: list[FeatureNetwork] = [I3D(i3d, device)] if i3d else []
    if "fd" in wanted:
        # Always the same codec, so that figures can be compared.
        networks.append(CodecFeatures(load_tokenizer(find_weights(DEFAULT_MODEL), str(device))))
    return Measures(
        structural="ssim" in wanted,
        lpips=load_lpips().to(device) if "lpips" in wanted else None,
        vmaf="vmaf" in wanted,
        networks=tuple(networks),
    )


def _context(codecs: list[CodecUnderTest], notes: list[str]) -> dict[str, object]:
    """What somebody else needs in order to get the same figures."""
    from vtok_codec.evaluation.anchors import ffmpeg_version

    return {
        "vtok": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ffmpeg": ffmpeg_version(),
        "codecs": list(dict.fromkeys(codec.description for codec in codecs)),
        "notes": notes,
    }


def _write_page(
    folder: Path, evaluations: list[Evaluation], codecs: list[CodecUnderTest], context: dict[str, object], force: bool
) -> None:
    from vtok_codec.evaluation.anchors import ANCHORS
    from vtok_codec.evaluation.campaign import BD_ANCHOR
    from vtok_codec.evaluation.comparison import make_strips
    from vtok_codec.evaluation.report import html_report

    anchor = ANCHORS[BD_ANCHOR] if BD_ANCHOR in {codec.name for codec in codecs} else None
    with tempfile.TemporaryDirectory(prefix="vtok-eval-") as scratch:
        parts = [(each, make_strips(each, codecs, anchor, Path(scratch))) for each in evaluations]
    lines = [value if isinstance(value, list) else [f"{key}: {value}"] for key, value in context.items()]
    notes = [line for part in lines for line in part]
    with whole_output(str(folder / _PAGE), STANDARD_STREAM, force) as partial:
        partial.write_text(html_report(parts, notes), encoding="utf-8")
