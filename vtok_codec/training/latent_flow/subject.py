"""The interface between the trainer and latent flows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vtok_codec.codec.latents import decoded_latents
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.errors import SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import FLOW, LatentFlowConfig
from vtok_codec.models.generator import kinds
from vtok_codec.models.latent_flow import LatentFlow
from vtok_codec.models.paths import path_of
from vtok_codec.training.latent_flow.latents import HalfLatents
from vtok_codec.training.latent_flow.stages import LatentFlowRecipe
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256

_TIMES = (0.25, 0.5, 0.75, 1.0)
"""The times at which the error is measured."""
_DRAWN_STEPS = 8


class LatentFlowSubject(Subject[LatentFlow, LatentFlowRecipe]):
    """The properties of a latent flow that the trainer depends on, and the held-out latents that it is measured on."""

    def __init__(
        self,
        config: LatentFlowConfig,
        clips: Sequence[Tensor],
        latents: Sequence[HalfLatents],
        tokenizer: Tokenizer,
        codec_metadata: Mapping[str, str],
    ) -> None:
        """Describe a latent flow.

        Args:
            config: The configuration of the latent flow.
            clips: Held-out clips; empty if this process does not validate.
            latents: Their latents, `t C h w`.
            tokenizer: The codec that made them, which decodes what is drawn.
            codec_metadata: Metadata for the weights file that name the codec: its name and the hash of its weights.
        """
        super().__init__(config, clips)
        self._latents, self._phases = latents, config.codec.layout.phases
        self._tokenizer, self._codec_metadata = tokenizer, codec_metadata

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the codec's weights, which must be the same when a checkpoint is resumed."""
        return {CODEC_SHA256: self._codec_metadata[CODEC_SHA256]}

    def freeze(self, model: LatentFlow, recipe: LatentFlowRecipe) -> None:
        """Leave the gradients as they are, since the whole model trains."""

    def networks(self, model: LatentFlow) -> list[nn.Module]:
        """Return the transformer blocks, whose matrices Muon updates."""
        return [model.blocks]

    def linear_paths(self, model: LatentFlow) -> list[FrameConv]:
        """Return nothing: a latent flow has no linear path."""
        return []

    def compile(self, model: LatentFlow) -> None:
        """Refuse to compile: the size of batches varies with the clips.

        Raises:
            SettingError: Always.
        """
        raise SettingError("this stage does not compile, since its batches have many sizes; leave out --compile")

    @torch.inference_mode()
    def figures(self, model: LatentFlow) -> dict[str, float]:
        """Measure the squared error of each held-out latent frame, from the clean ones before, at four times.

        Latents are standardized, so that an error of 1 is that of a guess of nothing.
        """
        errors: dict[float, list[float]] = {time: [] for time in _TIMES}
        path = path_of(FLOW)
        for number, latents in enumerate(self._latents):
            clean = model.standardized(torch.from_numpy(latents[None]).float().to(model.mean.device))
            random = torch.Generator(clean.device).manual_seed(number)
            state = model.start(1, *clean.shape[3:])
            for latent, kind in enumerate(kinds(len(latents), self._phases).tolist()):
                frame = clean[:, latent]
                noise = torch.randn(frame.shape, generator=random, device=frame.device)
                if latent >= self._phases:
                    for time in _TIMES:
                        noisy = path.noisy(frame, noise, torch.full((1,), time, device=frame.device))
                        made = model.draw(kind, state, noisy, 1, time)
                        errors[time].append(float((made - frame).square().mean()))
                state = model.read(kind, state, frame)
        return {f"error_{time:g}": float(np.mean(each)) for time, each in errors.items() if each}

    @torch.inference_mode()
    def strip(self, model: LatentFlow) -> Pixels:
        """Draw a row per clip: its last frame as decoded, and as continued from the first frames on, twice."""
        rows = []
        for latents in self._latents[:PICTURED_CLIPS]:
            drawn = [self._continued(model, latents, seed) for seed in (1, 2)]
            rows.append(np.concatenate([self._last_frame(each) for each in (latents, *drawn)], axis=1))
        width = max(row.shape[1] for row in rows)
        return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])

    def _continued(self, model: LatentFlow, latents: HalfLatents, seed: int) -> HalfLatents:
        """Return latents with all latent frames but the first frame and one more replaced by drawn ones."""
        known, random = min(self._phases + 1, len(latents)), torch.Generator(model.mean.device).manual_seed(seed)
        clean = model.standardized(torch.from_numpy(latents[None]).float().to(model.mean.device))
        state, frames = model.start(1, *clean.shape[3:]), list(clean[0, :known].unbind(0))
        for latent, kind in enumerate(kinds(len(latents), self._phases).tolist()):
            if latent >= known:
                noise = torch.randn(clean[:, 0].shape, generator=random, device=clean.device)
                frames.append(model.draw(kind, state, noise, _DRAWN_STEPS)[0])
            state = model.read(kind, state, frames[latent][None])
        return model.restored(torch.stack(frames)).half().cpu().numpy()

    def _last_frame(self, latents: HalfLatents) -> Pixels:
        size = self._tokenizer.layout.picture(*latents.shape[2:])
        *_, last = decoded_latents(latents.swapaxes(0, 1), self._tokenizer, size)
        return last[-1]

    def weights(self, model: LatentFlow, metadata: Mapping[str, str]) -> bytes:
        """Serialize the latent flow as a weights file that names its codec."""
        return super().weights(model, {**self._codec_metadata, **metadata})
