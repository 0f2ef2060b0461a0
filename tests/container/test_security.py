"""The threat model of docs/security.md: its tests exist, and those that no other file has."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import DATA

from vtok_codec.codec.decoders import tokenizer_of
from vtok_codec.container.header import header_to_json
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import ModelError
from vtok_codec.registry import DEFAULT_MODEL, find_weights

ROOT = DATA.parent.parent


def test_every_line_of_the_threat_model_has_its_test() -> None:
    lines = [line for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines() if "| `" in line]
    named = [re.findall(r"`(test_\w+)\.py::(test_\w+)`", line) for line in lines]
    assert len(lines) > 12 and all(named)
    for file, test in (pair for pairs in named for pair in pairs):
        (path,) = (ROOT / "tests").rglob(f"{file}.py")
        assert f"def {test}(" in path.read_text(encoding="utf-8"), test


@pytest.mark.parametrize("name", ["{}", "../weights/onevae-nano-4x8x8", "weights", "onevae-nano-4x8x8.safetensors", ""])
def test_a_file_cannot_name_a_path_as_its_model(name: str) -> None:
    """Not even the path of the very weights that it was made with."""
    weights = find_weights(DEFAULT_MODEL)
    header = VtkReader(io.BytesIO((DATA / "golden-1.0.vtk").read_bytes())).header
    model = replace(header.model, name=name.format(weights.path), weights_sha256=weights.sha256)
    assert header_to_json(replace(header, model=model))
    assert tokenizer_of(model, weights.path)
    with pytest.raises(ModelError, match="no model"):
        tokenizer_of(model)


@pytest.mark.parametrize("said", ["null", "[]", '{"preset": []}', '{"reads": 1}'])
def test_metadata_of_weights_must_be_strings(said: str, tmp_path: Path) -> None:
    header = f'{{"__metadata__": {said}}}'.encode()
    path = tmp_path / "crafted.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        assert find_weights(path).metadata


@pytest.mark.skipif(find_spec("atheris") is None, reason="no atheris; bin/setup fuzz installs it")
@pytest.mark.parametrize("target", ["container", "sealed", "header", "packing"])
def test_fuzzing_finds_nothing_in_a_few_seconds(target: str, tmp_path: Path) -> None:
    fuzz = [sys.executable, str(ROOT / "fuzz" / "fuzz.py"), target, "-max_total_time=4", "-seed=1"]
    # By way of a shell: the peak of memory that libFuzzer looks at would start at that of the tests, which forked it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *fuzz]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    runs = re.search(r"Done (\d+) runs", result.stderr)
    assert runs and int(runs[1]) > 500
    assert not list(tmp_path.iterdir())
