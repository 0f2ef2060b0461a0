"""The settings of a training run, which are stored in the run's folder. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtok_codec.registry import is_shipped

_PAIRS = ("shape", "overrides", "augmentation")
"""The settings that hold pairs of a name and a value."""
_PATHS = ("latent_flow",)
"""The settings of a stage that name a file or a folder."""


@dataclass(frozen=True)
class RunSettings:
    """Everything that determines a training run, except its budget."""

    stage: str
    """The name of the stage."""
    preset: str | None
    """The preset that gives the model its shape. None takes that of the weights to start from, or else the default."""
    start: str | None
    """Weights to start from: a shipped name, a file, or the folder of a run. With None, a codec starts from the KLT,
    and a diffusion decoder as a copy of its codec's decoder."""
    data: tuple[str, ...]
    """Folders of training clips and images."""
    validation: str | None
    """A folder of held-out clips to measure during training; None measures nothing."""
    validation_clips: int
    """The largest number of held-out clips to measure."""
    seed: int
    """The seed of all random choices in the run."""
    device: str
    """The device to train on: `auto`, `cpu` or `cuda`."""
    cache_gib: float
    """Memory for decoded clips, in GiB."""
    compiled: bool
    """Whether to compile the networks with `torch.compile`."""
    overrides: tuple[tuple[str, str], ...]
    """Changed settings of the stage (`vtok_codec.training.recipe.override`)."""
    codec: str | None = None
    """The weights of the codec whose tokens the model takes: a shipped name, a file, or the folder of a run."""
    shape: tuple[tuple[str, str], ...] = ()
    """Changes to the shape of the model (`vtok_codec.models.reshaping.reshaped`)."""
    augmentation: tuple[tuple[str, float], ...] = ()
    """The fields of the recipe's `Augmentation`. Filled in when the run begins, so that it keeps them when resumed."""
    reads: tuple[str, ...] = ()
    """SHA-256 hashes of earlier weights whose files the model decodes as well; filled in when the run begins."""
    config: str | None = None
    """The configuration of the model as JSON; filled in when the run begins."""

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def with_whole_paths(self) -> RunSettings:
        """Return the settings with absolute paths, so that they mean the same in any working directory."""

        def whole(name: str | None) -> str | None:
            return str(Path(name).resolve()) if name and not is_shipped(name) and Path(name).exists() else name

        return dataclasses.replace(
            self,
            start=whole(self.start),
            codec=whole(self.codec),
            data=tuple(str(Path(folder).resolve()) for folder in self.data),
            validation=whole(self.validation),
            overrides=tuple((key, (whole(value) or "") if key in _PATHS else value) for key, value in self.overrides),
        )


def settings_from_json(text: str) -> RunSettings:
    """Parse settings that `RunSettings.to_json` or an earlier version wrote.

    Raises:
        ValueError, TypeError, LookupError: The text does not hold the settings of a run.
    """
    fields: dict[str, Any] = json.loads(text)
    if not isinstance(fields, Mapping):
        raise ValueError("the settings are not a JSON object")
    fields |= {key: tuple(fields.get(key, ())) for key in ("data", "reads")}
    fields |= {key: tuple((name, value) for name, value in fields.get(key, ())) for key in _PAIRS}
    return RunSettings(**fields)


def default_cache_gib() -> float:
    """Return half of the machine's memory, in GiB."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**31
