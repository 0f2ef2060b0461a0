"""What a stage minimizes: reconstruction through the joint discrete and continuous path, plus small terms."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import SettingError, TrainingError
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.models.onevae import OneVAE, OneVAEConfig
from vtok_codec.models.quantizer import Quantized, Quantizer
from vtok_codec.training.adversarial import adaptive_weight, generator_loss
from vtok_codec.training.prior import DigitPrior
from vtok_codec.training.processes import Processes
from vtok_codec.training.stages import Stage

_CHARBONNIER = 1e-3
"""Where the Charbonnier distance turns from a parabola to a line, in units of pixels in [−1, 1]."""
_LPIPS_STRIDE = 4
"""Pixels from one place of the first layer of LPIPS to the next."""


class Loss(NamedTuple):
    """The loss of a batch, and what it came from."""

    total: Tensor
    parts: dict[str, Tensor]
    """Its terms before weighting, detached."""
    video: Tensor
    """`B 3 T H W`: what of the batch a viewer would see."""
    reconstruction: Tensor
    """Of that, detached."""
    indices: Tensor | None
    """Codebook entries `B N T H W`, of all samples and tokens; None where no codebook trains."""


def _rmse(error: Tensor) -> Tensor:
    """The root of each sample's error: between MSE, which hard clips rule, and PSNR, which easy ones do."""
    return (error.square().flatten(1).mean(1) + 1e-6).sqrt().mean()


DISTORTIONS = {
    "rmse": _rmse,
    "mse": lambda error: error.square().mean(),
    "l1": lambda error: error.abs().mean(),
    "charbonnier": lambda error: (error.square() + _CHARBONNIER**2).sqrt().mean(),
}
"""Of an error `B 3 T H W` in pixels of [−1, 1]."""


class TrainingObjective(nn.Module):
    """What a run minimizes: called with the model, a batch of videos, the step's generator, the progress of the stage
    and a discriminator or None, it gives a `Loss`.

    Raises:
        SettingError: a number of the stage is out of its range.
    """

    def __init__(self, stage: Stage, tokens: int, lpips: LPIPS | None, processes: Processes | None) -> None:
        """`tokens`: a position, N."""
        super().__init__()
        if stage.lpips_weight and lpips is None:
            raise ValueError(f"stage {stage.name} has an LPIPS term and no LPIPS network")
        _check_numbers(stage, tokens)
        self.stage = stage
        self.lpips = lpips
        self.processes = processes or Processes()
        self.token_weights = torch.tensor(stage.token_weights or _nested_weights(tokens))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Its own parameters that train along, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


