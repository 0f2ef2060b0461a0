"""Tests claims of the papers with small models: each comparison trains several variants under the same conditions.

    .venv/bin/python bench/ablations.py [COMPARISON…] --data DIR… --val DIR [--steps N] [--seed N]
    .venv/bin/python bench/ablations.py --report

All runs of a comparison start from the same weights, see the data in the same order, and take the same number of steps.
Models are small (48 and 128 channels) and crops are 64 pixels wide, so that a run takes about ten minutes on one core.
The budget is a number of steps, so a result does not depend on the load of the machine; the cost per frame is reported
beside it. Diffusion decoders have the shipped size and decode the tokens of the shipped codec. They take a third of the
steps.

The figures of each finished run are in `docs/notebook/ablations/`, and such a run is not repeated. A run that differs
from a finished one only in its name takes the figures of that one. `--report` writes `docs/notebook/ablations.md` from
these figures. Checkpoints go to `runs/ablations/`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations_report import write_report
from ablations_runs import COMPARISONS, SMALL, STARTS, DenoisingRun, Run
from common import ROOT, environment
from torch import Tensor

from vtok_codec.metrics.complexity import complexity
from vtok_codec.metrics.lpips import LPIPS, load_lpips
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.models.onevae import OneVAE
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.training.codec import setup as codec_setup
from vtok_codec.training.codec.validation import decode_codes
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.held_out import filled_clip, validation_clips
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.data.resident import batches_for
from vtok_codec.training.diffusion import setup as diffusion_setup
from vtok_codec.training.measures import mean_lpips, psnr_db, to_levels
from vtok_codec.training.processes import Processes
from vtok_codec.training.schedule import Budget
from vtok_codec.training.subject import Prepared, Request, Start
from vtok_codec.training.trainer import LOG, Cadence, Trainer

RESULTS = ROOT / "docs" / "notebook" / "ablations"
RUNS = ROOT / "runs" / "ablations"
VALIDATIONS = 8
"""The number of points of a learning curve."""


class Workshop:
    """Trains runs with the same data, held-out clips, number of steps and seed, and stores their figures."""

    def __init__(self, data: Sequence[Path], val: Path, steps: int, seed: int, results: Path) -> None:
        self._results = results
        self._library = ClipLibrary(data, 8 << 30)
        self._clips: list[Tensor] = validation_clips(val, 8, SMALL.layout)
        self._steps, self._seed = steps, seed
        self._starts: dict[str, Start] = {}

    def run(self, comparison: str, run: Run | DenoisingRun) -> bool:
        """Train a run and write its figures, unless they exist already. Returns whether it wrote them."""
        target = self._results / slug(comparison) / f"{slug(run.name)}.json"
        if target.exists():
            made = json.loads(target.read_text(encoding="utf-8"))
            if (made["steps"], made["seed"]) != (self._steps, self._seed):
                raise SystemExit(f"{target} has another number of steps or another seed; remove it to run it again")
            return False
        figures = self._twin(run)
        if figures is None:
            print(f"{comparison}: {run.name}", flush=True)
            _, figures = self._train(RUNS / slug(comparison) / slug(run.name), run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        return True

    def _twin(self, run: Run | DenoisingRun) -> dict[str, object] | None:
        """Return the figures of a finished run that differs only in its name, since many comparisons share a run."""
        for name, runs in COMPARISONS.items():
            for other in runs():
                path = self._results / slug(name) / f"{slug(other.name)}.json"
                if path.exists() and replace(other, name=run.name) == run:
                    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                    alike = (figures["steps"], figures["seed"]) == (self._steps, self._seed)
                    # Figures of early runs lack LPIPS, or what was measured closely.
                    if alike and figures.get("closely"):
                        return figures | {"run": run.name}
        return None

    def _train(self, folder: Path, run: Run | DenoisingRun) -> tuple[Trainer[Any], dict[str, object]]:
        sampler = self._sampler(run)
        prepared = self._prepared(run, sampler)
        cost = complexity(prepared.model)
        (folder / LOG).unlink(missing_ok=True)
        steps = round(self._steps * run.steps_share)
        cadence = Cadence(
            log_steps=min(50, steps), validate_steps=max(1, self._steps // VALIDATIONS), checkpoint_minutes=1e9
        )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batches = batches_for(device, sampler)
        trainer = Trainer("ablation", prepared, batches, folder, self._seed, device, cadence)
        started = time.monotonic()
        trainer.train(Budget(steps=steps), quiet=True)
        log = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
        validations = [line for line in log if "validation" in line]
        start = run.start if isinstance(run, Run) else "the codec's decoder"
        codebook = [line for line in log if "codebook_used" in line][-1:]
        model = trainer.ema
        looks = measure_closely(model, self._clips, load_lpips()) if isinstance(model, OneVAE) else {}
        return trainer, environment() | {
            "run": run.name,
            "start": start,
            "steps": self._steps,
            "steps_before": self._steps_before(start) if steps < self._steps else 0,
            "seed": self._seed,
            "minutes": (time.monotonic() - started) / 60,
            "cost": asdict(cost),
            **{key: line[key] for line in codebook for key in ("codebook_used", "codebook_perplexity")},
            "curve": [{key: line[key] for key in line if key == "step" or "_" in key} for line in validations],
            "closely": looks,
        }

    def _prepared(self, run: Run | DenoisingRun, sampler: CropSampler) -> Prepared[Any, Any]:
        """Return the model before its first step, with everything that the trainer needs for it."""
        torch.manual_seed(self._seed)
        request = Request(run.config, run.recipe, sampler, self._clips, Processes())
        if isinstance(run, DenoisingRun):
            return diffusion_setup.prepare(replace(request, codec=find_weights(DEFAULT_MODEL)))
        start = self._start(STARTS[run.start]) if run.start in STARTS else None
        # Converted weights keep all layers that fit. Only a fresh model starts from the KLT.
        return codec_setup.prepare(replace(request, start=start, warm=run.start == "klt"))

    def _sampler(self, run: Run | DenoisingRun) -> CropSampler:
        codec = run.config if isinstance(run.config, OneVAEConfig) else run.config.codec
        return CropSampler(self._library, run.recipe.augmentation, self._seed, codec.layout)

    def _steps_before(self, start: str) -> int:
        """Return the steps that a start has taken."""
        return round(self._steps * STARTS[start].steps_share) if start in STARTS else 0

    def _start(self, run: Run) -> Start:
        if run.name not in self._starts:
            made_by = hashlib.sha256(repr((run, self._steps, self._seed)).encode()).hexdigest()[:12]
            path = RUNS / f"start-{slug(run.name)}-{made_by}.pt"
            if path.exists():
                tensors = torch.load(path, weights_only=True)
            else:
                print(f"start: {run.name}", flush=True)
                trainer, _ = self._train(RUNS / f"start-{slug(run.name)}", run)
                tensors = trainer.ema.state_dict()
                torch.save(tensors, path)
            self._starts[run.name] = Start(run.config, tensors, run.name)
        return self._starts[run.name]


@torch.inference_mode()
def measure_closely(model: OneVAE, clips: Sequence[Tensor], lpips: LPIPS) -> dict[str, dict[str, float | list[float]]]:
    """Measure a codec on held-out clips in more ways than its training does.

    Returns:
        For rounded and for unrounded latents, with all tokens: PSNR in dB, also of each frame by itself; LPIPS; and
        flicker, the mean absolute error of the changes from frame to frame in levels. Means over clips.
    """
    figures: dict[str, dict[str, list[Any]]] = {"rounded": {}, "unrounded": {}}
    for clip in clips:
        layout = model.config.layout
        padded = filled_clip(clip[None].to(model.device), layout)
        source = to_levels(padded)[:, :, layout.repeated_frames :]
        latents, _ = model.encoder(padded, None)
        read = {"rounded": model.quantizer.quantize(latents).codes, "unrounded": model.quantizer.continuous(latents)}
        for name, codes in read.items():
            output = to_levels(decode_codes(model, codes, model.config.max_tokens))[:, :, layout.repeated_frames :]
            frames = [psnr_db(a, b) for a, b in zip(output.unbind(2), source.unbind(2), strict=True)]
            flicker = float((output.diff(dim=2) - source.diff(dim=2)).abs().mean())
            each = {"psnr": psnr_db(output, source), "psnr_by_frame": frames, "flicker": flicker}
            for key, value in (each | {"lpips": mean_lpips(lpips, output, source)}).items():
                figures[name].setdefault(key, []).append(value)
    return {name: {key: np.mean(each, 0).tolist() for key, each in found.items()} for name, found in figures.items()}


def slug(name: str) -> str:
    """Return a name in the form that file names use: lower case, with hyphens."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())


def main() -> None:
    """Train the runs that have no figures yet, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", nargs="*", metavar="COMPARISON", help="; ".join(COMPARISONS))
    parser.add_argument("--data", type=Path, action="append")
    parser.add_argument("--val", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the figures")
    parser.add_argument("--report", action="store_true", help="only write the page from the figures that exist")
    arguments = parser.parse_args()
    if arguments.report:
        write_report(
            {name: [slug(run.name) for run in runs()] for name, runs in COMPARISONS.items()}, arguments.out, slug
        )
        return
    if not arguments.data or not arguments.val:
        parser.error("give --data and --val")
    workshop = Workshop(arguments.data, arguments.val, arguments.steps, arguments.seed, arguments.out)
    for name in arguments.comparisons or COMPARISONS:
        if name not in COMPARISONS:
            parser.error(f"no comparison {name!r}; use {', '.join(map(repr, COMPARISONS))}")
    wanted = [(name, run) for name in arguments.comparisons or COMPARISONS for run in COMPARISONS[name]()]
    trained = sum(workshop.run(name, run) for name, run in wanted)
    print(f"{len(wanted) - trained} of {len(wanted)} runs had their figures already; --out names another folder")


if __name__ == "__main__":
    main()
