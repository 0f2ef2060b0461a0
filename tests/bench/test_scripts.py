"""Scripts in bench/ whose runs take long: here they run on next to nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import corpus as corpus_bench
import faults
import pytest
import results
from corpus_helpers import make_clips, tiny_weights
from cost import ATTACKS
from helpers import DATA

ROOT = DATA.parent.parent


def test_faults_are_noticed_by_reading_and_by_decoding() -> None:
    written = faults.Written("random", "waves", (DATA / "golden-waves.vtk").read_bytes())
    counts = faults.damage([written], 20, random.Random(0))
    assert sum(count["faults"] for count in counts.values()) == 20
    for count in counts.values():
        assert not count["crashes"] and count["noticed"] == count["by decode"] == count["faults"]


def test_the_loader_of_a_corpus_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, weights = make_clips(tmp_path / "clips", [("64x48", 40), ("64x48", 40)]), tiny_weights(tmp_path)
    monkeypatch.setattr(corpus_bench, "READ", [("zstd", "zstd", None)])
    usual = corpus_bench.encoded
    monkeypatch.setattr(
        corpus_bench, "encoded", lambda clips, folder, *more: usual(clips, folder, "--model", weights, *more)
    )
    (tmp_path / "work").mkdir()
    rows: Any = corpus_bench.loader([str(clips)], tmp_path / "work")["rows"]
    assert [row[0] for row in rows] == ["zstd", ".npy"] and all(row[1] > 0 for row in rows)


def test_a_page_of_results_needs_all_clips() -> None:
    evaluation = {"failures": ["hard.mp4: no luck"], "clips": [], "means": [], "bd_rate": {"x264": {}}, "results": []}
    with pytest.raises(SystemExit, match="not measured on all clips"):
        results.quality({"evaluations": [evaluation], "context": {}})


def test_the_page_on_reliability_has_every_kind_of_hostile_file() -> None:
    page = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    assert [name for name in ATTACKS if f"| {name} |" not in page] == []
