"""`vtok play`: shows a `.vtk` file in the browser."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.files import CLOSED_STREAMS, STANDARD_STREAM, open_input, require_pixels
from vtok_codec.cli.options import DEFAULT_MAX_PIXELS, INPUT, MODEL, OUTPUT, Device, MaxPixels, Quiet, WeightsOfInput
from vtok_codec.errors import InputError, OutputError
from vtok_codec.text import printable


@reports_errors
def play(
    file: Annotated[str, typer.Argument(help="A .vtk file.")],
    source: Annotated[
        Path | None,
        typer.Option(help="A video to show beside it, such as its source.", rich_help_panel=INPUT),
    ] = None,
    browser: Annotated[
        bool,
        typer.Option(
            "--browser/--no-browser", help="Open the page, or just print its address.", rich_help_panel=OUTPUT
        ),
    ] = True,
    port: Annotated[
        int, typer.Option(help="Port to listen on; any free one by default.", min=0, max=65535, rich_help_panel=OUTPUT)
    ] = 0,
    weights: WeightsOfInput = None,
    engine: Annotated[
        str, typer.Option(help="What runs the decoder: auto, torch or onnx.", rich_help_panel=MODEL)
    ] = "auto",
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Play a .vtk file in the browser, until Ctrl-C. Nobody but this machine's user can open the page."""
    from vtok_codec.codec.engines import DecoderLoader, chosen_engine
    from vtok_codec.codec.pixel_decoder import DecoderChoice
    from vtok_codec.container.reader import VtkReader
    from vtok_codec.media.reader import VideoReader
    from vtok_codec.play.overview import read_overview
    from vtok_codec.play.server import Played, PlayServer

    if file == STANDARD_STREAM or (Path(file).exists() and not Path(file).is_file()):
        raise InputError("only a file can be played, since a pipe cannot seek; name one")
    if 1 in CLOSED_STREAMS:
        raise OutputError("standard output is closed, where the address is printed; redirect it")
    if source:
        with VideoReader(source, audio=False) as beside:
            require_pixels(str(source), beside.info.width, beside.info.height, max_pixels)
    loader = DecoderLoader(weights, device, chosen_engine(engine, DecoderChoice(), device))
    with open_input(file) as stream:
        reader = VtkReader(stream)
        header = reader.header
        require_pixels(file, header.width, header.height, max_pixels)
        overview = read_overview(reader)
    model = header.model
    decoders = loader.choices(header)
    # What is missing is told before the page opens.
    loader.load(model, DecoderChoice(decoders[0]), header.windows)
    played = Played(
        path=Path(file),
        header=header,
        overview=overview,
        source=source,
        decoders=decoders,
        load=lambda name: loader.load(model, DecoderChoice(name), header.windows)[0],
    )
    try:
        server = PlayServer(played, port, lambda problem: notice(f"{file}: {problem}"))
    except OSError as error:
        raise OutputError(f"cannot listen on port {port}: {error.strerror}") from error
    with server, _address_file(server.url) as address:
        print(server.url, flush=True)
        if not quiet:
            notice(f"playing {printable(file)}; Ctrl-C ends")
        if browser:
            # A browser in the terminal keeps its caller until it ends.
            Thread(target=_open, args=(address, quiet), daemon=True).start()
        # An interrupt is the way to end it.
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _open(address: str, quiet: bool) -> None:
    """Open a page in the user's browser."""
    found = webbrowser.open(address)
    if not quiet:
        notice(
            "if the browser shows no page, open the address above"
            if found
            else "no browser was found; open the address above"
        )


@contextmanager
def _address_file(url: str) -> Iterator[str]:
    """Yield the address of a page that leads to another one, and that only this user can read.

    The arguments of a browser can be seen by all users of the machine.
    """
    with tempfile.TemporaryDirectory(prefix="vtok-play-", dir=_page_folder()) as folder:
        page = Path(folder) / "play.html"
        page.write_text(f'<meta http-equiv="refresh" content="0; url={url}" />', encoding="ascii")
        yield page.as_uri()


def _page_folder(snaps: Path = Path("/snap")) -> Path | None:
    """Return the folder for the page that leads to the player; None for that of temporary files.

    A browser that came as a snap sees no temporary files, and of the user's folder only what is not hidden.
    """
    home = Path.home()
    return home if snaps.is_dir() and os.access(home, os.W_OK) else None
