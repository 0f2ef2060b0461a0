"""What a diffusion decoder minimizes, with the codec whose tokens it decodes frozen beside it (CDT; One-DVA, 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.sampling import path_of
from vtok_codec.training.objective import Loss, TrainingObjective, perceptual_distance
from vtok_codec.training.processes import Processes
from vtok_codec.training.stages import Stage

_ERROR_WEIGHT = 10.0
"""Of the squared error beside LPIPS (One-DVA, appendix: λ₁)."""


class DenoisingObjective(TrainingObjective):
    """Loss of a batch of videos: how far what the denoiser tells of noisy videos lies from the clean ones."""

    def __init__(self, stage: Stage, codec: OneVAE, lpips: LPIPS | None, processes: Processes | None = None) -> None:
        super().__init__(stage, codec.config.max_tokens, lpips, processes)
        self.codec = codec.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> DenoisingObjective:
        """The codec stays as it is."""
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
        """`video` is `B 3 T H W` in [−1, 1]; `generator` makes every random choice of the step."""
        stage, path = self.stage, path_of(model.config.objective)
        batch = len(video) * self.processes.count
        counts = torch.multinomial(self.token_weights, batch, replacement=True, generator=generator) + 1
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
        if stage.lpips_weight and progress >= stage.lpips_start:
            parts["lpips"] = perceptual_distance(self.lpips, video, told, stage.lpips_frames, generator)
            total = total + stage.lpips_weight * parts["lpips"]
        parts = {name: term.detach() for name, term in parts.items()}
        return Loss(total, parts, video, told.detach(), None)

    def _times(self, objective: str, batch: int, generator: torch.Generator, progress: float) -> Tensor:
        """Of each sample: for DDIM uniform, for the flow logit-normal; a share of them, and before `noise_only_until`
        all, are nothing but noise (One-DVA, stages 1 and 2; its stage 1 reads all tokens besides, here the fewer are
        what the decoder is for)."""
        uniform = torch.rand(batch, generator=generator)
        normal = torch.randn(batch, generator=generator)
        alone = torch.rand(batch, generator=generator)
        times = torch.sigmoid(normal) if objective == "flow" else 1 - uniform
        noise_only = alone < (1.0 if progress < self.stage.noise_only_until else self.stage.noise_only_share)
        return torch.where(noise_only, torch.ones(batch), times)
