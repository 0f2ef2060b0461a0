"""Fixtures of the tests in this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_helpers import text, vtok
from helpers import SMALL_LANES


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's clip, encoded by the command."""
    path = tmp_path_factory.mktemp("clip") / "lanes.vtk"
    assert text(vtok("encode", SMALL_LANES, path, "-q", "--gop", "0.8")) == (0, "", "")
    return path
