"""Errors: one line, a documented exit code, and nothing left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from command_helpers import GOLDEN, text, vtok
from helpers import ClipMaker, inside

from vtok_codec.cli.errors import exit_code, told
from vtok_codec.cli.files import whole_output
from vtok_codec.cli.jobs import run_jobs
from vtok_codec.errors import InputError, OutputError


def test_existing_outputs_are_safe(tmp_path: Path) -> None:
    target = tmp_path / "t.npy"
    target.write_bytes(b"precious")
    code, _, err = inside("tokens", GOLDEN, target)
    assert (code, err) == (7, f"vtok: {target} exists; use -f to overwrite it\n")
    assert target.read_bytes() == b"precious"
    assert inside("tokens", GOLDEN, target, "-f") == (0, "", "")
    assert np.load(target).shape == (5, 2, 3, 2)


TOO_MANY_TOKENS = "vtok: tokens 5: onevae-nano-4x8x8 has 1 to 4 tokens per position\n"
NO_MODEL = "vtok: no model '{}' is here; 'vtok models' lists those that are, others are named by a path\n"


NOT_OURS = (
    "vtok: the file was made by 'a model', weights 0123456789ab, which did not come with vtok; name them (--weights)\n"
)


NO_WEIGHTS = "vtok: in.mp4 is no weights file; name a .safetensors file or the folder of a training run\n"


MISSPELT = NO_MODEL.format("onevae-nano-4x8x9").replace("here;", "here; did you mean onevae-nano-4x8x8?;")


NO_DEVICE = "vtok: device 'tpu' is unknown; use auto, cpu or cuda\n"


NO_ENCODER = "vtok: codec 'no' is not a video encoder of this build\n"


NO_VAL = "vtok: none is not a folder; name one with held-out clips\n"


VIDEO_NAME = "vtok: in2.mp4 is the name of a video, but the output is a .vtk file; name it .vtk\n"


VTK_ALREADY = "vtok: golden.vtk is already a .vtk file; 'vtok decode' turns it into a video\n"


NO_DATA = "vtok: no video or image in empty; name another folder\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["encode", "none.mp4", "o.vtk"], 3, "vtok: none.mp4: no such file\n"),
        (["encode", "in.mp4", "in.mp4", "-f"], 7, "vtok: in.mp4 is the input; name another output\n"),
        (["encode", "in.mp4", "o.flv"], 7, VIDEO_NAME.replace("in2.mp4", "o.flv")),
        (["encode", "in.mp4", "no/o.vtk"], 7, "vtok: cannot write no/o.vtk: No such file or directory\n"),
        (["encode", "in.mp4", "o.vtk", "-m", "none"], 6, NO_MODEL.format("none")),
        (["encode", "in.mp4", "o.vtk", "-t", "5"], 2, TOO_MANY_TOKENS),
        (["encode", "in.mp4", "o.vtk", "--device", "tpu"], 2, NO_DEVICE),
        (["encode", "in.mp4", "-o", "none"], 7, "vtok: none is not a folder; make it first\n"),
        (["decode", "none.vtk", "o.mp4"], 3, "vtok: cannot read none.vtk: No such file or directory\n"),
        (["decode", "in.mp4", "o.mp4"], 4, "vtok: in.mp4: not a .vtk file\n"),
        (["decode", "golden.vtk", "o.mp4"], 6, NOT_OURS),
        (["decode", "golden.vtk", "o.mp4", "--weights", "in.mp4"], 6, NO_WEIGHTS),
        (["encode", "in.mp4", "o.vtk", "-m", "onevae-nano-4x8x9"], 6, MISSPELT),
        (["decode", "golden.vtk", "o.txt"], 7, None),
        (["tokens", "golden.vtk", "o.csv"], 7, "vtok: o.csv: use a .npy or .safetensors file\n"),
        (["info", "none.vtk"], 3, "vtok: cannot read none.vtk: No such file or directory\n"),
        (["train", "--minutes", "1", "--data", "empty"], 8, NO_DATA),
        (["train", "--minutes", "1", "--data", ".", "--val", "none"], 8, NO_VAL),
        (["train", "--minutes", "1", "--data", ".", "--device", "tpu"], 2, NO_DEVICE),
        (["encode", "in.mp4", "in2.mp4"], 7, VIDEO_NAME),
        (["encode", "golden.vtk", "o.vtk"], 3, VTK_ALREADY),
        (["encode", "in.mp4", "none/"], 7, "vtok: none/ is not a folder; make it first, and use -o none/\n"),
        (["decode", "golden.vtk", "-o", ".", "--suffix", "txt"], 7, None),
        (["decode", "golden.vtk", "o.mp4", "--codec", "no"], 2, NO_ENCODER),
        (["eval", "in.mp4", "--against", "mpeg1"], 2, "vtok: no anchor 'mpeg1'; choose from x264, x265, av1\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_errors_are_one_line_and_leave_nothing(
    make_clip: ClipMaker, tmp_path: Path, args: list[str], code: int, message: str | None
) -> None:
    make_clip("in.mp4", frames=3)
    shutil.copy(GOLDEN, tmp_path / "golden.vtk")
    (tmp_path / "empty").mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    result = inside(*args, cwd=tmp_path)
    assert result[:2] == (code, "") and result[2].count("\n") == 1
    assert message is None or result[2] == message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (MemoryError(), "out of memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"), "out of memory", 1),
        (OSError(5, "Input/output error"), "cannot read or write: Input/output error", 7),
        (InputError("no video"), "no video", 3),
    ],
)
def test_one_input_that_fails_keeps_none_of_the_others(
    error: Exception, told: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def work(source: str, target: str) -> None:
        if source == "bad":
            raise error
        done.append(source)

    with pytest.raises(typer.Exit) as ended:
        run_jobs([("a", "1"), ("bad", "2"), ("c", "3")], work)
    assert (ended.value.exit_code, done) == (code, ["a", "c"])
    assert told in capsys.readouterr().err


def test_a_name_taken_in_the_meantime_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file system has no links."""
    target = tmp_path / "o.vtk"
    for linked in (True, False):
        if not linked:
            monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError(1, "no links")))
        with pytest.raises(OutputError, match="exists"), whole_output(str(target), "-", force=False) as partial:
            partial.write_bytes(b"mine")
            target.write_bytes(b"another's")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"another's"]
        with whole_output(str(target), "-", force=True) as partial:
            partial.write_bytes(b"mine")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
        target.unlink()
        with whole_output(str(target), "-", force=False) as partial:
            partial.write_bytes(b"mine")
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
        target.unlink()


