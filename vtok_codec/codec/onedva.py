"""One-DVA ready to use: it turns the latents of a chunk into 1D tokens, and frames out of them.

The state of both directions is explicit. Besides the codec's own state it holds the codes of the last latent frame.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vtok_codec.codec.slices import latents_at_once
from vtok_codec.codec.tokenizer import Tokenizer, to_pixels
from vtok_codec.container.header import WindowHeader
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import FormatError, SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onedva import Group, Prediction, following
from vtok_codec.models.onevae import Correction
from vtok_codec.models.precision import plain_types
from vtok_codec.models.sampling import sample_second
from vtok_codec.models.weights import ONE_DVA, build
from vtok_codec.models.windows import window_grid, window_motion
from vtok_codec.stream.settings import BY_ERROR, BY_MOTION
from vtok_codec.tokens.radix import Digits, Values, digits_to_tokens, tokens_to_digits
from vtok_codec.weights_file import WeightsFile

ONEDVA_STEPS = 4
"""The default number of steps of decoding from noise."""
_TRIED_LENGTHS = 8
"""The parts of the largest number of 1D tokens that are tried by error and rate."""
_TOKEN_BITS = 16
"""What a 1D token takes in a file, in bits."""
_DIGIT_ERROR = 8e5
"""About the squared error of the picture, in levels from 0 to 255, of a digit that is off by 1, which is the unit of
`EncodeSettings.rdo`: at 0.02, a bit costs what it does on the curve of two tokens (`docs/notebook/refinement.md`)."""


class OneDVAState(NamedTuple):
    """What is known of the chunks of a GOP before."""

    last: Tensor
    """The codes of both tokens in the last latent frame."""
    codec: State
    """The state of the codec's decoder; None in an encoder that decodes nothing."""
    latents: int
    """The number of latent frames of the GOP so far."""


class DecodedTokens(NamedTuple):
    """What the codec's decoder reads of a chunk with 1D tokens."""

    codes: Tensor
    """The codes of all tokens of the codec, `1 (N·d) t h w`, of which it reads two."""
    correction: Correction
    """The features to add to them."""
    last: Tensor
    """The codes of both tokens in the last latent frame, which the next chunk needs."""


