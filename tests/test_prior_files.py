"""Priors are found by their hash, and those that shipped before still read the files that they packed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from helpers import DATA, inside

from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import ModelError
from vtok_codec.prior_files import find_prior, prior_file
from vtok_codec.registry import find_weights

FORMER = sorted(DATA.glob("former-prior-*.vtk"))


@pytest.mark.parametrize("model", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_shipped_priors_are_checked_against_their_hashes(model: str) -> None:
    file = prior_file(find_weights(model))
    assert file and file.expected_sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()


@pytest.mark.parametrize("path", FORMER, ids=lambda path: path.stem)
def test_files_of_former_priors_are_whole(path: object) -> None:
    """Their names say which prior packed them; new files are packed with another."""
    code, out, err = inside("verify", str(path))
    assert (code, err) == (0, "") and out.endswith("whole, 13 frames in 1 GOP\n")
    with open(str(path), "rb") as stream:
        header = VtkReader(stream).header
    assert header.prior_sha256 and str(path).endswith(f"{header.prior_sha256[:12]}.vtk")
    now = prior_file(find_weights(header.model.name))
    assert now and now.sha256 != header.prior_sha256


def test_a_file_that_cannot_be_read_hides_no_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prior-1.safetensors").symlink_to(tmp_path / "gone")
    wanted = prior_file(find_weights("onevae-nano-4x8x8"))
    assert wanted
    # Another hash than any shipped one.
    data = wanted.path.read_bytes() + b" "
    sha256 = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr("vtok_codec.prior_files.parsed_prior", lambda file: file.path.name)
    with pytest.raises(ModelError, match="prior-1"):
        find_prior(sha256, tmp_path)
    (tmp_path / "prior-2.safetensors").write_bytes(data)
    assert find_prior(sha256, tmp_path) == "prior-2.safetensors"
