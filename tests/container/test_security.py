"""The threat model of docs/explanation/security.md: its tests exist, and those that no other file has."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import DATA

from vtok_codec import registry
from vtok_codec.codec.decoders import tokenizer_of
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.container.header_json import header_to_json
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import ModelError
from vtok_codec.registry import DEFAULT_MODEL, find_weights, known_hashes, shipped_weights
from vtok_codec.weights_file import WeightsFile

ROOT = DATA.parent.parent


def test_every_line_of_the_threat_model_has_its_test() -> None:
    lines = [
        line
        for line in (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8").splitlines()
        if "| `" in line
    ]
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
    with pytest.raises(ModelError, match="did not come with vtok"):
        tokenizer_of(model)


@pytest.mark.parametrize("said", ["null", "[]", '{"preset": []}', '{"reads": 1}'])
def test_metadata_of_weights_must_be_strings(said: str, tmp_path: Path) -> None:
    header = f'{{"__metadata__": {said}}}'.encode()
    path = tmp_path / "crafted.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        assert find_weights(path).metadata


def test_the_package_knows_its_weights() -> None:
    """SHA256SUMS lists what is shipped: `cd weights && sha256sum *.safetensors *.onnx > SHA256SUMS`."""
    shipped = shipped_weights()
    assert len(shipped) > 3
    assert all(weights.expected_sha256 == weights.sha256 for weights in shipped)
    folder = shipped[0].path.parent
    graphs = list(folder.glob("*.onnx"))
    sums = known_hashes(".onnx")
    assert all(sums[path.name] == hashlib.sha256(path.read_bytes()).hexdigest() for path in graphs)
    assert len((folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()) == len(shipped) + len(graphs)


def test_shipped_weights_with_a_flipped_bit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would make files that nobody else can decode."""
    weights = find_weights(DEFAULT_MODEL)
    data = bytearray(weights.path.read_bytes())
    data[-1000] ^= 1
    (tmp_path / weights.path.name).write_bytes(data)
    shutil.copy(weights.path.parent / "SHA256SUMS", tmp_path)
    monkeypatch.setattr(registry, "_FOLDERS", (tmp_path,))
    with pytest.raises(ModelError, match="are damaged"):
        load_tokenizer(find_weights(DEFAULT_MODEL), "cpu")
    # What a user trained has no hash to be held against.
    assert WeightsFile("mine", tmp_path / weights.path.name).sha256 != weights.sha256


@pytest.mark.skipif(find_spec("atheris") is None, reason="no atheris; bin/setup fuzz installs it")
@pytest.mark.parametrize("target", ["container", "sealed", "header", "packing"])
def test_fuzzing_finds_nothing_in_a_few_seconds(target: str, tmp_path: Path) -> None:
    fuzz = [sys.executable, str(ROOT / "fuzz" / "fuzz.py"), target, "-runs=1000", "-seed=1"]
    # By way of a shell: the peak of memory that libFuzzer looks at would start at that of the tests, which forked it.
    command = ["sh", "-c", '"$@"; exit $?', "sh", *fuzz]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r"Done 1000 runs", result.stderr)
    assert not list(tmp_path.iterdir())
