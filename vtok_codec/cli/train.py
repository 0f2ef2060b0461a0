"""`vtok train`: trains a model through one stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.common import Device, Quiet, reports_errors
from vtok_codec.registry import DEFAULT_MODEL

_STAGES = "continuous, discrete, unified, compress, rate, decoder, adversarial, diffusion"
_DENOISERS = {"ddim": "cdt-nano-4x8x8", "flow": "flow-nano-4x8x8"}
"""Preset of a diffusion decoder, by its objective."""
_WHILE_RESUMING = {"steps", "minutes", "resume", "settings", "cache_gib", "device", "quiet"}
"""What may be said of a run that goes on; all else it has from its beginning."""


@reports_errors
def train(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help=f"Stage of the training tree: {_STAGES}.")] = "continuous",
    preset: Annotated[str | None, typer.Option(help=f"Shape of the model; {DEFAULT_MODEL} if not given.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="Of stage diffusion: ddim or flow, in place of a --preset.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help=f"Of stage diffusion: the weights to decode for; {DEFAULT_MODEL} if not given.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Weights to start from: a run's folder, a file, or a shipped model.")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option(help="Folder of videos and images; may be repeated.")] = None,
    val: Annotated[Path | None, typer.Option(help="Folder of held-out clips to watch.")] = None,
    val_clips: Annotated[int, typer.Option(help="How many of them.", min=1)] = 12,
    steps: Annotated[int | None, typer.Option(help="Steps of the whole stage.", min=1)] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of the whole stage.", min=0.01)] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/STAGE.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the stage: key=value.")] = None,
    seed: Annotated[int, typer.Option(help="Of all random choices.", min=0)] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile the networks: about 12 % faster; see README.")
    ] = False,
    cache_gib: Annotated[
        float | None, typer.Option(help="Memory for decoded clips; by default half of it.", min=0)
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a model through one stage; log, pictures, checkpoint and EMA weights go to the run's folder."""
    if not steps and not minutes:
        raise typer.BadParameter("give --steps or --minutes")
    if not resume and not data:
        raise typer.BadParameter("give --data DIR")
    if objective and (preset or objective not in _DENOISERS or stage != "diffusion"):
        raise typer.BadParameter(f"--objective {' or '.join(_DENOISERS)} is for --stage diffusion, without a --preset")
    if stage == "diffusion" and not (objective or preset or resume):
        raise typer.BadParameter(f"--stage diffusion needs --objective {' or '.join(_DENOISERS)}")
    from vtok_codec.training.run import RunSettings, default_cache_gib, resume_training, run_training
    from vtok_codec.training.trainer import Budget

    budget = Budget(steps, minutes)
    overrides = tuple(map(_key_value, settings or ()))
    if resume:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if kept := [name for name in given if name not in _WHILE_RESUMING]:
            raise typer.BadParameter(f"--resume goes on with the {kept[0]} that the run began with; leave it out")
        resume_training(resume, budget, quiet, overrides, device if "device" in given else None, cache_gib)
        return
    chosen = RunSettings(
        stage=stage,
        preset=_DENOISERS[objective] if objective else preset or DEFAULT_MODEL,
        start=start,
        data=tuple(map(str, data or ())),
        validation=str(val) if val else None,
        validation_clips=val_clips,
        seed=seed,
        device=device,
        cache_gib=default_cache_gib() if cache_gib is None else cache_gib,
        compiled=compiled,
        overrides=overrides,
        codec=codec,
    )
    run_training(chosen, run or Path("runs") / stage, budget, quiet)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"--set {text}: write key=value")
    return key, value
