"""Format 1.1: what belongs to a file is bound to it, and nothing can be exchanged or brought in unnoticed."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from container.test_container import HEADER, PACKETS, Crafted, write_file
from helpers import DATA

from vtok_codec.container.header import Header
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import CRC, END, FIELDS, TOKENS
from vtok_codec.container.writer import MAX_HEADER_BYTES, PREFIX, VtkWriter
from vtok_codec.errors import DamageError, FormatError, InputError, ModelError
from vtok_codec.media.types import AudioTrack, VideoInfo
from vtok_codec.prior_files import PRIOR_FOLDERS
from vtok_codec.stream.reading import Damage, UnpackedChunk, read_tokens, salvaged_events, verify
from vtok_codec.stream.settings import EncodeSettings, make_header
from vtok_codec.tokens.coders import PRIOR
from vtok_codec.tokens.prior.prior import parse_prior

BOUND = replace(HEADER, file_id=bytes(range(16)), tags=(("title", "A day\nout"), ("artist", "Änne")))
WHOLE = write_file(BOUND)


def records(data: bytes) -> list[tuple[int, int]]:
    """The start of each record and the end of its payload."""
    at = PREFIX.size + PREFIX.unpack_from(data)[3] + CRC.size
    found = []
    while at + FIELDS.size <= len(data) - 28:
        end = at + FIELDS.size + FIELDS.unpack_from(data, at)[1]
        found.append((at, end))
        at = end + CRC.size
    return found


def sealed(data: bytes, header: Header = BOUND) -> bytes:
    """The file with all CRCs of its header and records put right, but not its digests."""
    out = bytearray(data)
    end = PREFIX.size + PREFIX.unpack_from(data)[3]
    CRC.pack_into(out, end, zlib.crc32(out[:end]))
    for start, stop in records(data):
        CRC.pack_into(out, stop, zlib.crc32(out[start:stop], zlib.crc32(header.file_id)))
    return bytes(out)


def exchanged(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(WHOLE)
    change(data)
    return sealed(bytes(data))


def a_time(data: bytearray) -> None:
    _, start = (place for place, _ in records(data)[:3] if data[place : place + 4] == TOKENS)
    fields = list(FIELDS.unpack_from(data, start))
    fields[4] += 1
    FIELDS.pack_into(data, start, *fields)


def a_byte_of_audio(data: bytearray) -> None:
    place = data.index(b"abc")
    data[place : place + 3] = b"abd"


def a_header_field(data: bytearray) -> None:
    place = data.index(b'"rotation":-90')
    data[place : place + 14] = b'"rotation":-80'


def a_tag(data: bytearray) -> None:
    place = data.index(b"A day")
    data[place : place + 5] = b"B day"


def test_a_whole_file_is_read_and_says_what_it_is() -> None:
    summary = verify(io.BytesIO(WHOLE))
    assert summary.header == BOUND and len(summary.totals.file_digest) == 32
    assert PREFIX.unpack_from(WHOLE)[1:3] == (1, 1)
    verify(io.BytesIO(sealed(WHOLE)))


@pytest.mark.parametrize("change", [a_time, a_byte_of_audio, a_header_field, a_tag])
def test_nothing_can_be_exchanged(change: Callable[[bytearray], None]) -> None:
    """Every CRC is right; only the digest of the file tells."""
    data = exchanged(change)
    with pytest.raises(DamageError, match="do not match the digest"):
        verify(io.BytesIO(data))
    with pytest.raises(DamageError):
        list(VtkReader(io.BytesIO(data)).events())


def test_a_record_of_another_file_is_noticed_at_once() -> None:
    other = write_file(replace(BOUND, file_id=bytes(16)))
    (start, end), (there, stop) = records(WHOLE)[0], records(other)[0]
    assert end - start == stop - there
    mixed = WHOLE[:start] + other[there : stop + CRC.size] + WHOLE[end + CRC.size :]
    with pytest.raises(DamageError, match=r"of another file.*before the first chunk"):
        verify(io.BytesIO(mixed))


def test_recovery_passes_over_records_of_another_file() -> None:
    """A file cut short, with another one behind it that begins alike."""
    mine = Crafted(BOUND).chunk(0, 0, 5).chunk(1, 5005, 5).chunk(2, 10010, 5).finish()
    other = Crafted(replace(BOUND, file_id=bytes(16))).chunk(0, 0, 5).chunk(1, 5005, 5).chunk(2, 10010, 5).finish()
    cut = [start for start, _ in records(mine)][1] + 20
    # What lies behind is found if it is of the same file.
    for behind, gops in ((other, [0]), (mine, [0, 2])):
        events = list(salvaged_events(VtkReader(io.BytesIO(mine[:cut] + behind))))
        assert [event.chunk.gop for event in events if isinstance(event, UnpackedChunk)] == gops
        assert any(isinstance(event, Damage) for event in events)


def test_files_without_an_identifier_are_those_of_version_1_0() -> None:
    plain = write_file(replace(HEADER, file_id=b""))
    assert PREFIX.unpack_from(plain)[1:3] == (1, 0)
    assert verify(io.BytesIO(plain)).totals.file_digest == b""
    for data, minor in ((plain, 1), (WHOLE, 0)):
        wrong = bytearray(data)
        wrong[10] = minor
        with pytest.raises(FormatError, match="file identifier"):
            VtkReader(io.BytesIO(sealed(bytes(wrong), replace(HEADER, file_id=b""))))


def test_the_digest_covers_all_bytes_before_the_end_record() -> None:
    import hashlib

    end = next(start for start, _ in records(WHOLE) if WHOLE[start : start + 4] == END)
    assert verify(io.BytesIO(WHOLE)).totals.file_digest == hashlib.sha256(WHOLE[:end]).digest()


MANY = tuple((str(number), "") for number in range(65))


@pytest.mark.parametrize(
    "tags", [(("title", "bell \a"),), (("", "x"),), (("ti\ntle", "x"),), (("t", "x" * 4096),), MANY]
)
def test_tags_that_cannot_be_printed_or_are_too_many_are_refused(tags: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(FormatError, match="tag"):
        header_from_json(header_to_json(replace(BOUND, tags=tags)))


def test_tags_of_tracks_are_kept() -> None:
    track = replace(BOUND.audio[0], tags=(("language", "deu"),), time_base=Fraction(1, 48000))
    header = replace(BOUND, audio=(track,))
    assert header_from_json(header_to_json(header)) == header


def test_the_golden_file_of_version_1_1_still_reads_and_is_written_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By coder 3, whose arithmetic is exact: every machine writes these bytes."""
    monkeypatch.setenv(PRIOR_FOLDERS, str(DATA))
    prior = parse_prior((DATA / "prior-golden.safetensors").read_bytes())
    golden = (DATA / "golden-1.1.vtk").read_bytes()
    header = replace(BOUND, prior_sha256=prior.sha256)
    assert verify(io.BytesIO(golden)).header == header
    assert np.array_equal(read_tokens(io.BytesIO(golden)), np.load(DATA / "golden-1.0.npy"))
    assert np.array_equal(read_tokens(io.BytesIO(golden), 1), np.load(DATA / "golden-1.0.npy")[3:])
    assert write_file(header, coders=(PRIOR,) * 3, prior=prior) == golden


