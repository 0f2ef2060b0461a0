"""Several inputs: folders, patterns, equal names, and inputs side by side."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
import typer
from command_helpers import VTOK, text, vtok
from helpers import ClipMaker, inside

from vtok_codec.cli.jobs import job_pairs, run_jobs
from vtok_codec.container import is_vtk_name
from vtok_codec.errors import DamageError, InputError
from vtok_codec.media.formats import is_clip_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of files that look like clips, and an empty folder for outputs."""
    for name in ("in/a.mp4", "in/x/a.mp4", "in/x/b.mov", "in/x/b.mp4", "in/readme.txt", "other/a.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    return tmp_path


def outputs(folder: Path, *paths: str) -> dict[str, str]:
    pairs = job_pairs([str(folder / path) for path in paths], folder / "out", ".vtk", is_clip_name)
    return {str(Path(a).relative_to(folder)): str(Path(b).relative_to(folder / "out")) for a, b in pairs}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["in/a.mp4"], {"in/a.mp4": "a.vtk"}),
        (["in/a.mp4", "other/a.mp4"], {"in/a.mp4": "in/a.vtk", "other/a.mp4": "other/a.vtk"}),
        (["in/x/b.mov", "in/x/b.mp4"], {"in/x/b.mov": "b.mov.vtk", "in/x/b.mp4": "b.mp4.vtk"}),
        (["in/*.mp4", "in/*.mp4"], {"in/a.mp4": "a.vtk"}),
        (["in/**/a.mp4"], {"in/a.mp4": "a.vtk", "in/x/a.mp4": "x/a.vtk"}),
        (
            ["in"],
            {
                "in/a.mp4": "a.vtk",
                "in/x/a.mp4": "x/a.vtk",
                "in/x/b.mov": "x/b.mov.vtk",
                "in/x/b.mp4": "x/b.mp4.vtk",
            },
        ),
    ],
)
def test_outputs_have_names_of_their_own(folder: Path, paths: list[str], expected: dict[str, str]) -> None:
    found = outputs(folder, *paths)
    assert found == expected
    assert all((folder / "out" / name).parent.is_dir() for name in found.values())


@pytest.mark.parametrize(("name", "is_one"), [("a.vtk", True), ("A.VTK", True), ("b.Vtok", True), ("c.mp4", False)])
def test_names_of_files_of_vtok_may_have_capitals(name: str, is_one: bool) -> None:
    assert is_vtk_name(name) == is_one


@pytest.mark.parametrize("paths", [["out"], ["in/*.mkv"]])
def test_nothing_to_read_is_told(folder: Path, paths: list[str]) -> None:
    with pytest.raises(InputError):
        outputs(folder, *paths)


def test_a_folder_needs_one_for_its_outputs(folder: Path) -> None:
    code, _, told = inside("encode", folder / "in", folder / "out.vtk")
    assert code == 3 and "use -o DIR" in told


def test_folders_are_coded_side_by_side(make_clip: ClipMaker, tmp_path: Path) -> None:
    source, there, back = tmp_path / "in", tmp_path / "there", tmp_path / "back"
    for each in (source / "deep", there, back, tmp_path / "alone"):
        each.mkdir(parents=True)
    for number in range(4):
        (make_clip("clip.mp4", frames=5 + number)).rename(source / "deep" / f"{number}.mp4")
    (source / "bad.mp4").write_text("no video")
    code, out, told = text(vtok("encode", source, "-o", there, "-j", 3))
    assert code == 3 and not out and "bad.mp4" in told and told.count("frames,") == 4
    made = sorted(path.relative_to(there) for path in there.rglob("*.vtk"))
    assert made == [Path(f"deep/{number}.vtk") for number in range(4)]
    inside("encode", source / "deep" / "2.mp4", tmp_path / "alone" / "2.vtk", "-q")
    assert (there / "deep" / "2.vtk").read_bytes() == (tmp_path / "alone" / "2.vtk").read_bytes()
    (there / "deep" / "3.vtk").rename(there / "deep" / "3.vtok")
    assert inside("decode", there, "-o", back, "-q") == (0, "", "")
    assert len(list(back.rglob("*.mp4"))) == 4


def test_a_dry_run_takes_folders(make_clip: ClipMaker, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_clip("clip.mp4", frames=3).rename(tmp_path / "in" / "clip.mp4")
    code, out, told = inside("encode", tmp_path / "in", "--dry-run")
    assert code == 0 and "tiny" in out + told


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_fault_of_one_input_keeps_no_other_from_its_output(
    at_once: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kind of fault it is; and each message names its input."""
    monkeypatch.delenv("VTOK_DEBUG", raising=False)
    faults = {"a.mp4": ZeroDivisionError("division by zero"), "b.mp4": DamageError("the footer is cut short")}
    done = []

    def work(source: str, target: str) -> None:
        if source in faults:
            raise faults[source]
        done.append(target)

    with pytest.raises(typer.Exit) as ended:
        run_jobs([("a.mp4", "a.vtk"), ("b.mp4", "b.vtk"), ("c.mp4", "c.vtk")], work, at_once)
    assert ended.value.exit_code == 1 and done == ["c.vtk"]
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "vtok: a.mp4: internal error: ZeroDivisionError: division by zero (VTOK_DEBUG=1 shows where)",
        "vtok: b.mp4: the footer is cut short",
    ]


def test_an_interrupt_leaves_nothing(make_clip: ClipMaker, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    clip = make_clip("clip.mp4", size="320x240", frames=800)
    for number in range(2):
        (source / f"{number}.mp4").symlink_to(clip)
    run = subprocess.Popen([*VTOK, "encode", source, "-o", target, "-j", "2"], stderr=subprocess.DEVNULL)
    for _ in range(6000):
        time.sleep(0.02)
        if len(list(target.glob(".*.partial.vtk"))) == 2:
            break
    else:
        raise AssertionError("no two files are begun")
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 143
    assert list(target.iterdir()) == []


def test_a_part_is_encoded(make_clip: ClipMaker, tmp_path: Path) -> None:
    source = make_clip("in.mp4", frames=50)
    code, _, told = inside("encode", source, tmp_path / "out.vtk", "--start", 0.4, "--duration", 1)
    assert code == 0 and "25 frames" in told
    code, _, told = inside("encode", source, tmp_path / "no.vtk", "--start", 9)
    assert code == 3 and "in the part to read" in told
    code, _, told = inside("encode", source, tmp_path / "no.vtk", "--duration", 0)
    assert code == 2
