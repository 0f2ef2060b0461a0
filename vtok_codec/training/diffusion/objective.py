"""The loss of a diffusion decoder. The codec whose tokens it decodes is frozen (CDT; One-DVA, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.config import FLOW
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.paths import path_of
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.objective import Loss, TrainingObjective, perceptual_distance
from vtok_codec.training.processes import Processes

_ERROR_WEIGHT = 10.0
"""The weight of the squared error in the loss (λ₁ in the appendix of One-DVA). The recipe sets that of LPIPS."""


class DenoisingObjective(TrainingObjective[DiffusionRecipe]):
    """The loss of a diffusion decoder: the error of the clean videos that it predicts from noisy ones."""

    def __init__(
        self, recipe: DiffusionRecipe, codec: OneVAE, lpips: LPIPS | None, processes: Processes | None = None
    ) -> None:
        super().__init__(recipe, codec.config.max_tokens, lpips, processes)
        self.codec = codec.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DenoisingObjective:
        """Set the training mode of the objective. The frozen codec always stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    def forward(
        self,
        model: Denoiser,
        video: Tensor,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch.

        Args:
            model: The diffusion decoder to train.
            video: Source videos, `B 3 T H W` in [−1, 1].
            generator: The source of all random choices in this step.
            progress: The fraction of the stage that is done, 0…1.
            discriminator: Not used.
        """
        recipe, path = self.recipe, path_of(model.config.objective)
        batch = len(video) * self.processes.count
        counts = self.draw_counts(batch, generator)
        times = self._times(model.config.objective, batch, generator, progress)
        counts, times = (self.processes.share(x).to(video.device) for x in (counts, times))
        noise = self.processes.normal(video, generator)
        with torch.no_grad():
            codes = self.codec.quantizer.quantize(self.codec.encoder(video, None)[0]).codes
        condition, _ = model.condition(codes, None, counts)
        told, _ = model(path.noisy(video, noise, times), None, times, condition)
        told = told.float()
        error = (told - video).square().flatten(1).mean(1)
        weighted = (path.weight(times) * error).mean()
        total = _ERROR_WEIGHT * weighted
        parts = {"error": error.mean(), "weighted": weighted}
        if recipe.lpips_weight and progress >= recipe.lpips_start:
            parts["lpips"] = perceptual_distance(self.lpips, video, told, recipe.lpips_frames, generator)
            total = total + recipe.lpips_weight * parts["lpips"]
        parts = {name: term.detach() for name, term in parts.items()}
        return Loss(total, parts, video, told.detach(), None)

    def _times(self, objective: str, batch: int, generator: torch.Generator, progress: float) -> Tensor:
        """Draw the time of each sample, `(batch,)` in [0, 1], where 0 is clean video and 1 is pure noise.

        Times are uniform for DDIM and logit-normal for flow matching. The share `noise_only_share` of the samples, and
        all of them before `noise_only_until`, have time 1 (One-DVA, stages 1 and 2). Stage 1 of One-DVA also reads all
        tokens. Here samples may read fewer at any time, since few tokens are what the decoder is for.
        """
        uniform = torch.rand(batch, generator=generator)
        normal = torch.randn(batch, generator=generator)
        alone = torch.rand(batch, generator=generator)
        times = torch.sigmoid(normal) if objective == FLOW else 1 - uniform
        noise_only = alone < (1.0 if progress < self.recipe.noise_only_until else self.recipe.noise_only_share)
        return torch.where(noise_only, torch.ones(batch), times)
