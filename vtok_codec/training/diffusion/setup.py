"""Prepares a run that trains a diffusion decoder: its configuration, its initial weights and its objective."""

from __future__ import annotations

from dataclasses import replace

import torch

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.config import DenoiserConfig, ModelConfig, OneVAEConfig
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.presets import presets_of
from vtok_codec.models.weights import CODEC, build
from vtok_codec.training.diffusion.objective import DenoisingObjective
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.diffusion.subject import DenoiserSubject
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "crops"
"""The kind of training data; see `vtok_codec.training.run`."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> DenoiserConfig:
    """Choose the configuration of the decoder: the down path and objective of a preset, combined with the given codec.

    Args:
        settings: The settings of the run.
        start: The weights to start from, if there are any. They do not change the configuration.
        codec: The codec whose tokens the decoder reads.

    Raises:
        SettingError: The preset does not exist, or the settings change its shape.
        ModelError: Diffusion decoders do not support a codec of this kind.
    """
    presets = presets_of(DenoiserConfig)
    if settings.shape:
        raise SettingError("the shape of a diffusion decoder follows from its preset and its codec; leave out --shape")
    if settings.preset not in presets:
        raise SettingError(f"no preset {settings.preset!r} for stage {settings.stage}; use one of {', '.join(presets)}")
    assert codec is not None
    return replace(presets[settings.preset], codec=codec.codec_config)


def adapted(recipe: DiffusionRecipe, config: DenoiserConfig) -> DiffusionRecipe:
    """Return the recipe as it is, since it does not depend on the model."""
    return recipe


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose tokens a run trains on."""
    assert isinstance(config, DenoiserConfig)
    return config.codec


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Do nothing: without weights to start from, a diffusion decoder starts as a copy of its codec's decoder."""


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return nothing: the metadata of a diffusion decoder name its codec, whose files are the ones that it decodes."""
    return ()


def prepare(request: Request) -> Prepared[Denoiser, DiffusionRecipe]:
    """Build the decoder, initialize it, and create its objective.

    The decoder starts as a copy of its codec's decoder, or from the given weights.

    Raises:
        ModelError: The codec or the weights to start from do not fit the decoder.
    """
    config, recipe, weights = request.config, request.recipe, request.codec
    assert isinstance(config, DenoiserConfig) and isinstance(recipe, DiffusionRecipe)
    codec = build(CODEC, weights)
    if not config.decodes(codec.config):
        raise ModelError(f"the decoder is for another model than {weights.path}; name the codec that it is for")
    model = Denoiser(config)
    model.start_from(codec.decoder)
    if request.start and request.fresh:
        source = request.start.config
        # At time 1 both objectives read pure noise, so a decoder can start from weights of the other objective.
        alike = isinstance(source, DenoiserConfig) and replace(source, codec=config.codec, objective=config.objective)
        if alike != config or not source.decodes(config.codec):  # type: ignore[union-attr]
            raise ModelError(f"{request.start.source} does not have the shape of the decoder to train")
        model.load_state_dict(request.start.tensors)
    lpips = load_lpips().to(request.device) if recipe.lpips_weight or request.clips else None
    codec = codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    subject = DenoiserSubject(config, request.clips, codec, metadata, lpips)
    objective = DenoisingObjective(recipe, codec, lpips if recipe.lpips_weight else None, request.processes)
    return Prepared(model, subject, objective, notes=(f"a decoder for {weights.name}, weights {weights.sha256[:12]}",))
