"""Sets up a training run from its settings, fresh or resumed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from vtok_codec.codec.tokenizer import choose_placement
from vtok_codec.errors import ModelError, SettingError, TrainingError
from vtok_codec.evaluation.lpips import load_lpips
from vtok_codec.models.complexity import complexity
from vtok_codec.models.convert import convert
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE, OneVAEConfig
from vtok_codec.models.presets import DENOISERS, PRESETS
from vtok_codec.models.weights import build_denoiser, build_model
from vtok_codec.registry import DEFAULT_MODEL, find_weights, is_shipped
from vtok_codec.training.crops import CropSampler, CropShape
from vtok_codec.training.denoising import DenoisingObjective
from vtok_codec.training.klt import warm_start
from vtok_codec.training.library import ClipLibrary
from vtok_codec.training.objective import Objective
from vtok_codec.training.processes import join_processes, leave_processes
from vtok_codec.training.resident import batches_for
from vtok_codec.training.stages import DENOISING_SETTINGS, DIFFUSION, SHARED_SETTINGS, STAGES, Phase, Stage
from vtok_codec.training.subjects import CodecSubject, DenoiserSubject, Subject
from vtok_codec.training.trainer import CHECKPOINT, LOG, STRIP, Budget, Cadence, Trainer
from vtok_codec.training.validation import validation_clips

_SETTINGS = "run.json"
_CROP_GRID = 16
"""Crops are whole latents of every preset."""


@dataclass(frozen=True)
class RunSettings:
    """All that makes a run what it is, apart from its budget. It is kept in the run's folder."""

    stage: str
    preset: str
    start: str | None
    """Weights to start from: a shipped name, a file, or the folder of a run; None for the KLT, and for a diffusion
    decoder that adds nothing to its codec's own."""
    data: tuple[str, ...]
    validation: str | None
    validation_clips: int
    seed: int
    device: str
    cache_gib: float
    compiled: bool
    overrides: tuple[tuple[str, str], ...]
    """Fields of the stage that are set otherwise than it has them."""
    codec: str | None = None
    """The weights that a diffusion decoder is for: a shipped name, a file, or the folder of a run."""
    augmentation: tuple[tuple[str, float], ...] = ()
    """How crops are varied, as it was when the run began; `run_training` fills it in."""
    reads: tuple[str, ...] = ()
    """Hashes of other weights whose tokens the run's own keep; `run_training` fills them in."""


def run_training(settings: RunSettings, folder: Path, budget: Budget, quiet: bool) -> None:
    """Start a run in a new folder, and train until the budget is spent.

    Raises:
        SettingError, TrainingError, ModelError, InputError: the settings do not make a run.
    """
    if (folder / CHECKPOINT).exists():
        raise TrainingError(f"{folder} holds a run already; resume it, or name another folder")
    if not _can_hold_files(folder):
        raise TrainingError(f"{folder} cannot hold a run; name a folder that can be written to")
    stage, _ = _stage_and_codec(settings)
    varied = tuple(dataclasses.asdict(stage.augmentation).items())
    settings = dataclasses.replace(settings, reads=_kept_tokens(settings), augmentation=varied)
    trainer = _trainer(settings, folder, resumed=False, quiet=quiet)
    _keep(_with_whole_paths(settings), folder, trainer)
    if trainer.processes.leads:
        # Of a run that ended before its first checkpoint.
        for left in (folder / LOG, *folder.glob(STRIP.format("*"))):
            left.unlink(missing_ok=True)
    trainer.train(budget, quiet)
    leave_processes()


def resume_training(
    folder: Path,
    budget: Budget,
    quiet: bool,
    overrides: tuple[tuple[str, str], ...] = (),
    device: str | None = None,
    cache_gib: float | None = None,
) -> None:
    """Go on with the run in `folder`; the budget counts from its very start.

    Fields of the stage may be set otherwise from now on, and it may go on on another device; None leaves it.

    Raises:
        TrainingError: there is no run, or it cannot be read.
        SettingError: see `override`.
    """
    try:
        fields = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        fields |= {key: tuple(fields.get(key, ())) for key in ("data", "reads")}
        fields["augmentation"] = tuple((key, value) for key, value in fields.get("augmentation", ()))
        fields["overrides"] = (*((key, value) for key, value in fields["overrides"]), *overrides)
        settings = RunSettings(**fields)
    except (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, UnpicklingError) as error:
        raise TrainingError(f"{folder} holds no run that can be resumed: {error}") from error
    settings = dataclasses.replace(
        settings,
        device=device or settings.device,
        cache_gib=settings.cache_gib if cache_gib is None else cache_gib,
    )
    trainer = _trainer(settings, folder, resumed=True, quiet=quiet)
    trainer.restore(state)
    _keep(settings, folder, trainer)
    trainer.train(budget, quiet)
    leave_processes()


