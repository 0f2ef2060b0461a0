"""The numbers of the wave coder's arithmetic. `docs/reference/format.md` fixes them; files depend on each.

They stand apart from the coder, since numba keeps what it compiled with them and would not notice a change.
"""

from __future__ import annotations

ACTIVITIES = 4
"""The number of activity classes: the share of the digits around a digit that have changed, in quarters."""
INCREMENT = 16.0
"""The amount by which a digit raises the count of its value in each of its two contexts."""
FULL = 2048.0
"""The largest sum of the counts of a context. Counts with a larger sum are halved, which favours recent digits."""
WIDE_WEIGHT = 64.0
"""The weight of uniform probabilities when they are mixed with the counts of a wide context."""
NARROW_WEIGHT = 128.0
"""The weight of the wide context's probabilities when they are mixed with the counts of a narrow context."""
ONE = 65536.0
"""The whole number that stands for a probability of 1."""
NOWHERE = 31
"""The value of a digit outside the picture. It is larger than every digit and every number of levels."""
