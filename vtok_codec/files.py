"""Writes files so that a name never stands for a part of one: write beside the target, sync, then rename."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock; leftovers stay there.
    fcntl = None  # type: ignore[assignment]

PARTIAL_SUFFIX = ".partial"
"""Part of the name of every file that is not whole yet."""
_NEW_FILE_MODE = 0o666
_NAME_BYTES = 120
"""How much of the target's name a partial file's name holds; file systems allow 255 bytes in all."""


_open_partials: set[Path] = set()
"""The partial files that this process is writing."""


def remove_open_partials() -> None:
    """Remove the partial files of threads that end with the process."""
    for partial in list(_open_partials):
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def replacing(
    path: Path, overwrite: bool = True, on_leftover: Callable[[Path], None] = lambda leftover: None
) -> Iterator[Path]:
    """Yield the path of a new, empty file that takes the name `path` when the block ends without an error.

    Until then the file has a random name in the same folder; it is removed if the block fails. A file that is replaced
    passes its permissions on. Data and folder reach the disk before and after the rename. What a killed process left
    behind of an earlier attempt at the same target is removed.

    Args:
        path: The final name, with symbolic links resolved.
        overwrite: Whether an existing file may be replaced.
        on_leftover: Called with each file of an earlier attempt that was removed.

    Raises:
        FileExistsError: `overwrite` is False, and the name was taken in the meantime.
        OSError: The file cannot be written.
    """
    for leftover in _remove_leftovers(path):
        on_leftover(leftover)
    handle, partial = _new_partial(path)
    _open_partials.add(partial)
    try:
        kept = _kept_mode(path)
        if kept is not None:
            # The mask may have taken some of them away.
            partial.chmod(kept)
        yield partial
        os.fsync(handle)
        _rename(partial, path, overwrite)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)
        _open_partials.discard(partial)
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader finds the old contents or the new ones, never a part.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextmanager
def exclusive(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs. The lock ends with the process, however that ends.

    Args:
        path: The file to lock, which is made if it is not there, and stays. Some file systems have no locks.
        wait: Whether to wait for another process that holds the lock.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is False.
        OSError: The file cannot be opened or locked.
    """
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError as error:
            # A file system without locks.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(handle)


def is_of_output(name: str | bytes | int, path: Path) -> bool:
    """Return whether a name in an error is that of an output, of a partial file of it, or of its folder.

    Args:
        name: The name, as `OSError.filename` has it.
        path: The final name of the output.
    """
    place = Path(os.fsdecode(name)) if not isinstance(name, int) else None
    if place is None or place in (path, path.parent):
        return place is not None
    return place.parent == path.parent and place.name.startswith(_prefix(path))


def _prefix(path: Path) -> str:
    name = path.name.encode(errors="surrogateescape")[:_NAME_BYTES]
    return f".{os.fsdecode(name)}."


def _new_partial(path: Path) -> tuple[int, Path]:
    """Make a partial file, open and locked, so that no other process takes it for a leftover.

    It has the permissions of the file that it replaces, or those of a new file, both under the process's mask.
    """
    kept = _kept_mode(path)
    mode = _NEW_FILE_MODE if kept is None else kept
    while True:
        partial = path.parent / f"{_prefix(path)}{secrets.token_hex(4)}{PARTIAL_SUFFIX}{path.suffix}"
        try:
            # With O_EXCL, nobody can have put a link in the place of the file. The system applies the mask.
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        except FileExistsError:
            continue
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, partial
        # Another process took it for a leftover before it was locked.
        os.close(handle)


def _kept_mode(path: Path) -> int | None:
    """Return the permissions of the file that is replaced; None if there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def _lock(handle: int, wait: bool = False) -> bool:
    """Lock a file for as long as this process has it open. Whether nobody else holds the lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _remove_leftovers(path: Path) -> Iterator[Path]:
    """Remove partial files of this target that no living process holds."""
    pattern = glob.escape(str(path.parent / _prefix(path))) + f"*{PARTIAL_SUFFIX}{glob.escape(path.suffix)}"
    for name in glob.glob(pattern):
        with suppress(OSError):
            handle = os.open(name, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _lock(handle):
                    os.unlink(name)
                    yield Path(name)
            finally:
                os.close(handle)


def _rename(partial: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has links; a name that is taken between these two lines is lost.
        if path.exists():
            raise FileExistsError(f"{path} exists") from None
        os.replace(partial, path)


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Some file systems cannot sync folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
