"""The loss of a prior: the mean cost of a digit in bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.training.objective import Loss, TrainingObjective
from vtok_codec.training.prior.digits import DigitBatch, FrameBatch
from vtok_codec.training.prior.network import ABSENT, PriorModel, TrainedNetwork
from vtok_codec.training.prior.stages import PriorRecipe
from vtok_codec.training.processes import Processes


class PriorObjective(TrainingObjective[PriorRecipe]):
    """The loss of a prior. Each step draws how many tokens per position its latent frames have."""

    def __init__(self, recipe: PriorRecipe, tokens: int, digits_per_token: int, processes: Processes | None) -> None:
        super().__init__(recipe, tokens, None, processes)
        self._digits_per_token = digits_per_token

    def forward(
        self,
        model: PriorModel,
        batch: DigitBatch,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch; see `TrainingObjective`."""
        planes = int(self.draw_counts(1, generator)) * self._digits_per_token
        first = mean_bits(model.first, batch.first, planes)
        later = mean_bits(model.later, batch.later, planes)
        share = self.recipe.first_share
        total = share * first + (1 - share) * later
        parts = {"first_bits": first.detach(), "later_bits": later.detach()}
        nothing = total.detach().new_zeros(1, 3, 1, 1, 1)
        return Loss(total, parts, nothing, nothing, None)


def mean_bits(network: TrainedNetwork, batch: FrameBatch, planes: int) -> Tensor:
    """Return the mean cost in bits of the digits of the first `planes` planes."""
    digits = batch.digits[:, :planes]
    place = batch.place.clamp(max=network.config.places - 1)
    costs = network.bits(batch.past[:, :, :planes], digits, place)
    present = digits != ABSENT
    return (costs * present).sum() / present.sum().clamp_min(1)
