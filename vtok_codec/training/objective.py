"""The parts of the loss that all kinds of models share: the interface, checks of the recipe, and the LPIPS term."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.metrics.lpips import LPIPS, grown
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import RecipeT, check_recipe

Model = TypeVar("Model", bound=nn.Module)

_LPIPS_STRIDE = 4
"""The stride of the first layer of LPIPS in pixels."""


class Loss(NamedTuple):
    """The loss of a batch, its terms, and the videos that it compares."""

    total: Tensor
    """The scalar that the training step minimizes."""
    parts: dict[str, Tensor]
    """The terms of the loss by name, before weighting and detached."""
    video: Tensor
    """The source, `B 3 T H W` in [−1, 1], without the frames that a decoder cuts away."""
    reconstruction: Tensor
    """What the model makes of `video`, of the same shape and detached."""
    indices: Tensor | None
    """The codebook entries of all tokens, int64 `B N t h w`; None for a model without a codebook."""


class TrainingObjective(nn.Module, Generic[RecipeT]):
    """The loss that a run minimizes.

    `forward` takes the model, a batch of videos, the random generator of the step, the progress of the stage (0…1) and
    a discriminator or None. It returns a `Loss`.

    Raises:
        SettingError: A number in the recipe is out of its range.
    """

    def __init__(
        self, recipe: RecipeT, tokens_per_position: int, lpips: LPIPS | None, processes: Processes | None
    ) -> None:
        super().__init__()
        if recipe.lpips_weight and lpips is None:
            raise SettingError(f"setting lpips_weight={recipe.lpips_weight}: this stage has no LPIPS term")
        check_recipe(recipe, tokens_per_position)
        self.recipe = recipe
        self.lpips = lpips
        self.processes = processes or Processes()
        self.token_weights = torch.tensor(recipe.token_weights or _nested_weights(tokens_per_position))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The objective's own parameters that train along with the model, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def draw_counts(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw the number of tokens that each of `batch` samples reads, from the recipe's `token_weights`.

        Returns:
            Numbers from 1 to N, int64 of shape `(batch,)`.
        """
        return torch.multinomial(self.token_weights, batch, replacement=True, generator=generator) + 1


def perceptual_distance(
    lpips: LPIPS | None, video: Tensor, reconstruction: Tensor, frames: int, generator: torch.Generator
) -> Tensor:
    """Compute the mean LPIPS of randomly chosen frames, shifted by a random offset.

    The offset of up to three pixels keeps the model from fitting a pattern to the grid of the first layer of LPIPS,
    which has a stride of four pixels.

    Args:
        lpips: The LPIPS network.
        video: The source, `B 3 T H W` in [−1, 1].
        reconstruction: The video to compare with the source, of the same shape.
        frames: The number of frames to compare. All samples use the same frames.
        generator: The source of random choices.
    """
    if lpips is None:
        raise ValueError("no LPIPS network was given")
    chosen = torch.randperm(video.shape[2], generator=generator)[:frames]
    down, right = torch.randint(_LPIPS_STRIDE, (2,), generator=generator).tolist()
    source, output = (
        grown(F.pad(x[:, :, chosen].transpose(1, 2).flatten(0, 1), (right, 0, down, 0), mode="replicate"))
        for x in (video, reconstruction)
    )
    return lpips(source, output).mean()


def _nested_weights(tokens_per_position: int) -> tuple[float, ...]:
    """Return weights by which half of the samples read all tokens, and the others each smaller number equally often."""
    fewer = tokens_per_position - 1
    return (*(0.5 / max(1, fewer) for _ in range(fewer)), 0.5)
