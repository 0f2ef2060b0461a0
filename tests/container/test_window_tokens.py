"""1D tokens in a file: they come back with their chunk, and whatever is wrong with them is noticed."""

from __future__ import annotations

import io
import json
import os
import struct
from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
from file_parts import FileParts, changed, parts_of
from helpers import DATA
from sealing import with_checksums
from test_container import HEADER

from vtok_codec.container.header import Header, WindowHeader
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.prefix import VERSION
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import TOKENS, WINDOWS
from vtok_codec.container.window_tokens import WindowTokens
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import DamageError, FormatError
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.chunks import CodedChunk, GopPacker, chosen_coder
from vtok_codec.stream.unpacking import UnpackedChunk, salvaged_events
from vtok_codec.stream.verifying import verify

GOLDEN = {(1, 1): DATA / "golden-window-tokens.vtk", (2, 0): DATA / "golden-window-tokens-2.0.vtk"}
# The latent grid has two rows and three columns, and so one row of two windows.
WINDOW = WindowHeader("a One-DVA", "fedcba9876543210" * 4, (2, 8, 2), 5, (8, 8, 8, 5, 5, 5))
WITH = replace(HEADER, windows=WINDOW, audio=())
CHUNKS = [
    WindowTokens(np.array([2, 5], np.uint8), np.arange(7, dtype=np.uint16)),
    WindowTokens(np.array([0, 0], np.uint8), np.zeros(0, np.uint16)),
    WindowTokens(np.array([0, 1], np.uint8), np.array([63999], np.uint16)),
]


def file_of(
    header: Header = WITH, chunks: list[WindowTokens | None] | None = None, version: tuple[int, int] = VERSION
) -> bytes:
    """Two GOPs, the first of two chunks."""
    out = io.BytesIO()
    writer = VtkWriter(out, header, version)
    coder, rng = chosen_coder(header, "zstd", None), np.random.default_rng(0)
    begin, packer = 0, GopPacker(header, coder)
    for number, windows in enumerate(CHUNKS if chunks is None else chunks):
        gop, first = number // 2, number % 2 == 0
        packer = GopPacker(header, coder) if first else packer
        frames = header.max_chunk_frames(True) if first else 4
        shape = header.chunk_latent_shape(frames, first)
        digits = rng.integers(0, 5, (header.planes, *shape)).astype(np.uint8)
        pts = tuple(range(begin, begin + frames * 1001, 1001))
        packer.pack(CodedChunk(gop, pts, 1001, digits, windows)).write(writer)
        begin = pts[-1] + 1001
    writer.finish()
    return out.getvalue()


def chunks_of(data: bytes) -> list[TokenChunk]:
    return [event for event in VtkReader(io.BytesIO(data)).events() if isinstance(event, TokenChunk)]


def test_1d_tokens_come_back_with_their_chunk() -> None:
    data = file_of()
    read = chunks_of(data)
    assert len(read) == 3
    for chunk, wanted in zip(read, CHUNKS, strict=True):
        assert chunk.window_tokens is not None
        assert np.array_equal(chunk.window_tokens.counts, wanted.counts)
        assert np.array_equal(chunk.window_tokens.tokens, wanted.tokens)
    summary = verify(io.BytesIO(data), find_prior)
    assert summary.token_bytes == sum(chunk.record_bytes for chunk in read)


def test_a_chunk_that_lacks_them_is_damage() -> None:
    events = VtkReader(io.BytesIO(file_of(chunks=[CHUNKS[0], None, CHUNKS[2]]))).events()
    chunks = [next(events), next(events)]
    assert [isinstance(chunk, TokenChunk) and chunk.window_tokens is None for chunk in chunks] == [False, True]
    with pytest.raises(DamageError, match="missing"):
        next(events)


@pytest.mark.parametrize(("field", "value"), [("gop", 1), ("raw_size", 6)])
def test_fields_of_their_record_that_lie_are_damage(field: str, value: int) -> None:
    def lie(parts: FileParts) -> None:
        windows = parts.of_type(WINDOWS)[0]
        windows.fields = windows.fields._replace(**{field: value})

    with pytest.raises(DamageError):
        chunks_of(changed(file_of(), lie))


def test_a_reader_that_does_not_know_them_reads_the_rest() -> None:
    """Without the key in the header, the records are of an unknown ancillary type."""
    known, plain = file_of(), file_of(replace(WITH, windows=None))
    assert [chunk.packed for chunk in chunks_of(known)] == [chunk.packed for chunk in chunks_of(plain)]
    assert all(chunk.window_tokens is None for chunk in chunks_of(plain))