def _leads() -> bool:
    """Whether this process is the first of those that train together, or the only one. Known before they join."""
    return os.environ.get("RANK", "0") == "0"


def _can_hold_files(folder: Path) -> bool:
    """Whether it is a folder that can be written to, or can be made one. Asked before long work begins, not after."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _keep(settings: RunSettings, folder: Path, trainer: Trainer[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.processes.leads:
        partial = folder / f"{_SETTINGS}.partial"
        partial.write_text(json.dumps(dataclasses.asdict(settings), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, folder / _SETTINGS)


def _with_whole_paths(settings: RunSettings) -> RunSettings:
    """The settings with paths that mean the same from any folder."""

    def whole(name: str | None) -> str | None:
        return str(Path(name).resolve()) if name and not is_shipped(name) and Path(name).exists() else name

    return dataclasses.replace(
        settings,
        start=whole(settings.start),
        codec=whole(settings.codec),
        data=tuple(str(Path(folder).resolve()) for folder in settings.data),
        validation=whole(settings.validation),
    )


def _trainer(settings: RunSettings, folder: Path, resumed: bool, quiet: bool) -> Trainer[Any]:
    stage, codec_config = _stage_and_codec(settings)
    device = torch.device(_device_name(settings.device))
    watched = Path(settings.validation) if settings.validation and _leads() else None
    # Before joining: an error of one process after it is an error of all.
    clips = validation_clips(watched, settings.validation_clips) if watched else []
    processes = join_processes(device)
    quiet = quiet or not processes.leads
    # The processes of one machine share its memory.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    library = ClipLibrary(map(Path, settings.data), int(settings.cache_gib * 2**30) // sharing)
    sampler = CropSampler(library, stage.augmentation, settings.seed, codec_config.stride[0])
    # Before anything else reads clips: they may all be decoded at once here.
    batches = batches_for(device, sampler, processes.rank)
    torch.manual_seed(settings.seed)
    model: nn.Module
    subject: Subject[Any]
    objective: Objective | DenoisingObjective
    if settings.preset in DENOISERS:
        model, codec, codec_is = _initial_denoiser(settings, resumed, quiet)
        lpips = load_lpips() if stage.lpips_weight else None
        objective = DenoisingObjective(stage, codec, lpips, processes)
        subject = DenoiserSubject(settings.preset, clips, codec, codec_is, lpips)
    else:
        model = _initial_model(settings, stage, sampler, resumed, quiet)
        objective = Objective(stage, model.config, load_lpips() if stage.lpips_weight else None, processes)
        subject = CodecSubject(settings.preset, clips, objective.prior, settings.reads, objective.lpips)
    if not quiet:
        print(f"{settings.preset}: {complexity(model)}")
    return Trainer(
        model,
        subject,
        stage,
        objective,
        batches,
        folder,
        settings.seed,
        device,
        Cadence(),
        settings.compiled,
        processes,
    )


def _stage_and_codec(settings: RunSettings) -> tuple[Stage, OneVAEConfig]:
    """The stage as it is set, and the shape of the model that codes, or whose tokens are decoded."""
    if settings.stage not in STAGES:
        raise SettingError(f"no stage {settings.stage!r}; use one of {', '.join(STAGES)}")
    denoises = settings.stage == DIFFUSION
    names = DENOISERS if denoises else PRESETS
    if settings.preset not in names:
        raise SettingError(f"no preset {settings.preset!r} for stage {settings.stage}; use one of {', '.join(names)}")
    if settings.codec and not denoises:
        raise SettingError(f"a codec to decode for is of stage {DIFFUSION}; stage {settings.stage} trains one")
    stage = override(STAGES[settings.stage], settings.overrides)
    stage = dataclasses.replace(
        stage, augmentation=dataclasses.replace(stage.augmentation, **dict(settings.augmentation))
    )
    config = DENOISERS[settings.preset].codec if denoises else PRESETS[settings.preset]
    if config.enhanced_first_frame:
        # Its own way through the networks is only ever taken at the start of a GOP.
        stage = dataclasses.replace(stage, augmentation=dataclasses.replace(stage.augmentation, gop_start=1.0))
    return stage, config


def _kept_tokens(settings: RunSettings) -> tuple[str, ...]:
    """The weights whose files a decoder can read that is trained alone: its start's, and all that those read."""
    stage, _ = _stage_and_codec(settings)
    if stage.trains != ("decoder",) or not settings.start:
        return ()
    start = find_weights(settings.start)
    return tuple(sorted(start.reads)) if start.metadata.get("preset") == settings.preset else ()


