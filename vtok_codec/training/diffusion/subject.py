"""The interface between the trainer and diffusion decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import DenoiserConfig
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training.diffusion.pictures import denoising_strip
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.diffusion.validation import validate
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256


class DenoiserSubject(Subject[Denoiser, DiffusionRecipe]):
    """The properties of a diffusion decoder that the trainer depends on, and the codec whose tokens it decodes."""

    def __init__(
        self,
        config: DenoiserConfig,
        clips: Sequence[Tensor],
        codec: OneVAE,
        codec_metadata: Mapping[str, str],
        lpips: LPIPS | None,
    ) -> None:
        """Describe a diffusion decoder.

        Args:
            config: The configuration of the decoder.
            clips: Held-out clips, each `3 T H W` in [−1, 1]; empty if this process does not validate.
            codec: The codec whose tokens the decoder reads.
            codec_metadata: Metadata for the weights file that name the codec: its name and the hash of its weights.
            lpips: The LPIPS network; without it, validation leaves LPIPS out.
        """
        super().__init__(config, clips)
        self._codec = codec
        self._codec_metadata = codec_metadata
        self._lpips = lpips

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the codec's weights, which must be the same when a checkpoint is resumed."""
        return {CODEC_SHA256: self._codec_metadata[CODEC_SHA256]}

    def freeze(self, model: Denoiser, recipe: DiffusionRecipe) -> None:
        """Leave the gradients as they are, since the whole model trains."""

    def networks(self, model: Denoiser) -> list[nn.Module]:
        """Return the networks whose convolutions are hidden layers."""
        return [model.down, model.up.chain, model.falls, model.skips, model.adapter.mixes, model.adapter.rises]

    def linear_paths(self, model: Denoiser) -> list[FrameConv]:
        """Return the linear path of the up path."""
        return [model.up.linear]

    def compile(self, model: Denoiser) -> None:
        """Compile the decoder, its adapter and the codec's encoder for fixed shapes."""
        for network in (model, model.adapter, self._codec.encoder):
            network.compile(dynamic=False)

    def figures(self, model: Denoiser) -> dict[str, float]:
        """Measure the model on the held-out clips (`vtok_codec.training.diffusion.validation.validate`)."""
        return validate(model, self._codec, self.clips, self._lpips)

    def strip(self, model: Denoiser) -> Pixels:
        """Draw held-out clips and their reconstructions from one token."""
        return denoising_strip(model, self._codec, self.clips[:PICTURED_CLIPS])

    def weights(self, model: Denoiser, metadata: Mapping[str, str]) -> bytes:
        """Serialize the model as a weights file that names its codec."""
        return super().weights(model, {**self._codec_metadata, **metadata})
