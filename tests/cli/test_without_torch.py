"""Reading, checking and exchanging tokens works where torch is not installed; models tell what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from command_helpers import GOLDEN, VTOK
from helpers import DATA, SMALL_LANES, inside, pixels_of

from vtok_codec.container.prefix import MAGIC

SHARE = DATA.parent.parent / "share"


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which torch cannot be imported."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = sys.modules['onnxruntime'] = None\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def run(environment: dict[str, str], *arguments: object) -> tuple[int, str, str]:
    command = [*VTOK, *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_files_are_read_and_written(without_torch: dict[str, str], tmp_path: Path) -> None:
    made = tmp_path / "made.vtok"
    assert inside("encode", SMALL_LANES, made, "-q") == (0, "", "")
    for file in (GOLDEN, made):
        assert run(without_torch, "verify", file)[0] == 0
        assert run(without_torch, "info", file, "--json")[0] == 0
    tokens, again = tmp_path / "tokens.safetensors", tmp_path / "again.vtk"
    assert run(without_torch, "tokens", made, tokens)[::2] == (0, "")
    assert run(without_torch, "pack", tokens, again)[::2] == (0, "")
    assert run(without_torch, "models")[0] == 0
    script = f"import vtok_codec; print(vtok_codec.open({str(again)!r}).tokens().shape)"
    out = subprocess.run([sys.executable, "-c", script], env=without_torch, capture_output=True, text=True, check=True)
    assert out.stdout == f"{np.concatenate(list(_gops(made))).shape}\n"


def test_onnx_runtime_decodes_where_torch_is_missing(without_torch: dict[str, str], tmp_path: Path) -> None:
    made, out, source = tmp_path / "made.vtk", tmp_path / "out.mp4", tmp_path / "sitecustomize.py"
    assert inside("encode", SMALL_LANES, made, "--duration", 0.5, "-q") == (0, "", "")
    source.write_text("import sys\nsys.modules['torch'] = None\n")
    code, _, told = run(without_torch, "decode", made, out, "-v")
    assert code == 0 and "on ONNX Runtime" in told
    assert len(pixels_of(out)) == 13


def _gops(path: Path) -> list[np.ndarray]:
    import vtok_codec

    with vtok_codec.open(path) as clip:
        return list(clip.gops())


@pytest.mark.parametrize("command", [["encode", SMALL_LANES, "out.vtk"], ["decode", GOLDEN, "out.mp4"]])
def test_models_say_that_they_need_torch(without_torch: dict[str, str], tmp_path: Path, command: list[object]) -> None:
    *rest, name = command
    code, out, err = run(without_torch, *rest, tmp_path / str(name))
    assert (code, out) == (6, "") and err.startswith("vtok: this needs the package torch") and err.count("\n") == 1
    assert "pip install 'vtok-codec[torch]'" in err and ("[onnx]" in err) == (command[0] == "decode")
    assert not (tmp_path / str(name)).exists()


def test_file_and_desktops_know_the_format(tmp_path: Path) -> None:
    space = "{http://www.freedesktop.org/standards/shared-mime-info}"
    root = ET.parse(SHARE / "mime" / "packages" / "vtok.xml").getroot()
    match = root.find(f"{space}mime-type/{space}magic/{space}match")
    assert match is not None
    assert match.attrib["value"].encode("latin-1").decode("unicode_escape").encode("latin-1") == MAGIC
    lines = (SHARE / "magic" / "vtok").read_text(encoding="utf-8").splitlines()
    text = next(line for line in lines if line.startswith("0\t")).split("\t")[2]
    assert text.encode("latin-1").decode("unicode_escape").encode("latin-1") == MAGIC
    if not shutil.which("file"):
        pytest.skip("file(1) is not installed")
    told = subprocess.run(["file", "-m", SHARE / "magic" / "vtok", GOLDEN], capture_output=True, text=True, check=True)
    assert told.stdout.endswith("vtok video (tokens), version 1.0\n")
