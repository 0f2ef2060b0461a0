"""The command line: one file per command, gathered here. Commands import torch only when they need it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress

import typer

from vtok_codec.cli.corpus import corpus
from vtok_codec.cli.decode import decode
from vtok_codec.cli.encode import encode
from vtok_codec.cli.errors import EXIT_BROKEN_PIPE
from vtok_codec.cli.eval import evaluate
from vtok_codec.cli.export import export
from vtok_codec.cli.files import CLOSED_STREAMS
from vtok_codec.cli.generate import continue_, generate
from vtok_codec.cli.info import info
from vtok_codec.cli.latents import latents
from vtok_codec.cli.models import models
from vtok_codec.cli.pack import pack
from vtok_codec.cli.play import play
from vtok_codec.cli.tokens import tokens
from vtok_codec.cli.train import train
from vtok_codec.cli.verify import verify
from vtok_codec.errors import OutputError, SettingError
from vtok_codec.files import remove_open_partials
from vtok_codec.text import printable
from vtok_codec.version import __version__

_EXAMPLES: dict[Callable[..., None], str] = {
    encode: "vtok encode in.mp4 out.vtk",
    decode: "vtok decode out.vtk back.mp4",
    play: "vtok play out.vtk",
    info: "vtok info out.vtk",
    verify: "vtok verify out.vtk",
    tokens: "vtok tokens out.vtk tokens.safetensors",
    pack: "vtok pack tokens.safetensors again.vtk",
    latents: "vtok latents in.mp4 latents.safetensors",
    continue_: "vtok continue clip.vtk longer.vtk --seconds 2 --generator runs/generator",
    generate: "vtok generate new.vtk --size 256x256 --generator runs/generator",
    export: "vtok export onevae-nano-4x8x8 exported/",
    train: "vtok train --stage continuous --data clips/ --val held-out/ --minutes 20",
    evaluate: "vtok eval *.mp4 --tokens 1,2 --against x264",
}
"""Every command with the example that its help shows."""

app = typer.Typer(
    name="vtok",
    help="A video codec whose bitstream is made of tokens.",
    epilog="Example: vtok encode in.mp4 out.vtk && vtok decode out.vtk back.mp4",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command, example in _EXAMPLES.items():
    # Python has a function and a keyword of these names.
    name = {evaluate: "eval", continue_: "continue"}.get(command)
    app.command(name, epilog=f"Example: `{example}`")(command)
app.add_typer(models, name="models")
app.add_typer(corpus, name="corpus")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vtok {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
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
            CLOSED_STREAMS.add(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - for the process


def _hint_at_dashes() -> None:
    """After wrong usage, tell how to name a file that begins with a dash, if there is one among the arguments."""
    arguments = sys.argv[1:]
    names = [each for each in arguments if each.startswith("-") and len(each) > 1 and os.path.exists(each)]
    if names and "--" not in arguments:
        sys.stderr.write(f"vtok: to name a file that begins with '-', write ./{printable(names[0])}\n")


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
        try:
            app(prog_name="vtok")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or EXIT_BROKEN_PIPE
    except OSError as error:
        # Help and version are printed outside the commands, which report their own errors.
        code = code or OutputError.exit_code
        with suppress(OSError):
            os.write(2, f"vtok: cannot write standard output: {error.strerror}\n".encode())
    if code == SettingError.exit_code:
        _hint_at_dashes()
    # A thread may still wait for a pipe, be inside a decoder, or write an output that nobody waits for any more.
    remove_open_partials()
    os._exit(code)
