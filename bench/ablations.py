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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ablations_report import write_report
from common import ROOT, environment
from torch import Tensor

from vtok_codec.metrics.complexity import complexity
from vtok_codec.models.config import Codebook, DenoiserConfig, Level, OneVAEConfig
from vtok_codec.models.presets import denoiser_presets
from vtok_codec.registry import DEFAULT_MODEL, find_weights
from vtok_codec.training.codec import setup as codec_setup
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.held_out import validation_clips
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.data.resident import batches_for
from vtok_codec.training.diffusion import setup as diffusion_setup
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import Augmentation, CropShape, Phase
from vtok_codec.training.stages import STAGES
from vtok_codec.training.subject import Prepared, Request, Start
from vtok_codec.training.trainer import LOG, Budget, Cadence, Trainer

RESULTS = ROOT / "docs" / "notebook" / "ablations"
RUNS = ROOT / "runs" / "ablations"
VALIDATIONS = 8
"""The number of points of a learning curve."""
CROP = CropShape(batch=12, frames=16, size=64)
DENOISING_CROP = CropShape(batch=8, frames=16, size=64)
VARIED = Augmentation(skip=0.3)
"""How crops are varied. `skip` has the value that was the default before the comparison of frame rates."""
FSQ_3375 = (5, 5, 5, 3, 3, 3)
"""FSQ levels that give 3,375 codes, as many as the codebooks that FSQ is compared with. With odd levels, FSQ bounds
latents by a plain tanh, as the codebooks do, so that all quantizers suit the same decoder."""

SMALL = OneVAEConfig(
    levels=(
        Level(factor=(2, 4, 4), channels=48, encoder_blocks=1, decoder_blocks=1),
        Level(factor=(2, 2, 2), channels=128, encoder_blocks=2, decoder_blocks=3),
    ),
    fsq_levels=(8, 8, 8, 5, 5, 5),
    max_tokens=4,
)
TWO_TOKENS = replace(SMALL, fsq_levels=FSQ_3375, max_tokens=2)
"""A model for comparisons of quantizers: two tokens of 3,375 codes each, which are always read together."""


@dataclass(frozen=True)
class Run:
    """One training run of a codec."""

    name: str
    config: OneVAEConfig
    recipe: CodecRecipe
    start: str = "klt"
    """What the run starts from: `random`, `klt`, or the name of a model in `STARTS`, whose weights are converted."""
    steps_share: float = 1.0
    """The fraction of the usual number of steps. It is less than 1 if the start has taken the other steps."""


@dataclass(frozen=True)
class DenoisingRun:
    """One training run of a diffusion decoder, which starts as the shipped codec's own decoder."""

    name: str
    config: DenoiserConfig
    recipe: DiffusionRecipe
    steps_share: float = 1 / 3
    """The fraction of the usual number of steps."""


def _recipe(name: str, config: OneVAEConfig, **changes: object) -> CodecRecipe:
    """Return the recipe of a stage on small crops and without LPIPS, so that training optimizes only the pixel loss."""
    recipe = STAGES[name].recipe
    assert isinstance(recipe, CodecRecipe)
    all_tokens = (0.0,) * (config.max_tokens - 1) + (1.0,)
    base = replace(recipe, phases=(Phase(0.0, CROP),), lpips_weight=0.0, token_weights=all_tokens, augmentation=VARIED)
    return replace(base, **changes)  # type: ignore[arg-type]


def _with_last(config: OneVAEConfig, factor: tuple[int, int, int], decoder_blocks: int) -> OneVAEConfig:
    """Add a coarser level to a configuration, which becomes the latent grid."""
    return replace(config, levels=(*config.levels, Level(factor, 128, 1, decoder_blocks)))


def _fsq(config: OneVAEConfig, name: str, start: str = "klt", **changes: object) -> Run:
    return Run(name, config, _recipe("discrete", config, discrete_share=1.0, **changes), start)


