"""A diffusion decoder ready to use: it turns digits and noise into frames."""

from __future__ import annotations

import copy

import numpy as np
import torch

from vtok_codec.codec.noise import check_seed, noise_of
from vtok_codec.codec.slices import latents_at_once, slices
from vtok_codec.codec.tokenizer import Tokenizer, to_pixels
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import RGB
from vtok_codec.models.precision import plain_types
from vtok_codec.models.sampling import DIFFUSION_STEPS, check_steps, sample
from vtok_codec.models.weights import DIFFUSION_DECODER, build
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits
from vtok_codec.weights_file import WeightsFile


class DiffusionDecoder:
    """A diffusion decoder, ready to decode the tokens of a codec.

    Args:
        weights: The weights of the diffusion decoder.
        tokenizer: The codec whose tokens it decodes.

    Raises:
        ModelError: The weights cannot be used, or are for the tokens of another codec.
    """

    def __init__(self, weights: WeightsFile, tokenizer: Tokenizer) -> None:
        model = build(DIFFUSION_DECODER, weights)
        advice = "use the deterministic decoder, or train one for them: 'vtok train --stage diffusion'"
        tokenizer.check_made_for(weights, model.config.decodes(tokenizer.model.config), advice)
        self.tokenizer = tokenizer
        self.id, self.max_tokens, self.placement = tokenizer.id, tokenizer.max_tokens, tokenizer.placement
        self.lanes, place = tokenizer.lanes, self.placement
        self.model = model.to(place.device, place.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights_sha256 = weights.sha256
        self.steps, self.seed = DIFFUSION_STEPS, 0

    def chosen(self, steps: int | None, seed: int) -> DiffusionDecoder:
        """Return a decoder that shares this network but has other settings.

        Args:
            steps: How often the network is evaluated; None for the default.
            seed: The seed of the noise.

        Raises:
            SettingError: A number is out of range.
        """
        other = copy.copy(self)
        other.steps = DIFFUSION_STEPS if steps is None else steps
        check_steps(other.steps)
        check_seed(seed)
        other.seed = seed
        return other

    @property
    def bytes_per_pixel(self) -> int:
        """The memory in bytes that decoding a chunk takes for each pixel of a frame, measured at 854×480.

        Every step has a state of its own.
        """
        return (905 + 95 * self.steps) * self.placement.dtype.itemsize

    @property
    def identity(self) -> dict[str, str]:
        """Everything that the decoded frames depend on, apart from the tokens and their codec."""
        return {"decoder": self.weights_sha256, "steps": str(self.steps), "seed": str(self.seed)}

    @property
    def description(self) -> str:
        """The decoder in a few words, for reports."""
        return f"{self.weights_sha256[:12]} in {self.steps} steps"

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.prior_files.find_prior`."""
        return self.tokenizer.find_prior(sha256)

    @torch.inference_mode()
    @plain_types()
    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: State,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, State]:
        """Decode a chunk or a part of one; see `Tokenizer.decode`."""
        self.tokenizer.check_process()
        layout = self.tokenizer.layout
        skipped = layout.filled_frames(state is None)
        parts: list[Pixels] = []
        for part, _ in slices(digits, layout, state is None, latents_at_once(self.placement.device.type, size)):
            pixels, state = self._decode_slice(part, size, state, gop)
            parts.append(pixels)
        return np.concatenate(parts)[skipped : skipped + frames], state

    def _decode_slice(self, digits: Digits, size: tuple[int, int], state: State, gop: int) -> tuple[Pixels, State]:
        """Decode every frame of a slice, including the repeated frames in front of a GOP."""
        done, before = (0, None) if state is None else state
        place, (planes, latents) = int(done), digits.shape[:2]  # type: ignore[arg-type]
        device, dtype, codec = self.placement.device, self.placement.dtype, self.tokenizer.model
        given = torch.from_numpy(digits)[None].to(device)
        noise = np.stack([self._noise(gop, place + n, digits.shape[2:]) for n in range(latents)], axis=1)
        noisy = torch.from_numpy(noise).flatten(1, 2)[None].to(device, dtype)
        codes = codec.fsq.codes(codec.whole(given)).to(dtype)
        counts = torch.full((1,), planes // codec.config.token_channels, device=device)
        video, after = sample(self.model, codes, noisy, before, counts, self.steps)
        return to_pixels(video[0], size), (torch.tensor(place + latents), after)

    def warm_up(self) -> None:
        """Decode a small picture, so that later timings do not include what torch sets up at its first use."""
        planes = self.max_tokens * len(self.id.levels)
        self.decode(np.zeros((planes, 1, 1, 1), np.uint8), self.id.stride[1:], 1, None)

    def _noise(self, gop: int, latent: int, grid: tuple[int, ...]) -> np.ndarray:
        """Draw the noise for the frames of one latent frame, `3 st H W`; see `noise_of`.

        Args:
            gop: The number of the GOP in the file.
            latent: The number of the latent frame in the GOP.
            grid: Rows and columns of the latent grid.
        """
        st, sh, sw = self.id.stride
        return noise_of(self.seed, gop, latent, (RGB, st, grid[0] * sh, grid[1] * sw))
