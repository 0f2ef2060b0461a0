"""Starts and resumes training runs."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vtok_codec.codec.tokenizer import choose_placement
from vtok_codec.errors import ModelError, SettingError, TrainingError
from vtok_codec.files import exclusive, write_whole
from vtok_codec.metrics.complexity import complexity
from vtok_codec.models.config import ModelConfig, OneVAEConfig, config_from_json, config_to_json
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.weights import parse_tensors
from vtok_codec.prior_files import RUN_PRIOR, parsed_prior, prior_file
from vtok_codec.registry import DEFAULT_MODEL, RUN_WEIGHTS, find_codec, find_weights
from vtok_codec.training.checkpoint import has_checkpoint, read_checkpoint
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.held_out import validation_clips
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.data.resident import batches_for
from vtok_codec.training.generator.setup import corpus_plan
from vtok_codec.training.processes import join_processes, leave_processes
from vtok_codec.training.recipe import Recipe, check_phases, check_used, override
from vtok_codec.training.schedule import Budget
from vtok_codec.training.settings import RunSettings, settings_from_json
from vtok_codec.training.setups import SETUPS
from vtok_codec.training.stages import Stage, find_stage
from vtok_codec.training.subject import Request, Start
from vtok_codec.training.trainer import LOG, STRIP, Cadence, Trainer
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

_SETTINGS = "run.json"
_LOCK = "run.lock"
_AUGMENTATION = "augmentation."
"""How the names of settings of the augmentation begin."""


def run_training(settings: RunSettings, folder: Path, budget: Budget, quiet: bool) -> Trainer[Any]:
    """Start a run in a new folder, and train until the budget is spent.

    Args:
        settings: The settings of the run.
        folder: The folder for the files of the run. It must not hold a run yet.
        budget: When the run ends.
        quiet: Whether to print nothing.

    Returns:
        The trainer after its last step.

    Raises:
        SettingError, TrainingError, ModelError, InputError: The run cannot start with these settings.
    """
    begun = time.monotonic()
    if has_checkpoint(folder):
        raise TrainingError(f"{folder} already holds a run; resume it, or name another folder")
    if not _can_hold_files(folder):
        raise TrainingError(f"{folder} cannot hold a run; name a folder that can be written to")
    stage = find_stage(settings.stage)
    start, config = _start_and_config(settings, stage)
    check_used(stage.recipe, settings.overrides, stage.name)
    recipe = _recipe(settings, stage, config)
    _check_followed(settings.overrides, recipe, stage)
    settings = dataclasses.replace(
        settings,
        config=config_to_json(config),
        reads=SETUPS[stage.kind].kept_tokens(dataclasses.replace(stage, recipe=recipe), config, start),
        augmentation=tuple(dataclasses.asdict(recipe.augmentation).items()),
    )
    with _alone(folder):
        trainer = _trainer(settings, folder, start, fresh=True, quiet=quiet)
        _keep(settings.with_whole_paths(), folder, trainer)
        if trainer.processes.leads:
            # An earlier run that ended before its first checkpoint may have left a log and pictures.
            for left in (folder / LOG, *folder.glob(STRIP.format("*"))):
                left.unlink(missing_ok=True)
        trainer.train(budget, quiet, begun)
    leave_processes()
    return trainer


def resume_training(
    folder: Path,
    budget: Budget,
    quiet: bool,
    overrides: tuple[tuple[str, str], ...] = (),
    device: str | None = None,
    cache_gib: float | None = None,
) -> Trainer[Any]:
    """Resume a run from its last checkpoint.

    Args:
        folder: The folder of the run.
        budget: When the run ends, counted from its first step.
        quiet: Whether to print nothing.
        overrides: Settings of the stage to change from here on, as pairs of a name and a value.
        device: The device to train on; None keeps that of the run.
        cache_gib: Memory for decoded clips in GiB; None keeps that of the run.

    Returns:
        The trainer after its last step.

    Raises:
        TrainingError: The folder holds no run, or the run cannot be read.
        SettingError: A setting in `overrides` is unknown or has a value that does not fit.
    """
    begun = time.monotonic()
    if not has_checkpoint(folder):
        raise TrainingError(f"{folder} holds no run that can be resumed: it has no checkpoint")
    with _alone(folder):
        state = read_checkpoint(folder)
        settings = _kept_settings(folder)
        settings = dataclasses.replace(
            settings,
            overrides=(*settings.overrides, *overrides),
            device=device or settings.device,
            cache_gib=settings.cache_gib if cache_gib is None else cache_gib,
        )
        stage = find_stage(settings.stage)
        check_used(stage.recipe, overrides, stage.name)
        _check_followed(overrides, _recipe(settings, stage, _config(settings)), stage)
        trainer = _trainer(settings, folder, None, fresh=False, quiet=quiet)
        trainer.restore(state)
        # All processes agree on this, so all of them have to ask.
        spent = trainer.has_spent(budget)
        if spent and trainer.processes.leads and not quiet:
            print(
                f"{folder} has ended: it took {trainer.step} steps in {trainer.seconds / 60:.1f} minutes; to train on, "
                "give more --steps or --minutes",
                file=sys.stderr,
            )
        _keep(settings.with_whole_paths(), folder, trainer)
        trainer.train(budget, quiet, begun)
    leave_processes()
    return trainer


def _kept_settings(folder: Path) -> RunSettings:
    """Return the settings of a run that a folder holds."""
    try:
        return settings_from_json((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise TrainingError(f"{folder} holds no run that can be resumed: {error}") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other runs out of it while the block runs. Only the leading process does so.

    Raises:
        TrainingError: Another run uses it.
    """
    if not _leads():
        yield
        return
    lock = folder / _LOCK
    made_folder, made_lock = not folder.exists(), not lock.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(lock):
            yield
    except BlockingIOError:
        raise TrainingError(f"another process trains in {folder}; wait for it, or name another folder") from None
    except BaseException:
        # A run that could not start leaves nothing behind.
        if made_lock and not (folder / _SETTINGS).exists():
            lock.unlink(missing_ok=True)
        if made_folder and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _start_and_config(settings: RunSettings, stage: Stage) -> tuple[WeightsFile | None, ModelConfig]:
    """Return the weights that a new run starts from, and the configuration of its model."""
    start = find_weights(settings.start) if settings.start else None
    setup = SETUPS[stage.kind]
    setup.check_start(stage, start)
    return start, setup.choose_config(settings, start, _codec_weights(settings, stage))


