"""Fixtures of the tests in this folder."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ClipMaker
from training_helpers import SHAPE

from vtok_codec.training.codec.klt import warm_start
from vtok_codec.training.recipe import Phase
from vtok_codec.training.stages import STAGES


@pytest.fixture
def data(make_clip: ClipMaker, tmp_path: Path) -> Path:
    """A folder with two videos, a photograph, and two files that are neither."""
    for number, size in enumerate(("96x64", "48x80")):
        make_clip(f"data{number}.mp4", size=size, frames=20)
    make_clip("photo.png", size="80x56", frames=1, options=["-update", "1"])
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("data0.mp4", "data1.mp4", "photo.png"):
        (tmp_path / name).rename(folder / name)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("nor this")
    return folder


@pytest.fixture
def small_stages(monkeypatch: pytest.MonkeyPatch, tiny_preset: str) -> None:
    """The real stages on small crops, with a quick warm start."""
    monkeypatch.setattr("vtok_codec.training.codec.setup.warm_start", functools.partial(warm_start, batches=2))
    for name, stage in STAGES.items():
        monkeypatch.setitem(STAGES, name, replace(stage, recipe=replace(stage.recipe, phases=(Phase(0.0, SHAPE),))))
