"""Helpers of the training tests."""

from __future__ import annotations

from pathlib import Path

from helpers import TINY

from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.recipe import Augmentation, CropShape
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import STAGES

SHAPE = CropShape(batch=2, frames=8, size=32)


def codec_recipe(stage: str) -> CodecRecipe:
    """The recipe of a stage that trains codecs."""
    recipe = STAGES[stage].recipe
    assert isinstance(recipe, CodecRecipe)
    return recipe


def sampler_of(folder: Path, seed: int = 3) -> CropSampler:
    return CropSampler(ClipLibrary([folder], 1 << 30), Augmentation(), seed, TINY.layout)


def settings_of(folder: Path, stage: str, start: str | None = None) -> RunSettings:
    return RunSettings(
        stage=stage,
        preset="tiny",
        start=start,
        data=(str(folder),),
        validation=None,
        validation_clips=1,
        seed=5,
        device="cpu",
        cache_gib=1.0,
        compiled=False,
        overrides=(("warmup_steps", "2"),),
    )
