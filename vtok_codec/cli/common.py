"""What the commands share: error reports and exit codes, outputs that appear only when whole, progress."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, BinaryIO, NoReturn, ParamSpec

import typer
from tqdm import tqdm

from vtok_codec.errors import FormatError, InputError, OutputError, VtokError

Parameters = ParamSpec("Parameters")

STANDARD_STREAM = "-"
EXIT_INTERNAL = 1
_NO_MEMORY = "out of memory; try a smaller picture"
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
EXIT_INTERRUPTED = 128 + signal.SIGINT

Paths = Annotated[list[str], typer.Argument(help="IN OUT, or IN… with -o DIR; '-' is standard input or output.")]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the audio out.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite an output that exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more: the model, where it runs.")]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu or cuda.")]
MaxPixels = Annotated[int, typer.Option(help="Refuse larger pictures; a pixel takes about 1 KB of memory.", min=1)]
OutputFolder = Annotated[Path | None, typer.Option("-o", "--output-dir", help="Write every input's output here.")]


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception, so that cleaning up happens on the way out."""


def reports_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn every error of a command into one line on stderr and the documented exit code."""

    @functools.wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        signal.signal(signal.SIGTERM, _raise_terminated)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # `nohup` ignores it.
            signal.signal(signal.SIGHUP, _raise_terminated)
        try:
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
            message = _told(error)
            if message is None:
                if os.environ.get("VTOK_DEBUG"):
                    raise
                fail(f"internal error: {one_line(error)} (VTOK_DEBUG=1 shows where)", EXIT_INTERNAL)
            fail(message, _exit_code(error))

    return run


def _told(error: Exception) -> str | None:
    """What a user is told of an error that may happen; None of one that is a fault of the program."""
    if isinstance(error, VtokError):
        return str(error)
    if isinstance(error, OSError):
        return f"cannot read or write: {error.strerror or error}"
    # torch has no error of its own for it on the CPU.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return _NO_MEMORY
    return None


def _exit_code(error: Exception) -> int:
    if isinstance(error, VtokError):
        return error.exit_code
    return OutputError.exit_code if isinstance(error, OSError) else EXIT_INTERNAL


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def fail(message: str, code: int) -> NoReturn:
    """End with one line on stderr."""
    notice(message)
    raise typer.Exit(code)


def notice(message: str) -> None:
    """One line on stderr, whatever bar stands there."""
    tqdm.write(f"vtok: {' '.join(message.split())}", file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def one_line(error: Exception) -> str:
    """An error's type and the first line of its text."""
    return " ".join([type(error).__name__ + ":", *str(error).splitlines()[:1]])


def job_pairs(paths: Sequence[str], folder: Path | None, suffix: str) -> list[tuple[str, str]]:
    """Input and output of each job: `IN OUT`, or `IN…` with a folder, where outputs take the inputs' names."""
    if folder is None:
        if len(paths) != 2:
            raise typer.BadParameter("give one input and one output, or several inputs and -o DIR")
        return [(paths[0], paths[1])]
    if STANDARD_STREAM in paths:
        raise typer.BadParameter("'-' and -o DIR do not go together")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; make it first")
    outputs = [str(folder / (Path(path).stem + suffix)) for path in paths]
    doubled = {output for output in outputs if outputs.count(output) > 1}
    if doubled:
        raise OutputError(f"two inputs would both become {min(doubled)}")
    return list(zip(paths, outputs, strict=True))


def run_jobs(jobs: Sequence[tuple[str, str]], work: Callable[[str, str], None]) -> None:
    """Do every job; with several, one that fails does not keep the others from running."""
    if len(jobs) == 1:
        work(*jobs[0])
        return
    first_code = 0
    for source, target in jobs:
        try:
            work(source, target)
        except BrokenPipeError:
            raise
        except Exception as error:
            message = _told(error)
            if message is None:
                raise
            notice(message if isinstance(error, VtokError) else f"{source}: {message}")
            first_code = first_code or _exit_code(error)
    if first_code:
        raise typer.Exit(first_code)