class Objective(TrainingObjective):
    """Loss of a batch of videos. Its own parameters (the posterior's spread, the prior) train along with the model.

    Raises:
        SettingError, TrainingError: the stage asks for what this model or this version has not.
    """

    def __init__(
        self, stage: Stage, config: OneVAEConfig, lpips: LPIPS | None, processes: Processes | None = None
    ) -> None:
        super().__init__(stage, config.max_tokens, lpips, processes)
        _check(stage, config)
        # Where every crop starts a GOP, the copies of its first frame that a decoder cuts away count for nothing.
        self.unseen_frames = config.stride[0] - 1 if stage.augmentation.gop_start == 1 else 0
        self.token_channels = config.token_channels
        # Starts near the error of rounding, so that the discrete stage finds a decoder used to it.
        spread = torch.full((config.latent_channels, 1, 1, 1), -2.0)
        self.log_std = nn.Parameter(spread, requires_grad=stage.kl_weight > 0)
        self.prior = DigitPrior(config) if any(stage.rate_weights) else None

    def forward(
        self,
        model: OneVAE,
        video: Tensor,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """`video` is `B 3 T H W` in [−1, 1]; `generator` makes every random choice of the step.

        `progress` is the part of the stage that is done. With a `discriminator` its judgement is part of the loss.
        """
        counts, rounded = self._draw(video, generator, progress)
        latents, kl = self._latents(model, video, generator)
        codes, quantized, codebook_terms = self._codes(model.quantizer, latents, rounded)
        decoded, _ = model.decoder(codes, None, counts)
        video, reconstruction = video[:, :, self.unseen_frames :], decoded[:, :, self.unseen_frames :]
        distortion = DISTORTIONS[self.stage.distortion](reconstruction.float() - video)
        perceptual = self._perceptual(video, reconstruction, generator)
        bits = self._token_bits(quantized.codes, counts, video)
        stage = self.stage
        total = distortion + stage.lpips_weight * perceptual + stage.kl_weight * kl
        if self.prior is not None:
            total = total + (bits * torch.tensor(stage.rate_weights, device=bits.device)).sum(1).mean()
        parts = {stage.distortion: distortion, "lpips": perceptual, "kl": kl, "bpp": bits.sum(1).mean()}
        for name, (weight, term) in codebook_terms.items():
            total = total + weight * term
            parts[name] = term
        if discriminator is not None:
            judged = generator_loss(discriminator, reconstruction)
            scale = adaptive_weight(distortion, judged, model.decoder.out.weight)
            total = total + stage.adversarial_weight * scale * judged
            parts |= {"adversarial": judged, "adaptive": scale}
        parts = {name: term.detach() for name, term in parts.items()}
        return Loss(total, parts, video, reconstruction.detach(), quantized.indices)

    def _draw(self, video: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """How many tokens each sample reads, and whether it is rounded."""
        share = self.stage.discrete_share if progress >= self.stage.continuous_until else 0.0
        batch = len(video) * self.processes.count
        counts = torch.multinomial(self.token_weights, batch, replacement=True, generator=generator) + 1
        rounded = torch.rand(batch, generator=generator) < share
        return self.processes.share(counts).to(video.device), self.processes.share(rounded).to(video.device)

    def _latents(self, model: OneVAE, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The latents of the encoder, or a sample of their posterior, in fp32; and the KL term."""
        trains = any(parameter.requires_grad for parameter in model.encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            latents, _ = model.encoder(video, None)
        latents = latents.float()
        if not self.stage.kl_weight:
            return latents, latents.new_zeros(())
        noise = self.processes.normal(latents, generator)
        # KL divergence of N(latents, σ²) from N(0, 1), nats a latent channel.
        kl = (0.5 * (latents.square() + (2 * self.log_std).exp() - 1) - self.log_std).mean()
        return latents + noise * self.log_std.exp(), kl

    def _codes(
        self, quantizer: Quantizer, latents: Tensor, rounded: Tensor
    ) -> tuple[Tensor, Quantized, dict[str, tuple[float, Tensor]]]:
        """What the decoder reads, the same if all were rounded, and the quantizer's own terms with their weights."""
        quantized = quantizer.quantize(latents)
        if self.training and "quantizer" in self.stage.trains:
            quantizer.learn(latents.detach(), quantized.indices)
        codes = torch.where(rounded[:, None, None, None, None], quantized.codes, quantizer.continuous(latents))
        terms: dict[str, tuple[float, Tensor]] = {}
        if quantized.codebook_loss.requires_grad:
            terms["codebook"] = (1.0, quantized.codebook_loss)
        if self.stage.commitment_weight:
            terms["commitment"] = (self.stage.commitment_weight, quantizer.commitment(latents, quantized.codes))
        if self.stage.entropy_weight:
            terms["entropy"] = (self.stage.entropy_weight, quantizer.entropy(latents))
        return codes, quantized, terms

    def _token_bits(self, codes: Tensor, counts: Tensor, video: Tensor) -> Tensor:
        """`B N`: what each token that a sample reads would cost by the prior, bits a pixel."""
        tokens = codes.shape[1] // self.token_channels
        if self.prior is None:
            return video.new_zeros(len(video), tokens)
        bits = self.prior(codes).unflatten(1, (tokens, -1)).flatten(2).sum(2) / video[0, 0].numel()
        return bits * (torch.arange(tokens, device=bits.device) < counts[:, None])

    def _perceptual(self, video: Tensor, reconstruction: Tensor, generator: torch.Generator) -> Tensor:
        if not self.stage.lpips_weight:
            return video.new_zeros(())
        return perceptual_distance(self.lpips, video, reconstruction, self.stage.lpips_frames, generator)


def perceptual_distance(
    lpips: LPIPS | None, video: Tensor, reconstruction: Tensor, frames: int, generator: torch.Generator
) -> Tensor:
    """LPIPS of so many frames of each sample, chosen at random, moved by up to three pixels down and to the right: its
    first layer looks at every fourth pixel, and a pattern on that grid would please it in one place only."""
    if lpips is None:
        raise ValueError("no LPIPS network was given")
    chosen = torch.randperm(video.shape[2], generator=generator)[:frames]
    down, right = torch.randint(_LPIPS_STRIDE, (2,), generator=generator).tolist()
    source, output = (
        F.pad(x[:, :, chosen].transpose(1, 2).flatten(0, 1), (right, 0, down, 0), mode="replicate")
        for x in (video, reconstruction)
    )
    return lpips(source, output).mean()


def _nested_weights(tokens: int) -> tuple[float, ...]:
    """All tokens half of the time, fewer as often each."""
    return (*(0.5 / max(1, tokens - 1) for _ in range(tokens - 1)), 0.5)


def _check_numbers(stage: Stage, tokens: int) -> None:
    """Refuse what no model of so many tokens can train by.

    Raises:
        SettingError: a number is out of its range, or a list has another length.
    """
    for name, weights in (("rate_weights", stage.rate_weights), ("token_weights", stage.token_weights)):
        if weights and len(weights) != tokens:
            raise SettingError(f"setting {name}: the model has {tokens} tokens, give as many numbers")
    if stage.token_weights and (min(stage.token_weights) < 0 or sum(stage.token_weights) <= 0):
        raise SettingError("setting token_weights: give shares of at least 0, and one above it")
    if stage.warmup_steps < 1:
        raise SettingError("setting warmup_steps: give at least 1")


def _check(stage: Stage, config: OneVAEConfig) -> None:
    if stage.adversarial_weight and "decoder" not in stage.trains:
        raise SettingError("a discriminator judges the decoder: put it into the setting trains")
    if stage.distortion not in DISTORTIONS:
        raise SettingError(f"no distortion {stage.distortion!r}; use one of {', '.join(DISTORTIONS)}")
    if config.codebook and (any(stage.rate_weights) or (stage.entropy_weight and config.codebook.kind != "lfq")):
        raise TrainingError(f"{config.codebook.kind} has no rate and no entropy term")
