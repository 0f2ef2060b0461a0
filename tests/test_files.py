"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vtok_codec import files
from vtok_codec.files import replacing, write_whole


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with replacing(path) as partial:
        partial.write_bytes(b"whole")
        assert not path.exists() and partial.parent == tmp_path
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_bytes(b"part")
        raise RuntimeError
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_permissions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []

    def refuse() -> None:
        raise PermissionError

    path = tmp_path / "secret"
    path.touch(mode=0o600)
    write_whole(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(PermissionError), monkeypatch.context() as patch:
        # Nobody else may open the new file before it has them, and a file system that keeps none leaves nothing.
        patch.setattr(Path, "chmod", lambda partial, mode: modes.append(partial.stat().st_mode & 0o777) or refuse())
        write_whole(path, b"newer")
    assert modes == [0o600] and list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"new"
    mask = os.umask(0o027)
    try:
        write_whole(tmp_path / "fresh", b"new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


def test_no_thread_sees_another_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask belongs to the whole process, so it cannot be looked up without changing it for all threads."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was changed"))
    write_whole(tmp_path / "fresh", b"new")


def test_a_name_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    with pytest.raises(FileExistsError), replacing(path, overwrite=False) as partial:
        partial.write_bytes(b"late")
        path.write_bytes(b"early")
    assert path.read_bytes() == b"early" and list(tmp_path.iterdir()) == [path]


def test_a_killed_run_leaves_nothing_for_long(tmp_path: Path) -> None:
    """What it left is removed by the next run for the same name; what a living one writes is not."""
    path = tmp_path / "out.bin"
    script = (
        "import os, sys; from pathlib import Path; from vtok_codec.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial: os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    (left,) = tmp_path.iterdir()
    removed: list[Path] = []
    with replacing(path, on_leftover=removed.append) as partial:
        assert removed == [left] and list(tmp_path.iterdir()) == [partial]
        with replacing(path, on_leftover=removed.append) as other:
            other.write_bytes(b"other")
        assert removed == [left] and partial.exists()
        partial.write_bytes(b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_file_taken_for_a_leftover_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer of the same target may find the file before it is locked."""
    path, lock, taken = tmp_path / "out.bin", files._lock, []

    def late(handle: int, wait: bool = False) -> bool:
        if not taken:
            taken.extend(files._remove_leftovers(path))
        return lock(handle, wait)

    monkeypatch.setattr(files, "_lock", lambda handle, wait=False: late(handle, wait) if wait else lock(handle))
    with replacing(path) as partial:
        partial.write_bytes(b"whole")
    assert len(taken) == 1 and path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    """Names are random and opened exclusively, so nobody can prepare one."""
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second


def test_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".mp4")
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"
