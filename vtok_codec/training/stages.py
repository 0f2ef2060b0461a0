"""The stages of training, as data: what each starts from, what it optimizes, on which crops (OneVAE, Fig. 3a)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtok_codec.training.crops import Augmentation, CropShape


@dataclass(frozen=True)
class Phase:
    """Crops of one shape, from `start` (a fraction of the whole stage) until the next phase."""

    start: float
    shape: CropShape


PARTS = ("encoder", "quantizer", "decoder")
"""What a stage may train. The quantizer is, beside what it learns itself, the layers on both sides of it."""


@dataclass(frozen=True)
class Stage:
    """One step of the training tree."""

    name: str
    starts_from: str
    """`klt` for a fresh model, or the stage whose weights it goes on from."""
    phases: tuple[Phase, ...]
    learning_rate: float
    trains: tuple[str, ...] = ("encoder", "quantizer", "decoder")
    """Of `PARTS`."""
    discrete_share: float = 1.0
    """R_dis of OneVAE eq. 5: the part of samples that go through the quantizer; the others stay unrounded."""
    continuous_until: float = 0.0
    """The fraction of the stage in which all samples stay unrounded."""
    distortion: str = "rmse"
    """Of `DISTORTIONS`."""
    kl_weight: float = 0.0
    """Weight of the KL term on the latents; 0 leaves them without noise."""
    lpips_weight: float = 0.0
    lpips_frames: int = 1
    """Frames of each sample that LPIPS looks at."""
    lpips_start: float = 0.0
    """The fraction of a diffusion decoder's stage after which LPIPS joins in."""
    noise_only_until: float = 0.0
    """The fraction of its stage in which a diffusion decoder sees nothing but noise, at time 1 (One-DVA, stage 1)."""
    noise_only_share: float = 0.1
    """The part of its samples that do so after it (One-DVA, stage 2)."""
    commitment_weight: float = 0.0
    """Of how far latents lie from their codes."""
    entropy_weight: float = 0.0
    """Of the quantizer's entropy term: sure choices, spread over the codebook."""
    adversarial_weight: float = 0.0
    """Of the discriminator's judgement, after it was scaled to pull as hard as the distortion; 0 has none."""
    adversarial_start: float = 0.0
    """The fraction of the stage after which the discriminator joins in."""
    rate_weights: tuple[float, ...] = ()
    """λ of each of the N tokens: what a bit a pixel of it, as a trained prior codes it, weighs against the root mean
    squared error; none trains no prior. The more tokens are read, the less a further bit gains (at 28, 29.5 and 30.5 dB
    about 0.4, 0.2 and 0.1), so λ falls. The first token's is in every rate: with a λ that falls by the number of tokens
    read instead, it grew by a quarter and gained next to nothing."""
    token_weights: tuple[float, ...] = ()
    """How often 1…N tokens are read in training. None: all of them half of the time, else fewer."""
    optimizer: str = "muon"
    """`muon`: Muon on the matrices of the hidden layers, AdamW on the rest; or `adamw` for everything."""
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    augmentation: Augmentation = field(default_factory=Augmentation)

    def shape_at(self, progress: float) -> CropShape:
        """The crops to train on when `progress` of the stage, 0…1, is done."""
        return [phase.shape for phase in self.phases if phase.start <= progress][-1]


# Small crops give more steps a minute and so learn faster at first; larger ones then teach what lies beyond their
# borders (measured: 64×64 for the first part equals 96×96 in two thirds of the time).
_SMALL = CropShape(batch=12, frames=16, size=64)
_MIDDLE = CropShape(batch=6, frames=16, size=96)
_EIGHT_MIDDLE = CropShape(batch=8, frames=16, size=96)
_LARGE = CropShape(batch=4, frames=16, size=128)

_FINE = CropShape(batch=1, frames=16, size=256)
_GROWING = (Phase(0.0, _SMALL), Phase(0.45, _MIDDLE), Phase(0.75, _LARGE))
_MOSTLY_TWO = (0.28, 0.32, 0.10, 0.30)
"""Most weight lies on the two tokens that `vtok encode` writes by default."""

DIFFUSION = "diffusion"
"""The stage of the diffusion decoders; all others train codecs."""

DENOISING_SETTINGS = frozenset(("lpips_start", "noise_only_until", "noise_only_share"))
"""Settings of that stage alone."""
SHARED_SETTINGS = frozenset(
    (
        *("learning_rate", "lpips_weight", "lpips_frames", "token_weights", "optimizer", "warmup_steps"),
        *("betas", "weight_decay", "clip_norm", "ema_decay"),
    )
)
"""Settings that it has in common with the others."""

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="continuous",
            starts_from="klt",
            phases=(Phase(0.0, _SMALL),),
            learning_rate=1e-3,
            discrete_share=0.0,
            kl_weight=1e-4,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name="discrete",
            starts_from="continuous",
            phases=_GROWING,
            learning_rate=8e-4,
            discrete_share=0.9,
            lpips_weight=0.02,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name="unified",
            starts_from="continuous",
            phases=_GROWING,
            learning_rate=8e-4,
            discrete_share=0.5,
            lpips_weight=0.02,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name="compress",
            starts_from="discrete",
            phases=_GROWING,
            learning_rate=8e-4,
            discrete_share=0.9,
            continuous_until=0.3,
            lpips_weight=0.02,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name="rate",
            starts_from="discrete",
            phases=(Phase(0.0, _SMALL), Phase(0.35, _MIDDLE), Phase(0.7, _LARGE)),
            learning_rate=6e-4,
            lpips_weight=0.02,
            rate_weights=(0.21, 0.16, 0.06, 0.03),
            token_weights=(0.22, 0.28, 0.10, 0.40),
        ),
        Stage(
            name="decoder",
            starts_from="rate",
            phases=(Phase(0.0, _LARGE), Phase(0.5, _FINE)),
            learning_rate=3e-4,
            trains=("decoder",),
            lpips_weight=0.02,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name="adversarial",
            starts_from="rate",
            phases=(Phase(0.0, _MIDDLE),),
            learning_rate=2e-4,
            trains=("decoder",),
            lpips_weight=0.1,
            adversarial_weight=0.1,
            adversarial_start=0.1,
            token_weights=_MOSTLY_TWO,
        ),
        Stage(
            name=DIFFUSION,
            starts_from="rate",
            phases=(Phase(0.0, _EIGHT_MIDDLE), Phase(0.5, _LARGE)),
            learning_rate=3e-4,
            lpips_weight=2.0,
            lpips_frames=8,
            noise_only_until=0.7,
            noise_only_share=0.5,
            warmup_steps=100,
            ema_decay=0.998,
            token_weights=(0.5, 0.3, 0.05, 0.15),
            # Sharp clips alone teach it to sharpen soft ones too.
            augmentation=Augmentation(shrink=0.2, skip=0.5, soft=0.35),
        ),
    )
}