def _initial_denoiser(settings: RunSettings, resumed: bool, quiet: bool) -> tuple[Denoiser, OneVAE, dict[str, str]]:
    """The denoiser, the codec it is for, and what that one is called."""
    config = DENOISERS[settings.preset]
    weights = find_weights(settings.codec or DEFAULT_MODEL)
    codec = build_model(weights.metadata.get("preset", ""), weights.data, str(weights.path))
    if codec.config != config.codec:
        raise ModelError(f"{settings.preset} is for another model than {weights.path}; name the codec that it is for")
    model = Denoiser(config)
    model.start_from(codec.decoder)
    if settings.start and not resumed:
        given = find_weights(settings.start)
        other = build_denoiser(given.metadata.get("preset", ""), given.data, str(given.path))
        # Where there is nothing but noise the paths are one, so that either can go on from the other.
        if dataclasses.replace(other.config, objective=config.objective) != config:
            raise ModelError(f"{given.path} has not the shape of {settings.preset}")
        model.load_state_dict(other.state_dict())
    if not quiet:
        print(f"a decoder for {weights.name}, weights {weights.sha256[:12]}")
    about = {"codec": weights.name, "codec_sha256": weights.sha256}
    return model, codec.to(memory_format=torch.channels_last), about  # type: ignore[call-overload]


def _initial_model(settings: RunSettings, stage: Stage, sampler: CropSampler, resumed: bool, quiet: bool) -> OneVAE:
    model = OneVAE(PRESETS[settings.preset])
    if resumed:
        # The checkpoint holds every weight, and the size of each group's steps.
        return model
    kept: tuple[str, ...] = ()
    if settings.start:
        weights = find_weights(settings.start)
        if weights.metadata.get("preset") == settings.preset:
            return build_model(settings.preset, weights.data, str(weights.path))
        source = build_model(weights.metadata.get("preset", ""), weights.data, str(weights.path))
        conversion = convert(source.state_dict(), source.config, model)
        kept = conversion.kept
        if not quiet:
            print(f"from {weights.path}: {conversion}")
    elif stage.starts_from != "klt":
        raise TrainingError(f"stage {stage.name} goes on from stage {stage.starts_from}: name a run to start from")
    start = warm_start(model, sampler, kept=kept)
    if start and not quiet:
        print(f"warm start from the KLT: {start.psnr_db:.2f} dB on training blocks, gain {start.gain}")
    return model


def _device_name(device: str) -> str:
    """With several processes on a machine, each its own GPU."""
    name = choose_placement(device).device.type
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name


def override(stage: Stage, overrides: tuple[tuple[str, str], ...]) -> Stage:
    """The stage with some of its numbers, lists of numbers (`0.2,0.1`), names and crops (`phases`) set otherwise.

    Raises:
        SettingError: a field does not exist, is a structure, or the value is none of its kind.
    """
    for key, text in overrides:
        if key == "phases":
            stage = dataclasses.replace(stage, phases=_phases(text))
            continue
        current: Any = getattr(stage, key, None)
        listed = isinstance(current, tuple) and all(isinstance(part, float | str) for part in current)
        unread = (
            DENOISING_SETTINGS if stage.name != DIFFUSION else vars(stage).keys() - DENOISING_SETTINGS - SHARED_SETTINGS
        )
        if not (listed or type(current) in (int, float, str)) or key in ("name", "starts_from") or key in unread:
            raise SettingError(f"setting {key}: stage {stage.name} has no setting of that name")
        try:
            value = tuple(map(_kind_of_parts(key), text.split(","))) if listed else type(current)(text)
        except ValueError:
            raise SettingError(f"setting {key}={text}: not a number") from None
        if key == "betas" and len(value) != len(current):
            raise SettingError(f"setting {key}={text}: give {len(current)} numbers")
        changes: dict[str, Any] = {key: value}
        stage = dataclasses.replace(stage, **changes)
    return stage


def _phases(text: str) -> tuple[Phase, ...]:
    """`96x16x96,24x32x128@0.7`: batches of 96 crops of 16 frames of 96×96, from 70 % of the stage on of 24 of 32.

    Raises:
        SettingError: that is no such list.
    """
    try:
        phases = []
        for part in text.split(","):
            sizes, _, start = part.partition("@")
            batch, frames, size = map(int, sizes.split("x"))
            phases.append(Phase(float(start or 0), CropShape(batch, frames, size)))
    except ValueError:
        raise SettingError(f"setting phases={text}: give BATCHxFRAMESxSIZE, and @START for all but the first") from None
    starts = [phase.start for phase in phases]
    shapes = [phase.shape for phase in phases]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
        raise SettingError(f"setting phases={text}: the first starts at 0, each later one after it and before 1")
    sides = [side for shape in shapes for side in (shape.frames, shape.size)]
    if any(side < _CROP_GRID or side % _CROP_GRID for side in sides) or any(shape.batch < 1 for shape in shapes):
        raise SettingError(
            f"setting phases={text}: give at least one crop, its frames and size multiples of {_CROP_GRID}"
        )
    return tuple(phases)


def _kind_of_parts(key: str) -> type[str] | type[float]:
    return str if key == "trains" else float


def default_cache_gib() -> float:
    """Half of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**31
