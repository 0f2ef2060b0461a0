"""`vtok eval`: what models and the usual encoders make of clips, measured on true files by one measure."""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.common import (
    STANDARD_STREAM,
    Device,
    Force,
    Quiet,
    notice,
    reports_errors,
    require_absent,
    whole_output,
)
from vtok_codec.errors import InputError, VtokError
from vtok_codec.registry import DEFAULT_MODEL, find_weights

if TYPE_CHECKING:
    from vtok_codec.codec.tokenizer import Tokenizer
    from vtok_codec.evaluation.campaign import Evaluation
    from vtok_codec.evaluation.codecs import Codec
    from vtok_codec.evaluation.measure import Clip, ClipResult, Measures

_FVD_LEFT_OUT = "FVD was left out: it needs the I3D network, which --i3d names"
_PAGE = "index.html"
_PACKAGES = ("imageio_ffmpeg", "matplotlib", "pytorch_msssim", "scipy")
_MEASURES = ("psnr", "ssim", "lpips", "vmaf")


@reports_errors
def evaluate(
    clips: Annotated[list[Path], typer.Argument(help="Videos or images.")],
    tokens: Annotated[str, typer.Option("--tokens", "-t", help="Tokens a position, one run each.")] = "1,2,4",
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="A shipped model or a weights file.")] = None,
    against: Annotated[str, typer.Option(help="Encoders to compare with: any of x264,x265,av1.")] = "",
    measures: Annotated[str, typer.Option(help="What to measure; psnr and flicker always are.")] = ",".join(_MEASURES),
    protocol: Annotated[str | None, typer.Option(help="Prepare clips as a paper does: vidtok, onevae, cdt.")] = None,
    i3d: Annotated[Path | None, typer.Option(help="I3D as TorchScript, for FVD.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page into this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object with all figures.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one row a result as CSV.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of results measured before.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure everything anew, and keep nothing.")] = False,
    force: Force = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Encode and decode clips; print size, quality, time and memory, and what x264, x265 and SVT-AV1 make of them."""
    counts, anchors, wanted = _numbers(tokens), _names(against), _names(measures)
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv do not go together")
    if unknown := set(wanted) - set(_MEASURES):
        raise typer.BadParameter(f"--measures {min(unknown)}: choose from {', '.join(_MEASURES)}")
    if report:
        require_absent(report / _PAGE, force)
    _require_packages()
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.evaluation.cache import ResultCache, default_folder
    from vtok_codec.evaluation.campaign import evaluate_all
    from vtok_codec.evaluation.codecs import VtokCodec, anchor_codecs
    from vtok_codec.evaluation.table import heading, row, to_csv, to_json

    tokenizers = [load_tokenizer(find_weights(name), device) for name in model or [DEFAULT_MODEL]]
    codecs: list[Codec] = [VtokCodec(tokenizer, count) for tokenizer in tokenizers for count in counts]
    for name in anchors:
        codecs += anchor_codecs(name)
    taken = _taken(wanted, i3d, tokenizers[0])
    text = not (as_json or as_csv)
    with tempfile.TemporaryDirectory(prefix="vtok-eval-") as name:
        folder = Path(name)
        opened = _open_clips(clips, protocol, folder)
        if text:
            print(heading(taken.names))

        def show(result: ClipResult) -> None:
            if text and not quiet:
                print(row(result, taken.names), flush=True)

        kept = ResultCache(None if no_cache else cache or default_folder())
        evaluation = evaluate_all(opened, codecs, taken, folder, kept, show)
        if as_json:
            print(json.dumps(to_json(evaluation), indent=1))
        elif as_csv:
            print(to_csv(evaluation), end="")
        else:
            _print_summary(evaluation)
        notes = list(dict.fromkeys(codec.description for codec in codecs))
        notes += [f"clips prepared as --protocol {protocol} has it"] if protocol else []
        notes += [] if i3d else [_FVD_LEFT_OUT]
        if report:
            _write_report(report, evaluation, codecs, notes, force)
    for note in [] if quiet else notes:
        notice(note)


def _names(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--tokens {text}: write numbers with commas, such as 1,2,4") from None


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise VtokError(f"eval needs the package {missing[0]}: pip install 'vtok-codec[eval]'")


def _taken(wanted: list[str], i3d: Path | None, tokenizer: Tokenizer) -> Measures:
    from vtok_codec.evaluation.fvd import I3D
    from vtok_codec.evaluation.lpips import load_lpips
    from vtok_codec.evaluation.measure import Measures

    device = tokenizer.placement.device
    return Measures(
        structural="ssim" in wanted,
        lpips=load_lpips().to(device) if "lpips" in wanted else None,
        vmaf="vmaf" in wanted,
        i3d=I3D(i3d, device) if i3d else None,
    )


def _open_clips(paths: list[Path], protocol: str | None, folder: Path) -> list[Clip]:
    from vtok_codec.evaluation.measure import open_clip
    from vtok_codec.evaluation.protocols import PROTOCOLS, prepare_clip

    if protocol is None:
        clips = [open_clip(path) for path in paths]
    elif protocol not in PROTOCOLS:
        raise InputError(f"--protocol {protocol}: choose from {', '.join(PROTOCOLS)}")
    else:
        chosen = PROTOCOLS[protocol]
        clips = [
            open_clip(prepare_clip(path, chosen, side, folder), f"{path.name} {side}x{side}")
            for side in chosen.sides
            for path in paths
        ]
    names = [clip.name for clip in clips]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two clips have the name {min(doubled)}; rename one, so that the figures can be told apart")
    return clips


def _print_summary(evaluation: Evaluation) -> None:
    from vtok_codec.evaluation.table import bd_lines, fvd_lines, row

    if len(evaluation.clips) > 1:
        for mean in evaluation.means():
            print(row(mean, evaluation.measures))
    for line in [*bd_lines(evaluation), *fvd_lines(evaluation)]:
        print(line)


def _write_report(target: Path, evaluation: Evaluation, codecs: list[Codec], notes: list[str], force: bool) -> None:
    from vtok_codec.evaluation.codecs import ANCHORS, AnchorCodec
    from vtok_codec.evaluation.comparison import make_strips
    from vtok_codec.evaluation.report import html_report

    compared = any(isinstance(codec, AnchorCodec) and codec.name == "x264" for codec in codecs)
    with tempfile.TemporaryDirectory(prefix="vtok-eval-") as folder:
        strips = make_strips(evaluation, codecs, ANCHORS["x264"] if compared else None, Path(folder))
    target.mkdir(parents=True, exist_ok=True)
    with whole_output(str(target / _PAGE), STANDARD_STREAM, force) as partial:
        partial.write_text(html_report(evaluation, strips, notes), encoding="utf-8")
