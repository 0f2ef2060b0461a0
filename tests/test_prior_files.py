"""Priors are found by their hash, and those that shipped before still read the files that they packed."""

from __future__ import annotations

import hashlib

import pytest
from helpers import DATA, inside

from vtok_codec.container.reader import VtkReader
from vtok_codec.prior_files import prior_file
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
