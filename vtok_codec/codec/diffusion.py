"""The diffusion decoder ready to decode: digits of a chunk to frames, from noise that a seed and the place repeat."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F

from vtok_codec.codec.slices import latents_at_once, slices
from vtok_codec.codec.tokenizer import Tokenizer, shown_pixels
from vtok_codec.errors import InputError, ModelError, SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB
from vtok_codec.models.sampling import DEFAULT_STEPS, check_steps, sample
from vtok_codec.models.weights import build_denoiser
from vtok_codec.registry import WeightsFile
from vtok_codec.tokens.radix import Digits

MAX_SEED = (1 << 64) - 1
MAX_GOP = (1 << 64) - 1


class DiffusionDecoder:
    """A diffusion decoder beside the codec whose tokens it decodes.

    Raises:
        ModelError: the weights cannot be used or are for another codec's tokens.
        SettingError: a number is out of its range.
    """

    bytes_a_pixel = 2000
    """Memory that a chunk takes while it is decoded, for each pixel of a frame: measured at 854×480."""

    def __init__(self, weights: WeightsFile, tokenizer: Tokenizer, steps: int | None = None, seed: int = 0) -> None:
        """See `chosen` for `steps` and `seed`."""
        made_for, wanted = weights.metadata.get("codec_sha256", ""), tokenizer.id
        model = build_denoiser(weights.metadata.get("preset", ""), weights.data, str(weights.path))
        if made_for != wanted.weights_sha256 or model.config.codec != tokenizer.model.config:
            raise ModelError(
                f"{weights.path} decodes tokens of weights {made_for[:12] or 'unknown'}, these are of "
                f"{wanted.weights_sha256[:12]}; use the deterministic decoder, or train one for them: "
                "'vtok train --stage diffusion'"
            )
        self.tokenizer = tokenizer
        self.id, self.max_tokens, self.placement = tokenizer.id, tokenizer.max_tokens, tokenizer.placement
        place = self.placement
        self.model = model.to(place.device, place.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights_sha256 = weights.sha256
        self._choose(steps, seed)

    def chosen(self, steps: int | None, seed: int) -> DiffusionDecoder:
        """The same network with other choices: the evaluations of it, None for as many as it is usually decoded with;
        and the seed of the noise.

        Raises:
            SettingError: they are out of range.
        """
        other = copy.copy(self)
        other._choose(steps, seed)
        return other

    def _choose(self, steps: int | None, seed: int) -> None:
        self.steps = DEFAULT_STEPS if steps is None else steps
        check_steps(self.steps)
        if not 0 <= seed <= MAX_SEED:
            raise SettingError(f"seed {seed}: give 0 to {MAX_SEED}")
        self.seed = seed

    @property
    def identity(self) -> dict[str, str]:
        """All that its frames depend on, apart from the tokens and their codec."""
        return {"decoder": self.weights_sha256, "steps": str(self.steps), "seed": str(self.seed)}

    @torch.inference_mode()
    def decode(
        self, digits: Digits, size: tuple[int, int], frames: int, state: State, gop: int = 0
    ) -> tuple[Pixels, State]:
        """The `frames` frames of height and width `size` that a chunk of GOP `gop` stands for, and the state then."""
        skipped = self.id.stride[0] - 1 if state is None else 0
        parts: list[Pixels] = []
        for part, _ in slices(digits, self.id, state is None, latents_at_once(self.placement.device, size)):
            pixels, state = self._decode_slice(part, size, state, gop)
            parts.append(pixels)
        return np.concatenate(parts)[skipped : skipped + frames], state

    def _decode_slice(self, digits: Digits, size: tuple[int, int], state: State, gop: int) -> tuple[Pixels, State]:
        """Every frame that a slice stands for, with those that fill the first latent frame of a GOP."""
        done, before = (0, None) if state is None else state
        place, (planes, latents) = int(done), digits.shape[:2]  # type: ignore[arg-type]
        device, dtype, codec = self.placement.device, self.placement.dtype, self.tokenizer.model
        given = torch.from_numpy(digits)[None].to(device)
        noise = np.stack([self._noise(gop, place + n, digits.shape[2:]) for n in range(latents)], axis=1)
        noisy = torch.from_numpy(noise).flatten(1, 2)[None].to(device, dtype)
        codes = codec.fsq.codes(F.pad(given, (0,) * 7 + (codec.config.latent_channels - planes,))).to(dtype)
        counts = torch.full((1,), planes // codec.config.token_channels, device=device)
        video, after = sample(self.model, codes, noisy, before, counts, self.steps)
        return shown_pixels(video[0], size), (torch.tensor(place + latents), after)

    def warm_up(self) -> None:
        """Decode a small picture, so that what torch sets up at first use is not part of what is timed next."""
        planes = self.max_tokens * len(self.id.levels)
        self.decode(np.zeros((planes, 1, 1, 1), np.uint8), self.id.stride[1:], 1, None)

    def _noise(self, gop: int, latent: int, grid: tuple[int, ...]) -> np.ndarray:
        """For the frames of one latent frame, `3 st H W`: the same wherever decoding started, however it was cut."""
        if not 0 <= gop <= MAX_GOP:
            raise InputError(f"there is no GOP {gop}")
        st, sh, sw = self.id.stride
        key, counter = (np.array(words, np.uint64) for words in ([self.seed, 0], [0, 0, latent, gop]))
        stream = np.random.Generator(np.random.Philox(key=key, counter=counter))
        return stream.standard_normal((RGB, st, grid[0] * sh, grid[1] * sw), np.float32)
