"""One-DVA ready to use: it turns the latents of a chunk into 1D tokens, and frames out of them.

The state of both directions is explicit. Besides the codec's own state it holds the codes of the last latent frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vtok_codec.codec.slices import latents_at_once
from vtok_codec.codec.tokenizer import Tokenizer, to_pixels
from vtok_codec.container.header import ModelId, WindowHeader
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.errors import FormatError, ModelError, SettingError
from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import State
from vtok_codec.models.onedva import Group, following, window_grid, window_motion
from vtok_codec.models.onevae import Correction
from vtok_codec.models.weights import build_onedva
from vtok_codec.registry import CODEC_SHA256, WeightsFile
from vtok_codec.stream.settings import BY_ERROR, BY_MOTION
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Values, digits_to_tokens, tokens_to_digits

_TRIED_LENGTHS = 8
"""The parts of the largest number of 1D tokens that are tried by error and rate."""
_TOKEN_BITS = 16
"""What a 1D token takes in a file, in bits."""


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
        model = build_onedva(weights.config, weights.data, str(weights.path)).requires_grad_(False)
        made_for = weights.metadata.get(CODEC_SHA256, "")
        if made_for not in tokenizer.weights.reads or model.config.codec != tokenizer.model.config:
            raise ModelError(
                f"{weights.path} is for the codec with weights {made_for[:12] or 'unknown'}, not for "
                f"{tokenizer.id.weights_sha256[:12]}; name that codec, or train One-DVA for this one"
            )
        self.weights, self.tokenizer = weights, tokenizer
        place, config = tokenizer.placement, model.config
        self.model = model.to(place.device, place.dtype)
        # The spread of motion is a small difference of large numbers.
        self.model.motion = model.motion.float()
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
    def encode(
        self, values: Values, digits: Digits, frames: Pixels, lengths: str | int, rdo: float, last: Tensor | None
    ) -> tuple[WindowTokens, Tensor]:
        """Encode the 1D tokens of a chunk.

        Args:
            values: The digits of all tokens of the codec before rounding, `P t h w`.
            digits: The digits of the first token as they are packed, `d t h w`.
            frames: The frames of the chunk, uint8 RGB `T H W 3`.
            lengths: How many 1D tokens each window gets; see `chosen_lengths`.
            rdo: What a bit costs, for lengths by error and rate; see `EncodeSettings.rdo`.
            last: The codes of the latent frame before, as this method returned them; None at the start of a GOP.

        Returns:
            The 1D tokens, and the codes of the last latent frame.
        """
        group, structural = Group(last is None, last), self._codes(digits)
        smooth = self._normalized(torch.from_numpy(values)[None].to(self._device))
        found = self.model.digits(self.model.encode(self._fit(smooth), self._fit(structural), group).float())
        codes = self._fit(self.model.codes_of(found))
        if lengths == BY_MOTION:
            counts = self._by_motion(frames)
        elif lengths == BY_ERROR:
            second = smooth[:, self.per_token : 2 * self.per_token]
            counts = self._by_error(structural, codes, second, group, rdo)
        else:
            counts = torch.full((len(codes),), int(lengths), device=self._device)
        second = self.model.decode(self._fit(structural), codes, counts, group).second
        read = torch.arange(codes.shape[1], device=self._device) < counts[:, None]
        kept = found[read].cpu().numpy().T[:, :, None, None]
        tokens = digits_to_tokens(kept, self.header.levels).ravel()
        after = following(structural, second.float()).last
        assert after is not None
        return WindowTokens(counts.cpu().numpy().astype(np.uint8), tokens), after

    @torch.inference_mode()
    def decode(self, digits: Digits, window_tokens: WindowTokens | None, last: Tensor | None) -> DecodedTokens:
        """Decode the tokens of a chunk.

        Args:
            digits: The digits of the first token, `d t h w`.
            window_tokens: The 1D tokens of the chunk; None where they are missing.
            last: See `encode`.
        """
        group, structural = Group(last is None, last), self._codes(digits)
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
        added = self.model.decode(self._fit(structural), codes, lengths, group)
        after = following(structural, added.second.float()).last
        assert after is not None
        left = self.tokenizer.model.config.latent_channels - 2 * self.per_token
        whole = F.pad(torch.cat([self._fit(structural), self._fit(added.second)], 1), (0,) * 7 + (left,))
        return DecodedTokens(whole, added.correction, after)

    def _by_motion(self, frames: Pixels) -> Tensor:
        """Return the number of 1D tokens of each window by its motion (One-DVA, appendix A)."""
        rows, columns = self.tokenizer.layout.grid(*frames.shape[1:3])
        height, width = self.tokenizer.layout.picture(rows, columns)
        padding = ((0, 0), (0, height - frames.shape[1]), (0, width - frames.shape[2]), (0, 0))
        video = torch.from_numpy(np.pad(frames, padding, mode="edge")).to(self._device)
        motion = window_motion(video.permute(3, 0, 1, 2)[None] / 127.5 - 1, self.model.config)
        return self.model.lengths(motion).round().long()

    def _by_error(self, structural: Tensor, codes: Tensor, second: Tensor, group: Group, rdo: float) -> Tensor:
        """Return the number of 1D tokens of each window with the least error plus cost of bits."""
        windows, most = codes.shape[:2]
        tried = sorted({most * part // _TRIED_LENGTHS for part in range(_TRIED_LENGTHS + 1)})
        costs = []
        for length in tried:
            counts = torch.full((windows,), length, device=self._device)
            made = self.model.decode(self._fit(structural), codes, counts, group).second.float()
            error = ((made - second).square() * self._harm(made.shape[2], group)).sum((1, 2))
            grid = self.model.config.window_rows, self.model.config.window_columns
            summed = F.avg_pool2d(error[:, None], grid, ceil_mode=True, divisor_override=1).flatten()
            costs.append(summed + rdo * _TOKEN_BITS * length)
        return torch.tensor(tried, device=self._device)[torch.stack(costs).argmin(0)]

    def _codes(self, digits: Digits) -> Tensor:
        """Return the codes of digits of the first token, `1 d t h w` in fp32."""
        return self._normalized(torch.from_numpy(digits)[None].to(self._device).float())

    def _normalized(self, values: Tensor) -> Tensor:
        """Return digits, or values before rounding, `1 P t h w`, as codes."""
        zero = self.tokenizer.model.fsq.zero_digit[: values.shape[1]].float()
        return (values - zero) / zero

    def _harm(self, latents: int, group: Group) -> Tensor:
        """Return how much the squared error of a code of the second token harms the picture, `d t 1 1`.

        The unit is the squared error of a mean digit that is off by 1, as in `Prior.error_weight`.
        """
        prior, planes = self.tokenizer.prior, range(self.per_token, 2 * self.per_token)
        first, later = (
            [prior.error_weight(2 * self.per_token, plane, at) if prior else 1.0 for plane in planes]
            for at in (True, False)
        )
        phases = self.tokenizer.layout.phases if group.first else 0
        weights = torch.tensor([first] * phases + [later] * (latents - phases), device=self._device).T
        half = self.tokenizer.model.fsq.zero_digit[: self.per_token].float()
        return weights[:, :, None, None] * half.square()

    @property
    def _device(self) -> torch.device:
        return self.tokenizer.placement.device

    def _fit(self, x: Tensor) -> Tensor:
        """Return a tensor in the floating-point type of the weights."""
        return x.to(self.tokenizer.placement.dtype)


class _DecoderState(NamedTuple):
    """What a decoder remembers of the chunks before."""

    codec: State
    """The state of the codec's decoder."""
    last: Tensor
    """The codes of the last latent frame."""


