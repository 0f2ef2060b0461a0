"""The range coder of the coders `waves` and `prior`, from the `constriction` package.

`docs/reference/format.md` specifies it under coder 2.
"""

from __future__ import annotations

import numpy as np
from constriction import stream
from numpy.typing import NDArray

PRECISION = 1 << 24
"""The sum of the frequencies of all values of a digit."""
_FREQUENCIES = stream.model.Categorical(perfect=False)
"""The model of a digit with M values.

It takes M whole numbers that sum up to `PRECISION` − M, and adds 1 to each, without rounding, to get the frequencies.
"""


class RangeEncoder:
    """Encodes digits, several at a time."""

    def __init__(self) -> None:
        self._encoder = stream.queue.RangeEncoder()

    def put(self, digits: NDArray[np.int32], frequencies: NDArray[np.float64]) -> None:
        """Encode digits.

        Args:
            digits: The digits, `n`.
            frequencies: The frequencies of their M values, less 1, `n M`: whole numbers with the sum `PRECISION` − M.
        """
        self._encoder.encode(digits, _FREQUENCIES, frequencies)

    def packed(self) -> bytes:
        """Return all digits as little-endian 32-bit words."""
        return self._encoder.get_compressed().astype("<u4").tobytes()


class RangeDecoder:
    """Decodes what a `RangeEncoder` packed.

    Args:
        data: The bytes.

    Raises:
        ValueError: The data are no whole words.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) % 4 or not data:
            raise ValueError(f"{len(data)} bytes are no whole words")
        self._decoder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def get(self, frequencies: NDArray[np.float64]) -> NDArray[np.int32]:
        """Decode digits; see `RangeEncoder.put`.

        Raises:
            ValueError: The data cannot hold these digits.
        """
        try:
            return self._decoder.decode(_FREQUENCIES, frequencies)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"the range coder stops: {error}") from None

    def finish(self) -> None:
        """Check that the data end with the last digit.

        Raises:
            ValueError: They do not: words follow, or no encoder ends so.
        """
        if not self._decoder.maybe_exhausted():
            raise ValueError("the data do not end with the last digit")
