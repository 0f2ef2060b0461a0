"""Starting vtok: help, usage, what is imported, the standard streams."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_helpers import GOLDEN, VTOK, text, vtok
from helpers import SMALL_LANES, inside

from vtok_codec.cli.options import as_seconds
from vtok_codec.errors import ModelError
from vtok_codec.registry import find_weights


def test_help_names_every_command() -> None:
    code, out, err = text(vtok("--help"))
    assert code == 0 and err == ""
    for command in ("encode", "decode", "info", "verify", "tokens", "pack", "models", "train"):
        assert f"\n│ {command} " in out


def test_starting_needs_no_torch() -> None:
    script = (
        "import sys; from vtok_codec.cli.app import app; import vtok_codec.stream.reading; "
        f"sys.argv = ['vtok', 'verify', {str(GOLDEN)!r}]\n"
        "try: app()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules, 'av' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout.decode()
    assert out.splitlines()[-1] == "0 False False"


def test_help_needs_no_large_package() -> None:
    """Completion in a shell waits for it."""
    script = "import sys, vtok_codec.cli.app; print(sorted({'numpy', 'torch', 'av', 'safetensors'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_only_eval_needs_its_packages() -> None:
    """An install without them trains, codes and packs."""
    script = (
        "import importlib, pkgutil, sys, vtok_codec\n"
        "sys.modules |= dict.fromkeys(('imageio_ffmpeg', 'matplotlib', 'pytorch_msssim', 'scipy'))\n"
        "for found in pkgutil.walk_packages(vtok_codec.__path__, 'vtok_codec.'):\n"
        "    if not found.name.startswith(('vtok_codec.evaluation', 'vtok_codec.__main__')):\n"
        "        importlib.import_module(found.name); print(found.name)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert {"vtok_codec.training.run", "vtok_codec.codec.encoder", "vtok_codec.cli.eval"} <= set(ended.stdout.split())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_harm_nothing(tmp_path: Path, closed: str) -> None:
    """A daemon may have none: a file that is opened next must not take their place."""
    shutil.copy(GOLDEN, tmp_path / "golden.vtk")
    command = " ".join([*map(shlex.quote, VTOK), f"tokens golden.vtk o.npy {closed}"])
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert np.load(tmp_path / "o.npy").shape == (5, 2, 3, 2)
    command = " ".join([*map(shlex.quote, VTOK), "info - <&-"])
    result = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (
        3,
        b"vtok: standard input is closed; redirect it, or name a file\n",
    )


@pytest.mark.parametrize("words", ["encode lanes.mp4 - >&-", "decode golden.vtk - >&-", "encode - a.vtk <&-"])
def test_a_closed_standard_stream_that_is_named_is_an_error(tmp_path: Path, words: str) -> None:
    shutil.copy(GOLDEN, tmp_path / "golden.vtk")
    shutil.copy(SMALL_LANES, tmp_path / "lanes.mp4")
    command = " ".join([*map(shlex.quote, VTOK), words])
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    stream, code = ("input", 3) if "<" in words else ("output", 7)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr == f"vtok: standard {stream} is closed; redirect it, or name a file\n"
    assert not (tmp_path / "a.vtk").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["--help", "--version", "encode --help"])
def test_help_for_a_full_device_is_one_line_of_error(words: str) -> None:
    command = " ".join([*map(shlex.quote, VTOK), words, ">/dev/full"])
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 7
    assert result.stderr == "vtok: cannot write standard output: No space left on device\n"


def test_a_file_that_begins_with_a_dash_is_hinted_at(tmp_path: Path) -> None:
    shutil.copy(SMALL_LANES, tmp_path / "-dash.mp4")
    code, _, err = text(vtok("encode", "-dash.mp4", "a.vtk", cwd=tmp_path))
    assert code == 2
    assert err.endswith("vtok: to name a file that begins with '-', write ./-dash.mp4\n")
    assert text(vtok("encode", "./-dash.mp4", "a.vtk", "-q", cwd=tmp_path)) == (0, "", "")


def test_the_usage_says_vtok() -> None:
    assert text(vtok("encode", "--help"))[1].split()[:3] == ["Usage:", "vtok", "encode"]


@pytest.mark.parametrize(
    "args",
    [["encode"], ["encode", "a", "b", "c"], ["decode", "x"], ["train"], ["no-such"]]
    + [["train", "--data", ".", "--minutes", minutes] for minutes in ("-5", "0", "nan")]
    + [["train", "--resume", "run", "--steps", "1", "--data", "."], ["train", "--seed", "-1", "--steps", "1"]]
    + [["decode", "a.vtk", "b.mp4", "--start", time] for time in ("-1", "1:2:3:4", "1:-2", "nan", "soon")]
    # Options that would do nothing.
    + [["decode", "a.vtk", "b.mp4", *option] for option in (["--format", "nut"], ["--suffix", "mkv"])]
    + [["encode", "a.mp4", "b.vtk", "--coder", "zstd", "--rdo", "0.1"], ["encode", "a.mp4", "b.vtk", "--dry-run"]]
    + [["encode", "a.mp4", "--dry-run", "--size", "1k"], ["encode", "a.mp4", "--dry-run", "-f"]]
    + [["decode", "a.vtk", "b.mp4", "--no-audio", "--audio-codec", "aac"]],
)
def test_wrong_usage_is_exit_code_2(args: list[str]) -> None:
    code, _, err = inside(*args)
    assert code == 2 and "Traceback" not in err


def test_times_are_those_of_ffmpeg() -> None:
    assert [as_seconds(text) for text in ("1.5", "1:30", "01:00:00.25", 2.0)] == [1.5, 90, 3600.25, 2]


def test_weights_need_a_name_that_files_can_store(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.safetensors"
    shutil.copy(find_weights("lpips-alex").path, odd)
    with pytest.raises(ModelError, match="not valid UTF-8"):
        find_weights(os.fsdecode(odd))


def test_a_name_that_is_no_utf8_is_printed(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.vtk"
    shutil.copy(GOLDEN, odd)
    for command in ("verify", "info"):
        run = [*VTOK, command, odd]
        strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
        result = subprocess.run(run, env=strict, capture_output=True, timeout=300, check=False)
        assert result.returncode == 0 and b"caf\\udce9.vtk" in result.stdout, result
