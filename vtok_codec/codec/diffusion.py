"""The diffusion decoder ready to decode: digits of a chunk to frames, from noise that a seed and the place repeat."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from vtok_codec.codec.tokenizer import Placement, choose_placement, shown_pixels
from vtok_codec.container.header import ModelId
from vtok_codec.errors import ModelError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import RGB
from vtok_codec.models.sampling import MAX_STEPS, path_of, sample
from vtok_codec.models.weights import build_denoiser
from vtok_codec.registry import WeightsFile
from vtok_codec.tokens.radix import Digits

MAX_SEED = (1 << 64) - 1


class DiffusionDecoder:
    """A diffusion decoder for the tokens of one codec. The codec's own networks are not needed.

    Raises:
        ModelError: the weights cannot be used, or a number is out of its range.
    """

    def __init__(self, weights: WeightsFile, placement: Placement, steps: int | None = None, seed: int = 0) -> None:
        """`steps`: evaluations of the network; None takes what its objective is usually decoded with."""
        preset = weights.metadata.get("preset", "")
        model = build_denoiser(preset, weights.data, str(weights.path))
        config = model.config.codec
        self.placement = placement
        self.model = model.to(placement.device, placement.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.steps = path_of(model.config.objective).default_steps if steps is None else steps
        if not 1 <= self.steps <= MAX_STEPS:
            raise ModelError(f"--steps {steps}: give 1 to {MAX_STEPS}")
        if not 0 <= seed <= MAX_SEED:
            raise ModelError(f"--seed {seed}: give 0 to {MAX_SEED}")
        self.seed = seed
        self.weights_sha256 = weights.sha256
        self.max_tokens = config.max_tokens
        digest = weights.metadata.get("codec_sha256", "")
        self.id = ModelId(weights.metadata.get("codec", ""), digest, config.stride, config.fsq_levels)
        self._fsq = FSQ(config.fsq_levels, config.max_tokens).to(placement.device)

    @property
    def identity(self) -> dict[str, str]:
        """All that its frames depend on, apart from the tokens."""
        return {"decoder": self.weights_sha256, "steps": str(self.steps), "seed": str(self.seed)}

    @torch.inference_mode()
    def decode(
        self, digits: Digits, size: tuple[int, int], frames: int, state: State, gop: int = 0
    ) -> tuple[Pixels, State]:
        """The `frames` frames of height and width `size` that a chunk of GOP `gop` stands for, and the state then."""
        done, before = (0, None) if state is None else state
        place, (planes, latents) = int(done), digits.shape[:2]  # type: ignore[arg-type]
        noise = np.stack([self._noise(gop, place + n, digits.shape[2:]) for n in range(latents)], axis=1)
        noisy = torch.from_numpy(noise).flatten(1, 2)[None].to(self.placement.device, self.placement.dtype)
        given = torch.from_numpy(digits)[None].to(self.placement.device)
        codes = self._fsq.codes(F.pad(given, (0,) * 7 + (self.max_tokens * len(self.id.levels) - planes,)))
        counts = torch.full((1,), planes // len(self.id.levels), device=given.device)
        video, after = sample(self.model, codes.to(self.placement.dtype), noisy, before, counts, self.steps)
        skipped = self.id.stride[0] - 1 if state is None else 0
        return shown_pixels(video[0, :, skipped : skipped + frames], size), (torch.tensor(place + latents), after)

    def _noise(self, gop: int, latent: int, grid: tuple[int, ...]) -> np.ndarray:
        """For the frames of one latent frame, `3 st H W`: the same wherever decoding started, however it was cut."""
        st, sh, sw = self.id.stride
        stream = np.random.Generator(np.random.Philox(key=[self.seed, 0], counter=[0, 0, latent, gop]))
        return stream.standard_normal((RGB, st, grid[0] * sh, grid[1] * sw), np.float32)


def load_diffusion(
    weights: WeightsFile, device: str = "auto", steps: int | None = None, seed: int = 0
) -> DiffusionDecoder:
    """A diffusion decoder on the chosen device.

    Raises:
        ModelError: the weights or the device cannot be used.
    """
    return DiffusionDecoder(weights, choose_placement(device), steps, seed)


def check_same_codec(weights: WeightsFile, wanted: ModelId) -> None:
    """Refuse a decoder of other weights than those that a file was made with.

    Raises:
        ModelError: they differ.
    """
    made_for = weights.metadata.get("codec_sha256", "")
    if made_for != wanted.weights_sha256:
        raise ModelError(
            f"{weights.path} decodes weights {made_for[:12] or 'unknown'}, the file was made with "
            f"{wanted.weights_sha256[:12]} of {wanted.name}; use --decoder deterministic, or train a decoder for it: "
            "vtok train --stage diffusion"
        )
