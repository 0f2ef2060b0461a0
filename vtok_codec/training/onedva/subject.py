"""The interface between the trainer and One-DVA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import FLOW, OneDVAConfig
from vtok_codec.models.onedva import OneDVA
from vtok_codec.models.onevae import OneVAE
from vtok_codec.prior_files import RUN_PRIOR, prior_file
from vtok_codec.registry import DRAWS, RUN_CODEC, shipped_weights
from vtok_codec.training.data.held_out import filled_clip
from vtok_codec.training.onedva.stages import OneDVARecipe
from vtok_codec.training.onedva.validation import reconstructions, validate
from vtok_codec.training.pictures import last_frames
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile


class OneDVASubject(Subject[OneDVA, OneDVARecipe]):
    """The properties of One-DVA that the trainer depends on, and the codec that it is for."""

    def __init__(
        self,
        config: OneDVAConfig,
        clips: Sequence[Tensor],
        codec: OneVAE,
        codec_file: WeightsFile,
        lpips: LPIPS | None,
        noisy: bool,
    ) -> None:
        """Describe a model.

        Args:
            config: The configuration of the model.
            clips: Held-out clips, each `3 T H W` in [−1, 1]; empty if this process does not validate.
            codec: The codec that it is for.
            codec_file: The weights file of the codec.
            lpips: The LPIPS network; without it, validation leaves LPIPS out.
            noisy: Whether it learns to decode from noise.
        """
        super().__init__(config, clips)
        self._noisy = noisy
        self._codec, self._codec_file, self._lpips = codec, codec_file, lpips

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the codec's weights, which must be the same when a checkpoint is resumed."""
        return {CODEC_SHA256: self._codec_file.sha256}

    def freeze(self, model: OneDVA, recipe: OneDVARecipe) -> None:
        """Freeze what reads noise and what corrects features, if the stage has no use for it."""
        for parameter in model.decoder.noise_parameters:
            parameter.requires_grad_(recipe.noisy_share > 0)
        for parameter in model.decoder.correction_parameters:
            parameter.requires_grad_(recipe.pixel_start < 1)

    def networks(self, model: OneDVA) -> list[nn.Module]:
        """Return the transformer blocks, whose matrices Muon updates."""
        return [model.encoder.transformer, model.decoder.transformer]

    def linear_paths(self, model: OneDVA) -> list[FrameConv]:
        """Return nothing: the linear path of One-DVA is no convolution, and trains at the usual rate."""
        return []

    def compile(self, model: OneDVA) -> None:
        """Compile the transformers, and the codec's encoder for fixed shapes."""
        model.encoder.transformer.compile()
        model.decoder.transformer.compile()
        self._codec.encoder.compile(dynamic=False)

    def figures(self, model: OneDVA) -> dict[str, float]:
        """Measure the model on the held-out clips (`vtok_codec.training.onedva.validation.validate`)."""
        return validate(model, self._codec, self.clips, self._lpips, self._noisy)

    @torch.inference_mode()
    def strip(self, model: OneDVA) -> Pixels:
        """Draw a row per clip: its last frame, then the same frame from different numbers of tokens."""
        rows = []
        for clip in self.clips[:PICTURED_CLIPS]:
            video = filled_clip(clip[None].to(self._codec.device), self._codec.config.layout)
            rows.append([video, *reconstructions(model, self._codec, video, self._noisy).values()])
        return last_frames(rows)

    def weights(self, model: OneDVA, metadata: Mapping[str, str]) -> bytes:
        """Serialize the model as a weights file that names its codec."""
        named = {"codec": self._codec_file.name, CODEC_SHA256: self._codec_file.sha256}
        drawing = {DRAWS: FLOW} if self._noisy else {}
        return super().weights(model, {**named, **drawing, **metadata})

    def companions(self, weights: bytes) -> Mapping[str, bytes]:
        """Return the codec and its prior, unless they were shipped, so that the weights can be used by themselves."""
        if self._codec_file.sha256 in {file.sha256 for file in shipped_weights()}:
            return {}
        prior = prior_file(self._codec_file)
        return {RUN_CODEC: self._codec_file.data, **({RUN_PRIOR: prior.data} if prior else {})}
