"""The loss of One-DVA beside a frozen codec (One-DVA, sections 3.2 to 3.5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.config import FLOW
from vtok_codec.models.onedva import Group, NoisyCodes, OneDVA, Prediction, following, joined
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.paths import path_of
from vtok_codec.models.windows import group_ends, window_motion
from vtok_codec.training.objective import Loss, TrainingObjective, perceptual_distance
from vtok_codec.training.onedva.stages import OneDVARecipe
from vtok_codec.training.processes import Processes

_MOTION_DECAY = 0.99
"""The decay of the moving averages of motion, per group of latent frames."""
_PATH = path_of(FLOW)


class CodecLatents(NamedTuple):
    """What a codec makes of videos."""

    smooth: Tensor
    """The codes of all tokens without rounding, `B (N·d) t h w`."""
    structural: Tensor
    """The codes of the first token, `B d t h w`."""
    second: Tensor
    """The codes of the second token without rounding, which are to be predicted, `B d t h w`."""


@torch.no_grad()
def codec_latents(codec: OneVAE, video: Tensor) -> CodecLatents:
    """Encode videos `B 3 T H W` that start a GOP."""
    latents, _ = codec.encoder(video.to(codec.dtype), None)
    smooth, per_token = codec.fsq.continuous(latents), codec.config.token_channels
    structural = codec.fsq.quantize(latents).codes[:, :per_token]
    return CodecLatents(smooth, structural, smooth[:, per_token : 2 * per_token])


def decoded(codec: OneVAE, structural: Tensor, added: Prediction) -> Tensor:
    """Decode videos from the first token and from what 1D tokens add, `B 3 T H W` in [−1, 1], not clamped."""
    codes = codec.whole(torch.cat([structural, added.second.to(structural.dtype)], 1))
    counts = torch.full((len(codes),), 2, device=codes.device)
    video, _ = codec.decoder(codes.to(codec.dtype), None, counts, correction=added.correction)
    return video.float()


class OneDVAObjective(TrainingObjective[OneDVARecipe]):
    """The loss of One-DVA: the error of the second token that it predicts, or that of the pixels.

    Steps from noise always have the error of the second token; when pixels are the loss of the others, theirs is added,
    but it only teaches how far to trust the prediction.

    Raises:
        SettingError: A number in the recipe is out of its range.
    """

    def __init__(
        self,
        recipe: OneDVARecipe,
        codec: OneVAE,
        harm: Tensor,
        lpips: LPIPS | None,
        processes: Processes | None = None,
    ) -> None:
        """Create the loss.

        Args:
            recipe: The settings of the stage.
            codec: The codec.
            harm: How much an error of one step in each digit of the second token harms the picture, `2 d`: in the first
                latent frame of a GOP, and in later ones.
            lpips: The LPIPS network, if the recipe has an LPIPS term.
            processes: The processes that train together.
        """
        super().__init__(recipe, codec.config.max_tokens, lpips, processes)
        if recipe.whole_share + recipe.structural_share > 1:
            raise SettingError("settings whole_share and structural_share: give numbers whose sum is at most 1")
        self.codec = codec.requires_grad_(False).eval()
        half = codec.fsq.zero_digit.flatten()[: codec.config.token_channels]
        self.harm: Tensor
        """The weight of the squared error of a code, `2 d 1 1 1`."""
        self.register_buffer("harm", (harm * half.square())[..., None, None, None], persistent=False)

    def train(self, mode: bool = True) -> OneDVAObjective:
        """Set the training mode of the objective. The frozen codec always stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    def forward(
        self,
        model: OneDVA,
        video: Tensor,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch; see `TrainingObjective`. All videos start a GOP."""
        recipe, given = self.recipe, codec_latents(self.codec, video)
        noise = self._noise(given.second, generator)
        added, parts = self._predicted(model, given, video, generator, noise)
        total = recipe.alignment_weight * parts["alignment"] + recipe.similarity_weight * parts["similarity"]
        per_sample = self._latent_errors(added.second, given.second, model.config.codec.layout.phases)
        parts["latent"] = per_sample.mean()
        made = video
        if noise or progress < recipe.pixel_start:
            total = total + (per_sample * _PATH.weight(noise.time) if noise else per_sample).mean()
        if progress >= recipe.pixel_start:
            # Pixels would teach a step from noise to predict the mean, so they teach only how far to trust it.
            shown = added._replace(second=added.second.detach()) if noise else added
            seen = model.config.codec.layout.repeated_frames
            made, video = decoded(self.codec, given.structural, shown)[:, :, seen:], video[:, :, seen:]
            parts |= self._pixel_errors(video, made, generator)
            total = total + parts["rmse"] + recipe.lpips_weight * parts.get("lpips", 0)
        # Processes that train together expect every weight to take part in every step, and one alone does as they do:
        # an optimizer counts the steps in which a weight takes part.
        total = total + sum(0 * weight.sum() for weight in model.parameters() if weight.requires_grad)
        return Loss(total, {name: part.detach() for name, part in parts.items()}, video, made.detach(), None)

    def _latent_errors(self, predicted: Tensor, second: Tensor, phases: int) -> Tensor:
        """Return the mean squared error of the second token of each sample, weighted by its harm, `B`."""
        error = (predicted.float() - second.float()).square()
        weighted = torch.cat([error[:, :, :phases] * self.harm[0], error[:, :, phases:] * self.harm[1]], 2)
        return weighted.flatten(1).mean(1)

    def _pixel_errors(self, video: Tensor, made: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the root mean squared error of pixels and, if the recipe weighs it, LPIPS, by name."""
        errors = {"rmse": ((made - video).square().flatten(1).mean(1) + 1e-6).sqrt().mean()}
        if self.recipe.lpips_weight:
            errors["lpips"] = perceptual_distance(self.lpips, video, made, self.recipe.lpips_frames, generator)
        return errors

    def _noise(self, second: Tensor, generator: torch.Generator) -> NoisyCodes | None:
        """Return the second token mixed with noise if this step trains a diffusion decoder, else None."""
        recipe, batch = self.recipe, len(second) * self.processes.count
        if float(torch.rand((), generator=generator)) >= recipe.noisy_share:
            return None
        time = torch.sigmoid(torch.randn(batch, generator=generator))
        alone = torch.rand(batch, generator=generator) < recipe.noise_only_share
        time = self.processes.share(torch.where(alone, torch.ones(batch), time)).to(second.device)
        noise = self.processes.normal(second.float(), generator)
        return NoisyCodes(_PATH.noisy(second.float(), noise, time), time)

    def _predicted(
        self, model: OneDVA, given: CodecLatents, video: Tensor, generator: torch.Generator, noise: NoisyCodes | None
    ) -> tuple[Prediction, dict[str, Tensor]]:
        """Code videos group by group. Returns what 1D tokens add, and the regularizers by name."""
        config, layout = model.config, model.config.codec.layout
        begin, group, parts, regular = 0, Group(True, None), list[Prediction](), list[Tensor]()
        for end in group_ends(given.structural.shape[2], layout.phases, config.window_steps):
            part = slice(begin, end)
            structural = given.structural[:, :, part]
            tokens = model.codes(model.encode(given.smooth[:, :, part], structural, group))
            first_frame = layout.stride[0] * layout.time_steps(begin, True) if begin else 0
            frames = video[:, :, first_frame : first_frame + layout.stride[0] * config.window_steps]
            # The repeated frames in front of a GOP do not move, and an encoder does not measure them.
            counts = self._lengths(model, frames[:, :, 0 if begin else layout.repeated_frames :], generator)
            mixed = noise and NoisyCodes(noise.codes[:, :, part], noise.time)
            parts.append(model.decode(structural, tokens, counts, group, mixed))
            regular.append(torch.stack(_regularizers(tokens, structural)))
            # What pixels teach about later groups must not reach the prediction of a step from noise either.
            second = parts[-1].second.detach() if noise else parts[-1].second
            begin, group = end, following(structural, second.float())
        alignment, similarity = torch.stack(regular).mean(0)
        return joined(parts), {"alignment": alignment, "similarity": similarity}

    def _lengths(self, model: OneDVA, video: Tensor, generator: torch.Generator) -> Tensor:
        """Draw how many 1D tokens each window of a group reads, int64 `B·n` (One-DVA, section 3.2 and appendix A)."""
        motion = window_motion(video, model.config)
        if self.training:
            now = self.processes.total(torch.stack([motion.mean(), motion.square().mean()])) / self.processes.count
            decay = _MOTION_DECAY if bool(model.motion.any()) else 0.0
            model.motion.mul_(decay).add_((1 - decay) * now)
        windows, queries, share = len(motion) * self.processes.count, model.config.queries, self.processes.share
        draws = share(torch.rand(windows, generator=generator)).to(motion.device)
        factor = 2 * torch.sigmoid(share(torch.randn(windows, generator=generator))).to(motion.device)
        lengths = (model.lengths(motion) * factor).round().clamp(0, queries).long()
        recipe = self.recipe
        lengths = torch.where(draws < recipe.whole_share + recipe.structural_share, 0, lengths)
        return torch.where(draws < recipe.whole_share, queries, lengths)


def _regularizers(tokens: Tensor, structural: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine distance of 1D tokens to the structural tokens most like them, and to their predecessors.

    Args:
        tokens: Codes `B·n Q d`.
        structural: Codes `B d t h w`.
    """
    samples = len(structural)
    own = F.normalize(tokens.float().unflatten(0, (samples, -1)).flatten(1, 2), dim=-1)
    grid = F.normalize(structural.float().flatten(2), dim=1)
    alignment = 1 - (own @ grid).amax(-1).mean()
    ordered = F.normalize(tokens.float(), dim=-1)
    return alignment, 1 - (ordered[:, 1:] * ordered[:, :-1]).sum(-1).mean()
