"""What a crafted file costs to read is bounded by its size, as docs/reference/format.md says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cost import ATTACKS, mib_of, seconds_of

MS_PER_BYTE = 60
MIB = 100


@pytest.mark.parametrize(
    ("name", "chunks"),
    [("waves, one position wide", 1), ("waves, one position wide, long GOP", 2), ("prior, one position", 1)],
)
def test_the_dearest_files_stay_within_the_stated_cost(name: str, chunks: int) -> None:
    data = replace(ATTACKS[name], gops=1, chunks=chunks).file()
    assert 1000 * seconds_of(data) < MS_PER_BYTE * len(data)
    assert mib_of(data) < MIB
