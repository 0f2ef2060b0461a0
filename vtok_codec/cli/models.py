"""`vtok models`: lists the weights that are here and the quality presets that use them, and fetches other weights."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vtok_codec.cli.errors import reports_errors
from vtok_codec.cli.jobs import run_each
from vtok_codec.cli.options import INPUT, AsJson, Quiet
from vtok_codec.codec.quality_presets import DEFAULT_QUALITY, QUALITIES
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.registry import (
    DEFAULT_MODEL,
    decoder_name,
    is_decoder,
    is_generator,
    is_onedva,
    missing_weights,
    shipped_weights,
)
from vtok_codec.text import counted, printable
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

models = typer.Typer(
    help="List the models that are here and the quality presets; fetch other models.", rich_markup_mode="markdown"
)


@models.callback(invoke_without_command=True, epilog="Example: `vtok models`")
@reports_errors
def list_models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models that are here, then the quality presets with what each gave on held-out clips."""
    if context.invoked_subcommand:
        return
    shipped = [weights for weights in shipped_weights() if weights.is_model]
    shipped.sort(key=lambda weights: weights.name != DEFAULT_MODEL)
    if as_json:
        qualities = {name: vars(quality) for name, quality in QUALITIES.items()}
        print(json.dumps({"models": list(map(_fields, shipped)), "qualities": qualities}, indent=1))
        return
    for weights in shipped:
        fields = _fields(weights)
        role = " (default)" if weights.name == DEFAULT_MODEL else ""
        if "decoder" in fields:
            role = f" (--decoder {fields['decoder']} for {_codec_name(weights)})"
        if "generates" in fields:
            role = f" (draws tokens of {fields['generates']}, for vtok continue)"
        if "adds_to" in fields:
            role = f" (1D tokens beside one token of {fields['adds_to']})"
        size = len(weights.data) / 1e6
        print(f"{weights.name}{role}: {size:.1f} MB, weights {weights.sha256[:12]}, {weights.path}")
    for name in missing_weights():
        print(f"{name}: not here; `vtok models fetch {name} --from PLACE` gets it")
    for name, quality in QUALITIES.items():
        default = " (default)" if name == DEFAULT_QUALITY else ""
        print(
            f"--quality {name}{default}: {quality.model}, "
            f"{counted(quality.tokens_per_position, 'token')} per position, "
            f"{quality.bits_per_pixel} bits per pixel at {quality.psnr_db} dB"
        )


@models.command(epilog="Example: `vtok models fetch onevae-nano-4x16x16 --from weights/`")
@reports_errors
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of models, or `all`.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="A folder, an http(s) URL, or hf://ORGANISATION/REPOSITORY; by default what the environment variable "
            "VTOK_WEIGHTS_SOURCE says.",
            rich_help_panel=INPUT,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch the weights of models that are not here. They are checked against the hashes that this version knows."""
    from vtok_codec.fetching import fetch_weights

    if "all" in names and len(names) > 1:
        raise typer.BadParameter("name models, or all, but not both")

    def fetched(name: str) -> None:
        place = fetch_weights(name, source)
        if not quiet:
            print(f"{name}: {printable(str(place))}")

    wanted = missing_weights() if names == ["all"] else names
    if not wanted and not quiet:
        print("all models are installed")
    if wanted:
        run_each(wanted, fetched)


def _codec_name(decoder: WeightsFile) -> str:
    """Return the name of the codec that a decoder is for, or the hash of its weights if it is not here."""
    wanted = decoder.metadata.get(CODEC_SHA256, "unknown")
    codecs = (each for each in shipped_weights() if each.is_model and isinstance(each.config, OneVAEConfig))
    return next((each.name for each in codecs if wanted in each.reads), wanted[:12])


def _fields(weights: WeightsFile) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": weights.name,
        "path": str(weights.path),
        "bytes": len(weights.data),
        "sha256": weights.sha256,
    }
    codec = {"codec_sha256": weights.metadata.get(CODEC_SHA256, "unknown")}
    if is_decoder(weights):
        fields |= {"decoder": decoder_name(weights), **codec}
    if is_generator(weights):
        fields |= {"generates": weights.metadata.get("codec", "unknown"), **codec}
    if is_onedva(weights):
        fields |= {"adds_to": weights.metadata.get("codec", "unknown"), **codec}
    return fields
