"""The registry of training stages: every stage of every kind of model, by name. Nothing here imports torch.

A kind of model is a folder of `vtok_codec.training` with two modules: `stages`, which lists the kind's stages as data,
and `setup`, which prepares a run. To add a kind, add its folder, and put its name into `KINDS` and its module `setup`
into `vtok_codec.training.setups.SETUPS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from vtok_codec.errors import SettingError
from vtok_codec.training.recipe import Recipe

KINDS = ("codec", "diffusion", "prior", "generator", "latent_flow", "onedva")
"""The kinds of models that can be trained, each named after its folder."""


@dataclass(frozen=True)
class Stage:
    """One stage of training: the kind of model that it trains, what it starts from, and its settings."""

    name: str
    """The name that `vtok train --stage` takes."""
    kind: str
    """The kind of model that the stage trains, one of `KINDS`."""
    starts_from: str
    """The name of the stage that usually comes before, or `klt` for a fresh codec."""
    recipe: Recipe
    """The settings of the stage."""
    summary: str
    """What the stage is for, in a few words."""


def _all_stages() -> dict[str, Stage]:
    modules = [import_module(f"vtok_codec.training.{kind}.stages") for kind in KINDS]
    return {
        name: Stage(name, kind, starts_from, recipe, summary)
        for kind, module in zip(KINDS, modules, strict=True)
        for name, (starts_from, recipe, summary) in module.STAGES.items()
    }


STAGES: dict[str, Stage] = _all_stages()
"""All stages by name."""


def find_stage(name: str) -> Stage:
    """Find a stage by name.

    Raises:
        SettingError: There is no stage of that name.
    """
    if name not in STAGES:
        raise SettingError(f"no stage {name!r}; use one of {', '.join(STAGES)}")
    return STAGES[name]
