"""The comparisons of `bench/ablations.py`: for each, the runs that it trains, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vtok_codec.models.config import Codebook, DenoiserConfig, Level, OneVAEConfig
from vtok_codec.models.presets import presets_of
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.recipe import Augmentation, CropShape, Phase
from vtok_codec.training.stages import STAGES

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
    """The fraction of the usual number of steps. It is less than 1 if the start has taken steps of its own, or to save
    time."""


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


def _half(run: Run) -> Run:
    """Give a run half of the usual number of steps."""
    return replace(run, steps_share=0.5)


def _third(run: Run) -> Run:
    """Give a run a third of the usual number of steps."""
    return replace(run, steps_share=1 / 3)


COARSE = _with_last(TWO_TOKENS, (1, 2, 2), 2)
"""The model of two tokens at 4×16×16."""

STARTS = {
    "continuous": Run("continuous", TWO_TOKENS, _recipe("continuous", TWO_TOKENS)),
    "continuous, nested": Run("continuous, nested", SMALL, _recipe("continuous", SMALL, token_weights=())),
    "small crops": replace(_fsq(TWO_TOKENS, "small crops"), steps_share=0.5),
    "continuous, 4x8x8": _half(Run("continuous, 4x8x8", TWO_TOKENS, _recipe("continuous", TWO_TOKENS))),
    "continuous, 4x16x16": _half(Run("continuous, 4x16x16", COARSE, _recipe("continuous", COARSE))),
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
    config = replace(presets_of(DenoiserConfig)["cdt-nano-4x8x8"], adapter_scales=adapter_scales)
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


def _paths() -> list[Run]:
    """Compare training for rounded latents, for unrounded ones, and for both, at 4×8×8 and at 4×16×16."""
    runs = []
    for grid, config in (("4x8x8", TWO_TOKENS), ("4x16x16", COARSE)):
        start = f"continuous, {grid}"
        runs += [
            _half(_fsq(config, f"{grid}, discrete", start)),
            _half(Run(f"{grid}, continuous", config, _recipe("continuous", config), start)),
            _half(Run(f"{grid}, unified", config, _recipe("discrete", config, discrete_share=0.5), start)),
        ]
    return runs


def _codebook_sizes() -> list[Run]:
    """Compare FSQ with one token of four sizes."""
    sizes = {4096: (8,) * 4, 32768: (8,) * 5, 64000: (8, 8, 8, 5, 5, 5), 262144: (8,) * 6}
    return [
        _third(_fsq(replace(SMALL, fsq_levels=levels, max_tokens=1), f"{size:,} codes".replace(",", " ")))
        for size, levels in sizes.items()
    ]


def _continuous_channels() -> list[Run]:
    """Compare continuous latents with 4, 8 and 16 channels, with a KL term."""
    runs = []
    for channels in (4, 8, 16):
        config = replace(SMALL, fsq_levels=(8,) * 4, max_tokens=channels // 4)
        runs.append(_third(Run(f"{channels} channels", config, _recipe("continuous", config))))
    return runs


def _adversarial() -> list[Run]:
    """Train the decoder alone for a third of the steps, with more and more terms beside the pixel loss."""
    terms: dict[str, dict[str, float]] = {
        "pixels": {"lpips_weight": 0.0, "adversarial_weight": 0.0},
        "pixels and LPIPS": {"lpips_weight": 0.1, "adversarial_weight": 0.0},
        "pixels, LPIPS and PatchGAN": {"lpips_weight": 0.1, "adversarial_weight": 0.1},
    }
    return [
        _third(Run(name, TWO_TOKENS, _recipe("adversarial", TWO_TOKENS, **changes), "small crops"))
        for name, changes in terms.items()
    ]


def _first_frame_by_frame() -> list[Run]:
    """Compare models that see later frames, that do not, and that have an enhanced first frame, at 4×16×16."""
    start = replace(VARIED, gop_start=1.0)
    shapes = {
        "not causal": replace(COARSE, causal=False),
        "causal": COARSE,
        "causal, enhanced first frame": replace(COARSE, enhanced_first_frame=True),
    }
    return [_third(_fsq(config, name, augmentation=start)) for name, config in shapes.items()]


def _regularizers() -> list[Run]:
    """Compare FSQ and LFQ with and without the terms that regularize their codes."""
    lfq = replace(TWO_TOKENS, codebook=Codebook("lfq", 12))
    return [
        _third(_fsq(TWO_TOKENS, "FSQ")),
        _third(_fsq(TWO_TOKENS, "FSQ, commitment term", commitment_weight=0.05)),
        _third(_fsq(lfq, "LFQ")),
        _third(_fsq(lfq, "LFQ, commitment and entropy terms", commitment_weight=0.05, entropy_weight=0.002)),
    ]


def _temporal_losses() -> list[Run]:
    """Compare weights of the error of changes from frame to frame, for the decoder alone."""
    return [
        _third(_fsq(TWO_TOKENS, f"{weight:g}", "small crops", trains=("decoder",), temporal_weight=weight))
        for weight in (0.0, 0.3, 1.0)
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
    "discrete, continuous or both": _paths,
    "size of the codebook": _codebook_sizes,
    "channels of continuous latents": _continuous_channels,
    "adversarial loss": _adversarial,
    "first frame, frame by frame": _first_frame_by_frame,
    "regularizers of the codes": _regularizers,
    "temporal loss": _temporal_losses,
}
