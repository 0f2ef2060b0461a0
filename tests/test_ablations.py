"""The comparisons of bench/ablations.py: each run is one that trains, and each name one of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from ablations import COMPARISONS, STARTS, DenoisingRun, Run, slug
from ablations_report import _all_tokens

from vtok_codec.evaluation.lpips import load_lpips
from vtok_codec.models.convert import convert
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.denoising import DenoisingObjective
from vtok_codec.training.objective import Objective

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("comparison", "run"), [(name, run) for name, runs in COMPARISONS.items() for run in runs()])
def test_every_run_trains(comparison: str, run: Run | DenoisingRun) -> None:
    video = torch.rand(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model: OneVAE | Denoiser
    objective: Objective | DenoisingObjective
    if isinstance(run, Run):
        model, objective = _codec(run), Objective(run.stage, run.config, None)
    else:
        model = Denoiser(run.config)
        objective = DenoisingObjective(run.stage, OneVAE(run.config.codec), load_lpips())
    loss = objective(model.train(), video, torch.Generator().manual_seed(0), 0.0)
    loss.total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients)


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
