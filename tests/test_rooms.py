"""What the folders promise each other: which import torch, where a rule lives, and that registries suffice."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import DATA, LANES, SMALL_LANES, TINY, inside, randomized

from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import find_prior
from vtok_codec.registry import find_weights
from vtok_codec.stream.verifying import verify
from vtok_codec.tokens.coders import CODERS, CoderSpec, DigitLayout
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.stages import STAGES, Stage

PACKAGE = DATA.parent.parent / "vtok_codec"


WITHOUT_TORCH = (
    "container",
    "tokens",
    "stream",
    "models.config",
    "models.presets",
    "models.onnx_parts",
    "training.stages",
    "training.recipe",
    "training.settings",
    "codec.quality_presets",
    "codec.goals",
    "codec.decoder",
    "codec.onnx_decoder",
    "corpus.windows",
    "corpus.report",
    "cli.app",
    "registry",
    "prior_files",
    "graph_files",
)
"""The folders and modules that must not import torch."""


def test_what_needs_no_torch_imports_none() -> None:
    """Each of these modules is imported by a Python that has no torch."""
    script = """
import importlib, pathlib, sys
sys.modules["torch"] = None
root = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    place = root / name.replace(".", "/")
    paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for path in paths:
        parts = path.relative_to(root.parent).with_suffix("").parts
        importlib.import_module(".".join(part for part in parts if part != "__init__"))
        print(path.stem)
"""
    command = [sys.executable, "-c", script, str(PACKAGE), *WITHOUT_TORCH]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {"reader", "coders", "waves", "excerpt", "windows", "app"} <= set(run.stdout.split())


def test_the_time_rule_has_one_home() -> None:
    """Nobody else knows that a GOP starts with a frame that is repeated, nor counts phases."""
    rule = re.compile(r"stride\[0\] - 1|\bst - 1\b|prod\([\w.]*first_grid\)")
    found = [
        f"{path.relative_to(PACKAGE)}:{number}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "layout.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if rule.search(line)
    ]
    assert not found


LEAVES = {"errors", "text", "extras", "files", "layout", "version", "audio", "times", "arguments", "cores"}
"""Modules that know nothing of what a codec is."""
CORE = {"tokens", "container", "media", "models", "weights_file", "registry", "prior_files", "metrics", "stream"}
IMPORTS = {
    "errors": set(),
    "text": set(),
    "version": set(),
    "layout": set(),
    "audio": set(),
    "times": set(),
    "arguments": set(),
    "cores": set(),
    "extras": set(),
    "files": set(),
    "tokens": set(),
    "container": set(),
    "media": set(),
    "models": set(),
    "weights_file": {"container", "models"},
    "registry": {"container", "models", "weights_file"},
    "prior_files": {"tokens", "weights_file", "registry"},
    "graph_files": {"models", "weights_file", "registry"},
    "fetching": {"weights_file", "registry"},
    "metrics": {"models", "registry"},
    "stream": {"tokens", "container", "media"},
    "codec": CORE | {"graph_files"},
    "corpus": CORE - {"models", "metrics"} | {"codec"},
    "export": {"models", "weights_file", "registry", "prior_files"},
    "play": {"container", "media", "stream", "codec"},
    "training": CORE | {"codec", "corpus"},
    "evaluation": CORE - {"tokens", "prior_files"} | {"codec"},
    "clip": CORE - {"models", "metrics"} | {"codec"},
    "api": CORE - {"container", "models", "metrics", "prior_files"} | {"codec"},
    "__init__": {"api", "clip", "codec", "corpus"},
    "cli": CORE | {"codec", "corpus", "evaluation", "export", "fetching", "play", "training"},
    "__main__": {"cli"},
}
"""What each folder and each module of the package may import, besides the leaves."""


def imported(path: Path) -> set[str]:
    """The folders and modules of the package that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("vtok_codec.")}
    return found


def test_the_layers_of_the_package_point_one_way() -> None:
    """The lower ones never import the higher ones."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms == set(IMPORTS)
    for path in PACKAGE.rglob("*.py"):
        room = Path(path.relative_to(PACKAGE).parts[0]).stem
        wrong = imported(path) - IMPORTS[room] - (LEAVES if room not in LEAVES else {"errors"}) - {room}
        assert not wrong, f"{path.relative_to(PACKAGE)} imports {', '.join(wrong)}"


class PlainCoder:
    """A coder of a test: digits as they are."""

    def __init__(self, layout: DigitLayout) -> None:
        self.layout = layout

    def pack(self, digits: Digits) -> bytes:
        return digits.tobytes()

    def unpack(self, data: bytes, shape: tuple[int, int, int, int]) -> Digits:
        import numpy as np

        return np.frombuffer(data, np.uint8).reshape(shape)


def test_a_coder_needs_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODERS, "plain", CoderSpec("plain", (200, 1), "as they are", PlainCoder))
    out = tmp_path / "out.vtk"
    assert inside("encode", SMALL_LANES, out, "--coder", "plain", "--duration", 0.2, "-q") == (0, "", "")
    with out.open("rb") as stream:
        assert verify(stream, find_prior).totals.frames == 5


def test_a_preset_needs_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setitem(PRESETS, "dummy", TINY)
    data = tmp_path / "data"
    data.mkdir()
    (data / "lanes.mp4").symlink_to(LANES)
    run = tmp_path / "run"
    small = ("--set", "phases=1x8x32", "--steps", 1, "-q")
    assert inside("train", "--preset", "dummy", "--data", data, "--run", run, *small) == (0, "", "")
    assert find_weights(run).config == TINY


def test_a_stage_needs_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    recipe = STAGES["continuous"].recipe
    monkeypatch.setitem(STAGES, "dummy", Stage("dummy", "codec", "klt", recipe, "for a test"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "lanes.mp4").symlink_to(LANES)
    start = tmp_path / "start.safetensors"
    start.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    chosen = ("--stage", "dummy", "--from", start, "--data", data, "--run", tmp_path / "run")
    assert inside("train", *chosen, "--set", "phases=1x8x32", "--steps", 1, "-q") == (0, "", "")
