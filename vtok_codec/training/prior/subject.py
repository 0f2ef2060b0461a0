"""The interface between the trainer and priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import ModelConfig
from vtok_codec.tokens.coders import PRIOR, WAVES, CoderSpec, DigitLayout
from vtok_codec.tokens.prior.prior import ErrorWeights, Prior, parse_prior
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.prior.export import export_prior
from vtok_codec.training.prior.network import ABSENT, PriorModel
from vtok_codec.training.prior.stages import PriorRecipe
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256

_COUNTS = (1, 2, 4)
"""The numbers of tokens per position that are measured, as far as the codec has them."""
_BRIGHTEST_BITS = 4.0
"""The bits per digit that are drawn white."""
_SCALE = 8
"""Pixels per latent position in pictures."""


class PriorSubject(Subject[PriorModel, PriorRecipe]):
    """The properties of a prior that the trainer depends on, and the held-out digits that it is measured on."""

    def __init__(
        self,
        config: ModelConfig,
        clips: Sequence[Tensor],
        digits: Sequence[Digits],
        phases: int,
        codec_metadata: Mapping[str, str],
        errors: ErrorWeights,
    ) -> None:
        """Describe a prior.

        Args:
            config: The configuration of the codec.
            clips: Held-out clips; empty if this process does not validate.
            digits: Their digits, `P t h w` each.
            phases: The number of latent frames that hold the first frame of a GOP.
            codec_metadata: Metadata for the weights file that name the codec: its name and the hash of its weights.
            errors: How much an error of a digit harms the picture (`error_weights`).
        """
        super().__init__(config, clips)
        self._digits, self._phases, self._codec_metadata, self._errors = digits, phases, codec_metadata, errors

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the codec's weights, which must be the same when a checkpoint is resumed."""
        return {CODEC_SHA256: self._codec_metadata[CODEC_SHA256]}

    def freeze(self, model: PriorModel, recipe: PriorRecipe) -> None:
        """Leave the gradients as they are, since the whole model trains."""

    def networks(self, model: PriorModel) -> list[nn.Module]:
        """Return nothing: AdamW updates all weights."""
        return []

    def linear_paths(self, model: PriorModel) -> list[FrameConv]:
        """Return nothing: a prior has no linear path."""
        return []

    def compile(self, model: PriorModel) -> None:
        """Compile both networks."""
        model.first.compile()
        model.later.compile()

    def figures(self, model: PriorModel) -> dict[str, float]:
        """Measure the packed size of the held-out clips, relative to waves, by the number of tokens per position."""
        prior = parse_prior(export_prior(model, {}))
        return {
            f"size_to_waves_{count}": self._packed(prior, count, PRIOR) / self._packed(prior, count, WAVES)
            for count in _COUNTS
            if count <= model.tokens
        }

    def _packed(self, prior: Prior, tokens: int, coder: CoderSpec) -> int:
        """Return the bytes that all held-out clips take, each as one chunk."""
        layout = DigitLayout(prior.levels, tokens, self._phases, prior)
        planes = tokens * len(prior.levels)
        return sum(len(coder.make(layout).pack(clip[:planes])) for clip in self._digits)

    @torch.inference_mode()
    def strip(self, model: PriorModel) -> Pixels:
        """Draw where the bits go: one row per clip, the mean bits per digit of its last latent frame by token."""
        rows = []
        network = model.later
        for clip in self._digits[:PICTURED_CLIPS]:
            latent = clip.shape[1] - 1
            past = np.full((1, network.config.slots, *clip[:, 0].shape), ABSENT, np.uint8)
            for slot in range(min(network.config.slots, latent)):
                past[0, slot] = clip[:, latent - 1 - slot]
            place = torch.tensor([min(max(0, latent - self._phases), network.config.places - 1)])
            digits = torch.from_numpy(clip[None, :, latent].copy())
            device = next(network.parameters()).device
            costs = network.bits(torch.from_numpy(past).to(device), digits.to(device), place.to(device))[0]
            rows.append(costs.float().cpu().unflatten(0, (model.tokens, -1)).mean(1).flatten(0, 1).numpy())
        width = max(row.shape[1] for row in rows)
        whole = np.concatenate([np.pad(row, ((0, 1), (0, width - row.shape[1]))) for row in rows])
        grey = (255 * np.clip(whole / _BRIGHTEST_BITS, 0, 1)).astype(np.uint8)
        large = grey.repeat(_SCALE, axis=0).repeat(_SCALE, axis=1)
        return np.ascontiguousarray(np.stack([large] * 3, axis=-1))

    def weights(self, model: PriorModel, metadata: Mapping[str, str]) -> bytes:
        """Serialize the prior as a file that names its codec."""
        return export_prior(model, {**self._codec_metadata, **metadata}, self._errors)