@dataclass(frozen=True)
class OneDVADecoder:
    """Decodes files with 1D tokens: it predicts the second token of every position, and lets the codec decode both."""

    coder: OneDVACoder
    """The transformers, and the codec."""

    @property
    def id(self) -> ModelId:
        """The model whose digits it reads."""
        return self.coder.tokenizer.id

    @property
    def max_tokens(self) -> int:
        """The largest number of tokens per position that the decoder reads."""
        return 1

    @property
    def lanes(self) -> int:
        """The most GOPs that are worth decoding at once."""
        return self.coder.tokenizer.lanes

    @property
    def bytes_per_pixel(self) -> int:
        """The memory in bytes that decoding a chunk takes for each pixel of a frame."""
        return self.coder.tokenizer.bytes_per_pixel

    @property
    def identity(self) -> dict[str, str]:
        """Everything that the decoded frames depend on, apart from the tokens and their codec."""
        return {"decoder": self.coder.weights.sha256}

    @property
    def description(self) -> str:
        """The decoder in a few words, for reports."""
        return f"One-DVA {self.coder.weights.sha256[:12]}"

    def find_prior(self, sha256: str) -> Prior:
        """Find a prior by its hash; see `vtok_codec.registry.find_prior`."""
        return self.coder.tokenizer.find_prior(sha256)

    @torch.inference_mode()
    def decode(
        self,
        digits: Digits,
        size: tuple[int, int],
        frames: int,
        state: _DecoderState | None,
        gop: int = 0,
        window_tokens: WindowTokens | None = None,
    ) -> tuple[Pixels, _DecoderState]:
        """Decode a whole chunk; see `Tokenizer.decode`. Where the 1D tokens are missing, it does without."""
        tokenizer = self.coder.tokenizer
        tokenizer.check_process()
        tokens = self.coder.decode(digits, window_tokens, state.last if state else None)
        codec_state: State = state.codec if state else None
        skipped, device = tokenizer.layout.filled_frames(state is None), tokenizer.placement.device
        parts: list[Pixels] = []
        count = torch.full((1,), 2, device=device)
        steps, begin, first = latents_at_once(device.type, size), 0, state is None
        for step in range(0, tokens.correction.features.shape[2], steps):
            end = begin + tokenizer.layout.stored_latents(steps, first)
            features = tokens.correction.features[:, :, step : step + steps]
            correction = Correction(features, tokens.correction.first if first else None)
            given = tokens.codes[:, :, begin:end]
            video, codec_state = tokenizer.model.decoder(given, codec_state, count, correction=correction)
            parts.append(to_pixels(video[0], size))
            begin, first = end, False
        return np.concatenate(parts)[skipped : skipped + frames], _DecoderState(codec_state, tokens.last)

    def warm_up(self) -> None:
        """Code a small picture, so that later timings do not include what torch sets up at its first use."""
        self.coder.tokenizer.warm_up()
