"""Sets up a training run from its settings, fresh or resumed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vtok_codec.errors import ModelError, TrainingError
from vtok_codec.evaluation.lpips import load_lpips
from vtok_codec.models.complexity import complexity
from vtok_codec.models.convert import convert
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.weights import build_model
from vtok_codec.registry import find_weights
from vtok_codec.training.crops import CropSampler
from vtok_codec.training.klt import warm_start
from vtok_codec.training.library import ClipLibrary
from vtok_codec.training.objective import Objective
from vtok_codec.training.processes import join_processes, leave_processes
from vtok_codec.training.stages import STAGES, Stage
from vtok_codec.training.trainer import CHECKPOINT, WEIGHTS, Budget, Cadence, Trainer
from vtok_codec.training.validation import validation_clips

_SETTINGS = "run.json"


@dataclass(frozen=True)
class RunSettings:
    """All that makes a run what it is, apart from its budget. It is kept in the run's folder."""

    stage: str
    preset: str
    start: str | None
    """Weights to start from: a shipped name, a file, or the folder of a run; None for the KLT."""
    data: tuple[str, ...]
    validation: str | None
    validation_clips: int
    seed: int
    device: str
    cache_gib: float
    compiled: bool
    overrides: tuple[tuple[str, str], ...]
    """Fields of the stage that are set otherwise than it has them."""


def run_training(settings: RunSettings, folder: Path, budget: Budget, quiet: bool) -> None:
    """Start a run in a new folder, and train until the budget is spent.

    Raises:
        TrainingError, ModelError, InputError: the settings do not make a run.
    """
    if (folder / CHECKPOINT).exists():
        raise TrainingError(f"{folder} holds a run already; use --resume {folder}, or another --run")
    trainer = _trainer(settings, folder, resumed=False, quiet=quiet)
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.processes.leads:
        partial = folder / f"{_SETTINGS}.partial"
        partial.write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / _SETTINGS)
    trainer.train(budget, quiet)
    leave_processes()


def resume_training(folder: Path, budget: Budget, quiet: bool) -> None:
    """Go on with the run in `folder`; the budget counts from its very start.

    Raises:
        TrainingError: there is no run, or it cannot be read.
    """
    try:
        fields = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainingError(f"{folder} holds no run that can be resumed: {error}") from error
    fields["data"] = tuple(fields["data"])
    fields["overrides"] = tuple((key, value) for key, value in fields["overrides"])
    trainer = _trainer(RunSettings(**fields), folder, resumed=True, quiet=quiet)
    trainer.restore(state)
    trainer.train(budget, quiet)
    leave_processes()


def _trainer(settings: RunSettings, folder: Path, resumed: bool, quiet: bool) -> Trainer:
    if settings.stage not in STAGES:
        raise TrainingError(f"no stage {settings.stage!r}; use one of {', '.join(STAGES)}")
    stage = override(STAGES[settings.stage], settings.overrides)
    device = torch.device(_device_name(settings.device))
    watched = Path(settings.validation) if settings.validation and os.environ.get("RANK", "0") == "0" else None
    # Before joining: an error of one process after it is an error of all.
    clips = validation_clips(watched, settings.validation_clips) if watched else []
    processes = join_processes(device)
    quiet = quiet or not processes.leads
    # The processes of one machine share its memory.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    library = ClipLibrary(map(Path, settings.data), int(settings.cache_gib * 2**30) // sharing)
    sampler = CropSampler(library, stage.augmentation, settings.seed)
    torch.manual_seed(settings.seed)
    model = _initial_model(settings, stage, sampler, resumed, quiet)
    if not quiet:
        print(f"{settings.preset}: {complexity(model)}")
    lpips = load_lpips() if stage.lpips_weight else None
    objective = Objective(stage, model.config, lpips, processes)
    return Trainer(
        model,
        settings.preset,
        stage,
        objective,
        sampler,
        clips,
        folder,
        settings.seed,
        device,
        Cadence(),
        settings.compiled,
        processes,
    )


def _initial_model(settings: RunSettings, stage: Stage, sampler: CropSampler, resumed: bool, quiet: bool) -> OneVAE:
    if settings.preset not in PRESETS:
        raise ModelError(f"no preset {settings.preset!r}; use one of {', '.join(PRESETS)}")
    model = OneVAE(PRESETS[settings.preset])
    if resumed:
        # The checkpoint holds every weight, and the size of each group's steps.
        return model
    new_linear_paths = True
    if settings.start:
        path = Path(settings.start)
        weights = find_weights(path / WEIGHTS if path.is_dir() else settings.start)
        if weights.metadata.get("preset") == settings.preset:
            return build_model(settings.preset, weights.data, str(weights.path))
        source = build_model(weights.metadata.get("preset", ""), weights.data, str(weights.path))
        conversion = convert(source.state_dict(), source.config, model)
        new_linear_paths = "encoder.linear.weight" in conversion.new
        if not quiet:
            print(f"from {weights.path}: {conversion}")
    elif stage.starts_from != "klt":
        raise TrainingError(f"stage {stage.name} goes on from stage {stage.starts_from}: name its run with --from")
    if new_linear_paths:
        start = warm_start(model, sampler)
        if not quiet:
            print(f"warm start from the KLT: {start.psnr_db:.2f} dB on training blocks, gain {start.gain}")
    return model


def _device_name(device: str) -> str:
    """With several processes on a machine, each its own GPU."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def override(stage: Stage, overrides: tuple[tuple[str, str], ...]) -> Stage:
    """The stage with some of its numbers, lists of numbers (`0.2,0.1`) and names set otherwise.

    Raises:
        TrainingError: a field does not exist, is a structure, or the value is none of its kind.
    """
    for key, text in overrides:
        current: Any = getattr(stage, key, None)
        listed = isinstance(current, tuple) and all(isinstance(part, float | str) for part in current)
        if not (listed or type(current) in (int, float, str)) or key in ("name", "starts_from"):
            raise TrainingError(f"--set {key}: stage {stage.name} has no setting of that name")
        try:
            value = tuple(map(_kind_of_parts(key), text.split(","))) if listed else type(current)(text)
        except ValueError:
            raise TrainingError(f"--set {key}={text}: not a number") from None
        if key == "betas" and len(value) != len(current):
            raise TrainingError(f"--set {key}={text}: give {len(current)} numbers")
        changes: dict[str, Any] = {key: value}
        stage = dataclasses.replace(stage, **changes)
    return stage


def _kind_of_parts(key: str) -> type[str] | type[float]:
    return str if key == "trains" else float


def default_cache_gib() -> float:
    """Half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**31
