"""What a stage minimizes: reconstruction through the joint discrete and continuous path, plus small terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtok_codec.errors import TrainingError
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.models.onevae import OneVAE, OneVAEConfig
from vtok_codec.training.prior import DigitPrior
from vtok_codec.training.stages import Stage


@dataclass(frozen=True)
class Loss:
    """The loss of a batch, with its parts."""

    total: Tensor
    parts: dict[str, float]


class Objective(nn.Module):
    """Loss of a batch of videos. Its own parameters (the posterior's spread, the prior) train along with the model."""

    def __init__(self, stage: Stage, config: OneVAEConfig, lpips: LPIPS | None) -> None:
        super().__init__()
        if stage.lpips_weight and lpips is None:
            raise ValueError(f"stage {stage.name} has an LPIPS term and no LPIPS network")
        for name, weights in (("rate_weights", stage.rate_weights), ("token_weights", stage.token_weights)):
            if weights and len(weights) != config.max_tokens:
                raise TrainingError(f"--set {name}: the model has {config.max_tokens} tokens, give as many numbers")
        self.stage = stage
        self.lpips = lpips
        self.digits_a_token = len(config.fsq_levels)
        # Starts near the error of rounding, so that the discrete stage finds a decoder used to it.
        self.log_std = nn.Parameter(torch.full((config.latent_channels, 1, 1, 1), -2.0))
        self.prior = DigitPrior(config) if any(stage.rate_weights) else None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Its parameters that train, by name: all but those of the LPIPS network."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def forward(self, model: OneVAE, video: Tensor, generator: torch.Generator) -> Loss:
        """`video` is `B 3 T H W` in [−1, 1]; `generator` makes every random choice of the step."""
        batch = len(video)
        counts = self._token_counts(batch, generator).to(video.device)
        rounded = torch.rand(batch, generator=generator).to(video.device) < self.stage.discrete_share
        latents, _ = model.encoder(video, None)
        latents = latents.float()
        kl = self._kl(latents) if self.stage.kl_weight else latents.new_zeros(())
        if self.stage.kl_weight:
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            latents = latents + noise * self.log_std.exp()
        straight = model.fsq.straight_through(latents)
        codes = torch.where(rounded[:, None, None, None, None], straight, model.fsq.continuous(latents))
        reconstruction, _ = model.decoder(codes, None, counts)
        error = (reconstruction.float() - video).square().flatten(1).mean(1)
        # The root of each sample's error: between MSE, which hard clips rule, and PSNR, which easy ones do.
        rmse = (error + 1e-6).sqrt().mean()
        perceptual = self._perceptual(video, reconstruction, generator)
        bits = self._bits_per_pixel(straight, counts, video)
        rate = (bits * self._rate_weights(counts)).mean()
        stage = self.stage
        total = rmse + stage.lpips_weight * perceptual + stage.kl_weight * kl + rate
        terms = {"rmse": rmse, "lpips": perceptual, "kl": kl, "bpp": bits.mean()}
        return Loss(total, {name: float(term.detach()) for name, term in terms.items()})

    def _bits_per_pixel(self, codes: Tensor, counts: Tensor, video: Tensor) -> Tensor:
        """What the tokens that each sample reads would cost, by the prior."""
        if self.prior is None:
            return video.new_zeros(len(video))
        token = torch.arange(codes.shape[1], device=codes.device) // self.digits_a_token
        read = (token[None] < counts[:, None])[:, :, None, None, None]
        return (self.prior(codes) * read).flatten(1).sum(1) / video[0, 0].numel()

    def _rate_weights(self, counts: Tensor) -> Tensor:
        """λ of each sample, which reads `counts` tokens."""
        if self.prior is None:
            return torch.zeros(len(counts), device=counts.device)
        return torch.tensor(self.stage.rate_weights, device=counts.device)[counts - 1]

    def _token_counts(self, batch: int, generator: torch.Generator) -> Tensor:
        weights = torch.tensor(self.stage.token_weights)
        return torch.multinomial(weights, batch, replacement=True, generator=generator) + 1

    def _kl(self, latents: Tensor) -> Tensor:
        """KL divergence of N(latents, σ²) from N(0, 1), nats a latent channel."""
        return (0.5 * (latents.square() + (2 * self.log_std).exp() - 1) - self.log_std).mean()

    def _perceptual(self, video: Tensor, reconstruction: Tensor, generator: torch.Generator) -> Tensor:
        if self.lpips is None or not self.stage.lpips_weight:
            return video.new_zeros(())
        frames = torch.randperm(video.shape[2], generator=generator)[: self.stage.lpips_frames]
        source, output = (x[:, :, frames].transpose(1, 2).flatten(0, 1) for x in (video, reconstruction))
        return self.lpips(source, output).mean()
