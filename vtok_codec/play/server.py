"""The server of the player: it answers this machine only, and only those who know its address."""

from __future__ import annotations

import json
import math
import secrets
import select
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

from vtok_codec.codec.pixel_decoder import PixelDecoder
from vtok_codec.container.header import Header
from vtok_codec.errors import VtokError
from vtok_codec.play.overview import Overview
from vtok_codec.play.streams import write_decoded, write_source

_HOST = "127.0.0.1"
_DEFAULT_PORT = 80
_ELSEWHERE = (
    "Open the address that vtok printed, as it is. To watch from another machine, forward the same port number: "
    "ssh -L PORT:127.0.0.1:PORT."
)
_PAGES = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
"""The files of the page, by the end of their address."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; media-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing but what this server sends, and no script that stands in the page itself."""


@dataclass(frozen=True)
class Played:
    """What is played, and how."""

    path: Path
    """The file."""
    header: Header
    """Its header."""
    overview: Overview
    """What it contains."""
    source: Path | None
    """The video to show beside it."""
    decoders: tuple[str, ...]
    """The names of the decoders that can be chosen, the first one by default."""
    load: Callable[[str], PixelDecoder]
    """Returns the decoder of a name."""

    def about(self) -> dict[str, Any]:
        """Return what the page must know, as JSON."""
        header, overview = self.header, self.overview
        return {
            "name": self.path.name,
            "width": header.width,
            "height": header.height,
            "rate": float(header.rate) if header.rate else None,
            "seconds": overview.seconds,
            "model": header.model.name,
            "tokens": header.tokens_per_position,
            "sound": bool(header.audio),
            "decoders": list(self.decoders),
            "source": self.source.name if self.source else None,
            "gops": [asdict(gop) for gop in overview.gops],
            "damage": [asdict(part) for part in overview.damage],
        }


class PlayServer(ThreadingHTTPServer):
    """Serves the player's page, what it must know of the file, and the video from any time on.

    It listens on the loopback address only. Its address holds a random token, without which it answers nothing, so that
    other users of the machine and other pages of the browser cannot read the file.

    Args:
        played: What is played.
        port: The port to listen on; 0 for any that is free.
        on_problem: Called with what is wrong, in a line, when a video breaks off.
    """

    daemon_threads = True

    def __init__(self, played: Played, port: int = 0, on_problem: Callable[[str], None] = lambda text: None) -> None:
        super().__init__((_HOST, port), _Handler)
        self.played = played
        self.token = secrets.token_urlsafe(16)
        self.problem = ""
        """Why the last video broke off; empty if it did not."""
        self._on_problem = on_problem
        self._told: set[str] = set()

    def tell_once(self, problem: str) -> None:
        """Tell something that every request finds anew."""
        if problem not in self._told:
            self._told.add(problem)
            self._on_problem(problem)

    def broke_off(self, error: Exception) -> None:
        """Keep why a video broke off, for the page, and tell it."""
        self.problem = _reason(error)
        self._on_problem(self.problem)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{_HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell an error, but not that a browser closes a connection, as it does with every seek."""
        error = sys.exception()
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self._on_problem(_reason(error))


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server_version = "vtok"
    sys_version = ""

    @property
    def _serving(self) -> PlayServer:
        return cast(PlayServer, self.server)

    def do_GET(self) -> None:
        """Answer a request for a page, the description of the file, or a video."""
        address = urlsplit(self.path)
        begin = f"/{self._serving.token}/"
        # Another name for this machine would be that of a page elsewhere which wants to read what we send.
        if not self._is_for_us() or not address.path.startswith(begin):
            self.send_error(HTTPStatus.NOT_FOUND, explain=_ELSEWHERE)
            return
        name = address.path.removeprefix(begin)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        played = self._serving.played
        if name in _PAGES:
            file, kind = _PAGES[name]
            self._send(files("vtok_codec.play").joinpath(file).read_bytes(), f"{kind}; charset=utf-8")
        elif name == "about.json":
            self._send(json.dumps(played.about()).encode(), "application/json")
        elif name == "problem.txt":
            self._send(self._serving.problem.encode(), "text/plain; charset=utf-8")
        elif name == "video":
            self._serving.problem = ""
            self._stream(lambda out: self._video(played, query, out))
        elif name == "source" and played.source:
            source = played.source
            self._stream(lambda out: write_source(source, _seconds(query), out, self._is_wanted))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _is_for_us(self) -> bool:
        """Whether the browser asked this machine by the address that was printed. It leaves out the port 80."""
        port = self._serving.server_port
        return self.headers.get("Host") in (
            {f"{_HOST}:{port}", _HOST} if port == _DEFAULT_PORT else {f"{_HOST}:{port}"}
        )

    def _is_wanted(self) -> bool:
        """Whether the browser still reads: it closes the connection of a video that it does not want any more."""
        try:
            return not select.select([self.connection], [], [], 0)[0] or bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def log_message(self, format: str, *args: object) -> None:
        """Write no log: standard error is for messages to the user."""

    def _video(self, played: Played, query: Mapping[str, str], out: BinaryIO) -> None:
        most = played.header.tokens_per_position
        tokens = min(most, max(1, int(query.get("tokens", most))))
        name = query.get("decoder", played.decoders[0])
        if name not in played.decoders:
            raise ValueError(f"no decoder {name!r}")
        start_s, decoder = _seconds(query), played.load(name)
        for lost in write_decoded(played.path, played.header, decoder, tokens, start_s, out, self._is_wanted):
            self._serving.tell_once(f"the page cannot get {lost}")

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self._send_headers(kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, write: Callable[[BinaryIO], None]) -> None:
        """Answer with a video. Its length is unknown, so that it ends with the connection."""
        out = _LateBody(self)
        try:
            with suppress(ConnectionError):
                write(cast(BinaryIO, out))
        except Exception as error:
            if out.begun:
                # The answer has no place for a message any more.
                self._serving.broke_off(error)
            else:
                self._send(_reason(error).encode(), "text/plain; charset=utf-8", HTTPStatus.BAD_REQUEST)
        self.close_connection = True

    def _send_headers(self, kind: str) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")


class _LateBody:
    """The body of an answer, whose head is sent with its first bytes, so that errors before them can be told."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self.begun = False

    def write(self, data: bytes) -> int:
        """Send data."""
        if not self.begun:
            self.begun = True
            self._handler.send_response(HTTPStatus.OK)
            self._handler._send_headers("video/mp4")
            self._handler.end_headers()
        return self._handler.wfile.write(data)

    def flush(self) -> None:
        """Do nothing: nothing is kept back."""


def _reason(error: Exception) -> str:
    """Return what is wrong, in a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, VtokError | ValueError | OSError) else f"internal error: {text}"


def _seconds(query: Mapping[str, str]) -> float:
    """Return where a video is asked to start."""
    start = float(query.get("start", 0))
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"start {start} is not a time")
    return start
