"""The `.vtk` file: exact both ways, and every cut, flip and lie is noticed before it costs anything."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers import DATA
from hypothesis import given
from hypothesis import strategies as st

from vtok_codec.container.header import AudioHeader, Header, ModelId
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import (
    CRC,
    END,
    FIELDS,
    FOOTER_SIZE,
    GOP_ENTRY_SIZE,
    INDEX,
    MAX_INDEX_BYTES,
    MAX_TICKS,
    TOKENS,
    GopEntry,
    Record,
    StoredPacket,
    TokenPayload,
    Totals,
    footer_from_bytes,
    footer_to_bytes,
    index_from_bytes,
    index_to_bytes,
    packets_from_bytes,
    packets_to_bytes,
)
from vtok_codec.container.varint import read_varint, write_varint
from vtok_codec.container.writer import MAGIC, PREFIX, VtkWriter
from vtok_codec.errors import DamageError, FormatError
from vtok_codec.stream.reading import UnpackedChunk, read_tokens, salvaged_events, token_bytes, verify
from vtok_codec.tokens.coders import PRIOR, WAVES, ZSTD, CoderSpec, DigitLayout, fitting_coder, make_coder
from vtok_codec.tokens.prior.prior import Prior
from vtok_codec.tokens.radix import digits_to_tokens
from vtok_codec.tokens.zstd_groups import pack

LEVELS = (8, 8, 8, 5, 5, 5)
HEADER = Header(
    width=21,
    height=13,
    rate=Fraction(30000, 1001),
    time_base=Fraction(1, 30000),
    frame_ticks=1001,
    sar=Fraction(4, 3),
    color=(1, 9, 18, 9),
    rotation=-90,
    model=ModelId("a model", "0123456789abcdef" * 4, (4, 8, 8), LEVELS),
    tokens_per_position=2,
    gop_latents=3,
    chunk_latents=2,
    audio=(AudioHeader("aac", Fraction(1, 44100), 44100, "stereo", b"\x12\x10"),),
    writer="vtok test",
)
PACKETS = [StoredPacket(0, -1024, -1024, 1024, b"abc"), StoredPacket(0, None, None, 0, b"")]


def write_file(
    header: Header = HEADER,
    extra: bytes = b"",
    coders: Sequence[CoderSpec] = (ZSTD,) * 3,
    prior: Prior | None = None,
) -> bytes:
    """Two GOPs, nine and three frames, the second with times of its own; audio between; a record of type `extra`.

    `coders`: of the three chunks, two of them in the first GOP.
    """
    rng = np.random.default_rng(7)
    out = io.BytesIO()
    writer = VtkWriter(out, header)
    if extra:
        writer._record(extra, b"from the future")
    chunks = ((0, 100, 5, True), (0, 5105, 4, False), (1, 9109, 3, True))
    for (gop, pts, frames, first), spec in zip(chunks, coders, strict=True):
        if first:
            coder = spec.make(DigitLayout(LEVELS, header.tokens_per_position, 1, prior))
        shape = (header.planes, *header.chunk_latent_shape(frames, first))
        digits = rng.integers(0, 5, shape).astype(np.uint8)
        ticks = (1001, 500, 2000) if gop == 1 else ()
        payload = TokenPayload(ticks, *spec.id, coder.pack(digits))
        writer.write_tokens(gop, pts, frames, payload, digits.size, token_bytes(digits_to_tokens(digits, LEVELS)))
        if gop == 0:
            writer.write_audio(PACKETS)
    writer.finish()
    return out.getvalue()


WHOLE = write_file()


def chunks_before_error(data: bytes) -> tuple[int, Exception | None]:
    """How many chunks the reader delivers, and what stops it."""
    count = 0
    try:
        for event in VtkReader(io.BytesIO(data)).events():
            count += isinstance(event, TokenChunk)
    except (DamageError, FormatError) as error:
        return count, error
    return count, None


def reseal(data: bytearray, offset: int) -> None:
    """Make the CRC of the record at `offset` right again: a crafted file, not a damaged one."""
    size = FIELDS.unpack_from(data, offset)[1]
    end = offset + FIELDS.size + size
    CRC.pack_into(data, end, zlib.crc32(data[offset:end]))


def first_record() -> int:
    return PREFIX.size + PREFIX.unpack_from(WHOLE)[3] + CRC.size


def test_everything_comes_back() -> None:
    reader = VtkReader(io.BytesIO(WHOLE))
    assert reader.header == HEADER
    events = list(reader.events())
    chunks = [event for event in events if isinstance(event, TokenChunk)]
    assert [(c.gop, c.first, c.latent_shape) for c in chunks] == [
        (0, True, (2, 2, 3)),
        (0, False, (1, 2, 3)),
        (1, True, (2, 2, 3)),
    ]
    assert chunks[0].pts == (100, 1101, 2102, 3103, 4104) and chunks[0].last_duration == 1001
    assert chunks[2].pts == (9109, 10110, 10610) and chunks[2].last_duration == 2000
    assert events[1] == PACKETS


def test_summary_counts_what_is_there() -> None:
    summary = verify(io.BytesIO(WHOLE))
    assert (summary.totals.frames, summary.totals.chunks, summary.totals.gops) == (12, 3, 2)
    assert summary.totals.audio_packets == 4
    assert summary.file_bytes == len(WHOLE)
    assert summary.duration_s == pytest.approx((10610 + 2000 - 100) / 30000)


def test_a_pipe_that_gives_single_bytes_reads_the_same() -> None:
    class Trickle(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(WHOLE)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 1))

    assert verify(Trickle()).totals == verify(io.BytesIO(WHOLE)).totals  # type: ignore[arg-type]


def test_gops_are_found_by_the_index() -> None:
    whole = read_tokens(io.BytesIO(WHOLE))
    assert whole.shape == (5, 2, 3, 2)
    assert np.array_equal(read_tokens(io.BytesIO(WHOLE), 0), whole[:3])
    assert np.array_equal(read_tokens(io.BytesIO(WHOLE), 1), whole[3:])


def test_a_gop_is_read_whatever_stands_behind_it() -> None:
    whole = read_tokens(io.BytesIO(WHOLE))
    data = bytearray(WHOLE)
    data[VtkReader(io.BytesIO(WHOLE)).index()[1].offset + FIELDS.size] ^= 1
    assert np.array_equal(read_tokens(io.BytesIO(data), 0), whole[:3])
    for gop in (1, None):
        with pytest.raises(DamageError, match="CRC"):
            read_tokens(io.BytesIO(data), gop)
    # The second chunk of the first GOP, without which its frames are not all there.
    data = bytearray(WHOLE)
    data[WHOLE.index(TOKENS, WHOLE.index(TOKENS) + 1) + FIELDS.size] ^= 1
    with pytest.raises(DamageError, match="CRC"):
        read_tokens(io.BytesIO(data), 0)


@pytest.mark.parametrize("before", [b"", b"something else, then "])
def test_places_count_from_where_the_stream_stood(before: bytes) -> None:
    """Also after a look at the index, which leaves the reader where it was."""
    stream = io.BytesIO(before + WHOLE)
    stream.seek(len(before))
    reader = VtkReader(stream)
    at = reader.position
    assert len(reader.index()) == 2 and reader.position == at
    assert isinstance(list(reader.events())[-1], Totals)
    assert reader.position == len(WHOLE)


@pytest.mark.parametrize("cut", range(0, len(WHOLE), 1))
def test_every_cut_is_noticed_and_whole_chunks_come_before_it(cut: int) -> None:
    try:
        delivered, error = chunks_before_error(WHOLE[:cut])
    except (DamageError, FormatError) as early:
        delivered, error = 0, early
    assert error is not None
    offset, whole_chunks = first_record(), 0
    while offset + FIELDS.size <= cut:
        type_, size = FIELDS.unpack_from(WHOLE, offset)[:2]
        offset += FIELDS.size + size + CRC.size
        whole_chunks += type_ == b"TOKN" and offset <= cut
    assert delivered == whole_chunks


@pytest.mark.parametrize("place", range(len(WHOLE)))
def test_every_flipped_byte_is_noticed(place: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= 0x41
    with pytest.raises(FormatError):
        verify(io.BytesIO(bytes(damaged)))


def test_a_record_left_out_is_noticed() -> None:
    start = first_record()
    size = FIELDS.unpack_from(WHOLE, start)[1] + FIELDS.size + CRC.size
    without = WHOLE[:start] + WHOLE[start + size :]
    assert isinstance(chunks_before_error(without)[1], DamageError)
    twice = WHOLE[: start + size] + WHOLE[start : start + size] + WHOLE[start + size :]
    assert isinstance(chunks_before_error(twice)[1], DamageError)


@pytest.mark.parametrize(
    ("field", "value"), [(1, 0xFFFFFFFF), (5, 0), (5, 6), (5, 0xFFFFFFFF), (6, 0), (6, 0xFFFFFFFF), (3, 5), (2, 9)]
)
def test_a_crafted_record_is_refused(field: int, value: int) -> None:
    """Sizes and counts that lie, with a right CRC where that can be had."""
    data = bytearray(WHOLE)
    start = first_record()
    fields = list(FIELDS.unpack_from(data, start))
    fields[field] = value
    FIELDS.pack_into(data, start, *fields)
    if field != 1:
        reseal(data, start)
    delivered, error = chunks_before_error(bytes(data))
    assert delivered == 0 and isinstance(error, DamageError)


def test_a_lying_size_makes_the_reader_ask_for_little() -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            Counting.largest = max(Counting.largest, size or 0)
            return super().read(size)

    record = bytearray(Record(b"zzzz", 0, 0, 0, 0, 0, b"").to_bytes())
    FIELDS.pack_into(record, 0, b"zzzz", 0xFFFFFFFF, 0, 0, 0, 0, 0)
    reader = VtkReader(Counting(WHOLE[: first_record()] + bytes(record)))
    with pytest.raises(DamageError):
        list(reader.events())
    assert Counting.largest <= 1 << 20


def test_unknown_ancillary_records_are_passed_over() -> None:
    assert chunks_before_error(write_file(extra=b"zzzz")) == (3, None)


def test_unknown_critical_records_are_refused() -> None:
    delivered, error = chunks_before_error(write_file(extra=b"ZZZZ"))
    assert delivered == 0 and type(error) is FormatError and "newer vtok" in str(error)


def test_another_major_version_is_refused() -> None:
    data = bytearray(WHOLE)
    struct.pack_into("<H", data, len(MAGIC), 2)
    with pytest.raises(FormatError, match="version 2"):
        VtkReader(io.BytesIO(bytes(data)))


def header_with(**changes: Any) -> bytes:
    fields = json.loads(header_to_json(HEADER))
    fields.update(changes)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 60000,
        header_to_json(HEADER)[:-1] + b',"width":21}',
        header_with(width=0),
        header_with(width=1 << 40),
        header_with(width=30000, coded_width=30000, height=30000, coded_height=30000),
        header_with(width=21.0),
        header_with(width=True),
        header_with(coded_width=32),
        header_with(rate=[0, 1]),
        header_with(time_base=[1]),
        header_with(time_base=None),
        header_with(tokens=17),
        header_with(
            tokens=16,
            chunk_latents=64,
            model={"name": "m", "weights_sha256": "0" * 64, "stride": [1, 1, 1], "levels": [2] * 16},
            width=8000,
            height=8000,
            coded_width=8000,
            coded_height=8000,
        ),
        header_with(chunk_latents=65),
        header_with(audio=[{}]),
        header_with(audio="none"),
        header_with(model={"name": "m", "weights_sha256": "0" * 64, "stride": [4, 8, 8], "levels": [256] * 3}),
        header_with(model={"name": "m", "weights_sha256": "g" * 64, "stride": [4, 8, 8], "levels": [8]}),
        header_with(rotation=float("nan")),
        header_with(writer="\x1b[2Jgone"),
        header_with(writer="two\nlines"),
        header_to_json(HEADER).replace(b'"writer":"', b'"writer":"\\ud800'),
    ],
    ids=lambda text: repr(text[:12]) + str(len(text)),
)
def test_headers_that_lie_are_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        header_from_json(text)


def test_unknown_header_keys_are_for_later_versions() -> None:
    assert header_from_json(header_with(colour_of_the_cover="blue")) == HEADER


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(DamageError, match="after the end"):
        verify(io.BytesIO(WHOLE + WHOLE))


def test_a_file_without_frames_is_refused() -> None:
    out = io.BytesIO()
    VtkWriter(out, HEADER).finish()
    with pytest.raises(DamageError, match="no frame"):
        verify(io.BytesIO(out.getvalue()))


def test_an_index_that_lies_is_noticed() -> None:
    data = bytearray(WHOLE)
    offset = footer_from_bytes(WHOLE[-FOOTER_SIZE:])[0]
    data[offset + FIELDS.size] ^= 1
    reseal(data, offset)
    with pytest.raises(DamageError, match="index does not match"):
        verify(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("ticks", [(1, 1), (0, 1, 1), (1, -5, 1), (1, 1, -1), (1 << 62, 1, 1)])
def test_times_that_do_not_grow_are_refused(ticks: tuple[int, ...]) -> None:
    payload = TokenPayload(ticks, *ZSTD.id, b"")
    with pytest.raises(ValueError):
        TokenPayload.from_bytes(payload.to_bytes(), 3)


def test_endless_times_are_refused_at_once() -> None:
    payload = struct.pack("<BBI", *ZSTD.id, 1 << 24) + bytes(1 << 24)
    with pytest.raises(ValueError, match="more times"):
        TokenPayload.from_bytes(payload, 3)


def test_a_still_image_has_no_rate() -> None:
    still = replace(HEADER, rate=None, frame_ticks=0, audio=())
    assert header_from_json(header_to_json(still)) == still


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=3))
def test_varints_come_back(value: int, after: bytes) -> None:
    data = write_varint(value)
    assert read_varint(data + after, 0) == (value, len(data))


@given(st.binary(max_size=12))
def test_varints_of_noise_stay_in_range(data: bytes) -> None:
    try:
        value, position = read_varint(data, 0)
    except ValueError:
        return
    assert -(1 << 63) <= value < 1 << 63 and 0 < position <= len(data)


@given(st.binary(max_size=64), st.integers(0, 4))
def test_audio_records_of_noise_raise_value_error_only(data: bytes, count: int) -> None:
    try:
        packets = packets_from_bytes(data, count, tracks=2)
    except ValueError:
        return
    assert packets_from_bytes(packets_to_bytes(packets), count, tracks=2) == packets


def test_golden_file_still_reads() -> None:
    """Written by version 1.0 of the format: bytes that every later reader must understand."""
    golden = (DATA / "golden-1.0.vtk").read_bytes()
    assert VtkReader(io.BytesIO(golden)).header == HEADER
    tokens = np.load(DATA / "golden-1.0.npy")
    assert np.array_equal(read_tokens(io.BytesIO(golden)), tokens)
    assert verify(io.BytesIO(golden)).totals.token_digest.hex() == (
        "72435808448a8f9958ea8545fc807c19fcb0960897f5568e2cc215d4cf4801ce"
    )


def test_golden_waves_still_read_and_are_written_alike() -> None:
    """The same tokens by coder 2, whose arithmetic is exact: every machine writes these bytes."""
    golden = (DATA / "golden-waves.vtk").read_bytes()
    assert write_file(coders=(WAVES,) * 3) == golden
    assert np.array_equal(read_tokens(io.BytesIO(golden)), np.load(DATA / "golden-1.0.npy"))
    assert np.array_equal(read_tokens(io.BytesIO(golden), 1), np.load(DATA / "golden-1.0.npy")[3:])


def test_a_gop_has_one_coder_and_the_next_may_have_another() -> None:
    mixed = write_file(coders=(WAVES, WAVES, ZSTD))
    assert np.array_equal(read_tokens(io.BytesIO(mixed)), np.load(DATA / "golden-1.0.npy"))
    wrong = write_file(coders=(ZSTD, WAVES, WAVES))
    with pytest.raises(DamageError, match="another coder than its GOP began with"):
        read_tokens(io.BytesIO(wrong))


def test_waves_are_only_for_few_levels() -> None:
    assert fitting_coder(WAVES, DigitLayout(LEVELS, 1), 1 << 20).spec == WAVES
    assert fitting_coder(WAVES, DigitLayout((17, 2), 1), 1 << 20).spec == ZSTD
    assert fitting_coder(WAVES, DigitLayout(LEVELS, 1), 1 << 24).spec == ZSTD
    assert fitting_coder(PRIOR, DigitLayout(LEVELS, 1), 1 << 20).spec == WAVES
    with pytest.raises(LookupError):
        make_coder(WAVES.id, DigitLayout((17, 2), 1))


def test_writing_is_reproducible() -> None:
    assert write_file() == WHOLE


@dataclass
class Crafted:
    """A file made of chunks of ones, with the writer open to be misused."""

    header: Header = HEADER

    def __post_init__(self) -> None:
        self.out = io.BytesIO()
        self.writer = VtkWriter(self.out, self.header)
        self.gop = -1

    def chunk(self, gop: int, pts: int, frames: int) -> Crafted:
        header = self.header
        digits = np.ones((header.planes, *header.chunk_latent_shape(frames, gop != self.gop)), np.uint8)
        payload = TokenPayload((), *ZSTD.id, pack(digits, LEVELS))
        tokens = token_bytes(digits_to_tokens(digits, LEVELS))
        self.writer.write_tokens(gop, pts, frames, payload, digits.size, tokens)
        self.gop = gop
        return self

    def index(self) -> int:
        place = self.writer._offset
        self.writer._record(INDEX, index_to_bytes(self.writer._index))
        return place

    def end(self, index: int) -> bytes:
        """The end alone, with a footer that points at `index`."""
        writer = self.writer
        totals = Totals(writer._frames, writer._chunks, len(writer._index), writer._packets, writer._digest.digest())
        writer._record(END, totals.to_bytes())
        writer._write(footer_to_bytes(index, writer._offset))
        return self.out.getvalue()

    def finish(self) -> bytes:
        self.writer.finish()
        return self.out.getvalue()


def chunks_file(chunks: list[tuple[int, int]], audio: bool) -> bytes:
    """A file of chunks, each with its GOP and its number of frames, audio after each."""
    crafted, pts = Crafted(), 0
    for gop, frames in chunks:
        crafted.chunk(gop, pts, frames)
        pts += 1001 * frames
        if audio:
            crafted.writer.write_audio(PACKETS)
            crafted.writer.write_audio(PACKETS[:1])
    return crafted.finish()


def test_chunks_that_run_backwards_are_refused() -> None:
    for pts in (4004, -5000):
        with pytest.raises(DamageError, match=f"starts at {pts} ticks, not after 4004"):
            verify(io.BytesIO(Crafted().chunk(0, 0, 5).chunk(1, pts, 5).finish()))
    timeless = Crafted(replace(HEADER, rate=None, frame_ticks=0))
    with pytest.raises(DamageError, match="no times"):
        verify(io.BytesIO(timeless.chunk(0, 0, 5).finish()))
    assert verify(io.BytesIO(Crafted(timeless.header).chunk(0, 0, 1).finish())).totals.frames == 1


def test_the_index_stands_before_the_end_only() -> None:
    crafted = Crafted().chunk(0, 0, 5)
    index = crafted.index()
    with pytest.raises(DamageError, match="stands behind the index"):
        verify(io.BytesIO(crafted.chunk(1, 9009, 5).end(index)))
    with pytest.raises(DamageError, match="the index is missing"):
        verify(io.BytesIO(Crafted().chunk(0, 0, 5).end(0)))


def test_an_index_entry_that_leads_to_no_chunk_is_refused() -> None:
    crafted = Crafted().chunk(0, 0, 5)
    crafted.writer._index.append(GopEntry(crafted.writer._offset, 9009, 5))
    crafted.writer.write_audio(PACKETS)
    data = crafted.end(crafted.index())
    with pytest.raises(DamageError, match="another place than the start of GOP 1"):
        read_tokens(io.BytesIO(data), 1)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([GopEntry(90, 0, 0), GopEntry(80, 10, 5)], "do not grow"),
        ([GopEntry(90, 0, 0), GopEntry(180, 0, 5)], "do not grow"),
        ([GopEntry(90, 0, 5), GopEntry(180, 10, 5)], "do not grow"),
        ([GopEntry(90, -(1 << 63), 0), GopEntry(180, 10, 5)], "out of range"),
        ([GopEntry(90, 0, 0), GopEntry(180, MAX_TICKS + 1, 5)], "out of range"),
    ],
)
def test_an_index_out_of_order_or_range_is_refused(entries: list[GopEntry], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        index_from_bytes(index_to_bytes(entries))


def test_an_index_that_is_too_long_is_not_read() -> None:
    """By itself, that is; a record of so many bytes is refused before it is read."""
    crafted = Crafted().chunk(0, 0, 5)
    place = crafted.writer._offset
    crafted.writer._record(INDEX, bytes(MAX_INDEX_BYTES + GOP_ENTRY_SIZE))
    with pytest.raises(DamageError, match="no usable index"):
        VtkReader(io.BytesIO(crafted.end(place))).index()


def test_audio_times_are_bounded() -> None:
    for packet in (StoredPacket(0, MAX_TICKS + 1, None, 0, b""), StoredPacket(0, None, -(1 << 63), 0, b"")):
        with pytest.raises(ValueError, match="time out of range"):
            packets_from_bytes(packets_to_bytes([packet]), 1, 1)


@pytest.mark.parametrize("audio", [False, True])
@pytest.mark.parametrize(
    ("chunks", "recovered"),
    [
        ([(gop, frames) for gop in range(4) for frames in (5, 4)], [1, 1, 2, 2, 3, 3]),
        # Whether the chunk behind the damage starts its GOP cannot be told from it alone.
        ([(gop, 5) for gop in range(4)], [2, 3]),
    ],
)
def test_gops_are_found_behind_a_damage_without_an_index(
    audio: bool, chunks: list[tuple[int, int]], recovered: list[int]
) -> None:
    data = bytearray(chunks_file(chunks, audio))
    data[first_record() + 50] ^= 1
    events = list(salvaged_events(VtkReader(io.BytesIO(data[:-4]))))
    assert [event.chunk.gop for event in events if isinstance(event, UnpackedChunk)] == recovered
