"""`vtok train`: trains a model through one stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtok_codec.cli.errors import ends_gently, fail, notice, reports_errors
from vtok_codec.cli.options import GENERAL, MODEL, Device, Quiet, given_options
from vtok_codec.models.config import DenoiserConfig
from vtok_codec.models.presets import PRESETS, presets_of
from vtok_codec.models.reshaping import SHAPE_KEYS
from vtok_codec.registry import DEFAULT_MODEL
from vtok_codec.training.stages import STAGES

if TYPE_CHECKING:
    from vtok_codec.training.trainer import Trainer

_DENOISERS = {
    config.objective: name for name, config in reversed(presets_of(DenoiserConfig).items()) if "-nano-" in name
}
"""The preset of a diffusion decoder, by its objective."""
_WHILE_RESUMING = {"steps", "minutes", "resume", "settings", "cache_gib", "device", "quiet"}
"""The options that may be given for a run that goes on; it keeps everything else from its beginning."""
_STAGE_HELP = "The stage to train. " + "; ".join(f"{stage.name}: {stage.summary}" for stage in STAGES.values()) + "."
_DATA, _RUN = "Data", "Run"
_MOST_CACHE_GIB = 1 << 20
"""More than any machine has."""


@reports_errors
def train(
    context: typer.Context,
    stage: Annotated[str, typer.Option(help=_STAGE_HELP, rich_help_panel=MODEL)] = "continuous",
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Shape of the model: {', '.join(PRESETS)}. By default that of --from, or else {DEFAULT_MODEL}.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Change the shape: KEY=VALUE; may be repeated. Keys: {', '.join(SHAPE_KEYS)}. "
            "widths, encoder_blocks and decoder_blocks take one number per level, from the finest; fsq_levels one per "
            "digit; quantizer is fsq, vq:CHANNELS:SIZE, simvq:CHANNELS:SIZE or lfq:CHANNELS; blocks is 2d+1d, 3d or "
            "2d; resampling is shuffle, blend or learned-blend; causal and enhanced_first_frame are true or false.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Weights to start from: the folder of a run, a weights file, or a shipped model.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help=f"For stage diffusion, instead of --preset: {' or '.join(_DENOISERS)}.", rich_help_panel=MODEL
        ),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="The codec that the new model is for, at stages diffusion, generator, latent-flow and onedva (with "
            "-lengths and -noise). By default that of --from or of the corpus, if there is one, or else "
            f"{DEFAULT_MODEL}.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of training videos and images; may be repeated. For stage prior also of .vtk files of its "
            "codec, for stage generator a corpus.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="Folder of held-out clips to measure while training.", rich_help_panel=_DATA)
    ] = None,
    val_clips: Annotated[int, typer.Option(help="Number of held-out clips to use.", min=1, rich_help_panel=_DATA)] = 12,
    cache_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory in GiB for decoded clips; half of the machine's by default.",
            min=0,
            max=_MOST_CACHE_GIB,
            rich_help_panel=_DATA,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps after which the stage ends. Give this or --minutes.", min=1, rich_help_panel=_RUN),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Minutes after which the stage ends, with its set-up. The learning rate falls over the length of the "
            "stage.",
            min=0.01,
            rich_help_panel=_RUN,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", "--run-dir", help="Folder of the run; runs/STAGE by default.", rich_help_panel=_RUN),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, with the settings that it began with. Only its length, --set, "
            "--cache-gib and --device may change.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a setting of the stage: KEY=VALUE; may be repeated. See docs/reference/training.md.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.", min=0, rich_help_panel=_RUN)] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the networks with torch.compile.", rich_help_panel=GENERAL)
    ] = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a model through one stage. Log, pictures, checkpoint and weights go to the folder of the run."""
    if not steps and not minutes:
        raise typer.BadParameter("give --steps or --minutes")
    if not resume and not data:
        raise typer.BadParameter("give --data DIR")
    if objective and (preset or objective not in _DENOISERS or stage != "diffusion"):
        raise typer.BadParameter(f"--objective {' or '.join(_DENOISERS)} is for --stage diffusion, without a --preset")
    if stage == "diffusion" and not (objective or preset or resume):
        raise typer.BadParameter(f"--stage diffusion needs --objective {' or '.join(_DENOISERS)}")
    from vtok_codec.training.run import resume_training, run_training
    from vtok_codec.training.schedule import Budget
    from vtok_codec.training.settings import RunSettings, default_cache_gib

    overrides = _pairs("--set", settings)
    given = given_options(context)
    if resume and (kept := [name for name in given if name not in _WHILE_RESUMING]):
        raise typer.BadParameter(f"--resume goes on with the {kept[0]} that the run began with; leave it out")
    with ends_gently("ending after this step; a second signal ends at once, and saves nothing") as stop:
        budget = Budget(steps, minutes, stop.is_set)
        if resume:
            chosen_device = device if "device" in given else None
            trainer = resume_training(resume, budget, quiet, overrides, chosen_device, cache_gib)
        else:
            chosen = RunSettings(
                stage=stage,
                preset=_DENOISERS[objective] if objective else preset,
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
                shape=_pairs("--shape", shape),
            )
            trainer = run_training(chosen, run or Path("runs") / stage, budget, quiet)
    if stop.signal:
        folder = trainer.run_folder
        fail(f"ended by a signal after step {trainer.step}; go on with --resume {folder}", 128 + stop.signal)
    if not quiet and trainer.processes.leads:
        _tell_result(trainer)


def _tell_result(trainer: Trainer[Any]) -> None:
    """One line on how the run ended and what to do with its weights."""
    from vtok_codec.prior_files import RUN_PRIOR
    from vtok_codec.registry import RUN_WEIGHTS

    figures = trainer.last_figures.items()
    told = [f"{value:.2f} dB ({key})" for key, value in figures if key.startswith("psnr_")][:3]
    told += [f"{value:.3f} ({key})" for key, value in figures if key.startswith(("size_", "error_"))][:4]
    weights = trainer.run_folder / RUN_WEIGHTS
    use = f"vtok encode --model {weights} IN OUT.vtk"
    if STAGES[trainer.stage].kind == "diffusion":
        use = f"vtok decode --decoder {weights} IN.vtk OUT.mp4"
    if STAGES[trainer.stage].kind in ("generator", "latent_flow"):
        use = f"vtok continue --generator {weights} IN.vtk OUT.vtk"
    if STAGES[trainer.stage].kind == "prior":
        use = f"cp {weights} {RUN_PRIOR}, beside the weights of the codec"
    if trainer.skipped_steps:
        told.append(f"{trainer.skipped_steps} steps skipped, since their loss was not finite")
    notice(f"{trainer.step} steps; {', '.join(told) or 'no held-out clips'}; weights in {weights}; next: {use}")


def _pairs(option: str, texts: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Split KEY=VALUE texts."""
    pairs = []
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{option} {text}: write KEY=VALUE")
        pairs.append((key, value))
    return tuple(pairs)
