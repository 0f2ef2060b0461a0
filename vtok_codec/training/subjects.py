"""What a run trains, as far as the trainer must know: a codec, or a diffusion decoder for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

from vtok_codec.errors import SettingError
from vtok_codec.evaluation.lpips import LPIPS
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.registry import READS
from vtok_codec.training.prior import DigitPrior
from vtok_codec.training.stages import PARTS, Stage
from vtok_codec.training.strips import denoising_strip, reconstruction_strip
from vtok_codec.training.validation import validate, validate_denoiser

Model = TypeVar("Model", bound=nn.Module)

_PICTURED_CLIPS = 4
_QUANTIZER_LAYERS = (
    "encoder.out.",
    "encoder.linear.",
    "decoder.enter.",
    "decoder.linear.",
    "decoder.count_bias",
)
"""By the prefixes of their names, the layers that the part "quantizer" trains beside the quantizer itself."""


class Subject(ABC, Generic[Model]):
    """What is particular to a kind of model."""

    def __init__(self, preset: str, clips: Sequence[Tensor]) -> None:
        """`clips`: held out, `3 T H W` in [−1, 1]; none where nobody watches."""
        self.preset = preset
        self.clips = clips

    @property
    def identity(self) -> Mapping[str, str]:
        """What else a checkpoint belongs to."""
        return {}

    def codebook_size(self, model: Model) -> int | None:
        """Entries of the codebook whose use is logged; None without one."""
        return None

    @abstractmethod
    def freeze(self, model: Model, stage: Stage) -> None:
        """Leave a gradient to what the stage trains.

        Raises:
            SettingError: the stage trains what the model has not.
        """

    @abstractmethod
    def networks(self, model: Model) -> list[nn.Module]:
        """Whose convolutions are hidden layers: Muon steps them."""

    @abstractmethod
    def linear_paths(self, model: Model) -> list[FrameConv]:
        """What steps in proportion to its weights."""

    @abstractmethod
    def compile(self, model: Model) -> None:
        """Compile what a step evaluates. Shapes are fixed: a stage has a handful of them, and dynamic ones fail on
        channels-last views."""

    @abstractmethod
    def figures(self, model: Model) -> dict[str, float]:
        """How it does on the clips."""

    @abstractmethod
    def strip(self, model: Model) -> Pixels:
        """How it looks on some of them."""

    @abstractmethod
    def weights(self, model: Model, metadata: Mapping[str, str]) -> bytes:
        """A weights file."""


class CodecSubject(Subject[OneVAE]):
    """A OneVAE."""

    def __init__(
        self,
        preset: str,
        clips: Sequence[Tensor],
        prior: DigitPrior | None = None,
        reads: Sequence[str] = (),
        lpips: LPIPS | None = None,
    ) -> None:
        """`reads`: hashes of other weights whose tokens the model keeps, see `WeightsFile.reads`."""
        super().__init__(preset, clips)
        self._prior = prior
        self._lpips = lpips
        self._reads = " ".join(reads)

    def codebook_size(self, model: OneVAE) -> int:
        return model.quantizer.codebook_size

    def freeze(self, model: OneVAE, stage: Stage) -> None:
        train_only(model, stage.trains)

    def networks(self, model: OneVAE) -> list[nn.Module]:
        sides = (model.encoder, model.decoder)
        enhanced = [part for side in sides if side.first for part in (side.deep, side.first.blocks)]
        down = [model.decoder.first.down] if model.decoder.first else []
        return [model.encoder.chain, model.decoder.chain, *enhanced, *down]

    def linear_paths(self, model: OneVAE) -> list[FrameConv]:
        sides = (model.encoder, model.decoder)
        return [*(side.linear for side in sides), *(side.first.linear for side in sides if side.first)]

    def compile(self, model: OneVAE) -> None:
        model.encoder.compile(dynamic=False)
        model.decoder.compile(dynamic=False)

    def figures(self, model: OneVAE) -> dict[str, float]:
        return validate(model, self.clips, self._counts(model), self._prior, self._lpips)

    def strip(self, model: OneVAE) -> Pixels:
        return reconstruction_strip(model, self.clips[:_PICTURED_CLIPS], self._counts(model))

    def weights(self, model: OneVAE, metadata: Mapping[str, str]) -> bytes:
        reads = {READS: self._reads} if self._reads else {}
        return dump_weights(model, self.preset, {**metadata, **reads})

    @staticmethod
    def _counts(model: OneVAE) -> list[int]:
        most = model.config.max_tokens
        return sorted({1, min(2, most), most})


class DenoiserSubject(Subject[Denoiser]):
    """A diffusion decoder, with the codec that it decodes for."""

    def __init__(
        self, preset: str, clips: Sequence[Tensor], codec: OneVAE, codec_is: Mapping[str, str], lpips: LPIPS | None
    ) -> None:
        """`codec_is`: the codec's name and the hash of its weights, as the weights file tells them."""
        super().__init__(preset, clips)
        self._codec = codec
        self._codec_is = codec_is
        self._lpips = lpips

    @property
    def identity(self) -> Mapping[str, str]:
        return {"codec_sha256": self._codec_is["codec_sha256"]}

    def freeze(self, model: Denoiser, stage: Stage) -> None:
        """All of it trains."""

    def networks(self, model: Denoiser) -> list[nn.Module]:
        return [model.down, model.up.chain, model.falls, model.skips, model.adapter.mixes, model.adapter.rises]

    def linear_paths(self, model: Denoiser) -> list[FrameConv]:
        return [model.up.linear]

    def compile(self, model: Denoiser) -> None:
        for network in (model, model.adapter, self._codec.encoder):
            network.compile(dynamic=False)

    def figures(self, model: Denoiser) -> dict[str, float]:
        return validate_denoiser(model, self._codec, self.clips, self._lpips)

    def strip(self, model: Denoiser) -> Pixels:
        return denoising_strip(model, self._codec, self.clips[:_PICTURED_CLIPS])

    def weights(self, model: Denoiser, metadata: Mapping[str, str]) -> bytes:
        about = {"objective": model.config.objective, **self._codec_is, **metadata}
        return dump_weights(model, self.preset, about)


def train_only(model: OneVAE, parts: Collection[str]) -> None:
    """Freeze all of a model but these of `PARTS`.

    Raises:
        SettingError: there is no such part, or none is left.
    """
    unknown = set(parts) - set(PARTS)
    if unknown or not parts:
        raise SettingError(f"setting trains={','.join(parts)}: name some of {', '.join(PARTS)}")
    for name, parameter in model.named_parameters():
        # An enhanced first frame has such layers of its own.
        usual = name.replace(".first.", ".")
        chosen = name.split(".")[0] in parts or ("quantizer" in parts and usual.startswith(_QUANTIZER_LAYERS))
        if not chosen:
            parameter.requires_grad_(False)
