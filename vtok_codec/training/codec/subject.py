"""The interface between the trainer and codec models."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.metrics.lpips import LPIPS
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.models.onevae import OneVAE
from vtok_codec.prior_files import RUN_PRIOR
from vtok_codec.tokens.prior.prior import ErrorWeights
from vtok_codec.training.codec.pictures import reconstruction_strip
from vtok_codec.training.codec.rate import RateEstimate
from vtok_codec.training.codec.stages import PARTS, CodecRecipe
from vtok_codec.training.codec.validation import validate
from vtok_codec.training.prior.export import export_prior
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256, READS

_QUANTIZER_LAYERS = (
    "encoder.out.",
    "encoder.linear.",
    "decoder.enter.",
    "decoder.linear.",
    "decoder.count_bias",
)
"""Prefixes of the names of the layers that belong to the part `quantizer`, besides the quantizer itself."""


class CodecSubject(Subject[OneVAE, CodecRecipe]):
    """The properties of a codec model that the trainer depends on."""

    def __init__(
        self,
        config: OneVAEConfig,
        clips: Sequence[Tensor],
        rate: RateEstimate | None = None,
        reads: Sequence[str] = (),
        lpips: LPIPS | None = None,
        errors: ErrorWeights | None = None,
        latent_flow: str = "",
        kept_prior: bytes | None = None,
    ) -> None:
        """Describe a codec model.

        Args:
            config: The configuration of the model.
            clips: Held-out clips, each `3 T H W` in [−1, 1]; empty if this process does not validate.
            rate: The rate term, whose prior trains along with the model; validation measures it too.
            reads: SHA-256 hashes of earlier weights whose files the model decodes as well (`WeightsFile.reads`).
            lpips: The LPIPS network; without it, validation leaves LPIPS out.
            errors: How much an error of a digit harms the picture, for the file of the prior.
            latent_flow: The hash of the latent flow that redraws latents; empty if there is none.
            kept_prior: The file of the prior that lies beside the weights to start from, whose tokens the model reads.
        """
        super().__init__(config, clips)
        self._rate, self._errors = rate, errors
        self._lpips = lpips
        self._reads = " ".join(reads)
        self._latent_flow = latent_flow
        self._kept_prior = kept_prior

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the latent flow, which must be the same when a checkpoint is resumed."""
        return {"latent flow": self._latent_flow} if self._latent_flow else {}

    def codebook_size(self, model: OneVAE) -> int:
        """Return the number of entries of the codebook, which FSQ has implicitly."""
        return model.quantizer.codebook_size

    def freeze(self, model: OneVAE, recipe: CodecRecipe) -> None:
        """Turn off the gradients of the parts that the recipe does not train.

        Raises:
            SettingError: The recipe names a part that does not exist, or none at all.
        """
        train_only(model, recipe.trains)

    def networks(self, model: OneVAE) -> list[nn.Module]:
        """Return the networks whose convolutions are hidden layers."""
        sides = (model.encoder, model.decoder)
        enhanced = [part for side in sides if side.first for part in (side.deep, side.first.blocks)]
        down = [model.decoder.first.down] if model.decoder.first else []
        return [model.encoder.chain, model.decoder.chain, *enhanced, *down]

    def linear_paths(self, model: OneVAE) -> list[FrameConv]:
        """Return the linear paths of the encoder and the decoder, also those of an enhanced first frame."""
        sides = (model.encoder, model.decoder)
        return [*(side.linear for side in sides), *(side.first.linear for side in sides if side.first)]

    def compile(self, model: OneVAE) -> None:
        """Compile the encoder and the decoder for fixed shapes."""
        model.encoder.compile(dynamic=False)
        model.decoder.compile(dynamic=False)

    def figures(self, model: OneVAE) -> dict[str, float]:
        """Measure the model on the held-out clips (`vtok_codec.training.codec.validation.validate`)."""
        return validate(model, self.clips, self._counts(model), self._rate, self._lpips)

    def strip(self, model: OneVAE) -> Pixels:
        """Draw held-out clips and their reconstructions from one, two and all tokens."""
        return reconstruction_strip(model, self.clips[:PICTURED_CLIPS], self._counts(model))

    def weights(self, model: OneVAE, metadata: Mapping[str, str]) -> bytes:
        """Serialize the model as a weights file, and list in it the earlier weights whose files the model decodes."""
        reads = {READS: self._reads} if self._reads else {}
        return super().weights(model, {**metadata, **reads})

    def companions(self, weights: bytes) -> Mapping[str, bytes]:
        """Return the file of the prior that trains along or is kept, with which `vtok encode` packs the tokens."""
        if self._rate is None:
            return {RUN_PRIOR: self._kept_prior} if self._kept_prior else {}
        metadata = {CODEC_SHA256: hashlib.sha256(weights).hexdigest()}
        return {RUN_PRIOR: export_prior(self._rate.prior, metadata, self._errors)}

    @staticmethod
    def _counts(model: OneVAE) -> list[int]:
        most = model.config.max_tokens
        return sorted({1, min(2, most), most})


def train_only(model: OneVAE, parts: Collection[str]) -> None:
    """Turn off the gradients of everything in a model except the given parts.

    Args:
        model: The model, which is changed in place.
        parts: The parts to train, out of `PARTS`.

    Raises:
        SettingError: A part does not exist, or `parts` is empty.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise SettingError(f"setting trains={','.join(parts)}: name some of {', '.join(PARTS)}")
    for name, parameter in model.named_parameters():
        # An enhanced first frame has layers of its own with the same names behind `.first.`.
        usual = name.replace(".first.", ".")
        chosen = name.split(".")[0] in parts or ("quantizer" in parts and usual.startswith(_QUANTIZER_LAYERS))
        if not chosen:
            parameter.requires_grad_(False)
