"""The header of a `.vtk` file: what the video is, which model made it, how its records are laid out."""

from __future__ import annotations

import base64
import binascii
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from vtok_codec.errors import FormatError

MAX_SIDE = 1 << 15
"""Largest width and height, pixels."""
MAX_PIXELS = 1 << 26
"""Most pixels a frame."""
MAX_LATENTS_A_CHUNK = 64
MAX_GOP_LATENTS = 1 << 20
MAX_TOKENS = 16
MAX_CODES = 1 << 16
MAX_CHUNK_DIGITS = 1 << 28
"""Most digits a chunk, one byte each before packing: what a record may make a reader allocate."""
MAX_TRACKS = 32
_MAX_TERM = (1 << 31) - 1
"""Of a ratio: what FFmpeg's rationals hold."""


@dataclass(frozen=True)
class ModelId:
    """The model that made the tokens, and what a reader must know of it to unpack them."""

    name: str
    weights_sha256: str
    """Of the weights file, in hexadecimal: other weights decode to other pictures."""
    stride: tuple[int, int, int]
    """Frames, rows and columns that a latent position stands for."""
    levels: tuple[int, ...]
    """FSQ levels of each digit of a token."""
    first_grid: tuple[int, int] = (1, 1)
    """Rows and columns that the first latent frame of a GOP has for each of a later one. It is stored as so many
    latent frames of the usual grid, its phases."""

    @property
    def extra_phases(self) -> int:
        """How many latent frames more than its time a GOP has."""
        return math.prod(self.first_grid) - 1


@dataclass(frozen=True)
class AudioHeader:
    """One audio track, whose packets are carried as they are."""

    codec: str
    time_base: Fraction
    sample_rate: int
    layout: str
    parameters: bytes
    """A NUT file of this track alone, with one packet of zeros: the codec's parameters for FFmpeg."""