def test_the_header_keeps_what_it_says_about_them() -> None:
    assert header_from_json(header_to_json(WITH)) == WITH


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", [2, 8]),
        ("window", [0, 8, 8]),
        ("window", [1, 8, 8]),
        ("most", 0),
        ("most", 256),
        ("levels", [256, 256, 2]),
        ("weights_sha256", "x" * 64),
        ("name", "a\nb"),
        ("name", None),
    ],
)
def test_a_header_that_lies_about_them_is_refused(key: str, value: object) -> None:
    fields = json.loads(header_to_json(WITH))
    fields["window_tokens"][key] = value
    with pytest.raises(FormatError):
        header_from_json(json.dumps(fields).encode())


def test_more_1d_tokens_than_anyone_needs_are_refused() -> None:
    """Windows of one position of a large picture would take gigabytes."""
    large = replace(WITH, width=8192, height=8192, windows=replace(WINDOW, window=(2, 1, 1), most=255))
    with pytest.raises(FormatError, match="1D tokens"):
        header_from_json(header_to_json(large))


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"\x02", "cut short"),
        (b"\x06\x00" + bytes(12), "at most 5"),
        (b"\x01\x01" + bytes(2), "another number"),
        (b"\x01\x01" + bytes(6), "another number"),
        (b"\x01\x00" + struct.pack("<H", 64000), "not below 64000"),
    ],
)
def test_wrong_1d_tokens_are_damage(payload: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WindowTokens.from_bytes(payload, WINDOW, 2)

    def put(parts: FileParts) -> None:
        parts.of_type(WINDOWS)[0].payload = payload

    events = VtkReader(io.BytesIO(changed(file_of(), put))).events()
    # The chunk itself is whole, and comes first.
    chunk = next(events)
    assert isinstance(chunk, TokenChunk) and chunk.window_tokens is None
    with pytest.raises(DamageError, match=said):
        next(events)


def test_1d_tokens_without_a_chunk_are_damage() -> None:
    data = file_of(chunks=[CHUNKS[0]])

    def repeat(parts: FileParts) -> None:
        windows = parts.records[1]
        again = replace(windows, fields=windows.fields._replace(number=windows.fields.number + 1))
        parts.records.insert(2, again)

    twice = changed(data, repeat)
    events = VtkReader(io.BytesIO(twice)).events()
    next(events)
    with pytest.raises(DamageError, match="do not follow"):
        list(events)


def test_a_pipe_gives_a_chunk_out_as_soon_as_its_1d_tokens_are_there() -> None:
    """The pipe stays open: whoever reads on for the next record waits without end."""
    data = file_of()
    end = parts_of(data).of_type(WINDOWS)[0].end
    source, sink = os.pipe()
    with open(source, "rb") as stream, open(sink, "wb", buffering=0) as out:
        out.write(data[:end])
        found: list[object] = []
        reading = Thread(target=lambda: found.append(next(VtkReader(stream).events())), daemon=True)
        reading.start()
        reading.join(10)
        assert not reading.is_alive()
    assert isinstance(found[0], TokenChunk) and found[0].window_tokens is not None


def test_recovery_passes_over_a_chunk_that_cannot_be_unpacked() -> None:
    """Its record is whole, and so is the GOP behind it."""
    data = file_of()
    place = parts_of(data).of_type(TOKENS)[0].payload_start + 3
    broken = with_checksums(data[:place] + b"\xff" + data[place + 1 :])
    chunks = [
        event
        for event in salvaged_events(VtkReader(io.BytesIO(broken)), find_prior)
        if isinstance(event, UnpackedChunk)
    ]
    assert [chunk.chunk.gop for chunk in chunks] == [1]


def test_recovery_goes_on_with_the_next_gop_and_its_1d_tokens() -> None:
    data = bytearray(file_of())
    data[parts_of(bytes(data)).of_type(TOKENS)[0].payload_start + 5] ^= 1
    chunks = [
        event for event in salvaged_events(VtkReader(io.BytesIO(data)), find_prior) if isinstance(event, UnpackedChunk)
    ]
    assert [chunk.chunk.gop for chunk in chunks] == [1]
    windows = chunks[0].chunk.window_tokens
    assert windows is not None and windows.tokens.tolist() == [63999]


@pytest.mark.parametrize("version", GOLDEN)
def test_the_golden_files_read_as_they_did(version: tuple[int, int]) -> None:
    golden = GOLDEN[version].read_bytes()
    old, new = parts_of(golden), parts_of(file_of(version=version))
    # Another library may deflate the header to other bytes, which moves what follows.
    assert old.header == new.header and old.version == version
    assert [part.payload for part in old.records[:-2]] == [part.payload for part in new.records[:-2]]
    read = [chunk.window_tokens for chunk in chunks_of(golden)]
    assert [windows.tokens.tolist() for windows in read if windows] == [list(range(7)), [], [63999]]