def _codec_weights(settings: RunSettings, stage: Stage) -> WeightsFile | None:
    """Return the codec whose tokens a model is for.

    It is the one that was named, that of the corpus, that of the weights to start from, or the default one.
    """
    if stage.kind == "codec":
        return None
    named = settings.start if stage.kind == "prior" else settings.codec
    start = find_weights(settings.start) if settings.start else None
    if named is None and SETUPS[stage.kind].DATA == "corpus":
        named = corpus_plan(settings.data).model
    if named is None and start and CODEC_SHA256 in start.metadata:
        try:
            return find_codec(start)
        except ModelError as error:
            raise ModelError(f"{error}, or name it with --codec") from None
    return find_weights(named or DEFAULT_MODEL)


def _recipe(settings: RunSettings, stage: Stage, config: ModelConfig) -> Recipe:
    """Return the recipe of a stage with the settings of a run, checked against its model."""
    recipe = stage.recipe
    if settings.augmentation:
        varied = dataclasses.replace(recipe.augmentation, **dict(settings.augmentation))
        recipe = dataclasses.replace(recipe, augmentation=varied)
    setup = SETUPS[stage.kind]
    recipe = setup.adapted(override(recipe, settings.overrides, stage.name), config)
    check_phases(recipe.phases, setup.codec_config(config).stride)
    return recipe


def _check_followed(asked: tuple[tuple[str, str], ...], recipe: Recipe, stage: Stage) -> None:
    """Check that settings are what was asked for, since some follow from the model.

    Args:
        asked: Pairs of a setting and its value, as text.
        recipe: The settings that are used.
        stage: The stage.

    Raises:
        SettingError: One of them is something else.
    """
    wanted = override(stage.recipe, asked, stage.name)
    for key, _ in asked:
        name = key.removeprefix(_AUGMENTATION)
        there, given = (getattr(each if name == key else each.augmentation, name) for each in (recipe, wanted))
        # 0 tokens stand for as many as the corpus has.
        if there != given and (key, given) != ("tokens", 0):
            raise SettingError(f"setting {key}={given}: it follows from the model, which has {there}; leave it out")


def _config(settings: RunSettings) -> ModelConfig:
    """Return the configuration of the model of a run; older settings only name a preset."""
    if settings.config:
        return config_from_json(settings.config)
    if settings.preset not in PRESETS:
        raise SettingError(f"no preset {settings.preset!r}; use one of {', '.join(PRESETS)}")
    return PRESETS[settings.preset]


