"""The loss of a generator: the mean cost of a digit in bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.models.generator import Generator
from vtok_codec.training.generator.stages import GeneratorRecipe
from vtok_codec.training.generator.windows import TokenBatch
from vtok_codec.training.objective import Loss, TrainingObjective
from vtok_codec.training.processes import Processes


class GeneratorObjective(TrainingObjective[GeneratorRecipe]):
    """The loss of a generator, which sees all latent frames of a window at once.

    Raises:
        SettingError: A number in the recipe is out of its range.
    """

    def __init__(self, recipe: GeneratorRecipe, tokens: int, processes: Processes | None) -> None:
        super().__init__(recipe, tokens, None, processes)
        if not 0 <= recipe.dropout < 1:
            raise SettingError(f"setting dropout={recipe.dropout}: give a probability below 1")
        if not 0 <= recipe.label_dropout <= 1:
            raise SettingError(f"setting label_dropout={recipe.label_dropout}: give a probability")

    def forward(
        self,
        model: Generator,
        batch: TokenBatch,
        generator: torch.Generator,
        progress: float = 1.0,
        discriminator: nn.Module | None = None,
    ) -> Loss:
        """Compute the loss of a batch; see `TrainingObjective`."""
        # Dropout draws from the global generator, so the step's own one must seed it for runs to resume exactly.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)) + self.processes.rank)
        kept = torch.rand(len(batch.labels), device=batch.labels.device) >= self.recipe.label_dropout
        labels = batch.labels * kept if model.label else None
        context = self._partly_drawn(model, batch, labels) if self.recipe.drawn_share else None
        bits, _ = model.costs(batch.digits, batch.kinds, labels=labels, context=context)
        total = bits.mean()
        nothing = total.detach().new_zeros(1, 3, 1, 1, 1)
        return Loss(total, {}, nothing, nothing, None)

    @torch.no_grad()
    def _partly_drawn(self, model: Generator, batch: TokenBatch, labels: Tensor | None) -> Tensor:
        """Return the digits of a batch, those of random positions replaced by digits that the generator draws there.

        Each digit is drawn given the true digits around it, so that one pass draws all of them.
        """
        logits, _ = model.logits(batch.digits, batch.kinds, labels=labels)
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1).view(logits.shape[:-1]).movedim(-1, 1)
        count, _, *places = batch.digits.shape
        share = self.recipe.drawn_share * torch.rand(count, 1, 1, 1, 1, device=drawn.device)
        replaced = torch.rand(count, 1, *places, device=drawn.device) < share
        return torch.where(replaced, drawn.to(batch.digits.dtype), batch.digits)
