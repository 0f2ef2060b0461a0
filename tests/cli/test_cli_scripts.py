"""The scripts in tests/cli: each a shell session with exact standard output, standard error and exit code.

`NAME.sh` runs in a folder of its own that holds `clip.mp4`, with `vtok` and `ffmpeg` on the path. What it prints must
be `NAME.stdout` and `NAME.stderr`; where these are missing, nothing. VTOK_WRITE_EXPECTED=1 writes them anew: read the
diff.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import SMALL_LANES

SCRIPTS = sorted(Path(__file__).parent.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path, tmp_path: Path, ffmpeg: str) -> None:
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "vtok").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vtok_codec "$@"\n', encoding="utf-8")
    (programs / "vtok").chmod(0o755)
    (programs / "ffmpeg").symlink_to(ffmpeg)
    shutil.copy(SMALL_LANES, work / "clip.mp4")
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", str(script)],
        cwd=work,
        env=os.environ | {"PATH": path, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result
    for suffix, printed in ((".stdout", result.stdout), (".stderr", result.stderr)):
        expected = script.with_suffix(suffix)
        if os.environ.get("VTOK_WRITE_EXPECTED"):
            expected.unlink(missing_ok=True)
            if printed:
                expected.write_text(printed, encoding="utf-8")
        assert printed == (expected.read_text(encoding="utf-8") if expected.exists() else ""), suffix
