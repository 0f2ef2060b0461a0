"""Prepares a run that trains a latent flow: encodes the clips, and creates the network, its loss and its batches."""

from __future__ import annotations

from dataclasses import replace

from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import LatentFlowConfig, ModelConfig, OneVAEConfig
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.precision import fast_type
from vtok_codec.training.data.held_out import as_pixels
from vtok_codec.training.latent_flow.latents import LatentBatches, all_latents, latents_of, moments
from vtok_codec.training.latent_flow.objective import LatentFlowObjective
from vtok_codec.training.latent_flow.stages import LatentFlowRecipe
from vtok_codec.training.latent_flow.subject import LatentFlowSubject
from vtok_codec.training.recipe import override
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage, find_stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "clips"
"""The kind of training data; see `vtok_codec.training.run`."""
_SHAPE = ("tokens", "width", "blocks", "heads", "reach")
"""The settings that give the latent flow its shape."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> LatentFlowConfig:
    """Choose the configuration of the latent flow: its shape from the settings, its latents from the codec.

    Raises:
        SettingError: The settings name a preset or change the shape of a codec, or a number is out of range.
        ModelError: The codec has no latents of this kind, or the settings do not make a latent flow.
    """
    if settings.preset or settings.shape:
        raise SettingError(
            "the shape of a latent flow is given by --set width, blocks, heads; leave out --preset, --shape"
        )
    assert codec is not None
    stage = find_stage(settings.stage)
    recipe = override(stage.recipe, settings.overrides, stage.name)
    if start is None:
        return LatentFlowConfig(codec.codec_config, **{name: getattr(recipe, name) for name in _SHAPE})
    assert isinstance(start.config, LatentFlowConfig)
    if start.metadata.get(CODEC_SHA256) not in codec.reads:
        raise SettingError(f"{start.path} draws the latents of another codec than {codec.path}")
    if given := sorted({key for key, _ in settings.overrides} & set(_SHAPE)):
        raise SettingError(f"setting {given[0]}: weights to start from (--from) bring their shape along")
    return start.config


def adapted(recipe: LatentFlowRecipe, config: LatentFlowConfig) -> LatentFlowRecipe:
    """Return the recipe with the shape of the latent flow, which weights to start from may have changed."""
    return replace(recipe, **{name: getattr(config, name) for name in _SHAPE})


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose latents a run trains on."""
    assert isinstance(config, LatentFlowConfig)
    return config.codec


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Check that the weights to start from are those of a latent flow.

    Raises:
        SettingError: They are not.
    """
    if start is not None and not isinstance(start.config, LatentFlowConfig):
        raise SettingError(f"{start.path} is no latent flow; without --from, one starts from random weights")


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return nothing: the metadata of a latent flow name its codec."""
    return ()


def prepare(request: Request) -> Prepared[LatentFlow, LatentFlowRecipe]:
    """Encode all clips with the codec, and create the network, its loss and its batches.

    Raises:
        ModelError: The weights cannot be used, or no clip can be read.
        SettingError: A number in the recipe is out of its range.
    """
    config, recipe, weights = request.config, request.recipe, request.codec
    assert isinstance(config, LatentFlowConfig) and isinstance(recipe, LatentFlowRecipe)
    assert request.sampler is not None
    tokenizer = Tokenizer(weights, Placement(request.device, fast_type(request.device)))
    objective = LatentFlowObjective(recipe, config.codec.max_tokens, request.processes)
    quiet = request.quiet or not request.processes.leads
    clips = all_latents(request.sampler.library, tokenizer, config.tokens, bool(recipe.mirrored), quiet)
    if not clips:
        raise ModelError("none of the clips is a video that can be read")
    model = LatentFlow(config)
    model.blocks.drop(recipe.dropout)
    if request.start and request.fresh:
        model.load_state_dict(request.start.tensors)
    else:
        mean, deviation = moments(clips)
        model.mean.copy_(mean)
        model.deviation.copy_(deviation)
    held_out = [latents_of(as_pixels(clip), tokenizer, config.tokens) for clip in request.clips]
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    subject = LatentFlowSubject(config, request.clips, held_out, tokenizer, metadata)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    notes = (
        f"a latent flow for {weights.name}, weights {weights.sha256[:12]}, of {parameters / 1e6:.2f} M parameters; "
        f"{sum(clip[:, 0].size for clip in clips) / 1e6:.1f} M positions to train on",
    )
    batches = LatentBatches(clips, config.codec.layout, request.seed, request.processes)
    return Prepared(model, subject, objective, notes=notes, batches=batches)
