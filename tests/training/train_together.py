"""What `torchrun` starts in `test_processes.py`: runs of the tiny model. Arguments: data, folder, batch, stages.

Each run goes into the folder of its stage.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as distributed
from helpers import TINY

import vtok_codec.training.run as run
from vtok_codec.models.config import DenoiserConfig, OneDVAConfig
from vtok_codec.models.presets import PRESETS
from vtok_codec.training.codec import setup
from vtok_codec.training.codec.klt import warm_start
from vtok_codec.training.onedva import klt
from vtok_codec.training.recipe import CropShape, Phase
from vtok_codec.training.schedule import Budget
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import STAGES
from vtok_codec.training.trainer import Cadence


def train(data: Path, folder: Path, batch: int, stage: str) -> None:
    """Run six steps of a stage."""
    phases = (Phase(0.0, CropShape(batch, 8, 32)),)
    base = STAGES[stage]
    recipe = replace(base.recipe, phases=phases, warmup_steps=2, optimizer="adamw")
    if base.kind == "onedva":
        # From the third step on, the error of pixels is the loss.
        recipe = replace(recipe, pixel_start=0.4, lpips_weight=0.0)
    STAGES[stage] = replace(base, recipe=recipe, starts_from=base.starts_from if base.kind == "onedva" else "klt")
    preset = {"diffusion": "tiny-flow", "onedva": "tiny-dva"}.get(base.kind, "tiny")
    codec = None if base.kind == "codec" else str(data / "codec.safetensors")
    settings = RunSettings(stage, preset, None, (str(data),), None, 1, 5, "cpu", 1.0, False, (), codec)
    run.run_training(settings, folder / stage, Budget(steps=6), quiet=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    PRESETS["tiny"] = TINY
    PRESETS["tiny-flow"] = DenoiserConfig(TINY, "flow", (1,) * len(TINY.levels))
    PRESETS["tiny-dva"] = OneDVAConfig(TINY, 16, 1, 1, 4, window_rows=2, window_columns=2)
    klt._CROPS = 4
    setup.warm_start = functools.partial(warm_start, batches=2)
    run.Cadence = functools.partial(Cadence, log_steps=1)
    # torchrun lets processes meet once, so the group that the first run makes serves them all.
    distributed.destroy_process_group = lambda: None
    for name in sys.argv[4].split(","):
        train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), name)
