"""`vtok eval`: what a model makes of clips, measured on true files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtok_codec.cli.common import Device, Quiet, notice, reports_errors
from vtok_codec.registry import DEFAULT_MODEL

if TYPE_CHECKING:
    from vtok_codec.evaluation.measure import ClipResult


@reports_errors
def evaluate(
    clips: Annotated[list[Path], typer.Argument(help="Videos or images.")],
    tokens: Annotated[str, typer.Option("--tokens", "-t", help="Tokens a position, one run each: 1,2,4.")] = "1,2,4",
    model: Annotated[str, typer.Option("--model", "-m", help="A shipped model, or a weights file.")] = DEFAULT_MODEL,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a clip and operating point.")] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Encode and decode clips, and print size and PSNR of the decoded 8-bit frames."""
    counts = _counts(tokens)
    from vtok_codec.codec.tokenizer import load_tokenizer
    from vtok_codec.evaluation.measure import evaluate_clip, mean_result
    from vtok_codec.registry import find_weights

    tokenizer = load_tokenizer(find_weights(model), device)
    if not as_json:
        print(_HEADING)
    for count in counts:
        results = []
        for clip in clips:
            results.append(evaluate_clip(clip, tokenizer, count))
            if as_json:
                print(json.dumps(asdict(results[-1])), flush=True)
            elif not quiet:
                print(_row(results[-1]), flush=True)
        if len(results) > 1 and not as_json:
            print(_row(mean_result(results)), flush=True)
    if not quiet:
        notice(f"weights {tokenizer.id.weights_sha256[:12]}, {tokenizer.placement.device} {tokenizer.placement.dtype}")


_HEADING = f"{'clip':48} tokens frames  bits/px   kbit/s  of 16 bit  PSNR dB  enc f/s  dec f/s"


def _row(result: ClipResult) -> str:
    return (
        f"{result.clip[:48]:48} {result.tokens:6} {result.frames:6} {result.bits_per_pixel:8.4f} {result.kbit_s:8.1f} "
        f"{result.raw_ratio:10.3f} {result.psnr_db:8.2f} {result.frames / result.encode_s:8.1f} "
        f"{result.frames / result.decode_s:8.1f}"
    )


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--tokens {text}: write numbers with commas, such as 1,2,4") from None