def test_a_missing_prior_is_told() -> None:
    with pytest.raises(ModelError, match=r"prior [0-9a-f]{12}, which is not here"):
        verify(io.BytesIO((DATA / "golden-1.1.vtk").read_bytes()))


def test_the_identifier_follows_from_the_contents() -> None:
    """The same contents make the same file; other contents, or another header, another identifier."""

    def written(header: Header, frames: int) -> bytes:
        out = io.BytesIO()
        crafted = Crafted(header)
        crafted.out, crafted.writer = out, VtkWriter(out, header, identified=True)
        crafted.writer.write_audio(PACKETS)
        assert bool(out.getvalue()) == bool(header.file_id)
        return crafted.chunk(0, 0, 5).chunk(1, 5005, frames).finish()

    header = replace(HEADER, file_id=b"")
    first, same, longer = written(header, 5), written(header, 5), written(header, 3)
    assert first == same != longer
    ids = [VtkReader(io.BytesIO(data)).header.file_id for data in (first, longer, written(BOUND, 5))]
    assert ids[0] == ids[1] != ids[2] and all(len(each) == 16 for each in ids)
    assert verify(io.BytesIO(first)).totals.audio_packets == 2
    events = list(VtkReader(io.BytesIO(first)).events())
    assert events[0] == PACKETS


def test_a_header_has_room_for_its_identifier_or_is_refused_before_any_work() -> None:
    def header_of(size: int) -> Header:
        track = AudioTrack("aac", Fraction(1, 48000), 48000, "stereo", bytes(size))
        info = VideoInfo(64, 48, Fraction(25), Fraction(1, 25), audio=(track,))
        return make_header(info, HEADER.model, 4, EncodeSettings())

    room = MAX_HEADER_BYTES - len(header_to_json(header_of(0)))
    fits = (room - 60) // 4 * 3
    VtkWriter(io.BytesIO(), header_of(fits), identified=True)
    with pytest.raises(InputError, match="do not fit the header"):
        header_of((room - 4) // 4 * 3)
