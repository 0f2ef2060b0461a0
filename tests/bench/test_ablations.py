"""The comparisons of bench/ablations.py: each run is one that trains, and each name one of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ablations
import pytest
import torch
from ablations import COMPARISONS, STARTS, DenoisingRun, Run, Workshop, slug
from ablations_report import _all_tokens
from helpers import ClipMaker

from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.convert import convert
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.diffusion.objective import DenoisingObjective
from vtok_codec.training.recipe import CropShape, Phase

pytestmark = pytest.mark.usefixtures("one_thread")


# Runs that differ only in their name or their number of steps train alike.
DIFFERENT = {replace(run, name="", steps_share=1.0): run for runs in COMPARISONS.values() for run in runs()}


@pytest.mark.parametrize("run", DIFFERENT.values(), ids=lambda run: run.name)
def test_every_run_trains(run: Run | DenoisingRun) -> None:
    video = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model: OneVAE | Denoiser
    objective: CodecObjective | DenoisingObjective
    if isinstance(run, Run):
        model, objective = _codec(run), CodecObjective(run.recipe, run.config, load_lpips())
    else:
        model = Denoiser(run.config)
        objective = DenoisingObjective(run.recipe, OneVAE(run.config.codec), load_lpips())
    loss = objective(model.train(), video, torch.Generator().manual_seed(0), 0.0)
    loss.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_run_of_a_diffusion_decoder_is_written_down(
    make_clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is the last that a run does, after its checkpoint."""
    monkeypatch.setattr(ablations, "RUNS", tmp_path / "runs")
    (tmp_path / "data").mkdir()
    make_clip("data/clip.mp4", size="64x64", frames=20)
    run = COMPARISONS["scales of the condition adapter"]()[1]
    small = replace(run.recipe, phases=(Phase(0.0, CropShape(batch=1, frames=8, size=32)),))
    workshop = Workshop([tmp_path / "data"], tmp_path / "data", 3, 1, tmp_path / "figures")
    workshop.run("of a test", replace(run, recipe=small))
    figures = json.loads((tmp_path / "figures" / "of-a-test" / f"{slug(run.name)}.json").read_text(encoding="utf-8"))
    assert figures["curve"][-1]["step"] == 1 and figures["curve"][-1]["lpips_1_1_steps"] > 0


def _codec(run: Run) -> OneVAE:
    model = OneVAE(run.config)
    if run.start in STARTS:
        source = OneVAE(STARTS[run.start].config)
        conversion = convert(source.state_dict(), source.config, model)
        # Only the quantizer may be new: all else is what the runs are compared on.
        assert all(name.startswith("quantizer.") or run.config.codebook for name in conversion.new)
    else:
        assert run.start in ("klt", "random")
    return model


def test_names_make_files_of_their_own() -> None:
    names = [slug(name) for name in COMPARISONS]
    assert len(set(names)) == len(names)
    for name, runs in COMPARISONS.items():
        files = [slug(run.name) for run in runs()]
        assert len(files) > 1 and len(set(files)) == len(files), name


@pytest.mark.parametrize(
    "run",
    [run for runs in COMPARISONS.values() for run in runs() if isinstance(run, Run)],
    ids=lambda run: run.name,
)
def test_the_report_finds_the_figures_of_every_run(run: Run) -> None:
    """By its name, where that says how many tokens were trained."""
    counts = sorted({1, min(2, run.config.max_tokens), run.config.max_tokens})
    last = {f"psnr_first_{count}": 0.0 for count in counts}
    assert int(_all_tokens({"run": run.name, "curve": [last]})) in counts
