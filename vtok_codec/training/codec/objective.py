"""The loss of a codec: the reconstruction error on the joint discrete and continuous path, and smaller terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import SettingError, TrainingError
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.quantizer import Quantized, Quantizer
from vtok_codec.training.codec.adversarial import adaptive_weight, generator_loss
from vtok_codec.training.codec.rate import RateEstimate
from vtok_codec.training.codec.redrawing import Redrawing
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.objective import Loss, TrainingObjective, perceptual_distance
from vtok_codec.training.prior.network import PriorModel
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import check_weights

_CHARBONNIER = 1e-3
"""The error at which the Charbonnier distance changes from quadratic to linear, for pixels in [−1, 1]."""


def _rmse(error: Tensor) -> Tensor:
    """Return the mean over samples of the root mean squared error.

    It is a compromise between MSE, which the hardest clips dominate, and PSNR, which the easiest ones dominate.
    """
    return (error.square().flatten(1).mean(1) + 1e-6).sqrt().mean()


DISTORTIONS = {
    "rmse": _rmse,
    "mse": lambda error: error.square().mean(),
    "l1": lambda error: error.abs().mean(),
    "charbonnier": lambda error: (error.square() + _CHARBONNIER**2).sqrt().mean(),
}
"""The pixel losses by name, as functions of an error `B 3 T H W` of pixels in [−1, 1]."""


class CodecObjective(TrainingObjective[CodecRecipe]):
    """The loss of a codec.

    It has parameters of its own that train along with the model: the spread of the posterior (for the KL term) and the
    prior of the digits (for the rate term).

    Raises:
        SettingError, TrainingError: The recipe does not suit the model.
    """

    def __init__(
        self,
        recipe: CodecRecipe,
        config: OneVAEConfig,
        lpips: LPIPS | None,
        processes: Processes | None = None,
        prior: PriorModel | None = None,
        redrawing: Redrawing | None = None,
    ) -> None:
        """Create the loss.

        Args:
            recipe: The settings of the stage.
            config: The configuration of the codec.
            lpips: The LPIPS network, if the recipe has an LPIPS term.
            processes: The processes that train together.
            prior: The prior for the rate term, if the recipe has one.
            redrawing: What replaces latents by drawn ones, if the recipe has a latent flow.
        """
        super().__init__(recipe, config.max_tokens, lpips, processes)
        _check(recipe, config)
        if any(recipe.rate_weights) and prior is None:
            raise ValueError("the recipe has a rate term, but no prior was given")
        # If every crop starts a GOP, the repeated first frames, which a decoder cuts away, are left out of the loss.
        self.unseen_frames = config.layout.repeated_frames if recipe.augmentation.gop_start == 1 else 0
        self.token_channels = config.token_channels
        # Noise of about the size of rounding errors prepares the decoder for the discrete stage.
        spread = torch.full((config.latent_channels, 1, 1, 1), -2.0)
        self.log_std = nn.Parameter(spread, requires_grad=recipe.kl_weight > 0)
        self.rate = RateEstimate(prior, config.layout) if prior else None
        self.redrawing = redrawing

    def forward(
        self,
        model: OneVAE,
        video: Tensor,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch.

        Args:
            model: The codec to train.
            video: Source videos, `B 3 T H W` in [−1, 1].
            generator: The source of all random choices in this step.
            progress: The fraction of the stage that is done, 0…1.
            discriminator: The discriminator whose score becomes a term of the loss; None for no such term.
        """
        counts, rounded = self._draw(video, generator, progress)
        latents, kl = self._latents(model, video, generator)
        codes, quantized, codebook_terms = self._codes(model.quantizer, latents, rounded)
        if self.redrawing and float(torch.rand((), generator=generator)) < self.recipe.redrawn_share:
            smooth = model.quantizer.continuous(latents)
            codes = self.redrawing(smooth, generator, self.processes)
            counts = torch.full_like(counts, self.redrawing.tokens)
        decoded, _ = model.decoder(codes, None, counts)
        video, reconstruction = video[:, :, self.unseen_frames :], decoded[:, :, self.unseen_frames :]
        error = reconstruction.float() - video
        distortion = DISTORTIONS[self.recipe.distortion](error)
        perceptual = self._perceptual(video, reconstruction, generator)
        bits = self._token_bits(quantized.codes, counts, video)
        recipe = self.recipe
        total = distortion + recipe.lpips_weight * perceptual + recipe.kl_weight * kl
        moves = recipe.temporal_weight and error.shape[2] > 1
        changes = DISTORTIONS[recipe.distortion](error.diff(dim=2)) if moves else error.new_zeros(())
        total = total + recipe.temporal_weight * changes
        if self.rate is not None:
            total = total + (bits * torch.tensor(recipe.rate_weights, device=bits.device)).sum(1).mean()
        parts = {recipe.distortion: distortion, "temporal": changes, "lpips": perceptual, "kl": kl}
        parts["bpp"] = bits.sum(1).mean()
        for name, (weight, term) in codebook_terms.items():
            total = total + weight * term
            parts[name] = term
        if discriminator is not None:
            judged = generator_loss(discriminator, reconstruction)
            scale = adaptive_weight(distortion, judged, model.decoder.out.weight)
            total = total + recipe.adversarial_weight * scale * judged
            parts |= {"adversarial": judged, "adaptive": scale}
        parts = {name: term.detach() for name, term in parts.items()}
        return Loss(total, parts, video, reconstruction.detach(), quantized.indices)

    def _draw(self, video: Tensor, generator: torch.Generator, progress: float) -> tuple[Tensor, Tensor]:
        """Draw how many tokens each sample reads (int64 `B`), and whether it is rounded (bool `B`)."""
        share = self.recipe.discrete_share if progress >= self.recipe.continuous_until else 0.0
        batch = len(video) * self.processes.count
        counts = self.draw_counts(batch, generator)
        rounded = torch.rand(batch, generator=generator) < share
        return self.processes.share(counts).to(video.device), self.processes.share(rounded).to(video.device)

    def _latents(self, model: OneVAE, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the latents in fp32 (with a KL term, a sample of their posterior), and the KL term."""
        trains = any(parameter.requires_grad for parameter in model.encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            latents, _ = model.encoder(video, None)
        latents = latents.float()
        if not self.recipe.kl_weight:
            return latents, latents.new_zeros(())
        noise = self.processes.normal(latents, generator)
        # The KL divergence of N(latents, σ²) from N(0, 1), in nats per latent channel.
        kl = (0.5 * (latents.square() + (2 * self.log_std).exp() - 1) - self.log_std).mean()
        return latents + noise * self.log_std.exp(), kl

    def _codes(
        self, quantizer: Quantizer, latents: Tensor, rounded: Tensor
    ) -> tuple[Tensor, Quantized, dict[str, tuple[float, Tensor]]]:
        """Return the codes that the decoder reads, all latents quantized, and the quantizer's loss terms with weights.

        Args:
            quantizer: The quantizer of the model.
            latents: Latents, `B (N·d) t h w`.
            rounded: For each sample, whether the decoder reads its rounded codes or the continuous ones, bool `B`.
        """
        quantized = quantizer.quantize(latents)
        if self.training and "quantizer" in self.recipe.trains:
            quantizer.learn(latents.detach(), quantized.indices)
        codes = torch.where(rounded[:, None, None, None, None], quantized.codes, quantizer.continuous(latents))
        terms: dict[str, tuple[float, Tensor]] = {}
        if quantized.codebook_loss.requires_grad:
            terms["codebook"] = (1.0, quantized.codebook_loss)
        if self.recipe.commitment_weight:
            terms["commitment"] = (self.recipe.commitment_weight, quantizer.commitment(latents, quantized.codes))
        if self.recipe.entropy_weight:
            terms["entropy"] = (self.recipe.entropy_weight, quantizer.entropy(latents))
        return codes, quantized, terms

    def _token_bits(self, codes: Tensor, counts: Tensor, video: Tensor) -> Tensor:
        """Return the cost of each token by the prior, `B N` in bits per pixel; 0 for tokens that are not read."""
        tokens = codes.shape[1] // self.token_channels
        bits = video.new_zeros(len(video), tokens)
        if self.rate is None:
            return bits
        read = int(counts.max())
        costs = self.rate(codes[:, : read * self.token_channels], counts)
        bits = F.pad(costs.unflatten(1, (read, -1)).flatten(2).sum(2) / video[0, 0].numel(), (0, tokens - read))
        return torch.where(torch.arange(tokens, device=bits.device) < counts[:, None], bits, 0)

    def _perceptual(self, video: Tensor, reconstruction: Tensor, generator: torch.Generator) -> Tensor:
        if not self.recipe.lpips_weight:
            return video.new_zeros(())
        return perceptual_distance(self.lpips, video, reconstruction, self.recipe.lpips_frames, generator)


def _check(recipe: CodecRecipe, config: OneVAEConfig) -> None:
    check_weights("rate_weights", recipe.rate_weights, config.max_tokens)
    if recipe.adversarial_weight and "decoder" not in recipe.trains:
        raise SettingError("a discriminator needs a decoder that trains: add decoder to the setting trains")
    if recipe.distortion not in DISTORTIONS:
        raise SettingError(f"no distortion {recipe.distortion!r}; use one of {', '.join(DISTORTIONS)}")
    if config.codebook and any(recipe.rate_weights):
        raise TrainingError(f"{config.codebook.kind} has no rate term; leave out rate_weights")
    if config.codebook and config.codebook.kind != "lfq" and recipe.entropy_weight:
        raise TrainingError(f"{config.codebook.kind} has no entropy term; leave out entropy_weight")