def _codebooks(start: str, **changes: object) -> list[Run]:
    """Return a run for each quantizer with 3,375 codes, and for LFQ with 4,096, the next power of two."""
    kinds = {"VQ": Codebook("vq", 6, 3375), "SimVQ": Codebook("simvq", 6, 3375), "LFQ": Codebook("lfq", 12)}
    runs = [_fsq(TWO_TOKENS, "FSQ", start, **changes)]
    for name, codebook in kinds.items():
        terms = {"commitment_weight": 0.05} | ({"entropy_weight": 0.002} if name == "LFQ" else {})
        runs.append(_fsq(replace(TWO_TOKENS, codebook=codebook), name, start, **terms, **changes))
    return runs


STARTS = {
    "continuous": Run("continuous", TWO_TOKENS, _recipe("continuous", TWO_TOKENS)),
    "continuous, nested": Run("continuous, nested", SMALL, _recipe("continuous", SMALL, token_weights=())),
    "small crops": replace(_fsq(TWO_TOKENS, "small crops"), steps_share=0.5),
}
"""Models that several runs start from, by name."""


def _quantizer_in_frozen_model() -> list[Run]:
    runs = _codebooks("continuous", trains=("quantizer",))
    # LFQ is left out, since its latents have another number of channels than the frozen networks.
    return [run for run in runs if run.name != "LFQ"]


def _progressive() -> list[Run]:
    simvq = next(run for run in _codebooks("continuous") if run.name == "SimVQ")
    return [
        _fsq(TWO_TOKENS, "progressive FSQ", "continuous"),
        _fsq(TWO_TOKENS, "FSQ from the KLT", "klt"),
        _fsq(TWO_TOKENS, "FSQ from scratch", "random"),
        replace(simvq, name="progressive SimVQ"),
    ]


def _tokens() -> list[Run]:
    one, two = (replace(SMALL, max_tokens=tokens) for tokens in (1, 2))
    return [
        _fsq(one, "4x8x8, 1 token"),
        _fsq(_with_last(two, (2, 1, 1), 2), "8x8x8, 2 tokens"),
        _fsq(two, "4x8x8, 2 tokens"),
    ]


def _first_frame() -> list[Run]:
    """Compare first-frame enhancement at 4×16×16. All crops start a GOP, since only these have a first frame."""
    two = _with_last(replace(SMALL, max_tokens=2), (1, 2, 2), 2)
    start = replace(VARIED, gop_start=1.0)
    return [
        _fsq(config, name, augmentation=start)
        for name, config in (("plain", two), ("enhanced", replace(two, enhanced_first_frame=True)))
    ]


def _gop_start() -> list[Run]:
    return [
        _fsq(TWO_TOKENS, f"{share:.0%} of the crops", augmentation=replace(VARIED, gop_start=share))
        for share in (0.0, 0.5, 1.0)
    ]


def _expanded_decoder() -> list[Run]:
    two = replace(SMALL, max_tokens=2)
    return [
        _fsq(_with_last(two, (1, 2, 2), 1), "1 block at the latent grid"),
        _fsq(_with_last(two, (1, 2, 2), 4), "4 blocks at the latent grid"),
    ]


def _joint_path() -> list[Run]:
    return [
        Run(f"R_dis = {share}", TWO_TOKENS, _recipe("discrete", TWO_TOKENS, discrete_share=share), "continuous")
        for share in (1.0, 0.9, 0.5)
    ]


def _blocks() -> list[Run]:
    return [
        _fsq(replace(TWO_TOKENS, blocks=blocks, resampling=resampling), f"{blocks}, {resampling}")
        for blocks, resampling in (
            ("2d+1d", "shuffle"),
            ("2d+1d", "blend"),
            ("2d+1d", "learned-blend"),
            ("3d", "shuffle"),
            ("2d", "shuffle"),
        )
    ]


def _causality() -> list[Run]:
    return [_fsq(replace(TWO_TOKENS, causal=causal), "causal" if causal else "not causal") for causal in (True, False)]


