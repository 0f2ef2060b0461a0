"""The interface between the trainer and generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vtok_codec.codec.drawing import Sampling
from vtok_codec.codec.tokenizer import Tokenizer
from vtok_codec.errors import SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import GeneratorConfig
from vtok_codec.models.generator import Generator, kinds
from vtok_codec.tokens.coders import PRIOR, DigitLayout, fitting_coder
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.generator.stages import GeneratorRecipe
from vtok_codec.training.subject import PICTURED_CLIPS, Subject
from vtok_codec.weights_file import CODEC_SHA256


class GeneratorSubject(Subject[Generator, GeneratorRecipe]):
    """The properties of a generator that the trainer depends on, and the held-out digits that it is measured on."""

    def __init__(
        self,
        config: GeneratorConfig,
        clips: Sequence[Tensor],
        digits: Sequence[Digits],
        tokenizer: Tokenizer,
        codec_metadata: Mapping[str, str],
    ) -> None:
        """Describe a generator.

        Args:
            config: The configuration of the generator.
            clips: Held-out clips; empty if this process does not validate.
            digits: Their digits, `P t h w`; planes beyond those that the generator predicts are not used.
            tokenizer: The codec that made them, which decodes what the generator draws.
            codec_metadata: Metadata for the weights file that name the codec: its name and the hash of its weights.
        """
        super().__init__(config, clips)
        self._planes, self._phases = len(config.levels), config.codec.layout.phases
        self._digits = [clip[: self._planes] for clip in digits]
        self._tokenizer, self._codec_metadata = tokenizer, codec_metadata
        self._tokens = config.tokens

    @property
    def identity(self) -> Mapping[str, str]:
        """The hash of the codec's weights, which must be the same when a checkpoint is resumed."""
        return {CODEC_SHA256: self._codec_metadata[CODEC_SHA256]}

    def freeze(self, model: Generator, recipe: GeneratorRecipe) -> None:
        """Leave the gradients as they are, since the whole model trains."""

    def networks(self, model: Generator) -> list[nn.Module]:
        """Return the transformer blocks, whose matrices Muon updates."""
        return [model.blocks]

    def linear_paths(self, model: Generator) -> list[FrameConv]:
        """Return nothing: a generator has no linear path."""
        return []

    def compile(self, model: Generator) -> None:
        """Refuse to compile: the size of batches varies with the clips.

        Raises:
            SettingError: Always.
        """
        raise SettingError("this stage does not compile, since its batches have many sizes; leave out --compile")

    @torch.inference_mode()
    def figures(self, model: Generator) -> dict[str, float]:
        """Measure the bits per pixel of the held-out clips, and their ratio to the size that the best coder needs."""
        device = model.kind.weight.device
        bits, packed, pixels = 0.0, 0, 0
        for clip, digits in zip(self.clips, self._digits, strict=True):
            batch = torch.from_numpy(digits[None]).to(device)
            bits += float(model.costs(batch, kinds(digits.shape[1], self._phases)[None].to(device))[0].sum())
            packed += self._packed(digits)
            pixels += clip[0].numel()
        return {"bits_per_pixel": bits / pixels, "size_to_coder": bits / 8 / packed}

    def _packed(self, digits: Digits) -> int:
        """Return the bytes that the digits of a clip take as one chunk, packed with the prior if there is one."""
        prior, grid = self._tokenizer.prior, digits.shape[2:]
        layout = DigitLayout(self._tokenizer.id.levels, self._tokens, self._phases, prior, grid)
        return len(fitting_coder(PRIOR, layout, digits.size).make().pack(digits))

    @torch.inference_mode()
    def strip(self, model: Generator) -> Pixels:
        """Draw a row per clip: its last frame as decoded, and as continued from the first frames on, twice."""
        rows = []
        for digits in self._digits[:PICTURED_CLIPS]:
            drawn = [self._continued(model, digits, seed) for seed in (1, 2)]
            rows.append(np.concatenate([self._last_frame(each) for each in (digits, *drawn)], axis=1))
        width = max(row.shape[1] for row in rows)
        return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])

    def _continued(self, model: Generator, digits: Digits, seed: int) -> Digits:
        """Return digits with all latent frames but the first frame and one more replaced by drawn ones."""
        known, device = min(self._phases + 1, digits.shape[1]), model.kind.weight.device
        pick = Sampling(seed, top_p=1).picker(device)
        batch = torch.from_numpy(digits[None, :, :known].copy()).to(device)
        _, state = model.costs(batch, kinds(known, self._phases)[None].to(device))
        frames = [batch[0].cpu()]
        for latent in range(known, digits.shape[1]):
            frame, state = model.draw(min(latent, self._phases), state, pick)
            frames.append(frame[0, :, None].cpu().to(torch.uint8))
        return torch.cat(frames, 1).numpy()

    def _last_frame(self, digits: Digits) -> Pixels:
        layout = self._tokenizer.layout
        size = layout.picture(*digits.shape[2:])
        pixels, _ = self._tokenizer.decode(digits, size, layout.frames(digits.shape[1], first=True), None)
        return pixels[-1]

    def weights(self, model: Generator, metadata: Mapping[str, str]) -> bytes:
        """Serialize the generator as a weights file that names its codec."""
        return super().weights(model, {**self._codec_metadata, **metadata})
