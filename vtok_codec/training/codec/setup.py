"""Prepares a run that trains a codec: chooses its configuration, initializes the model and creates the objective."""

from __future__ import annotations

from dataclasses import replace

from vtok_codec.errors import ModelError, SettingError, TrainingError
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.config import LatentFlowConfig, ModelConfig, OneVAEConfig
from vtok_codec.models.convert import convert
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import presets_of
from vtok_codec.models.reshaping import reshaped
from vtok_codec.models.weights import LATENT_FLOW, build
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.tokens.prior.prior import prior_parts
from vtok_codec.training.codec.adversarial import PatchAdversary
from vtok_codec.training.codec.klt import warm_start
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.codec.redrawing import Redrawing
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.codec.subject import CodecSubject
from vtok_codec.training.prior.setup import can_have_prior, initial_prior
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "crops"
"""The kind of training data; see `vtok_codec.training.run`."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> OneVAEConfig:
    """Choose the configuration of the model.

    It is that of the preset, if the settings name one, or that of the weights to start from, or the default; then the
    settings may change its shape.

    Args:
        settings: The settings of the run.
        start: The weights to start from, if there are any.
        codec: The codec that the user named for a diffusion decoder. It must be None here.

    Raises:
        SettingError: The settings contradict each other, or the preset does not exist.
        ModelError: The weights to start from are not a codec's.
    """
    if settings.codec:
        raise SettingError(f"stage {settings.stage} trains a codec; --codec is for stage diffusion")
    presets, known = presets_of(OneVAEConfig), start.codec_config if start else None
    if settings.preset is None and known:
        config = known
    elif (name := settings.preset or DEFAULT_MODEL) in presets:
        config = presets[name]
    else:
        raise SettingError(f"no preset {name!r} for stage {settings.stage}; use one of {', '.join(presets)}")
    return reshaped(config, settings.shape)


def adapted(recipe: CodecRecipe, config: OneVAEConfig) -> CodecRecipe:
    """Adapt a recipe to a model: if the model has first-frame enhancement, all its crops start a GOP."""
    if config.enhanced_first_frame:
        return replace(recipe, augmentation=replace(recipe.augmentation, gop_start=1.0))
    return recipe


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose tokens a run trains on, which is the model itself."""
    assert isinstance(config, OneVAEConfig)
    return config


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Check that a stage has weights to start from if it needs them.

    Raises:
        TrainingError: The stage needs weights to start from, and none were given.
    """
    if not start and stage.starts_from != "klt":
        raise TrainingError(f"stage {stage.name} goes on from stage {stage.starts_from}: name a run to start from")


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return the hashes of all earlier weights whose files the model will decode.

    There are none unless the model keeps its shape and either the encoder or the decoder alone trains, since otherwise
    tokens change their meaning. Then they are the hashes that the weights to start from list.
    """
    recipe = stage.recipe
    assert isinstance(recipe, CodecRecipe)
    if recipe.trains not in (("decoder",), ("encoder",)) or not start:
        return ()
    return tuple(sorted(start.reads)) if start.config == config else ()


def prepare(request: Request) -> Prepared[OneVAE, CodecRecipe]:
    """Build the model, initialize it, and create its objective.

    Raises:
        SettingError, TrainingError: The recipe does not suit the model.
    """
    config, recipe = request.config, request.recipe
    assert isinstance(config, OneVAEConfig) and isinstance(recipe, CodecRecipe)
    model, notes = _initial_model(request, config)
    rated = any(recipe.rate_weights) and not config.codebook
    if rated and not can_have_prior(config):
        raise TrainingError("these tokens have no prior, and so no rate term; leave out rate_weights")
    prior, about_prior = initial_prior(request, config) if rated else (None, ())
    lpips = load_lpips() if recipe.lpips_weight else None
    flow = _latent_flow(request, recipe)
    redrawing = _redrawing(flow, request, config, recipe) if flow else None
    objective = CodecObjective(recipe, config, lpips, request.processes, prior, redrawing)
    lpips = lpips or (load_lpips() if request.clips else None)
    if lpips:
        # Validation uses it even where the loss, which the trainer moves, does not.
        lpips.to(request.device)
    model.quantizer.collective = request.processes
    errors = prior_parts(request.prior).errors if request.prior and prior else None
    drawn_by = flow.sha256 if flow else ""
    kept = None if rated else request.prior
    subject = CodecSubject(config, request.clips, objective.rate, request.reads, lpips, errors, drawn_by, kept)
    adversary = PatchAdversary if recipe.adversarial_weight else None
    return Prepared(model, subject, objective, adversary, (*notes, *about_prior))


def _initial_model(request: Request, config: OneVAEConfig) -> tuple[OneVAE, list[str]]:
    model, notes = OneVAE(config), list[str]()
    if not request.fresh:
        # The checkpoint will restore every weight and the learning rate of each group of weights.
        return model, notes
    kept: tuple[str, ...] = ()
    if request.start:
        source = request.start.config
        assert isinstance(source, OneVAEConfig)
        if source == config:
            model.load_state_dict(request.start.tensors)
            return model.eval(), notes
        conversion = convert(request.start.tensors, source, model)
        kept = conversion.kept
        notes.append(f"from {request.start.source}: {conversion}")
    assert request.sampler is not None
    start = warm_start(model, request.sampler, kept=kept) if request.warm else None
    if start:
        notes.append(f"warm start from the KLT: {start.psnr_db:.2f} dB on training blocks, gain {start.gain}")
    return model, notes


def _latent_flow(request: Request, recipe: CodecRecipe) -> WeightsFile | None:
    """Return the latent flow that redraws latents; None if no batch is redrawn.

    Raises:
        ModelError: It is not there, or it draws the latents of another codec.
        SettingError: The recipe names none, or trains more than the decoder.
    """
    if recipe.latent_flow and not recipe.redrawn_share:
        raise SettingError("setting latent_flow: it is used only with redrawn_share above 0")
    if not recipe.redrawn_share:
        return None
    if not 0 < recipe.redrawn_share <= 1:
        raise SettingError(f"setting redrawn_share={recipe.redrawn_share}: give a number from 0 to 1")
    if not recipe.latent_flow:
        raise SettingError("setting latent_flow: name the weights or the run of a latent flow for this codec")
    if recipe.trains != ("decoder",):
        raise SettingError("setting redrawn_share: train the decoder alone (trains=decoder), so that latents stay")
    if recipe.augmentation.gop_start not in (0, 1):
        raise SettingError("setting augmentation.gop_start: redrawing needs crops of one kind, 0 or 1")
    flow = find_weights(recipe.latent_flow)
    if isinstance(flow.config, LatentFlowConfig) and flow.metadata.get(CODEC_SHA256) not in request.reads:
        raise ModelError(f"{flow.path} draws latents of {flow.metadata.get('codec')} with other weights")
    return flow


def _redrawing(flow: WeightsFile, request: Request, config: OneVAEConfig, recipe: CodecRecipe) -> Redrawing:
    """Return what redraws latents with a latent flow.

    Raises:
        ModelError: The weights are not those of a latent flow.
    """
    model = build(LATENT_FLOW, flow)
    return Redrawing(model, config.layout, recipe.augmentation.gop_start == 1).to(request.device)
