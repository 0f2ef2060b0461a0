"""Commands with several inputs: pairs of input and output, one after another, and their progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from tqdm import tqdm

from vtok_codec.cli.errors import exit_code, notice, told
from vtok_codec.cli.files import STANDARD_STREAM
from vtok_codec.errors import OutputError, VtokError
from vtok_codec.text import printable


def job_pairs(paths: Sequence[str], folder: Path | None, suffix: str) -> list[tuple[str, str]]:
    """Pair each input with its output.

    Args:
        paths: `IN OUT`, or several inputs where a folder is given.
        folder: Where outputs go, under the names of the inputs.
        suffix: The suffix of outputs in the folder.

    Raises:
        OutputError: The folder does not exist, or two inputs would become the same output.
    """
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
    """Run all jobs. If one of several fails, the others still run, and its exit code is that of the command."""
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
            message = told(error)
            if message is None:
                raise
            notice(message if isinstance(error, VtokError) else f"{source}: {message}")
            first_code = first_code or exit_code(error)
    if first_code:
        raise typer.Exit(first_code)


def frame_bar(total: int | None, quiet: bool, name: str) -> tqdm[Any]:
    """A progress bar on stderr that counts frames. It shows only on a terminal."""
    shown = printable(name)
    return tqdm(total=total, unit=" frames", desc=shown, leave=False, disable=True if quiet else None, file=sys.stderr)
