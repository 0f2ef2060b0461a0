"""What `torchrun` starts in tests/test_processes.py: a run of the tiny model. Arguments: data, run folder, batch."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path

import torch
from conftest import TINY

import vtok_codec.training.run as run
from vtok_codec.models.denoiser import DenoiserConfig
from vtok_codec.models.presets import DENOISERS, PRESETS
from vtok_codec.training.crops import CropShape
from vtok_codec.training.klt import warm_start
from vtok_codec.training.stages import DIFFUSION, STAGES, Phase
from vtok_codec.training.trainer import Budget, Cadence

if __name__ == "__main__":
    data, folder, batch, stage = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    PRESETS["tiny"] = TINY
    phases = (Phase(0.0, CropShape(batch, 8, 32)),)
    quick = replace(STAGES[stage], phases=phases, warmup_steps=2, optimizer="adamw")
    if stage == DIFFUSION:
        DENOISERS["tiny-flow"] = DenoiserConfig(TINY, "flow", (1,) * len(TINY.levels))
        STAGES[stage] = quick
        preset, codec = "tiny-flow", str(data / "codec.safetensors")
    else:
        STAGES["t"] = replace(quick, name="t", starts_from="klt")
        stage, preset, codec = "t", "tiny", None
    run.warm_start = functools.partial(warm_start, batches=2)
    run.Cadence = functools.partial(Cadence, log_steps=1)
    settings = run.RunSettings(stage, preset, None, (str(data),), None, 1, 5, "cpu", 1.0, False, (), codec)
    run.run_training(settings, folder, Budget(steps=6), quiet=True)
