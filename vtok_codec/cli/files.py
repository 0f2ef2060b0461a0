"""Inputs and outputs of commands: files that appear only when they are whole, and the standard streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from vtok_codec.cli.errors import notice
from vtok_codec.errors import FormatError, InputError, OutputError
from vtok_codec.files import is_of_output, replacing

STANDARD_STREAM = "-"
"""What stands for standard input or output in place of a path."""


CLOSED_STREAMS: set[int] = set()
"""The file numbers of standard streams that were closed when the process started; the null device stands for them."""


def require_open(stream: TextIO) -> None:
    """Refuse a standard stream that was closed when the process started.

    Raises:
        InputError: It is standard input.
        OutputError: It is standard output.
    """
    if stream.fileno() not in CLOSED_STREAMS:
        return
    if stream is sys.stdin:
        raise InputError("standard input is closed; redirect it, or name a file")
    raise OutputError("standard output is closed; redirect it, or name a file")


@contextmanager
def open_input(source: str) -> Iterator[BinaryIO]:
    """Open a binary input: a file, or standard input for `-`.

    Raises:
        InputError: The file cannot be opened.
        FormatError: The block raised it; the name of the input is put in front of its message.
    """
    if source == STANDARD_STREAM:
        require_open(sys.stdin)
        with _names_source("standard input"):
            yield sys.stdin.buffer
        return
    try:
        stream = open(source, "rb")  # noqa: SIM115 - its errors are told apart from those of the block
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    with stream, _names_source(source):
        yield stream


@contextmanager
def _names_source(name: str) -> Iterator[None]:
    """Put the name of an input in front of error messages about its format."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{name}: {error}") from None


def standard_output() -> BinaryIO:
    """Standard output for binary data.

    Raises:
        OutputError: It is a terminal, or closed.
    """
    require_open(sys.stdout)
    if sys.stdout.isatty():
        raise OutputError("will not write binary data to a terminal; redirect it, or name a file")
    return sys.stdout.buffer


@contextmanager
def whole_output(target: str, source: str, force: bool) -> Iterator[Path]:
    """Yield a path to write to. It becomes `target` when the block ends without an error, and is removed otherwise.

    Raises:
        OutputError: `target` exists and may not be overwritten, is the same file as `source`, or cannot be written.
    """
    path = Path(os.path.realpath(target))
    try:
        _check_target(path, target, source)
        _refuse_existing(path, target, force)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error

    def tell(leftover: Path) -> None:
        notice(f"removed {leftover}, which a killed run left behind")

    try:
        with replacing(path, overwrite=force, on_leftover=tell) as partial:
            yield partial
    except FileExistsError:
        _refuse_existing(path, target, force=False)
        raise
    except OSError as error:
        # What names another file, or no reason, is no fault of the output.
        others = error.filename is not None and not is_of_output(error.filename, path)
        if isinstance(error, BrokenPipeError) or not error.strerror or others:
            raise
        raise OutputError(f"cannot write {target}: {error.strerror}") from error


def _check_target(path: Path, target: str, source: str) -> None:
    """Refuse targets that cannot become a file."""
    if source != STANDARD_STREAM and path.exists() and Path(source).exists() and path.samefile(source):
        raise OutputError(f"{target} is the input; name another output")
    if target.endswith(os.sep) and not path.is_dir():
        raise OutputError(f"{target} is not a folder; make it first, and use -o {target}")
    if path.is_dir():
        raise OutputError(f"{target} is a folder; name a file in it, or use -o {target}")
    if path.exists() and not path.is_file():
        raise OutputError(f"{target} is not a regular file; write to '-' and redirect")


def _refuse_existing(path: Path, target: str, force: bool) -> None:
    if path.exists() and not force:
        raise OutputError(f"{target} exists; use -f to overwrite it")


@contextmanager
def vtk_output(target: str, source: str, force: bool) -> Iterator[BinaryIO]:
    """Yield a stream for a `.vtk` file: standard output for `-`, or else a file as in `whole_output`.

    Raises:
        OutputError: `target` is the name of a video, or see `whole_output` and `standard_output`.
    """
    if target == STANDARD_STREAM:
        yield standard_output()
        return
    from vtok_codec.media.formats import is_clip_name

    with whole_output(target, source, force) as partial:
        if is_clip_name(target):
            raise OutputError(f"{target} is the name of a video, but the output is a .vtk file; name it .vtk")
        with open(partial, "wb") as stream:
            yield stream


def require_absent(path: Path, force: bool) -> None:
    """Refuse to overwrite a file, before long work begins.

    Raises:
        OutputError: `path` exists, and `force` is not given.
    """
    _refuse_existing(path, str(path), force)


def require_pixels(name: str, width: int, height: int, limit: int) -> None:
    """Refuse pictures that would take too much memory.

    Raises:
        InputError: They have more pixels than the limit.
    """
    if width * height > limit:
        raise InputError(f"{name} has pictures of {width}x{height}, more than --max-pixels {limit}")