@dataclass(frozen=True)
class Header:
    """Everything that stands before the records. Times are in ticks of `time_base`."""

    width: int
    height: int
    rate: Fraction | None
    time_base: Fraction
    frame_ticks: int
    """Ticks from a frame to the next where a chunk says nothing else; 0 for a still image."""
    sar: Fraction
    color: tuple[int, int, int, int]
    """Range (FFmpeg), primaries, transfer, matrix (ISO/IEC 23091-2)."""
    rotation: int
    model: ModelId
    tokens: int
    """Tokens a latent position."""
    gop_latents: int
    """Most latent frames a GOP."""
    chunk_latents: int
    """Latent frames a chunk; only the last one of a GOP may be shorter."""
    audio: tuple[AudioHeader, ...] = ()
    writer: str = ""

    @property
    def coded_size(self) -> tuple[int, int]:
        """Height and width after padding to the stride."""
        _, sh, sw = self.model.stride
        return -(-self.height // sh) * sh, -(-self.width // sw) * sw

    @property
    def planes(self) -> int:
        """Digit planes of a chunk."""
        return self.tokens * len(self.model.levels)

    def chunk_latent_shape(self, frames: int, first: bool) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a chunk of `frames` frames, the first of its GOP or a later one."""
        st, sh, sw = self.model.stride
        height, width = self.coded_size
        latents = -(-(frames + st - 1) // st) + self.model.extra_phases if first else -(-frames // st)
        return latents, height // sh, width // sw

    def max_chunk_frames(self, first: bool) -> int:
        """Frames of a whole chunk. The first frame of a GOP stands for a whole latent frame."""
        st = self.model.stride[0]
        return self.chunk_latents * st - (st - 1 if first else 0)


def header_to_json(header: Header) -> bytes:
    """The header as compact JSON in UTF-8, keys in a fixed order."""
    fields: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        "coded_width": header.coded_size[1],
        "coded_height": header.coded_size[0],
        "rate": None if header.rate is None else _pair(header.rate),
        "time_base": _pair(header.time_base),
        "frame_ticks": header.frame_ticks,
        "sar": _pair(header.sar),
        "color": dict(zip(("range", "primaries", "transfer", "matrix"), header.color, strict=True)),
        "rotation": header.rotation,
        "model": {
            "name": header.model.name,
            "weights_sha256": header.model.weights_sha256,
            "stride": list(header.model.stride),
            "levels": list(header.model.levels),
        }
        | ({"first_grid": list(header.model.first_grid)} if header.model.extra_phases else {}),
        "tokens": header.tokens,
        "gop_latents": header.gop_latents,
        "chunk_latents": header.chunk_latents,
        "audio": [_audio_fields(track) for track in header.audio],
        "writer": header.writer,
    }
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def header_from_json(data: bytes) -> Header:
    """Parse and check a header.

    Raises:
        FormatError: it is no JSON object, a key is missing or stands twice, or a value is out of its range.
    """
    try:
        fields = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        return _Fields(fields, "header").header()
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header is not valid: {error}") from error


_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They let a name show as another."""


class _Fields:
    """Checked access to the members of a JSON object. Unknown members are ignored, for later minor versions."""

    def __init__(self, fields: Any, where: str) -> None:
        if not isinstance(fields, dict):
            raise FormatError(f"{where} is not a JSON object")
        self._fields: Mapping[str, Any] = fields
        self._where = where

    def header(self) -> Header:
        model = self.object("model")
        color = self.object("color")
        tracks = self._get("audio", list)
        if len(tracks) > MAX_TRACKS:
            raise FormatError(f"the header has {len(tracks)} audio tracks; at most {MAX_TRACKS} are allowed")
        header = Header(
            width=self.integer("width", 1, MAX_SIDE),
            height=self.integer("height", 1, MAX_SIDE),
            rate=None if self._fields.get("rate", 0) is None else self.ratio("rate"),
            time_base=self.ratio("time_base"),
            frame_ticks=self.integer("frame_ticks", 0, _MAX_TERM),
            sar=self.ratio("sar"),
            color=(
                color.integer("range", 0, 2),
                color.integer("primaries", 0, 255),
                color.integer("transfer", 0, 255),
                color.integer("matrix", 0, 255),
            ),
            rotation=self.integer("rotation", -360, 360),
            model=model.model(),
            tokens=self.integer("tokens", 1, MAX_TOKENS),
            gop_latents=self.integer("gop_latents", 1, MAX_GOP_LATENTS),
            chunk_latents=self.integer("chunk_latents", 1, MAX_LATENTS_A_CHUNK),
            audio=tuple(_Fields(track, "an audio track").audio() for track in tracks),
            writer=self.text("writer"),
        )
        coded = (self.integer("coded_height", 1, 1 << 16), self.integer("coded_width", 1, 1 << 16))
        if coded != header.coded_size:
            raise FormatError(f"coded size {coded} does not follow from the size and the stride")
        if header.width * header.height > MAX_PIXELS:
            raise FormatError(f"{header.width}x{header.height} is more than {MAX_PIXELS} pixels")
        digits = header.planes * math.prod(header.chunk_latent_shape(header.max_chunk_frames(True), True))
        if digits > MAX_CHUNK_DIGITS:
            raise FormatError(f"a chunk of {digits} digits is more than {MAX_CHUNK_DIGITS}")
        return header

    def model(self) -> ModelId:
        stride = self.integers("stride", 3, 3, 1, 64)
        levels = self.integers("levels", 1, 16, 2, 256)
        if math.prod(levels) > MAX_CODES:
            raise FormatError(f"levels {levels} make more than {MAX_CODES} codes")
        digest = self._get("weights_sha256", str)
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise FormatError("weights_sha256 is not 64 hexadecimal digits")
        grid = self.integers("first_grid", 2, 2, 1, 64) if "first_grid" in self._fields else (1, 1)
        if stride[1] % grid[0] or stride[2] % grid[1]:
            raise FormatError(f"a first_grid of {grid[0]}x{grid[1]} does not divide the stride")
        return ModelId(self.text("name"), digest, (stride[0], stride[1], stride[2]), levels, (grid[0], grid[1]))

    def audio(self) -> AudioHeader:
        try:
            parameters = base64.b64decode(self._get("parameters", str), validate=True)
        except binascii.Error as error:
            raise FormatError(f"an audio track's parameters are not base64: {error}") from error
        return AudioHeader(
            codec=self.text("codec"),
            time_base=self.ratio("time_base"),
            sample_rate=self.integer("sample_rate", 0, 1 << 31),
            layout=self.text("layout"),
            parameters=parameters,
        )

    def object(self, key: str) -> _Fields:
        return _Fields(self._get(key, dict), f"{self._where}: {key}")

    def text(self, key: str) -> str:
        """A string that may be shown on a terminal: no control characters, no halves of surrogate pairs."""
        value = str(self._get(key, str))
        if any(unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI_CONTROLS for character in value):
            raise FormatError(f"{self._where}: {key} holds characters that cannot be printed")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = self._get(key, int)
        if not low <= value <= high:
            raise FormatError(f"{self._where}: {key} is {value}, outside {low} to {high}")
        return int(value)

    def integers(self, key: str, least: int, most: int, low: int, high: int) -> tuple[int, ...]:
        values = self._get(key, list)
        whole = all(type(value) is int and low <= value <= high for value in values)
        if not least <= len(values) <= most or not whole:
            raise FormatError(f"{self._where}: {key} is not {least} to {most} integers from {low} to {high}")
        return tuple(values)

    def ratio(self, key: str) -> Fraction:
        values = self._get(key, list)
        if len(values) != 2 or not all(type(value) is int and 0 < value <= _MAX_TERM for value in values):
            raise FormatError(f"{self._where}: {key} is not two positive integers")
        return Fraction(values[0], values[1])

    def _get(self, key: str, kind: type) -> Any:
        value = self._fields.get(key)
        if type(value) is not kind:
            raise FormatError(f"{self._where}: {key} is missing or of the wrong type")
        return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FormatError("the header has a key twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise FormatError(f"the header holds {name}, which is not JSON")


def _pair(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _audio_fields(track: AudioHeader) -> dict[str, Any]:
    return {
        "codec": track.codec,
        "time_base": _pair(track.time_base),
        "sample_rate": track.sample_rate,
        "layout": track.layout,
        "parameters": base64.b64encode(track.parameters).decode(),
    }
