"""The stages of training, as data: what each starts from, what it optimizes, on which crops (OneVAE, Fig. 3a)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vtok_codec.training.crops import Augmentation, CropShape


@dataclass(frozen=True)
class Phase:
    """Crops of one shape, from `start` (a fraction of the whole stage) until the next phase."""

    start: float
    shape: CropShape


@dataclass(frozen=True)
class Stage:
    """One step of the training tree."""

    name: str
    starts_from: str
    """`klt` for a fresh model, or the stage whose weights it goes on from."""
    discrete_share: float
    """R_dis of OneVAE eq. 5: the part of samples that go through FSQ; the others stay unrounded."""
    kl_weight: float
    """Weight of the KL term on the latents; 0 leaves them without noise."""
    lpips_weight: float
    lpips_frames: int
    """Frames of each sample that LPIPS looks at."""
    learning_rate: float
    phases: tuple[Phase, ...]
    rate_weights: tuple[float, ...] = ()
    """λ where 1…N tokens are read: what a bit a pixel, as a trained prior codes those tokens, weighs against the root
    mean squared error; none trains no prior. The more tokens are read, the less a further bit gains (at 28, 29.5 and
    30.5 dB about 0.4, 0.2 and 0.1), so λ falls."""
    token_weights: tuple[float, ...] = (0.28, 0.32, 0.10, 0.30)
    """How often 1…N tokens are read in training. Most weight lies on what `vtok encode` writes by default."""
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
_LARGE = CropShape(batch=4, frames=16, size=128)

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="continuous",
            starts_from="klt",
            discrete_share=0.0,
            kl_weight=1e-4,
            lpips_weight=0.0,
            lpips_frames=0,
            learning_rate=1e-3,
            phases=(Phase(0.0, _SMALL),),
        ),
        Stage(
            name="discrete",
            starts_from="continuous",
            discrete_share=0.9,
            kl_weight=0.0,
            lpips_weight=0.02,
            lpips_frames=1,
            learning_rate=8e-4,
            phases=(Phase(0.0, _SMALL), Phase(0.45, _MIDDLE), Phase(0.75, _LARGE)),
        ),
        Stage(
            name="rate",
            starts_from="discrete",
            discrete_share=1.0,
            kl_weight=0.0,
            lpips_weight=0.02,
            lpips_frames=1,
            learning_rate=6e-4,
            rate_weights=(0.25, 0.2, 0.14, 0.1),
            token_weights=(0.22, 0.28, 0.10, 0.40),
            phases=(Phase(0.0, _SMALL), Phase(0.35, _MIDDLE), Phase(0.7, _LARGE)),
        ),
    )
}