def test_nothing_replaces_a_special_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    code, _, err = text(vtok("tokens", GOLDEN, tmp_path / "pipe.npy", "-f"))
    assert (code, err) == (7, f"vtok: {tmp_path}/pipe.npy is not a regular file; write to '-' and redirect\n")
    target = tmp_path / "target.npy"
    target.write_bytes(b"")
    (tmp_path / "link.npy").symlink_to(target)
    assert vtok("tokens", GOLDEN, tmp_path / "link.npy", "-f").returncode == 0
    assert (tmp_path / "link.npy").is_symlink() and target.stat().st_size > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied", "in.mp4"), (7, "cannot read or write in.mp4: Permission denied")),
        (OSError("libcublas.so: cannot open"), (7, "cannot read or write: libcublas.so: cannot open")),
    ],
)
def test_the_output_is_blamed_for_its_own_errors_only(
    tmp_path: Path, error: OSError, expected: tuple[int, str]
) -> None:
    with pytest.raises(type(error)) as caught, whole_output(str(tmp_path / "o.vtk"), "in.mp4", False):
        raise error
    assert (exit_code(caught.value), told(caught.value)) == expected
    with pytest.raises(OutputError, match="cannot write"), whole_output(str(tmp_path / "o.vtk"), "in.mp4", False):
        raise OSError(28, "No space left on device")


def test_an_unreadable_input_is_told_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests as root may read everything, so the file system says no here."""
    source = tmp_path / "in.mp4"
    source.write_bytes(b"no video")

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr("vtok_codec.cli.encode_jobs.open", refuse, raising=False)
    code, out, err = inside("encode", source, tmp_path / "o.vtk")
    assert (code, out) == (3, "") and str(source) in err and err.count("\n") == 1
