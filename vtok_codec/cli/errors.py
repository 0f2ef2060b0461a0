"""Turns errors into one line on stderr and a documented exit code (docs/reference/exit-codes.md)."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, ParamSpec, TextIO

import typer
from tqdm import tqdm

from vtok_codec.errors import OutputError, PackageError, VtokError, VtokWarning
from vtok_codec.extras import EXTRAS, missing_package
from vtok_codec.text import one_line

Parameters = ParamSpec("Parameters")

EXIT_INTERNAL = 1
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_INTERRUPTED = 128 + signal.SIGINT
DEBUG = "VTOK_DEBUG"
"""The environment variable that shows the traceback of an internal error, if it is set."""
_NO_MEMORY = "out of memory; try a smaller picture"


class Terminated(BaseException):
    """SIGTERM or SIGHUP as an exception, so that a command cleans up before it ends."""


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Decorate a command so that every error becomes one line on stderr and the documented exit code."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        signal.signal(signal.SIGTERM, _raise_terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # `nohup` ignores it.
            signal.signal(signal.SIGHUP, _raise_terminated)
        try:
            with _warnings_as_notices(quiet=bool(kwargs.get("quiet"))):
                command(*args, **kwargs)
        except BrokenPipeError:
            # Nobody reads any more, as with `| head`.
            raise typer.Exit(EXIT_BROKEN_PIPE) from None
        except KeyboardInterrupt:
            fail("interrupted", EXIT_INTERRUPTED)
        except Terminated as ended:
            fail("terminated", 128 + ended.args[0])
        except (typer.Exit, typer.BadParameter):
            raise
        except Exception as error:
            message = told(error)
            if message is None:
                if os.environ.get(DEBUG):
                    raise
                fail(internal(error), EXIT_INTERNAL)
            fail(message, exit_code(error))

    return run


@contextmanager
def _warnings_as_notices(quiet: bool) -> Iterator[None]:
    """Print vtok's own warnings as notices while the block runs, or not at all; others stay as they are."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, VtokWarning):
            show_others(message, category, filename, lineno, file, line)
        elif not quiet:
            notice(str(message))

    with warnings.catch_warnings():
        # What a notice says is of this command, even if another one in this process has said it, too.
        warnings.simplefilter("always", VtokWarning)
        show_others, warnings.showwarning = warnings.showwarning, show
        yield


class Stop:
    """Whether a signal has asked a command to end, and which one."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def is_set(self) -> bool:
        """Return whether the command shall end."""
        return self.signal is not None


@contextmanager
def ends_gently(answer: str = "") -> Iterator[Stop]:
    """Let the first signal only ask for an end, so that what was made until then can be kept.

    The second one ends the command at once. In threads, where no signals arrive, nothing changes.

    Args:
        answer: What to tell when the first signal comes; empty for nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        restore()
        if answer:
            notice(answer)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: handler for number in signals if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


def told(error: Exception) -> str | None:
    """What to tell a user about an expected error; None for a fault in the program."""
    if isinstance(error, VtokError):
        return str(error)
    # torch has no error of its own for it on the CPU.
    if _means_no_memory(error):
        return _NO_MEMORY
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return str(missing_package(error.name))
    if isinstance(error, OSError):
        named = f" {error.filename}" if error.filename and error.strerror else ""
        return f"cannot read or write{named}: {error.strerror or error}"
    return None


def exit_code(error: Exception) -> int:
    """The exit code of an error."""
    if isinstance(error, VtokError):
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return PackageError.exit_code
    return OutputError.exit_code if isinstance(error, OSError) and not _means_no_memory(error) else EXIT_INTERNAL


def _means_no_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    signs = ("allocate memory", "out of memory", "can't start new thread", "failed to map segment")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and end the command with an exit code."""
    notice(message)
    raise typer.Exit(code)


def notice(message: str) -> None:
    """Print one line on stderr, above any progress bar."""
    tqdm.write(f"vtok: {one_line(message)}", file=sys.stderr)


def internal(error: Exception) -> str:
    """What to tell a user about a fault in the program: the type of the error and the first line of its text."""
    summary = " ".join([type(error).__name__ + ":", *str(error).splitlines()[:1]])
    return f"internal error: {summary} ({DEBUG}=1 shows where)"