@contextmanager
def open_input(source: str) -> Iterator[BinaryIO]:
    """A binary input: a file, or standard input for `-`.

    Raises:
        InputError: the file cannot be opened.
        FormatError: the block's own, with the input's name in front.
    """
    if source == STANDARD_STREAM:
        with _names_source("standard input"):
            yield sys.stdin.buffer
        return
    try:
        stream = open(source, "rb")  # noqa: SIM115 - its errors are told apart from the block's
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror}") from error
    with stream, _names_source(source):
        yield stream


@contextmanager
def _names_source(name: str) -> Iterator[None]:
    """Put the input's name in front of what is wrong with it."""
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{name}: {error}") from None


def standard_output() -> BinaryIO:
    """Standard output for binary data.

    Raises:
        OutputError: it is a terminal.
    """
    if sys.stdout.isatty():
        raise OutputError("will not write binary data to a terminal; redirect it, or name a file")
    return sys.stdout.buffer


@contextmanager
def whole_output(target: str, source: str, force: bool) -> Iterator[Path]:
    """A path to write to, which becomes `target` when the block ends without an error, and is removed otherwise.

    Raises:
        OutputError: `target` exists and may not be overwritten, is `source`, or its folder cannot be written.
    """
    path = Path(os.path.realpath(target))
    try:
        if source != STANDARD_STREAM and path.exists() and Path(source).exists() and path.samefile(source):
            raise OutputError(f"{target} is the input; name another output")
        if target.endswith(os.sep) and not path.is_dir():
            raise OutputError(f"{target} is no folder; make it first, and use -o {target}")
        if path.is_dir():
            raise OutputError(f"{target} is a folder; name a file in it, or use -o {target}")
        if path.exists() and not path.is_file():
            raise OutputError(f"{target} is no regular file; write to '-' and redirect")
        _refuse_existing(path, target, force)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error
    # A name may have 255 bytes.
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.partial{path.suffix}")
    try:
        partial.touch(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error
    try:
        yield partial
        if force:
            os.replace(partial, path)
        else:
            _name_if_free(partial, path, target)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"cannot write {target}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _name_if_free(partial: Path, path: Path, target: str) -> None:
    """Rename, unless another has taken the name in the meantime."""
    try:
        os.link(partial, path)
    except FileExistsError:
        _refuse_existing(path, target, force=False)
        raise
    except OSError:
        # Not every file system has links; a name that is taken between these two lines is lost.
        _refuse_existing(path, target, force=False)
        os.replace(partial, path)


def _refuse_existing(path: Path, target: str, force: bool) -> None:
    if path.exists() and not force:
        raise OutputError(f"{target} exists; use -f to overwrite it")


DEFAULT_MAX_PIXELS = 1 << 24
"""4096×4096: above 4K, below 8K; what 24 GiB hold."""


def require_pixels(name: str, width: int, height: int, limit: int) -> None:
    """Refuse a picture that would take too much memory, whoever made its header.

    Raises:
        InputError: it has more pixels than the limit.
    """
    if width * height > limit:
        raise InputError(f"{name} has pictures of {width}x{height}, more than --max-pixels {limit}")


@contextmanager
def vtk_output(target: str, source: str, force: bool) -> Iterator[BinaryIO]:
    """A stream for a `.vtk` file: standard output for `-`, or else see `whole_output`.

    Raises:
        OutputError: `target` is the name of a video, or see `whole_output` and `standard_output`.
    """
    if target == STANDARD_STREAM:
        yield standard_output()
        return
    from vtok_codec.media.writer import is_video_suffix

    with whole_output(target, source, force) as partial:
        if is_video_suffix(Path(target).suffix):
            raise OutputError(f"{target} is the name of a video, which a .vtk file is not; give the output another")
        with open(partial, "wb") as stream:
            yield stream


def require_absent(path: Path, force: bool) -> None:
    """Refuse to overwrite before long work begins, not after.

    Raises:
        OutputError: `path` exists, and `force` is not given.
    """
    _refuse_existing(path, str(path), force)


def frame_bar(total: int | None, quiet: bool, what: str) -> tqdm[Any]:
    """A bar that counts frames, on stderr, only where that is a terminal."""
    return tqdm(total=total, unit=" frames", desc=what, leave=False, disable=True if quiet else None, file=sys.stderr)
