"""`vtok info` and `vtok verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_helpers import GOLDEN, text, vtok
from helpers import ClipMaker, inside


def test_verify_and_info_of_a_whole_file() -> None:
    assert text(vtok("verify", GOLDEN)) == (0, f"{GOLDEN}: whole, 12 frames in 2 GOPs\n", "")
    code, out, err = text(vtok("info", GOLDEN))
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"{GOLDEN}:",
        "  video  21x13, 12 frames, variable frame rate, 28.777 frames/s on average, 0.417 s",
        "  shape  SAR 4/3, rotation -90, color 1/9/18/9 (range/primaries/transfer/matrix)",
    ]
    fields = json.loads(text(vtok("info", "--json", GOLDEN))[1])
    assert (fields["frames"], fields["rate"], fields["model"]["stride"]) == (12, "30000/1001", [4, 8, 8])
    assert fields["format"] == "1.0" and "  layout 2 GOPs, 3 chunks, format 1.0" in out.splitlines()


def test_verify_reads_standard_input() -> None:
    assert text(vtok("verify", "-", stdin=GOLDEN.read_bytes())) == (0, "-: whole, 12 frames in 2 GOPs\n", "")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda data: data[:-1], 5, "the footer is cut short (after chunk 3 (GOP 1, 0.35 s))"),
        (lambda data: data[:700], 5, "the file is cut short (before the first chunk)"),
        (lambda data: b"", 4, "the input is empty"),
        (lambda data: b"hello" * 20, 4, "not a .vtk file"),
        (
            lambda data: data[:9] + b"\7" + data[10:],
            4,
            "format version 1793 is not known; this vtok reads versions 1 and 2",
        ),
    ],
)
def test_damage_has_its_own_exit_code(tmp_path: Path, change: object, code: int, message: str) -> None:
    path = tmp_path / "bad.vtk"
    path.write_bytes(change(GOLDEN.read_bytes()))  # type: ignore[operator]
    assert text(vtok("verify", path)) == (code, "", f"vtok: {path}: {message}\n")


@pytest.mark.parametrize("command", ["verify", "info"])
def test_the_exit_code_is_that_of_the_first_failure(tmp_path: Path, command: str) -> None:
    cut = tmp_path / "cut.vtk"
    cut.write_bytes(GOLDEN.read_bytes()[:-1])
    code, out, err = inside(command, tmp_path / "missing.vtk", cut, GOLDEN)
    assert code == 3 and err.count("\n") == 2 and f"{GOLDEN}:" in out
    assert inside(command, cut, tmp_path / "missing.vtk")[0] == 5


def test_info_shows_the_header_of_a_damaged_file(tmp_path: Path) -> None:
    """Which says what its model is, so that one knows with what to recover it."""
    cut = tmp_path / "cut.vtk"
    cut.write_bytes(GOLDEN.read_bytes()[:-1])
    code, out, err = inside("info", cut)
    assert code == 5 and err == f"vtok: {cut}: the footer is cut short (after chunk 3 (GOP 1, 0.35 s))\n"
    whole = inside("info", GOLDEN)[1].splitlines()
    told = out.splitlines()
    assert told[0] == f"{cut}:" and told[1] == "  video  21x13, 29.97 frames/s" and told[2:5] == whole[2:5]
    assert "  layout format 1.0" in told and not any(line.startswith("  size") for line in told)
    code, out, _ = inside("info", "--json", cut)
    fields = json.loads(out)
    assert code == 5 and fields["whole"] is False and fields["width"] == 21 and "frames" not in fields
    assert json.loads(inside("info", "--json", GOLDEN)[1])["whole"] is True


def test_a_variable_frame_rate_is_told(make_clip: ClipMaker, tmp_path: Path) -> None:
    """But not the rounding of times to milliseconds, as in Matroska."""
    uneven = make_clip("uneven.mkv", frames=20, options=["-vf", "select='mod(n,3)'", "-fps_mode", "vfr"])
    steady = make_clip("steady.mkv", frames=20, options=["-r", "30000/1001"])
    told = {}
    for clip in (uneven, steady):
        out = tmp_path / f"{clip.stem}.vtk"
        assert inside("encode", clip, out, "-q")[0] == 0
        told[clip.stem] = inside("info", out)[1].splitlines()[1], json.loads(inside("info", out, "--json")[1])
    assert "variable frame rate" in told["uneven"][0] and not told["uneven"][1]["constant_rate"]
    assert "29.97 frames/s" in told["steady"][0] and told["steady"][1]["constant_rate"]
