"""Commands with several inputs: pairs of input and output, one after another, and their progress."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import typer
from tqdm import tqdm

from vtok_codec.cli.errors import DEBUG, exit_code, internal, notice, told
from vtok_codec.cli.files import STANDARD_STREAM
from vtok_codec.errors import InputError, OutputError
from vtok_codec.text import printable

Job: TypeAlias = tuple[str, str]
"""An input and its output."""


def job_pairs(paths: Sequence[str], folder: Path | None, suffix: str, wanted: Callable[[str], bool]) -> list[Job]:
    """Pair each input with its output.

    Args:
        paths: `IN OUT`, or inputs where a folder for the outputs is given: files, folders, and patterns such as
            `clips/*.mp4`.
        folder: Where outputs go. They have the names of the inputs; what comes from a folder keeps its place below it.
        suffix: The suffix of outputs in the folder.
        wanted: Whether a file of a folder is an input, by its name.

    Raises:
        InputError: A folder holds no input, or a pattern names no file.
        OutputError: The folder for the outputs does not exist.
    """
    if folder is None:
        if len(paths) != 2:
            raise typer.BadParameter("give one input and one output, or several inputs and -o DIR")
        if Path(paths[0]).is_dir():
            raise InputError(f"{paths[0]} is a folder; use -o DIR to name one for the outputs")
        return [(paths[0], paths[1])]
    if STANDARD_STREAM in paths:
        raise typer.BadParameter("'-' and -o DIR do not go together")
    if not folder.is_dir():
        raise OutputError(f"{folder} is not a folder; make it first")
    inputs = dict(pair for path in paths for pair in _expanded(path, wanted))
    outputs = {path: folder / (name + suffix) for path, name in _names(inputs).items()}
    doubled = [path for path, count in Counter(outputs.values()).items() if count > 1]
    if doubled:
        raise OutputError(f"two inputs would both become {min(doubled)}; name different folders for them")
    for output in outputs.values():
        output.parent.mkdir(parents=True, exist_ok=True)
    return [(path, str(output)) for path, output in outputs.items()]


def expanded(paths: Sequence[str], wanted: Callable[[str], bool]) -> list[str]:
    """Return the inputs that arguments stand for: files, folders and patterns; see `job_pairs`."""
    return [source for path in paths for source, _ in _expanded(path, wanted)]


def _expanded(path: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Yield the inputs that an argument stands for, each with the name of its output without a suffix."""
    if Path(path).is_dir():
        files = (each for each in Path(path).rglob("*") if each.is_file() and not each.name.startswith("."))
        found = sorted(each for each in files if wanted(each.name))
        if not found:
            raise InputError(f"{path} holds no file to read")
        yield from ((str(each), str(each.relative_to(path).with_suffix(""))) for each in found)
    elif not Path(path).exists() and glob.has_magic(path):
        named = sorted(each for each in glob.glob(path, recursive=True) if Path(each).is_file())
        if not named:
            raise InputError(f"no file is named like {path}")
        yield from ((each, Path(each).stem) for each in named)
    else:
        yield path, Path(path).stem


def _names(inputs: dict[str, str]) -> dict[str, str]:
    """Make the names of outputs differ: equal ones keep their folders, or in one folder the suffix of the input."""
    names = dict(inputs)
    groups: dict[str, list[str]] = {}
    for path, name in inputs.items():
        groups.setdefault(name, []).append(path)
    for paths in (group for group in groups.values() if len(group) > 1):
        folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
        top = os.path.commonpath(folders)
        for path, folder in zip(paths, folders, strict=True):
            if len(set(folders)) > 1:
                names[path] = os.path.splitext(os.path.relpath(path, top))[0]
            if folders.count(folder) > 1:
                names[path] += Path(path).suffix
    return names


def run_jobs(jobs: Sequence[Job], work: Callable[[str, str], None], at_once: int = 1) -> None:
    """Run all jobs. If one of several fails, the others still run, and its exit code is that of the command.

    Args:
        jobs: The jobs.
        work: Makes the output of an input.
        at_once: How many jobs run side by side.
    """
    if len(jobs) == 1:
        work(*jobs[0])
        return

    def code_of(job: Job) -> int:
        try:
            work(*job)
        except BrokenPipeError:
            raise
        except Exception as error:
            message = told(error)
            if message is None:
                if os.environ.get(DEBUG):
                    raise
                message = internal(error)
            named = job[0] if job[0] != STANDARD_STREAM else "standard input"
            notice(message if named in message else f"{named}: {message}")
            return exit_code(error)
        return 0

    if at_once == 1:
        codes = [code_of(job) for job in jobs]
    else:
        pool = ThreadPoolExecutor(at_once)
        try:
            codes = list(pool.map(code_of, jobs))
        finally:
            # After an interrupt, jobs that have not begun never do.
            pool.shutdown(wait=False, cancel_futures=True)
    if first := next(filter(None, codes), 0):
        raise typer.Exit(first)


def as_jobs(sources: Sequence[str]) -> list[Job]:
    """Return jobs that have inputs and no outputs."""
    return [(source, "") for source in sources]


def run_each(sources: Sequence[str], work: Callable[[str], None]) -> None:
    """Do something with each input; see `run_jobs`."""
    run_jobs(as_jobs(sources), lambda source, _: work(source))


def frame_bar(total: int | None, quiet: bool, name: str) -> tqdm[Any]:
    """A progress bar on stderr that counts frames. It shows only on a terminal."""
    shown = printable(name)
    return tqdm(total=total, unit=" frames", desc=shown, leave=False, disable=True if quiet else None, file=sys.stderr)
