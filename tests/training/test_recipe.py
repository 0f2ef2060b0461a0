"""The settings of stages, and how they are changed from the command line."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from helpers import TINY
from training_helpers import codec_recipe

from vtok_codec.errors import SettingError
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.recipe import Augmentation, CropShape, check_phases, check_recipe, check_used, override
from vtok_codec.training.schedule import Budget
from vtok_codec.training.stages import STAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_stages_crops_can_be_set() -> None:
    stage = override(STAGES["rate"].recipe, (("phases", "64x16x128,16x32x192@0.75"),), "rate")
    assert stage.shape_at(0.7) == CropShape(64, 16, 128) and stage.shape_at(0.75) == CropShape(16, 32, 192)


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("rate", "token_weights=inf,1,1,1"),
        ("rate", "temporal_weight=inf"),
        ("rate", "temporal_weight=-1"),
        ("rate", "kl_weight=nan"),
        ("prior", "mirrored=7"),
    ],
)
def test_numbers_that_no_loss_can_have_are_refused(stage: str, setting: str) -> None:
    key, _, value = setting.partition("=")
    with pytest.raises(SettingError, match=f"setting {key}"):
        check_recipe(override(STAGES[stage].recipe, ((key, value),), stage), 4)


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("prior", "optimizer"),
        ("prior", "augmentation.photo"),
        ("generator", "token_weights"),
        ("latent-flow", "lpips_weight"),
        ("onedva", "token_weights"),
    ],
)
def test_settings_that_a_stage_does_not_use_are_refused(stage: str, setting: str) -> None:
    with pytest.raises(SettingError, match=f"stage {stage} does not use it"):
        check_used(STAGES[stage].recipe, (("learning_rate", "1e-3"), (setting, "1")), stage)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "64x16",
        "0x16x64",
        "4x8x64",
        "4x16x60",
        "4x-16x64",
        "4x16x64@0.1",
        "4x16x64,4x16x64",
        "4x16x64,2x16x64@1",
    ],
)
def test_crops_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="setting phases"):
        check_phases(override(STAGES["rate"].recipe, (("phases", text),), "rate").phases, (16, 16, 16))


@pytest.mark.parametrize(
    "changes",
    [
        {"token_weights": (0.0, 0.0, 0.0, 0.0)},
        {"token_weights": (2.0, -1.0, 0.0, 0.0)},
        {"warmup_steps": 0},
        {"adversarial_weight": 0.1, "trains": ("quantizer",)},
        {"distortion": "psnr"},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"weight_decay": -1.0},
        {"betas": (1.0, 0.99)},
        {"ema_decay": 7.0},
        {"clip_norm": 0.0},
        {"augmentation": Augmentation(soft=7)},
        {"discrete_share": 90.0},
        {"adversarial_start": -0.5},
        {"lpips_frames": 0},
    ],
)
def test_stages_that_cannot_train_are_refused_before_they_start(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        CodecObjective(replace(codec_recipe("discrete"), lpips_weight=0.0, **changes), TINY, None)


def test_stage_numbers_can_be_set() -> None:
    recipe = override(codec_recipe("discrete"), (("learning_rate", "0.5"), ("warmup_steps", "7")), "discrete")
    assert (recipe.learning_rate, recipe.warmup_steps) == (0.5, 7)
    changes = (("optimizer", "adamw"), ("rate_weights", "0.4,0.3,0.2,0.1"), ("augmentation.skip", "0.5"))
    recipe = override(codec_recipe("rate"), changes, "rate")
    assert recipe.optimizer == "adamw" and recipe.rate_weights == (0.4, 0.3, 0.2, 0.1)
    assert recipe.augmentation.skip == 0.5
    assert override(recipe, (("rate_weights", ""),), "rate").rate_weights == ()
    wrong = {
        "learning_rat": "1",
        "learning_rate": "much",
        "name": "x",
        "phases": "x",
        "betas": "0.5",
        "rate_weights": "a",
        "augmentation": "1",
        "augmentation.nothing": "1",
    }
    for key, value in wrong.items():
        with pytest.raises(SettingError, match="setting"):
            override(STAGES["discrete"].recipe, ((key, value),), "discrete")


def test_budgets_end_by_whichever_comes_first() -> None:
    assert Budget(steps=10).progress(5, 1e9) == 0.5
    assert Budget(minutes=2).progress(5, 60) == 0.5
    assert Budget(steps=10, minutes=2).progress(5, 120) == 1.0


def test_a_stage_begins_after_its_set_up() -> None:
    """Or its learning rate would never reach its peak, and what comes first in a stage would be left out."""
    budget = Budget(minutes=2)
    assert budget.progress(0, 60, setup_seconds=60) == 0.0
    assert budget.progress(5, 90, setup_seconds=60) == 0.5
    assert budget.progress(5, 120, setup_seconds=60) == budget.progress(0, 121, setup_seconds=121) == 1.0
