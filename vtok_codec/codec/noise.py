"""The noise of decoders that draw: it depends only on a seed, the GOP and the latent frame.

So decoding gives the same frames wherever in a file it starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vtok_codec.errors import InputError, SettingError

MAX_SEED = (1 << 64) - 1
"""The largest seed of the noise."""
MAX_GOP = (1 << 64) - 1
"""The largest GOP number that the noise can depend on."""


def check_seed(seed: int) -> None:
    """Check that a number can be the seed of noise.

    Raises:
        SettingError: It cannot.
    """
    if not 0 <= seed <= MAX_SEED:
        raise SettingError(f"seed {seed}: give 0 to {MAX_SEED}")


def noise_of(seed: int, gop: int, latent: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Draw the noise of one latent frame.

    Args:
        seed: The seed.
        gop: The number of the GOP in the file.
        latent: The number of the latent frame in the GOP.
        shape: The shape of the noise.

    Returns:
        Numbers from the standard normal distribution.

    Raises:
        InputError: There is no such GOP.
    """
    if not 0 <= gop <= MAX_GOP:
        raise InputError(f"there is no GOP {gop}")
    key, counter = (np.array(words, np.uint64) for words in ([seed, 0], [0, 0, latent, gop]))
    stream = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return stream.standard_normal(tuple(shape), np.float32)
