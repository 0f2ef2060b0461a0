"""The JSON text of a header: writing it, and reading it without trusting it."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from vtok_codec.audio import AudioTrack, Tags
from vtok_codec.container.header import (
    ID_BYTES,
    MAX_CHUNK_DIGITS,
    MAX_CHUNK_LATENTS,
    MAX_CODES,
    MAX_GOP_LATENTS,
    MAX_PER_WINDOW,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_TAG_CHARACTERS,
    MAX_TAGS,
    MAX_TOKENS,
    MAX_TRACKS,
    MAX_WINDOW_TOKENS,
    Header,
    ModelId,
    WindowHeader,
)
from vtok_codec.errors import FormatError
from vtok_codec.text import is_printable, is_text

_MAX_TERM = (1 << 31) - 1
"""The largest numerator and the largest denominator of a ratio, as in FFmpeg's rational numbers."""


def header_to_json(header: Header) -> bytes:
    """Serialize a header as compact UTF-8 JSON with its keys in a fixed order."""
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
        | ({"first_grid": list(header.model.first_grid)} if header.model.first_grid != (1, 1) else {}),
        "tokens": header.tokens_per_position,
        "gop_latents": header.gop_latents,
        "chunk_latents": header.chunk_latents,
        "audio": [_audio_fields(track) for track in header.audio],
        "writer": header.writer,
    }
    if header.tags:
        fields["tags"] = dict(header.tags)
    if header.prior_sha256:
        fields["prior_sha256"] = header.prior_sha256
    if header.windows:
        fields["window_tokens"] = {
            "name": header.windows.name,
            "weights_sha256": header.windows.weights_sha256,
            "window": list(header.windows.window),
            "most": header.windows.most,
            "levels": list(header.windows.levels),
        }
    if header.file_id:
        fields["id"] = header.file_id.hex()
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def header_from_json(data: bytes) -> Header:
    """Parse and check a header from its UTF-8 JSON text.

    Raises:
        FormatError: The data are not a JSON object, a key is missing or repeated, or a value is out of range.
    """
    try:
        fields = json.loads(data.decode(), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
        return _Fields(fields, "header").header()
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header is not valid: {error}") from error


class _Fields:
    """Checked access to the members of a JSON object.

    Members with unknown names are ignored, so that minor versions can add some. All methods raise `FormatError` for a
    member that is missing, of the wrong type or out of range.
    """

    def __init__(self, fields: Any, where: str) -> None:
        if not isinstance(fields, dict):
            raise FormatError(f"{where} is not a JSON object")
        self._fields: Mapping[str, Any] = fields
        self._where = where

    def header(self) -> Header:
        """Return the header that this object describes, after all checks."""
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
            tokens_per_position=self.integer("tokens", 1, MAX_TOKENS),
            gop_latents=self.integer("gop_latents", 1, MAX_GOP_LATENTS),
            chunk_latents=self.integer("chunk_latents", 1, MAX_CHUNK_LATENTS),
            audio=tuple(_Fields(track, "an audio track").audio() for track in tracks),
            tags=self.tags(),
            prior_sha256=self.hexadecimal("prior_sha256", 32) if "prior_sha256" in self._fields else None,
            windows=self.object("window_tokens").windows() if "window_tokens" in self._fields else None,
            file_id=bytes.fromhex(self.hexadecimal("id", ID_BYTES)) if "id" in self._fields else b"",
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
        if header.windows:
            _check_windows(header.windows, header)
        return header

    def levels(self) -> tuple[int, ...]:
        """Return the number of values of each digit of a token."""
        levels = self.integers("levels", 1, 16, 2, 256)
        if math.prod(levels) > MAX_CODES:
            raise FormatError(f"levels {levels} make more than {MAX_CODES} codes")
        return levels

    def model(self) -> ModelId:
        """Return the model that this object describes."""
        stride = self.integers("stride", 3, 3, 1, 64)
        levels = self.levels()
        digest = self.hexadecimal("weights_sha256", 32)
        grid = self.integers("first_grid", 2, 2, 1, 64) if "first_grid" in self._fields else (1, 1)
        if stride[1] % grid[0] or stride[2] % grid[1]:
            raise FormatError(f"a first_grid of {grid[0]}x{grid[1]} does not divide the stride")
        return ModelId(self.text("name"), digest, (stride[0], stride[1], stride[2]), levels, (grid[0], grid[1]))

    def windows(self) -> WindowHeader:
        """Return what this object says about 1D tokens."""
        window = self.integers("window", 3, 3, 1, MAX_SIDE)
        levels = self.levels()
        most = self.integer("most", 1, MAX_PER_WINDOW)
        digest = self.hexadecimal("weights_sha256", 32)
        return WindowHeader(self.text("name"), digest, (window[0], window[1], window[2]), most, levels)

    def audio(self) -> AudioTrack:
        """Return the audio track that this object describes."""
        return AudioTrack(
            codec=self.text("codec"),
            time_base=self.ratio("time_base"),
            sample_rate=self.integer("sample_rate", 0, 1 << 31),
            layout=self.text("layout"),
            parameters=self._bytes("parameters"),
            avi_parameters=self._bytes("avi_parameters") if "avi_parameters" in self._fields else b"",
            tags=self.tags(),
        )

    def object(self, key: str) -> _Fields:
        """Return an object inside this one."""
        return _Fields(self._get(key, dict), f"{self._where}: {key}")

    def text(self, key: str) -> str:
        """Return a string that is safe to print on a terminal: without control characters or lone surrogates."""
        value = str(self._get(key, str))
        if not all(map(is_printable, value)):
            raise FormatError(f"{self._where}: {key} holds characters that cannot be printed")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        """Return an integer from `low` to `high`."""
        value = self._get(key, int)
        if not low <= value <= high:
            raise FormatError(f"{self._where}: {key} is {value}, outside {low} to {high}")
        return int(value)

    def integers(self, key: str, least: int, most: int, low: int, high: int) -> tuple[int, ...]:
        """Return an array of `least` to `most` integers, each from `low` to `high`."""
        values = self._get(key, list)
        whole = all(type(value) is int and low <= value <= high for value in values)
        if not least <= len(values) <= most or not whole:
            raise FormatError(f"{self._where}: {key} is not {least} to {most} integers from {low} to {high}")
        return tuple(values)

    def ratio(self, key: str) -> Fraction:
        """Return a positive ratio, stored as an array of its numerator and denominator."""
        values = self._get(key, list)
        if len(values) != 2 or not all(type(value) is int and 0 < value <= _MAX_TERM for value in values):
            raise FormatError(f"{self._where}: {key} is not two positive integers")
        return Fraction(values[0], values[1])

    def hexadecimal(self, key: str, size: int) -> str:
        """Return the lower-case hexadecimal digits of `size` bytes."""
        digits = str(self._get(key, str))
        if len(digits) != 2 * size or set(digits) - set("0123456789abcdef"):
            raise FormatError(f"{key} is not {2 * size} hexadecimal digits")
        return digits

    def tags(self) -> Tags:
        """Return the tags of this object, if it has any."""
        given = self._get("tags", dict) if "tags" in self._fields else {}
        for name, text in given.items():
            if type(text) is not str or not (name and all(map(is_printable, name)) and all(map(is_text, text))):
                raise FormatError(f"{self._where}: a tag is no text that can be printed")
            if len(name) + len(text) > MAX_TAG_CHARACTERS:
                raise FormatError(f"{self._where}: a tag has more than {MAX_TAG_CHARACTERS} characters")
        if len(given) > MAX_TAGS:
            raise FormatError(f"{self._where} has {len(given)} tags; at most {MAX_TAGS} are allowed")
        return tuple(given.items())

    def _bytes(self, key: str) -> bytes:
        """Return a member that is binary data in base64."""
        try:
            return base64.b64decode(self._get(key, str), validate=True)
        except binascii.Error as error:
            raise FormatError(f"{self._where}: {key} is not base64: {error}") from error

    def _get(self, key: str, kind: type) -> Any:
        value = self._fields.get(key)
        if type(value) is not kind:
            raise FormatError(f"{self._where}: {key} is missing or of the wrong type")
        return value


def _check_windows(windows: WindowHeader, header: Header) -> None:
    """Refuse 1D tokens that do not go with the chunks of a file, or are too many."""
    if header.chunk_latents > windows.window[0]:
        raise FormatError(f"a chunk of {header.chunk_latents} time steps is longer than the windows of 1D tokens")
    most = windows.count(header.model.layout, header.height, header.width) * windows.most
    if most > MAX_WINDOW_TOKENS:
        raise FormatError(f"a chunk of up to {most} 1D tokens is more than {MAX_WINDOW_TOKENS}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise FormatError("the header has a key twice")
    return fields


def _refuse_constant(name: str) -> Any:
    raise FormatError(f"the header holds {name}, which is not JSON")


def _pair(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]


def _audio_fields(track: AudioTrack) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "codec": track.codec,
        "time_base": _pair(track.time_base),
        "sample_rate": track.sample_rate,
        "layout": track.layout,
        "parameters": base64.b64encode(track.parameters).decode(),
    }
    if track.avi_parameters:
        fields["avi_parameters"] = base64.b64encode(track.avi_parameters).decode()
    if track.tags:
        fields["tags"] = dict(track.tags)
    return fields
