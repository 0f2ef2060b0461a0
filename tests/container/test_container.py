"""The `.vtk` file: exact both ways, and every cut, flip and lie is noticed before it costs anything."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from file_parts import FileParts, changed, header_end, parts_of
from helpers import DATA
from hypothesis import given
from hypothesis import strategies as st

from vtok_codec.audio import AudioPacket, AudioTrack
from vtok_codec.container.dictionary import FIRST_DICTIONARY, HEADER_DICTIONARY, SECOND_DICTIONARY
from vtok_codec.container.framing import CompactFraming, FixedFraming, Framing
from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.prefix import MAGIC, MAX_HEADER_BYTES, PREFIX, VERSION, deflated, inflated
from vtok_codec.container.reader import TokenChunk, VtkReader
from vtok_codec.container.records import (
    END,
    INDEX,
    MAX_INDEX_ENTRIES,
    MAX_TICKS,
    TOKENS,
    GopEntry,
    Record,
    TokenPayload,
    Totals,
    packets_from_bytes,
    packets_to_bytes,
)
from vtok_codec.container.varint import read_varint, write_varint
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import DamageError, FormatError
from vtok_codec.prior_files import find_prior, prior_file
from vtok_codec.registry import find_weights
from vtok_codec.stream.reading import read_tokens
from vtok_codec.stream.unpacking import UnpackedChunk, salvaged_events, token_bytes
from vtok_codec.stream.verifying import verify
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
    audio=(AudioTrack("aac", Fraction(1, 44100), 44100, "stereo", b"\x12\x10"),),
    writer="vtok test",
)
FILE_ID = bytes(range(16))
PACKETS = [AudioPacket(0, -1024, -1024, 1024, b"abc"), AudioPacket(0, None, None, 0, b"")]


def write_file(
    header: Header = HEADER,
    extra: bytes = b"",
    coders: Sequence[CoderSpec] = (ZSTD,) * 3,
    prior: Prior | None = None,
    version: tuple[int, int] = (1, 0),
) -> bytes:
    """Two GOPs, nine and three frames, the second with times of its own; audio between; a record of type `extra`.

    `coders`: of the three chunks, two of them in the first GOP.
    """
    rng = np.random.default_rng(7)
    out = io.BytesIO()
    writer = VtkWriter(out, header, version)
    if extra:
        writer._put(writer._numbered(extra, b"from the future"))
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


BOUND_HEADER = replace(HEADER, file_id=FILE_ID)
WHOLE = write_file(BOUND_HEADER, version=VERSION)
VERSIONS = {(1, 0): write_file(), (1, 1): write_file(BOUND_HEADER, version=(1, 1)), VERSION: WHOLE}
"""The same file in each version of the format."""
in_each_version = pytest.mark.parametrize("data", VERSIONS.values(), ids=[f"{x}.{y}" for x, y in VERSIONS])


def chunks_before_error(data: bytes) -> tuple[int, Exception | None]:
    """How many chunks the reader delivers, and what stops it."""
    count = 0
    try:
        for event in VtkReader(io.BytesIO(data)).events():
            count += isinstance(event, TokenChunk)
    except (DamageError, FormatError) as error:
        return count, error
    return count, None


@in_each_version
def test_everything_comes_back(data: bytes) -> None:
    reader = VtkReader(io.BytesIO(data))
    assert replace(reader.header, file_id=b"") == HEADER
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
    tokens = parts_of(data).of_type(TOKENS)
    assert [chunk.record_bytes for chunk in chunks] == [part.end - part.start for part in tokens]


def test_a_record_takes_few_bytes() -> None:
    """In versions 2.x, where a file of some seconds is mostly tokens."""
    fixed, compact = (parts_of(VERSIONS[version]) for version in ((1, 1), VERSION))
    spared = [
        (old.end - old.start) - (new.end - new.start) for old, new in zip(fixed.records, compact.records, strict=True)
    ]
    assert spared == [26, 25, 26, 25, 25, 62, 52]
    assert compact.records[-1].end + compact.framing.footer_size == len(WHOLE)


@in_each_version
def test_summary_counts_what_is_there(data: bytes) -> None:
    summary = verify(io.BytesIO(data), find_prior)
    assert (summary.totals.frames, summary.totals.chunks, summary.totals.gops) == (12, 3, 2)
    assert summary.totals.audio_packets == 4
    assert summary.file_bytes == len(data)
    assert summary.duration_s == pytest.approx((10610 + 2000 - 100) / 30000)


@in_each_version
def test_a_pipe_that_gives_single_bytes_reads_the_same(data: bytes) -> None:
    class Trickle(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.inner.read(min(size, 1))

    assert verify(Trickle(), find_prior).totals == verify(io.BytesIO(data), find_prior).totals  # type: ignore[arg-type]


@in_each_version
def test_gops_are_found_by_the_index(data: bytes) -> None:
    whole = read_tokens(io.BytesIO(data), find_prior)
    assert whole.shape == (5, 2, 3, 2)
    assert np.array_equal(read_tokens(io.BytesIO(data), find_prior, 0), whole[:3])
    assert np.array_equal(read_tokens(io.BytesIO(data), find_prior, 1), whole[3:])


@in_each_version
def test_a_gop_is_read_whatever_stands_behind_it(data: bytes) -> None:
    whole = read_tokens(io.BytesIO(data), find_prior)
    chunks = parts_of(data).of_type(TOKENS)
    damaged = bytearray(data)
    damaged[chunks[2].payload_start] ^= 1
    assert np.array_equal(read_tokens(io.BytesIO(damaged), find_prior, 0), whole[:3])
    for gop in (1, None):
        with pytest.raises(DamageError, match="CRC"):
            read_tokens(io.BytesIO(damaged), find_prior, gop)
    # The second chunk of the first GOP, without which its frames are not all there.
    damaged = bytearray(data)
    damaged[chunks[1].payload_start] ^= 1
    with pytest.raises(DamageError, match="CRC"):
        read_tokens(io.BytesIO(damaged), find_prior, 0)


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


@in_each_version
def test_every_cut_is_noticed_and_whole_chunks_come_before_it(data: bytes) -> None:
    ends = [chunk.end for chunk in parts_of(data).of_type(TOKENS)]
    for cut in range(len(data)):
        try:
            delivered, error = chunks_before_error(data[:cut])
        except (DamageError, FormatError) as early:
            delivered, error = 0, early
        assert error is not None, cut
        assert delivered == sum(end <= cut for end in ends), cut


@in_each_version
def test_every_flipped_byte_is_noticed(data: bytes) -> None:
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x41
        with pytest.raises(FormatError):
            verify(io.BytesIO(bytes(damaged)), find_prior)
            pytest.fail(f"byte {place}")


@in_each_version
def test_a_record_left_out_is_noticed(data: bytes) -> None:
    for number, record in enumerate(parts_of(data).records):
        without = data[: record.start] + data[record.end :]
        twice = data[: record.end] + data[record.start :]
        for wrong in (without, twice):
            assert isinstance(chunks_before_error(wrong)[1], DamageError), number


@in_each_version
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 0xFFFFFFFF),
        ("frames", 0),
        ("frames", 6),
        ("frames", 0xFFFFFFFF),
        ("raw_size", 0),
        ("raw_size", 72 << 24),
        ("gop", 5),
        ("number", 9),
    ],
)
def test_a_crafted_record_is_refused(data: bytes, field: str, value: int) -> None:
    """Sizes and counts that lie, with a right CRC where that can be had."""

    def lie(parts: FileParts) -> None:
        parts.records[0].fields = parts.records[0].fields._replace(**{field: value})

    if field == "size":
        parts = parts_of(data)
        lie(parts)
        start, then = parts.records[0].start, parts.records[0].payload_start
        crafted = data[:start] + parts.framing.fields_to_bytes(parts.records[0].fields) + data[then:]
    else:
        crafted = changed(data, lie)
    delivered, error = chunks_before_error(crafted)
    assert delivered == 0 and isinstance(error, DamageError)


@pytest.mark.parametrize("number", [-1, 1 << 32, (1 << 63) - 1])
@pytest.mark.parametrize("place", range(6))
def test_numbers_out_of_range_are_refused(number: int, place: int) -> None:
    """Which only numbers of variable length can be."""
    fields = b"T" + b"".join(write_varint(number if place == other else 1) for other in range(6))
    delivered, error = chunks_before_error(WHOLE[: header_end(WHOLE)] + fields + bytes(100))
    assert delivered == 0 and isinstance(error, DamageError)


@in_each_version
def test_a_lying_size_makes_the_reader_ask_for_little(data: bytes) -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            Counting.largest = max(Counting.largest, size or 0)
            return super().read(size)

    parts = parts_of(data)
    lie = parts.records[0].fields._replace(type=b"z" if data == WHOLE else b"zzzz", size=0xFFFFFFFF)
    reader = VtkReader(Counting(data[: header_end(data)] + parts.framing.fields_to_bytes(lie) + bytes(4)))
    with pytest.raises(DamageError):
        list(reader.events())
    assert Counting.largest <= 1 << 20


@pytest.mark.parametrize(("version", "letters"), [((1, 1), 4), (VERSION, 1)])
def test_unknown_ancillary_records_are_passed_over(version: tuple[int, int], letters: int) -> None:
    assert chunks_before_error(write_file(BOUND_HEADER, b"z" * letters, version=version)) == (3, None)


@pytest.mark.parametrize(("version", "letters"), [((1, 1), 4), (VERSION, 1)])
def test_unknown_critical_records_are_refused(version: tuple[int, int], letters: int) -> None:
    delivered, error = chunks_before_error(write_file(BOUND_HEADER, b"Z" * letters, version=version))
    assert delivered == 0 and type(error) is FormatError and "newer vtok" in str(error)


def test_another_major_version_is_refused() -> None:
    data = bytearray(WHOLE)
    struct.pack_into("<H", data, len(MAGIC), 3)
    with pytest.raises(FormatError, match="version 3 is not known; this vtok reads versions 1 and 2"):
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


def test_a_header_that_is_not_deflated_well_is_refused() -> None:
    """Cut short, followed by more, of no deflate data at all, or larger than a header may be."""
    text = header_to_json(HEADER)
    stored = deflated(text)
    assert inflated(stored) == text and len(stored) < len(text) / 3
    limit = text + b" " * (MAX_HEADER_BYTES - len(text))
    assert inflated(deflated(limit)) == limit
    bomb = deflated(text + b" " * (1 << 24))
    assert len(bomb) < MAX_HEADER_BYTES
    for wrong in (stored[:-1], b"", stored + b"\0", stored + stored, text, deflated(limit + b" "), bomb):
        with pytest.raises(FormatError, match="the header is not valid"):
            inflated(wrong)


def test_a_header_of_a_later_dictionary_is_refused_as_one() -> None:
    """Text in front of the dictionary leaves older headers readable; what refers to it needs a newer reader."""
    longer = b"what a later model is called and knows" + HEADER_DICTIONARY
    text = header_to_json(HEADER)
    assert zlib.decompressobj(-zlib.MAX_WBITS, longer).decompress(deflated(text)) == text
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, longer)
    stored = deflater.compress(b'{"model":"what a later model is called and knows"}') + deflater.flush()
    for minor, newer in ((VERSION[1], False), (VERSION[1] + 1, True)):
        data = PREFIX.pack(MAGIC, 2, minor, len(stored)) + stored + FILE_ID
        with pytest.raises(FormatError, match="the header is not valid") as refused:
            VtkReader(io.BytesIO(data + struct.pack("<I", zlib.crc32(data))))
        assert ("a newer vtok may read it" in str(refused.value)) == newer


@pytest.mark.parametrize("changes", [{"number": 1 << 32}, {"gop": -1}, {"raw_size": 71}])
def test_fields_that_no_reader_takes_are_not_written(changes: dict[str, int]) -> None:
    record = Record(TOKENS, 0, 0, 0, 5, 144, b"")
    assert CompactFraming(HEADER).record_to_bytes(record)
    with pytest.raises(ValueError, match="cannot hold"):
        CompactFraming(HEADER).record_to_bytes(replace(record, **changes))


def test_version_1_0_has_no_identifier() -> None:
    with pytest.raises(ValueError, match="no identifier"):
        VtkWriter(io.BytesIO(), BOUND_HEADER, (1, 0))


def test_the_dictionary_is_the_same_everywhere() -> None:
    """In the specification, in Python, and in the player."""
    root = DATA.parents[1]
    specified = (root / "docs" / "reference" / "format.md").read_text().split("## The dictionary")[1]
    assert specified.split("```")[1].removeprefix("text").replace("\n", "").encode() == HEADER_DICTIONARY
    player = (root / "player" / "src" / "container" / "dictionary.ts").read_text()
    assert "".join(re.findall(r"'(.*)'", player)).encode() == HEADER_DICTIONARY
    assert HEADER_DICTIONARY.endswith(SECOND_DICTIONARY) and SECOND_DICTIONARY.endswith(FIRST_DICTIONARY)
    known = [hashlib.sha256(text).hexdigest()[:16] for text in (FIRST_DICTIONARY, SECOND_DICTIONARY, HEADER_DICTIONARY)]
    assert known == ["4d42cf3aaa3abce4", "341db5db6413b103", "73c9298000ea60fd"]


def test_a_header_names_a_shipped_prior_in_few_bytes() -> None:
    """A reader of version 2.0 does not know it, which a header in that version must mind."""
    prior = prior_file(find_weights("onevae-nano-4x16x16"))
    assert prior
    text = header_to_json(replace(HEADER, prior_sha256=prior.sha256))
    short, long = deflated(text), deflated(text, (2, 0))
    assert len(short) < len(long) - 25
    reader = zlib.decompressobj(-zlib.MAX_WBITS, FIRST_DICTIONARY)
    with pytest.raises(zlib.error, match="too far"):
        reader.decompress(short)
    assert zlib.decompressobj(-zlib.MAX_WBITS, FIRST_DICTIONARY).decompress(long) == text == inflated(long)


def test_unknown_header_keys_are_for_later_versions() -> None:
    assert header_from_json(header_with(colour_of_the_cover="blue")) == HEADER


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(DamageError, match="after the end"):
        verify(io.BytesIO(WHOLE + WHOLE), find_prior)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_without_frames_is_refused(version: tuple[int, int]) -> None:
    out = io.BytesIO()
    VtkWriter(out, HEADER, version).finish()
    with pytest.raises(DamageError, match="no frame"):
        verify(io.BytesIO(out.getvalue()), find_prior)


@in_each_version
def test_an_index_that_lies_is_noticed(data: bytes) -> None:
    def lie(parts: FileParts) -> None:
        (index,) = parts.of_type(INDEX)
        first, *others = parts.framing.index_from_bytes(index.payload)
        index.payload = parts.framing.index_to_bytes([first._replace(offset=first.offset + 1), *others])

    with pytest.raises(DamageError, match="index does not match"):
        verify(io.BytesIO(changed(data, lie)), find_prior)


both_framings = pytest.mark.parametrize("framing", [FixedFraming(HEADER), CompactFraming(BOUND_HEADER)])


@both_framings
@pytest.mark.parametrize("ticks", [(1, 1), (0, 1, 1), (1, -5, 1), (1, 1, -1), (1 << 62, 1, 1)])
def test_times_that_do_not_grow_are_refused(framing: Framing, ticks: tuple[int, ...]) -> None:
    payload = TokenPayload(ticks, *ZSTD.id, b"")
    with pytest.raises(ValueError):
        framing.token_payload_from_bytes(framing.token_payload_to_bytes(payload), 3)


def test_endless_times_are_refused_at_once() -> None:
    fixed = struct.pack("<BBI", *ZSTD.id, 1 << 24) + bytes(1 << 24)
    compact = bytes(ZSTD.id) + write_varint(1 << 24) + bytes(1 << 24)
    for framing, payload in ((FixedFraming(HEADER), fixed), (CompactFraming(HEADER), compact)):
        with pytest.raises(ValueError, match="more times"):
            framing.token_payload_from_bytes(payload, 3)
        with pytest.raises(ValueError, match="cut short"):
            framing.token_payload_from_bytes(payload[:-1], 3)


@pytest.mark.parametrize("size", [-1, 5, 1 << 62])
def test_a_false_size_of_times_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        CompactFraming(HEADER).token_payload_from_bytes(bytes(ZSTD.id) + write_varint(size) + b"1234", 3)


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
    assert np.array_equal(read_tokens(io.BytesIO(golden), find_prior), tokens)
    assert verify(io.BytesIO(golden), find_prior).totals.token_digest.hex() == (
        "72435808448a8f9958ea8545fc807c19fcb0960897f5568e2cc215d4cf4801ce"
    )


def test_golden_waves_still_read_and_are_written_alike() -> None:
    """The same tokens by coder 2, whose arithmetic is exact: every machine writes these bytes."""
    golden = (DATA / "golden-waves.vtk").read_bytes()
    assert write_file(coders=(WAVES,) * 3) == golden
    assert np.array_equal(read_tokens(io.BytesIO(golden), find_prior), np.load(DATA / "golden-1.0.npy"))
    assert np.array_equal(read_tokens(io.BytesIO(golden), find_prior, 1), np.load(DATA / "golden-1.0.npy")[3:])


def test_a_gop_has_one_coder_and_the_next_may_have_another() -> None:
    mixed = write_file(coders=(WAVES, WAVES, ZSTD))
    assert np.array_equal(read_tokens(io.BytesIO(mixed), find_prior), np.load(DATA / "golden-1.0.npy"))
    wrong = write_file(coders=(ZSTD, WAVES, WAVES))
    with pytest.raises(DamageError, match="another coder than its GOP began with"):
        read_tokens(io.BytesIO(wrong), find_prior)


def test_waves_are_only_for_few_levels() -> None:
    assert fitting_coder(WAVES, DigitLayout(LEVELS, 1), 1 << 20).spec == WAVES
    assert fitting_coder(WAVES, DigitLayout((17, 2), 1), 1 << 20).spec == ZSTD
    assert fitting_coder(WAVES, DigitLayout(LEVELS, 1), 1 << 24).spec == ZSTD
    assert fitting_coder(PRIOR, DigitLayout(LEVELS, 1), 1 << 20).spec == WAVES
    with pytest.raises(LookupError):
        make_coder(WAVES.id, DigitLayout((17, 2), 1))


def test_writing_is_reproducible() -> None:
    for version, data in VERSIONS.items():
        assert write_file(HEADER if version == (1, 0) else BOUND_HEADER, version=version) == data


@dataclass
class Crafted:
    """A file made of chunks of ones, with the writer open to be misused."""

    header: Header = BOUND_HEADER
    version: tuple[int, int] = VERSION

    def __post_init__(self) -> None:
        self.out = io.BytesIO()
        self.writer = VtkWriter(self.out, self.header, self.version)
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
        return self.record(INDEX, self.writer._framing.index_to_bytes(self.writer._index))

    def record(self, type_: bytes, payload: bytes) -> int:
        place = self.writer._offset
        self.writer._put(self.writer._numbered(type_, payload))
        return place

    def end(self, index: int) -> bytes:
        """The end alone, with a footer that points at `index`."""
        writer = self.writer
        digests = writer._digest.digest(), writer._file_digest.digest()
        totals = Totals(writer._frames, writer._chunks, len(writer._index), writer._packets, *digests)
        self.record(END, writer._framing.totals_to_bytes(totals))
        writer._write(writer._framing.footer_to_bytes(index, writer._offset))
        return self.out.getvalue()

    def finish(self) -> bytes:
        self.writer.finish()
        return self.out.getvalue()


def chunks_file(chunks: list[tuple[int, int]], audio: bool, version: tuple[int, int]) -> bytes:
    """A file of chunks, each with its GOP and its number of frames, audio after each."""
    crafted, pts = Crafted(HEADER if version == (1, 0) else BOUND_HEADER, version), 0
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
            verify(io.BytesIO(Crafted().chunk(0, 0, 5).chunk(1, pts, 5).finish()), find_prior)
    timeless = Crafted(replace(BOUND_HEADER, rate=None, frame_ticks=0))
    with pytest.raises(DamageError, match="no times"):
        verify(io.BytesIO(timeless.chunk(0, 0, 5).finish()), find_prior)
    assert verify(io.BytesIO(Crafted(timeless.header).chunk(0, 0, 1).finish()), find_prior).totals.frames == 1


def test_the_index_stands_before_the_end_only() -> None:
    crafted = Crafted().chunk(0, 0, 5)
    index = crafted.index()
    with pytest.raises(DamageError, match="stands behind the index"):
        verify(io.BytesIO(crafted.chunk(1, 9009, 5).end(index)), find_prior)
    with pytest.raises(DamageError, match="the index is missing"):
        verify(io.BytesIO(Crafted().chunk(0, 0, 5).end(0)), find_prior)


def test_an_index_entry_that_leads_to_no_chunk_is_refused() -> None:
    crafted = Crafted().chunk(0, 0, 5)
    crafted.writer._index.append(GopEntry(crafted.writer._offset, 9009, 5))
    crafted.writer.write_audio(PACKETS)
    data = crafted.end(crafted.index())
    with pytest.raises(DamageError, match="another place than the start of GOP 1"):
        read_tokens(io.BytesIO(data), find_prior, 1)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([GopEntry(90, 0, 0), GopEntry(80, 10, 5)], "do not grow"),
        ([GopEntry(90, 0, 0), GopEntry(180, 0, 5)], "do not grow"),
        ([GopEntry(90, 0, 5), GopEntry(180, 10, 5)], "do not grow"),
        ([GopEntry(90, -(1 << 62), 0), GopEntry(180, 10, 5)], "out of range"),
        ([GopEntry(90, 0, 0), GopEntry(180, MAX_TICKS + 1, 5)], "out of range"),
    ],
)
@both_framings
def test_an_index_out_of_order_or_range_is_refused(framing: Framing, entries: list[GopEntry], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        framing.index_from_bytes(framing.index_to_bytes(entries))


@pytest.mark.parametrize("entry", [GopEntry(-1, 0, 0), GopEntry(90, 0, -1)])
def test_an_index_with_numbers_below_0_is_refused(entry: GopEntry) -> None:
    framing = CompactFraming(HEADER)
    with pytest.raises(ValueError, match="out of range"):
        framing.index_from_bytes(framing.index_to_bytes([entry]))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_index_that_is_too_long_is_not_read(version: tuple[int, int]) -> None:
    """By itself, that is; a record of so many bytes is refused before it is read."""
    crafted = Crafted(HEADER if version == (1, 0) else BOUND_HEADER, version).chunk(0, 0, 5)
    size = crafted.writer._framing.index_entry_bytes * (MAX_INDEX_ENTRIES + 1)
    place = crafted.record(INDEX, bytes(size))
    with pytest.raises(DamageError, match="no usable index"):
        VtkReader(io.BytesIO(crafted.end(place))).index()


def test_an_index_of_too_many_short_entries_is_not_taken_apart() -> None:
    """Entries of three bytes each would be ten times as many as those of the full size."""
    many = b"".join(write_varint(number) for _ in range(6) for number in (1, 1, 1))
    framing = CompactFraming(HEADER)
    assert len(framing.index_from_bytes(many, 6)) == 6
    with pytest.raises(ValueError, match="more than 5 entries"):
        framing.index_from_bytes(many, 5)


def test_audio_times_are_bounded() -> None:
    for packet in (AudioPacket(0, MAX_TICKS + 1, None, 0, b""), AudioPacket(0, None, -(1 << 63), 0, b"")):
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
@pytest.mark.parametrize("version", VERSIONS)
def test_gops_are_found_behind_a_damage_without_an_index(
    version: tuple[int, int], audio: bool, chunks: list[tuple[int, int]], recovered: list[int]
) -> None:
    data = bytearray(chunks_file(chunks, audio, version))
    data[parts_of(bytes(data)).records[0].payload_start + 18] ^= 1
    events = list(salvaged_events(VtkReader(io.BytesIO(data[:-4])), find_prior))
    assert [event.chunk.gop for event in events if isinstance(event, UnpackedChunk)] == recovered
