"""Prepares a run that trains One-DVA: its configuration, its initial weights and its objective."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.config import ModelConfig, OneDVAConfig, OneVAEConfig
from vtok_codec.models.onedva import OneDVA
from vtok_codec.models.presets import presets_of
from vtok_codec.models.weights import CODEC, build
from vtok_codec.prior_files import prior_of
from vtok_codec.training.onedva.klt import warm_start
from vtok_codec.training.onedva.objective import OneDVAObjective
from vtok_codec.training.onedva.stages import OneDVARecipe
from vtok_codec.training.onedva.subject import OneDVASubject
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "crops"
"""The kind of training data; see `vtok_codec.training.run`."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> OneDVAConfig:
    """Choose the configuration: that of a preset, or of the weights to start from, or the default, for the given codec.

    Args:
        settings: The settings of the run.
        start: The weights to start from, if there are any.
        codec: The codec whose first token is the structural latent.

    Raises:
        SettingError: The preset does not exist, or the settings change its shape.
        ModelError: One-DVA does not support a codec of this kind, or the weights to start from are not One-DVA's.
    """
    presets = presets_of(OneDVAConfig)
    if settings.shape:
        raise SettingError("the shape of One-DVA follows from its preset and its codec; leave out --shape")
    assert codec is not None
    if start is not None and settings.preset is None:
        assert isinstance(start.config, OneDVAConfig)
        if start.metadata.get(CODEC_SHA256) not in codec.reads:
            raise SettingError(f"{start.path} is for another codec than {codec.path}")
        return replace(start.config, codec=codec.codec_config)
    name = settings.preset or next(iter(presets))
    if name not in presets:
        raise SettingError(f"no preset {name!r} for stage {settings.stage}; use one of {', '.join(presets)}")
    return replace(presets[name], codec=codec.codec_config)


def adapted(recipe: OneDVARecipe, config: OneDVAConfig) -> OneDVARecipe:
    """Return the recipe with crops that all start a GOP."""
    return replace(recipe, augmentation=replace(recipe.augmentation, gop_start=1.0))


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose tokens a run trains on."""
    assert isinstance(config, OneDVAConfig)
    return config.codec


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Check that the weights to start from, if there are any, are those of One-DVA.

    Raises:
        SettingError: They are not.
    """
    if start is not None and not isinstance(start.config, OneDVAConfig):
        raise SettingError(f"{start.path} is no One-DVA model; name the codec with --codec")


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return nothing: the metadata of One-DVA's weights name their codec."""
    return ()


def prepare(request: Request) -> Prepared[OneDVA, OneDVARecipe]:
    """Build the model, initialize it, and create its objective.

    Raises:
        ModelError: The codec or the weights to start from do not fit the model.
        SettingError: A number in the recipe is out of its range.
    """
    config, recipe, weights = request.config, request.recipe, request.codec
    assert isinstance(config, OneDVAConfig) and isinstance(recipe, OneDVARecipe)
    codec = build(CODEC, weights)
    codec = codec.to(request.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = OneDVA(config)
    if request.start and request.fresh:
        if request.start.config != config:
            raise ModelError(f"{request.start.source} does not have the shape of the model to train")
        model.load_state_dict(request.start.tensors)
    notes = [f"One-DVA for {weights.name}, weights {weights.sha256[:12]}"]
    if request.fresh and not request.start:
        assert request.sampler is not None
        model.decoder.start_from(codec.decoder)
        kept = warm_start(model, codec, request.sampler)
        notes.append(f"the linear path starts with {100 * kept:.1f} % of the variance of the second token")
    lpips = load_lpips().to(request.device) if recipe.lpips_weight or request.clips else None
    objective = OneDVAObjective(
        recipe, codec, _harm(weights, config.codec), lpips if recipe.lpips_weight else None, request.processes
    )
    subject = OneDVASubject(config, request.clips, codec, weights, lpips, recipe.noisy_share > 0)
    return Prepared(model, subject, objective, notes=tuple(notes))


def _harm(weights: WeightsFile, config: OneVAEConfig) -> Tensor:
    """Return how much errors of the second token harm the picture (`OneDVAObjective`), which the prior knows."""
    prior, digits = prior_of(weights), config.token_channels
    if prior is None:
        return torch.ones(2, digits)
    planes = range(digits, 2 * digits)
    return torch.tensor([[prior.error_weight(2 * digits, plane, first) for plane in planes] for first in (True, False)])
