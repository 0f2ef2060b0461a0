"""The loss of a latent flow: the squared error of the velocity (One-DVA, eq. 2), latent frame by latent frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.models.config import FLOW
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.paths import path_of
from vtok_codec.training.latent_flow.latents import LatentBatch
from vtok_codec.training.latent_flow.stages import LatentFlowRecipe
from vtok_codec.training.objective import Loss, TrainingObjective
from vtok_codec.training.processes import Processes


class LatentFlowObjective(TrainingObjective[LatentFlowRecipe]):
    """The loss of a latent flow. Each latent frame gets a time of its own (diffusion forcing, arXiv:2407.01392).

    Raises:
        SettingError: A number in the recipe is out of its range.
    """

    def __init__(self, recipe: LatentFlowRecipe, tokens: int, processes: Processes | None) -> None:
        super().__init__(recipe, tokens, None, processes)
        if not 0 <= recipe.dropout < 1:
            raise SettingError(f"setting dropout={recipe.dropout}: give a probability below 1")
        if recipe.clean_share == 1:
            raise SettingError("setting clean_share=1: give a number below 1, since some frames need noise")

    def forward(
        self,
        model: LatentFlow,
        batch: LatentBatch,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch; see `TrainingObjective`."""
        # Dropout draws from the global generator, so the step's own one must seed it for runs to resume exactly.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + self.processes.rank)
        clean = model.standardized(batch.latents)
        times = self._times(batch.kinds, generator)
        noise = self.processes.normal(clean, generator)
        path = path_of(FLOW)
        noisy = path.noisy(clean.flatten(0, 1), noise.flatten(0, 1), times.flatten()).view_as(clean)
        made, _ = model(noisy, times, batch.kinds)
        errors = (made.float() - clean).square().mean((2, 3, 4))
        noised = times > 0
        total = (errors * path.weight(times) * noised).sum() / noised.sum().clamp_min(1)
        alone = times == 1
        nothing = total.detach().new_zeros(1, 3, 1, 1, 1)
        # Not a number in a step without such frames, which the mean over steps leaves out.
        parts = {"from_noise": ((errors * alone).sum() / alone.sum()).detach()}
        return Loss(total, parts, nothing, nothing, None)

    def _times(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the time of each latent frame, float32 `B t`: 0, a logit-normal time (One-DVA, section 3.4), or 1."""
        shape = (len(like) * self.processes.count, like.shape[1])
        share = self.processes.share
        times = torch.sigmoid(torch.randn(shape, generator=generator))
        draws = torch.rand(shape, generator=generator)
        clean = self.recipe.clean_share
        alone = draws > 1 - (1 - clean) * self.recipe.noise_only_share
        times = torch.where(alone, torch.ones(()), torch.where(draws < clean, torch.zeros(()), times))
        return share(times).to(like.device)
