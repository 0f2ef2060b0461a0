"""`vtok info` and `vtok verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_helpers import GOLDEN, text, vtok


def test_verify_and_info_of_a_whole_file() -> None:
    assert text(vtok("verify", GOLDEN)) == (0, f"{GOLDEN}: whole, 12 frames in 2 GOPs\n", "")
    code, out, err = text(vtok("info", GOLDEN))
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"{GOLDEN}:",
        "  video  21x13, 12 frames, 29.97 frames/s, 0.417 s",
        "  shape  SAR 4/3, rotation -90, color 1/9/18/9 (range/primaries/transfer/matrix)",
    ]
    fields = json.loads(text(vtok("info", "--json", GOLDEN))[1])
    assert (fields["frames"], fields["rate"], fields["model"]["stride"]) == (12, "30000/1001", [4, 8, 8])


def test_verify_reads_standard_input() -> None:
    assert text(vtok("verify", "-", stdin=GOLDEN.read_bytes())) == (0, "-: whole, 12 frames in 2 GOPs\n", "")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda data: data[:-1], 5, "the footer is cut short (after chunk 3 (GOP 1, 0.35 s))"),
        (lambda data: data[:700], 5, "the file is cut short (before the first chunk)"),
        (lambda data: b"", 4, "the input is empty"),
        (lambda data: b"hello" * 20, 4, "not a .vtk file"),
        (lambda data: data[:9] + b"\7" + data[10:], 4, "format version 1793 is not known; this vtok reads version 1"),
    ],
)
def test_damage_has_its_own_exit_code(tmp_path: Path, change: object, code: int, message: str) -> None:
    path = tmp_path / "bad.vtk"
    path.write_bytes(change(GOLDEN.read_bytes()))  # type: ignore[operator]
    assert text(vtok("verify", path)) == (code, "", f"vtok: {path}: {message}\n")