def _trainer(settings: RunSettings, folder: Path, start: WeightsFile | None, fresh: bool, quiet: bool) -> Trainer[Any]:
    stage = find_stage(settings.stage)
    setup = SETUPS[stage.kind]
    config = _config(settings)
    recipe, layout = _recipe(settings, stage, config), setup.codec_config(config).layout
    device = torch.device(_device_name(settings.device))
    watched = Path(settings.validation) if settings.validation and _leads() else None
    # Load the clips before joining, since an error in one process after that stops all of them.
    clips = validation_clips(watched, settings.validation_clips, layout) if watched else []
    processes = join_processes(device)
    # The processes of one machine share its memory.
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    budget = int(settings.cache_gib * 2**30) // sharing
    library = ClipLibrary(map(Path, settings.data), budget) if setup.DATA != "corpus" else None
    sampler = CropSampler(library, recipe.augmentation, settings.seed, layout) if library else None
    # Create the batches before anything else reads clips, since this may decode all clips in parallel.
    crops = batches_for(device, sampler, processes.rank) if sampler and setup.DATA == "crops" else None
    torch.manual_seed(settings.seed)
    request = Request(
        config=config,
        recipe=recipe,
        data=settings.data,
        sampler=sampler,
        clips=clips,
        processes=processes,
        start=_loaded(start) if start else None,
        fresh=fresh,
        codec=_codec_weights(settings, stage),
        prior=_prior(stage, recipe, folder if not fresh else None, start, bool(settings.reads)),
        reads=settings.reads,
        device=device,
        seed=settings.seed,
        overridden=frozenset(name for name, _ in settings.overrides),
        quiet=quiet,
    )
    prepared = setup.prepare(request)
    if processes.leads and not quiet:
        cost = (f"{complexity(prepared.model)}",) if crops else ()
        for note in (*prepared.notes, *cost):
            print(note, file=sys.stderr)
    batches = crops or prepared.batches
    assert batches
    return Trainer(
        stage.name, prepared, batches, folder, settings.seed, device, Cadence(), settings.compiled, processes
    )


def _loaded(weights: WeightsFile) -> Start:
    tensors = {name: value.float() for name, value in parse_tensors(weights.data, str(weights.path)).items()}
    return Start(weights.config, tensors, str(weights.path))


def _prior(
    stage: Stage, recipe: Recipe, folder: Path | None, start: WeightsFile | None, same_tokens: bool
) -> bytes | None:
    """Return the file of the prior that a run goes on with, or keeps because the tokens stay the same.

    It is that of the run to resume, or of the weights to start from.

    Args:
        stage: The stage of the run.
        recipe: Its settings.
        folder: The folder of the run to resume; None for a new run.
        start: The weights that a new run starts from, if there are any.
        same_tokens: Whether the weights that are trained read the tokens of those to start from.

    Raises:
        ModelError: It cannot be used.
    """
    trains_prior = stage.kind == "prior" or (isinstance(recipe, CodecRecipe) and any(recipe.rate_weights))
    if not trains_prior and not (stage.kind == "codec" and same_tokens):
        return None
    if folder:
        kept = folder / (RUN_WEIGHTS if stage.kind == "prior" else RUN_PRIOR)
        file = WeightsFile(kept.stem, kept) if kept.is_file() else None
    else:
        file = prior_file(start) if start and isinstance(start.config, OneVAEConfig) else None
    if file and not trains_prior and file.expected_sha256:
        # A shipped prior is found wherever the weights lie.
        return None
    if file:
        parsed_prior(file)
    return file.data if file else None


def _leads() -> bool:
    """Return whether this process is the only one, or the first of several. Works before the processes join."""
    return os.environ.get("RANK", "0") == "0"


def _can_hold_files(folder: Path) -> bool:
    """Return whether files can be written to a folder, which need not exist yet. Checked before long work begins."""
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _keep(settings: RunSettings, folder: Path, trainer: Trainer[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if trainer.processes.leads:
        write_whole(folder / _SETTINGS, settings.to_json().encode())


def _device_name(device: str) -> str:
    """Return the device of this process. If several processes share a machine, each has a GPU of its own."""
    name = choose_placement(device).device.type
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and "LOCAL_RANK" in os.environ else name