def _frame_rate() -> list[Run]:
    return [
        _fsq(TWO_TOKENS, "every frame", augmentation=replace(VARIED, skip=0.0)),
        _fsq(TWO_TOKENS, "every second or third frame", augmentation=replace(VARIED, skip=1.0)),
        _fsq(TWO_TOKENS, "of both, 30 % skipped", augmentation=replace(VARIED, skip=0.3)),
        _fsq(TWO_TOKENS, "of both, 70 % skipped", augmentation=replace(VARIED, skip=0.7)),
    ]


def _two_stages() -> list[Run]:
    """Compare crops of twice the side, throughout or in the second half of the steps, with as many pixels per step."""
    fine = (Phase(0.0, CropShape(batch=3, frames=16, size=128)),)
    second = (
        _fsq(TWO_TOKENS, "64, then 128 pixels", "small crops", phases=fine),
        _fsq(TWO_TOKENS, "64, then the decoder alone at 128", "small crops", phases=fine, trains=("decoder",)),
    )
    return [
        _fsq(TWO_TOKENS, "128 pixels throughout", phases=fine),
        _fsq(TWO_TOKENS, "64 pixels throughout"),
        *(replace(run, steps_share=0.5) for run in second),
    ]


def _nested() -> list[Run]:
    alone = [
        _fsq(SMALL, f"{count} of 4 tokens alone", "continuous, nested", token_weights=weights)
        for count, weights in ((1, (1.0, 0.0, 0.0, 0.0)), (2, (0.0, 1.0, 0.0, 0.0)), (4, (0.0, 0.0, 0.0, 1.0)))
    ]
    return [_fsq(SMALL, "nested", "continuous, nested", token_weights=()), *alone]


def _capacity() -> list[Run]:
    """Compare ways to double the cost per frame: wider levels, more blocks, or blocks that are wider inside."""
    fine, coarse = TWO_TOKENS.levels
    wide = (replace(fine, channels=72), replace(coarse, channels=184))
    deep = tuple(
        replace(level, encoder_blocks=2 * level.encoder_blocks, decoder_blocks=2 * level.decoder_blocks)
        for level in TWO_TOKENS.levels
    )
    return [
        _fsq(TWO_TOKENS, "48 and 128 channels"),
        _fsq(replace(TWO_TOKENS, levels=wide), "72 and 184 channels"),
        _fsq(replace(TWO_TOKENS, levels=deep), "twice the blocks"),
        _fsq(replace(TWO_TOKENS, expansion=1.75), "1.75 times as wide inside the blocks"),
    ]


def _optimizers() -> list[Run]:
    rates = {"muon": (4e-4, 8e-4, 1.6e-3, 3.2e-3), "adamw": (8e-4, 2e-3)}
    return [
        _fsq(TWO_TOKENS, f"{optimizer}, {rate:g}", optimizer=optimizer, learning_rate=rate)
        for optimizer, each in rates.items()
        for rate in each
    ]


def _augmentations() -> list[Run]:
    plain = {"colour": "color", "flatness": "flat", "scale": "shrink", "photographs": "photo"}
    return [
        _fsq(TWO_TOKENS, "all"),
        *(
            _fsq(TWO_TOKENS, f"without {name}", augmentation=replace(VARIED, **{field: 0.0}))
            for name, field in plain.items()
        ),
    ]


def _losses() -> list[Run]:
    return [_fsq(TWO_TOKENS, distortion, distortion=distortion) for distortion in ("rmse", "mse", "charbonnier", "l1")]


def _lpips_weights() -> list[Run]:
    return [_fsq(TWO_TOKENS, f"{weight:g}", lpips_weight=weight) for weight in (0.0, 0.02, 0.05, 0.1, 0.2)]


def _averages() -> list[Run]:
    return [_fsq(TWO_TOKENS, f"EMA {decay:g}", ema_decay=decay) for decay in (0.0, 0.99, 0.999)]


