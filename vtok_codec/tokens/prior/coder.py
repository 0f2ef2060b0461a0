"""The coder `prior`: a range coder whose probabilities come from a trained network and adapt to the GOP.

Latent frames are coded in order; within one, plane by plane; within a plane, in the steps of the network. All digits of
a step are coded at once. `docs/reference/format.md` specifies the exact arithmetic.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vtok_codec.tokens.prior.calibration import Calibration, Shares, frequencies_of, shares_of
from vtok_codec.tokens.prior.network import Network
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import Digits, Values
from vtok_codec.tokens.range_coder import RangeDecoder, RangeEncoder

MAX_DIGITS = 1 << 23
"""The largest number of digits per chunk."""
MAX_FRAME_DIGITS = 1 << 20
"""The largest number of digits per latent frame. It limits memory, which peaks at 400 to 1,100 bytes per digit."""
_Code: TypeAlias = "Callable[[NDArray[np.intp], int, int, Shares], NDArray[np.int32]]"
"""Codes the digits of a step, given their places in the flattened latent frame, the plane, the latent frame in the
chunk, and the frequencies. Returns the digits."""


def fits(prior: Prior, levels: Sequence[int], tokens_per_position: int, frame_digits: int, digits: int) -> bool:
    """Return whether a prior predicts such digits, and latent frames and chunks are not too large for this coder."""
    small = frame_digits <= MAX_FRAME_DIGITS and digits <= MAX_DIGITS
    return tuple(levels) == prior.levels and tokens_per_position <= prior.tokens and small


class PriorCoder:
    """Packs or unpacks the chunks of one GOP in order.

    Args:
        prior: The prior of the model that makes the digits.
        tokens_per_position: The number of tokens per latent position.
        phases: The number of latent frames that hold the first frame of a GOP.
    """

    def __init__(self, prior: Prior, tokens_per_position: int, phases: int) -> None:
        self._prior, self._phases = prior, phases
        self._levels = prior.levels * tokens_per_position
        self._calibrations = [Calibration(levels) for levels in self._levels]
        self._past: deque[Digits] = deque(maxlen=max(prior.first.config.slots, prior.later.config.slots, 1))
        """The last latent frames of the GOP, the newest first."""
        self._latents = 0
        """The number of latent frames of the GOP so far."""

    def pack(self, digits: Digits) -> bytes:
        """Pack the digits of the next chunk of the GOP, uint8 `P t h w`, into bytes."""
        encoder = RangeEncoder()
        flat = digits.reshape(*digits.shape[:2], -1)

        def code(places: NDArray[np.intp], plane: int, latent: int, frequencies: Shares) -> NDArray[np.int32]:
            values = flat[plane, latent][places].astype(np.int32)
            encoder.put(values, frequencies)
            return values

        self._walk(digits.shape[1], digits.shape[2:], code)
        return encoder.packed()

    def choose(self, values: Values, rdo: float) -> tuple[Digits, bytes]:
        """Choose the digits of the next chunk by rate and error, and pack them; see `ChoosingCoder.choose`.

        Digits are chosen one step after another: each takes the value v that minimizes (v − value)² times the weight of
        its plane, plus `rdo` times the bits of v. Its effect on the cost of later digits is left out.
        """
        encoder = RangeEncoder()
        flat = values.reshape(*values.shape[:2], -1)

        def code(places: NDArray[np.intp], plane: int, latent: int, frequencies: Shares) -> NDArray[np.int32]:
            exact = flat[plane, latent][places][:, None]
            errors = (np.arange(frequencies.shape[1]) - exact) ** 2
            if rdo:
                weight = self._prior.error_weight(len(self._levels), plane, self._latents < self._phases)
                errors = weight * errors - rdo * np.log2(frequencies + 1)
            chosen = errors.argmin(axis=1).astype(np.int32)
            encoder.put(chosen, frequencies)
            return chosen

        digits = self._walk(values.shape[1], values.shape[2:], code)
        return digits, encoder.packed()

    def tried(self, values: Values, rdo: float) -> Digits:
        """Return the digits that `choose` would choose, and leave the coder as it is."""
        trial = copy(self)
        trial._calibrations = deepcopy(self._calibrations)
        trial._past = self._past.copy()
        digits, _ = trial.choose(values, rdo)
        return digits

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        """Unpack the digits of the next chunk of the GOP.

        Args:
            data: The bytes that `pack` returned.
            shape: The shape `P t h w` of the digits.

        Returns:
            The digits, uint8 `P t h w`.

        Raises:
            ValueError: The data do not hold these digits, or do not end with them.
        """
        decoder = RangeDecoder(data)
        if math.prod(shape) > MAX_DIGITS:
            raise ValueError(f"a chunk of {math.prod(shape)} digits is above {MAX_DIGITS}")
        if shape[0] * shape[2] * shape[3] > MAX_FRAME_DIGITS:
            raise ValueError(f"a latent frame of {shape[0]}x{shape[2]}x{shape[3]} digits is above {MAX_FRAME_DIGITS}")

        def code(places: NDArray[np.intp], plane: int, latent: int, frequencies: Shares) -> NDArray[np.int32]:
            return decoder.get(frequencies)

        digits = self._walk(shape[1], shape[2:], code)
        decoder.finish()
        return digits

    def _walk(self, latents: int, grid: tuple[int, int], code: _Code) -> Digits:
        """Code the digits of a chunk of latent frames. Returns them, `P t h w`."""
        digits = np.empty((len(self._levels), latents, *grid), np.uint8)
        for latent in range(latents):
            self._frame(digits[:, latent], latent, code)
            self._past.appendleft(digits[:, latent])
            self._latents += 1
        # A copy, so that the chunk itself is not held in memory.
        self._past = deque((frame.copy() for frame in self._past), self._past.maxlen)
        return digits

    def _frame(self, digits: Digits, latent: int, code: _Code) -> None:
        """Code one latent frame, whose digits are put into `digits`, `P h w`."""
        network, place = self._network()
        grid = digits.shape[1:]
        missing: Sequence[Digits | None] = [None] * network.config.slots
        past = [*self._past, *missing][: network.config.slots]
        frame = network.frame(past, place, len(self._levels), grid)
        for plane in range(len(self._levels)):
            before = self._past[0][plane].reshape(-1) if self._past else None
            values = np.empty(math.prod(grid), np.uint8)
            for step in range(network.config.steps):
                places = frame.places(step)
                if len(places):
                    shares = shares_of(frame.logits(plane, step))
                    known = None if before is None else before[places]
                    frequencies = frequencies_of(self._calibrations[plane].corrected(known, shares))
                    coded = code(places, plane, latent, frequencies)
                    self._calibrations[plane].learn(known, shares, coded)
                    values[places] = coded
                frame.put(plane, step, values[places])
            digits[plane] = values.reshape(grid)

    def _network(self) -> tuple[Network, int]:
        """Return the network for the next latent frame, and the place of that frame."""
        if self._latents < self._phases:
            return self._prior.first, min(self._latents, self._prior.first.config.places - 1)
        place = self._latents - self._phases
        return self._prior.later, min(place, self._prior.later.config.places - 1)
