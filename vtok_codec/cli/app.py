"""The command line: one file a command, gathered here. Commands import torch only once they need it."""

from __future__ import annotations

import io
import os
import sys

import typer

from vtok_codec import __version__
from vtok_codec.cli.common import EXIT_BROKEN_PIPE
from vtok_codec.cli.decode import decode
from vtok_codec.cli.encode import encode
from vtok_codec.cli.eval import evaluate
from vtok_codec.cli.info import info
from vtok_codec.cli.models import models
from vtok_codec.cli.pack import pack
from vtok_codec.cli.tokens import tokens
from vtok_codec.cli.train import train
from vtok_codec.cli.verify import verify
from vtok_codec.errors import OutputError

app = typer.Typer(
    name="vtok",
    help="A video codec whose bitstream is made of tokens.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (encode, decode, info, verify, tokens, pack, models, train):
    app.command()(command)
# Python has a function of this name.
app.command("eval")(evaluate)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vtok {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """A video codec whose bitstream is made of tokens."""


def _open_standard_streams() -> None:
    """Put the null device where a standard stream is closed, as a daemon's may be.

    Else the next file that is opened takes its number, and messages go into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the process


def main() -> None:
    """Run the command that the process was called with, and end the process."""
    _open_standard_streams()
    # torch reads it at its first large tensor: with huge pages its models run 5 % faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name may be no UTF-8.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    try:
        app(prog_name="vtok")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or EXIT_BROKEN_PIPE
    except OSError as error:
        code = code or OutputError.exit_code
        os.write(2, f"vtok: cannot write standard output: {error.strerror}\n".encode())
    # All is closed by now, but a thread may still wait for a pipe or be inside a decoder.
    os._exit(code)