def _denoising(name: str, adapter_scales: int = 0, **changes: object) -> DenoisingRun:
    config = replace(denoiser_presets()["cdt-nano-4x8x8"], adapter_scales=adapter_scales)
    recipe = STAGES["diffusion"].recipe
    assert isinstance(recipe, DiffusionRecipe)
    # The figures are for one token and for two, so training reads one or two.
    base = replace(recipe, phases=(Phase(0.0, DENOISING_CROP),), ema_decay=0.99, token_weights=(0.6, 0.4, 0.0, 0.0))
    return DenoisingRun(name, config, replace(base, **changes))  # type: ignore[arg-type]


def _adapter_scales() -> list[DenoisingRun]:
    return [_denoising("all scales"), _denoising("the coarsest scale alone", adapter_scales=1)]


def _noise_first() -> list[DenoisingRun]:
    return [
        _denoising("nothing but noise first"),
        _denoising("all times from the start", noise_only_until=0.0),
    ]


COMPARISONS: dict[str, Callable[[], Sequence[Run | DenoisingRun]]] = {
    "quantizer in a frozen model": _quantizer_in_frozen_model,
    "progressive training": _progressive,
    "tokens per position": _tokens,
    "first-frame enhancement": _first_frame,
    "crops that start a GOP": _gop_start,
    "expanded decoder": _expanded_decoder,
    "joint path": _joint_path,
    "blocks and resampling": _blocks,
    "causality": _causality,
    "quantizers": lambda: _codebooks("klt"),
    "frame rate": _frame_rate,
    "crops": _two_stages,
    "nested tokens": _nested,
    "width or depth": _capacity,
    "optimizer and learning rate": _optimizers,
    "augmentation": _augmentations,
    "loss": _losses,
    "weight of LPIPS": _lpips_weights,
    "average of the weights": _averages,
    "scales of the condition adapter": _adapter_scales,
    "noise before all times": _noise_first,
}


class Workshop:
    """Trains runs with the same data, held-out clips, number of steps and seed, and stores their figures."""

    def __init__(self, data: Sequence[Path], val: Path, steps: int, seed: int, results: Path) -> None:
        self._results = results
        self._library = ClipLibrary(data, 8 << 30)
        self._clips: list[Tensor] = validation_clips(val, 8, SMALL.layout)
        self._steps, self._seed = steps, seed
        self._starts: dict[str, Start] = {}

    def run(self, comparison: str, run: Run | DenoisingRun) -> None:
        """Train a run and write its figures, unless they exist already."""
        target = self._results / slug(comparison) / f"{slug(run.name)}.json"
        if target.exists():
            made = json.loads(target.read_text(encoding="utf-8"))
            if (made["steps"], made["seed"]) != (self._steps, self._seed):
                raise SystemExit(f"{target} has another number of steps or another seed; remove it to run it again")
            return
        figures = self._twin(run)
        if figures is None:
            print(f"{comparison}: {run.name}", flush=True)
            _, figures = self._train(RUNS / slug(comparison) / slug(run.name), run)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    def _twin(self, run: Run | DenoisingRun) -> dict[str, object] | None:
        """Return the figures of a finished run that differs only in its name, since many comparisons share a run."""
        for name, runs in COMPARISONS.items():
            for other in runs():
                path = self._results / slug(name) / f"{slug(other.name)}.json"
                if path.exists() and replace(other, name=run.name) == run:  # type: ignore[type-var]
                    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                    alike = (figures["steps"], figures["seed"]) == (self._steps, self._seed)
                    # Figures of early runs lack LPIPS.
                    if alike and any(key.startswith("lpips_") for key in figures["curve"][-1]):
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
        return trainer, environment() | {
            "run": run.name,
            "start": start,
            "steps": self._steps,
            "steps_before": self._steps - steps if start in STARTS else 0,
            "seed": self._seed,
            "minutes": (time.monotonic() - started) / 60,
            "cost": asdict(cost),
            **{key: line[key] for line in codebook for key in ("codebook_used", "codebook_perplexity")},
            "curve": [{key: line[key] for key in line if key == "step" or "_" in key} for line in validations],
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
    for name in arguments.comparisons or COMPARISONS:
        for run in COMPARISONS[name]():
            workshop.run(name, run)


if __name__ == "__main__":
    main()