class OneDVACoder:
    """One-DVA's transformers for a codec.

    Args:
        weights: The weights of the transformers.
        tokenizer: The codec.

    Raises:
        ModelError: The weights cannot be used, or are for another codec.
    """

    def __init__(self, weights: WeightsFile, tokenizer: Tokenizer) -> None:
        model = build(ONE_DVA, weights).requires_grad_(False)
        fits = model.config.codec == tokenizer.model.config
        tokenizer.check_made_for(weights, fits, "name that codec, or train One-DVA for this one")
        self.weights, self.tokenizer = weights, tokenizer
        place, config = tokenizer.placement, model.config
        # The spread of motion is a small difference of large numbers, which few bits would not tell.
        motion = model.motion.float().to(place.device)
        self.model = model.to(place.device, place.dtype)
        self.model.motion = motion
        self.per_token = config.codec.token_channels
        self.header = WindowHeader(
            weights.name,
            weights.sha256,
            (config.window_steps, config.window_rows, config.window_columns),
            config.queries,
            config.codec.fsq_levels,
        )

    def check_fits(self, described: WindowHeader) -> None:
        """Check that what a file says about its 1D tokens is true of the transformers.

        Raises:
            FormatError: The file says something else.
        """
        same = (described.window, described.most, described.levels)
        if same != (self.header.window, self.header.most, self.header.levels):
            raise FormatError(f"the header does not fit the model of its 1D tokens, {self.header.name}")

    def chosen_lengths(self, choice: str) -> str | int:
        """Parse how many 1D tokens windows get: a number, `motion` or `error`; an empty text means all.

        Raises:
            SettingError: It is none of these.
        """
        if choice in (BY_MOTION, BY_ERROR):
            return choice
        most = self.header.most
        if choice and not (choice.isdecimal() and int(choice) <= most):
            raise SettingError(f"window tokens {choice}: give 0 to {most}, {BY_MOTION} or {BY_ERROR}")
        return int(choice) if choice else most

    @torch.inference_mode()
    @plain_types()
    def encode(
        self,
        values: Values,
        digits: Digits,
        frames: Pixels,
        lengths: str | int,
        rdo: float,
        state: OneDVAState | None,
    ) -> tuple[WindowTokens, OneDVAState]:
        """Encode the 1D tokens of a chunk.

        Args:
            values: The digits of all tokens of the codec before rounding, `P t h w`.
            digits: The digits of the first token as they are packed, `d t h w`.
            frames: The frames of the chunk, uint8 RGB `T H W 3`.
            lengths: How many 1D tokens each window gets; see `chosen_lengths`.
            rdo: What a bit costs, for lengths by error and rate; see `EncodeSettings.rdo`.
            state: The state after the chunk before; None at the start of a GOP.

        Returns:
            The 1D tokens, and the state after the chunk.
        """
        group, structural = _group(state), self._codes(digits)
        smooth = self._normalized(torch.from_numpy(values)[None].to(self._device))
        found = self.model.digits(self.model.encode(self._fit(smooth), self._fit(structural), group).float())
        codes, codec = self._fit(self.model.codes_of(found)), None
        if lengths == BY_MOTION:
            counts = self._shared(self._by_motion(frames), digits.shape[2:])
        elif lengths == BY_ERROR:
            counts = self._by_error(structural, codes, frames, rdo, state)
        else:
            counts = self._shared(torch.full((len(codes),), float(lengths), device=self._device), digits.shape[2:])
        made = self._decoded(structural, codes, counts, group)
        if lengths == BY_ERROR:
            _, codec = self.pictures(made, frames.shape[1:3], state)
        read = torch.arange(codes.shape[1], device=self._device) < counts[:, None]
        kept = found[read].cpu().numpy().T[:, :, None, None]
        tokens = digits_to_tokens(kept, self.header.levels).ravel()
        after = OneDVAState(made.last, codec, (state.latents if state else 0) + digits.shape[1])
        return WindowTokens(counts.cpu().numpy().astype(np.uint8), tokens), after

    @torch.inference_mode()
    @plain_types()
    def decode(
        self,
        digits: Digits,
        window_tokens: WindowTokens | None,
        state: OneDVAState | None,
        noise: NDArray[np.float32] | None = None,
        steps: int = ONEDVA_STEPS,
    ) -> DecodedTokens:
        """Decode the tokens of a chunk.

        Args:
            digits: The digits of the first token, `d t h w`.
            window_tokens: The 1D tokens of the chunk; None where they are missing.
            state: See `encode`.
            noise: The noise to draw the second token from, of the shape of `digits`; None takes the mean of
                what it could be.
            steps: How often the transformer is evaluated to draw it.
        """
        structural = self._codes(digits)
        count = int(np.prod(window_grid(self.model.config, *digits.shape[2:])))
        counts = np.zeros(count, np.int64) if window_tokens is None else window_tokens.counts.astype(np.int64)
        if len(counts) != count:
            raise FormatError(f"a chunk has 1D tokens for {len(counts)} windows instead of {count}")
        found = np.zeros((count, self.header.most, self.per_token), np.uint8)
        if window_tokens is not None:
            read = np.arange(self.header.most) < counts[:, None]
            found[read] = tokens_to_digits(window_tokens.tokens[:, None, None, None], self.header.levels)[:, :, 0, 0].T
        codes = self._fit(self.model.codes_of(torch.from_numpy(found).to(self._device)))
        lengths = torch.from_numpy(counts).to(self._device)
        group = _group(state)
        if noise is None:
            return self._decoded(structural, codes, lengths, group)
        drawn = torch.from_numpy(noise)[None].to(self._device)
        added = sample_second(self.model, self._fit(structural), codes, lengths, group, drawn, steps)
        return self._joined(structural, added)

    def _decoded(self, structural: Tensor, codes: Tensor, counts: Tensor, group: Group) -> DecodedTokens:
        """Decode the codes of the first token, and as many 1D tokens of each window as `counts` says."""
        return self._joined(structural, self.model.decode(self._fit(structural), codes, counts, group))

    def _joined(self, structural: Tensor, added: Prediction) -> DecodedTokens:
        """Return what the codec's decoder reads: the codes of the first token, and what 1D tokens add."""
        after = following(structural, added.second.float()).last
        assert after is not None
        both = torch.cat([self._fit(structural), self._fit(added.second)], 1)
        return DecodedTokens(self.tokenizer.model.whole(both), added.correction, after)

    @torch.inference_mode()
    @plain_types()
    def pictures(self, tokens: DecodedTokens, size: tuple[int, int], state: OneDVAState | None) -> tuple[Pixels, State]:
        """Let the codec decode a chunk.

        Args:
            tokens: The tokens of the chunk.
            size: The height and width of the video.
            state: The state after the chunk before; None at the start of a GOP.

        Returns:
            All frames that the tokens stand for, uint8 RGB `T H W 3`, and the state of the codec's decoder.
        """
        tokenizer, device = self.tokenizer, self._device
        count, parts = torch.full((1,), 2, device=device), list[Pixels]()
        codec: State = state.codec if state else None
        steps, begin, first = latents_at_once(device.type, size), 0, state is None
        for step in range(0, tokens.correction.features.shape[2], steps):
            end = begin + tokenizer.layout.stored_latents(steps, first)
            features = tokens.correction.features[:, :, step : step + steps]
            correction = Correction(features, tokens.correction.first if first else None)
            video, codec = tokenizer.model.decoder(tokens.codes[:, :, begin:end], codec, count, correction=correction)
            parts.append(to_pixels(video[0], size))
            begin, first = end, False
        return np.concatenate(parts)[tokenizer.layout.filled_frames(state is None) :], codec

    def _by_motion(self, frames: Pixels) -> Tensor:
        """Return how many 1D tokens each window deserves by its motion, before rounding (One-DVA, appendix A)."""
        rows, columns = self.tokenizer.layout.grid(*frames.shape[1:3])
        height, width = self.tokenizer.layout.picture(rows, columns)
        padding = ((0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0))
        video = torch.from_numpy(np.pad(frames, padding, mode="edge")).to(self._device)
        motion = window_motion(video.permute(3, 0, 1, 2)[None] / 127.5 - 1, self.model.config)
        return self.model.lengths(motion)

    def _shared(self, lengths: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Return the share of the given numbers of 1D tokens that windows of a grid get which it fills in part."""
        config = self.model.config
        size = config.window_rows, config.window_columns
        filled = torch.ones(1, 1, *grid, device=self._device)
        share = F.avg_pool2d(filled, size, ceil_mode=True, divisor_override=size[0] * size[1]).flatten()
        return (lengths * share).ceil().long()

    def _by_error(
        self, structural: Tensor, codes: Tensor, frames: Pixels, rdo: float, state: OneDVAState | None
    ) -> Tensor:
        """Return the number of 1D tokens of each window with the least error of the picture plus cost of bits."""
        windows, most = codes.shape[:2]
        tried = sorted({most * part // _TRIED_LENGTHS for part in range(_TRIED_LENGTHS + 1)})
        config = self.model.config
        _, below, beside = config.codec.stride
        size, costs = (config.window_rows * below, config.window_columns * beside), list[Tensor]()
        for length in tried:
            counts = torch.full((windows,), length, device=self._device)
            made = self._decoded(structural, codes, counts, _group(state))
            pixels, _ = self.pictures(made, frames.shape[1:3], state)
            error = np.square(pixels[: len(frames)].astype(np.float32) - frames).sum((0, 3))
            sums = F.avg_pool2d(torch.from_numpy(error)[None, None], size, ceil_mode=True, divisor_override=1)
            costs.append(sums.flatten() + rdo * _DIGIT_ERROR * _TOKEN_BITS * length)
        return torch.tensor(tried, device=self._device)[torch.stack(costs).argmin(0).to(self._device)]

    def _codes(self, digits: Digits) -> Tensor:
        """Return the codes of digits of the first token, `1 d t h w` in fp32."""
        return self._normalized(torch.from_numpy(digits)[None].to(self._device).float())

    def _normalized(self, values: Tensor) -> Tensor:
        """Return digits, or values before rounding, `1 P t h w`, as codes."""
        zero = self.tokenizer.model.fsq.zero_digit[: values.shape[1]].float()
        return (values - zero) / zero

    @property
    def _device(self) -> torch.device:
        return self.tokenizer.placement.device

    def _fit(self, x: Tensor) -> Tensor:
        """Return a tensor in the floating-point type of the weights."""
        return x.to(self.tokenizer.placement.dtype)


def _group(state: OneDVAState | None) -> Group:
    """Return the place of a chunk that follows a state, or that starts a GOP."""
    return Group(state is None, state.last if state else None)
