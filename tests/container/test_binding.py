"""What belongs to a file is bound to it since version 1.1, and nothing can be exchanged or brought in unnoticed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from container.test_container import HEADER, PACKETS, Crafted, write_file
from file_parts import FileParts, changed, chunk_starts, parts_of
from helpers import DATA

from vtok_codec.audio import AudioTrack
from vtok_codec.container.header import Header
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.prefix import MAX_HEADER_BYTES, PREFIX, header_to_bytes
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import AUDIO, END, TOKENS
from vtok_codec.container.writer import VtkWriter
from vtok_codec.errors import DamageError, FormatError, InputError, ModelError
from vtok_codec.media.types import VideoInfo
from vtok_codec.prior_files import PRIOR_FOLDERS, find_prior
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.reading import read_tokens
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.unpacking import Damage, UnpackedChunk, salvaged_events
from vtok_codec.stream.verifying import verify
from vtok_codec.tokens.coders import PRIOR
from vtok_codec.tokens.prior.prior import parse_prior

BOUND = replace(HEADER, file_id=bytes(range(16)), tags=(("title", "A day\nout"), ("artist", "Änne")))
BOUND_VERSIONS = ((1, 1), (2, 0))
WHOLE = {version: write_file(BOUND, version=version) for version in BOUND_VERSIONS}
in_bound_versions = pytest.mark.parametrize("version", BOUND_VERSIONS)


def a_time(parts: FileParts) -> None:
    chunk = parts.of_type(TOKENS)[1]
    chunk.fields = chunk.fields._replace(pts=chunk.fields.pts + 1)


def a_byte_of_audio(parts: FileParts) -> None:
    (audio, *_) = parts.of_type(AUDIO)
    audio.payload = audio.payload.replace(b"abc", b"abd")


def a_header_field(parts: FileParts) -> None:
    parts.header = replace(parts.header, rotation=-80)


def a_tag(parts: FileParts) -> None:
    parts.header = replace(parts.header, tags=(("title", "B day\nout"), *parts.header.tags[1:]))


@in_bound_versions
def test_a_whole_file_is_read_and_says_what_it_is(version: tuple[int, int]) -> None:
    summary = verify(io.BytesIO(WHOLE[version]), find_prior)
    assert summary.header == BOUND and len(summary.totals.file_digest) == 32
    assert PREFIX.unpack_from(WHOLE[version])[1:3] == version
    assert parts_of(WHOLE[version]).joined() == WHOLE[version]


@in_bound_versions
@pytest.mark.parametrize("change", [a_time, a_byte_of_audio, a_header_field, a_tag])
def test_nothing_can_be_exchanged(version: tuple[int, int], change: Callable[[FileParts], None]) -> None:
    """Every CRC is right; only the digest of the file tells."""
    data = changed(WHOLE[version], change)
    assert data != WHOLE[version]
    with pytest.raises(DamageError, match="do not match the"):
        verify(io.BytesIO(data), find_prior)
    with pytest.raises(DamageError):
        list(VtkReader(io.BytesIO(data)).events())


@in_bound_versions
def test_a_record_of_another_file_is_noticed_at_once(version: tuple[int, int]) -> None:
    mine, other = WHOLE[version], write_file(replace(BOUND, file_id=bytes(16)), version=version)
    here, there = parts_of(mine).records[0], parts_of(other).records[0]
    assert here.end - here.start == there.end - there.start
    mixed = mine[: here.start] + other[there.start : there.end] + mine[here.end :]
    with pytest.raises(DamageError, match=r"of another file.*before the first chunk"):
        verify(io.BytesIO(mixed), find_prior)


@in_bound_versions
def test_a_footer_of_another_file_or_place_is_not_used(version: tuple[int, int]) -> None:
    """Version 2.0 binds the footer, too; before, only its place was."""
    data, size = WHOLE[version], parts_of(WHOLE[version]).framing.footer_size
    assert len(VtkReader(io.BytesIO(data)).index()) == 2
    other = write_file(replace(BOUND, file_id=bytes(16)), version=version)
    wrong = [data[:-size] + b"x" + data[-size:]]
    wrong += [data[:-size] + other[-size:]] if version >= (2, 0) else []
    for each in wrong:
        with pytest.raises(DamageError, match="no usable index"):
            VtkReader(io.BytesIO(each)).index()


@in_bound_versions
def test_recovery_passes_over_records_of_another_file(version: tuple[int, int]) -> None:
    """A file cut short, with another one behind it that begins alike."""

    def three(header: Header) -> bytes:
        return Crafted(header, version).chunk(0, 0, 5).chunk(1, 5005, 5).chunk(2, 10010, 5).finish()

    mine, other = three(BOUND), three(replace(BOUND, file_id=bytes(16)))
    cut = chunk_starts(mine)[1] + 20
    # What lies behind is found if it is of the same file.
    for behind, gops in ((other, [0]), (mine, [0, 2])):
        events = list(salvaged_events(VtkReader(io.BytesIO(mine[:cut] + behind)), find_prior))
        assert [event.chunk.gop for event in events if isinstance(event, UnpackedChunk)] == gops
        assert any(isinstance(event, Damage) for event in events)


def test_files_without_an_identifier_are_those_of_version_1_0() -> None:
    plain = write_file(HEADER)
    assert PREFIX.unpack_from(plain)[1:3] == (1, 0)
    assert verify(io.BytesIO(plain), find_prior).totals.file_digest == b""
    for header, version in ((HEADER, (1, 1)), (BOUND, (1, 0))):
        with pytest.raises(FormatError, match="file identifier"):
            VtkReader(io.BytesIO(header_to_bytes(header, version)))


@in_bound_versions
def test_the_digest_covers_all_bytes_before_the_end_record(version: tuple[int, int]) -> None:
    data = WHOLE[version]
    (end,) = parts_of(data).of_type(END)
    assert verify(io.BytesIO(data), find_prior).totals.file_digest == hashlib.sha256(data[: end.start]).digest()


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


@in_bound_versions
def test_the_golden_files_still_read_and_are_written_alike(
    version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By coder 3, whose arithmetic is exact: every machine writes these bytes, up to the deflated header."""
    monkeypatch.setenv(PRIOR_FOLDERS, str(DATA))
    prior = parse_prior((DATA / "prior-golden.safetensors").read_bytes())
    golden = (DATA / f"golden-{version[0]}.{version[1]}.vtk").read_bytes()
    header = replace(BOUND, prior_sha256=prior.sha256)
    assert verify(io.BytesIO(golden), find_prior).header == header
    assert np.array_equal(read_tokens(io.BytesIO(golden), find_prior), np.load(DATA / "golden-1.0.npy"))
    assert np.array_equal(read_tokens(io.BytesIO(golden), find_prior, 1), np.load(DATA / "golden-1.0.npy")[3:])
    written = write_file(header, coders=(PRIOR,) * 3, prior=prior, version=version)
    old, new = parts_of(golden), parts_of(written)
    # Another library may deflate the header to other bytes, which moves what follows.
    assert [part.payload for part in old.of_type(TOKENS)] == [part.payload for part in new.of_type(TOKENS)]
    assert version != (1, 1) or written == golden


def test_a_missing_prior_is_told() -> None:
    with pytest.raises(ModelError, match=r"prior [0-9a-f]{12}, which is not here"):
        verify(io.BytesIO((DATA / "golden-1.1.vtk").read_bytes()), find_prior)


def test_the_identifier_follows_from_the_contents() -> None:
    """The same contents make the same file; other contents, or another header, another identifier."""

    def written(header: Header, frames: int) -> bytes:
        crafted = Crafted(header)
        crafted.writer.write_audio(PACKETS)
        assert bool(crafted.out.getvalue()) == bool(header.file_id)
        return crafted.chunk(0, 0, 5).chunk(1, 5005, frames).finish()

    header = replace(HEADER, file_id=b"")
    first, same, longer = written(header, 5), written(header, 5), written(header, 3)
    assert first == same != longer
    ids = [VtkReader(io.BytesIO(data)).header.file_id for data in (first, longer, written(BOUND, 5))]
    assert ids[0] == ids[1] != ids[2] and all(len(each) == 16 for each in ids)
    assert verify(io.BytesIO(first), find_prior).totals.audio_packets == 2
    events = list(VtkReader(io.BytesIO(first)).events())
    assert events[0] == PACKETS


def test_a_header_has_room_for_its_identifier_or_is_refused_before_any_work() -> None:
    def header_of(size: int) -> Header:
        track = AudioTrack("aac", Fraction(1, 48000), 48000, "stereo", bytes(size))
        info = VideoInfo(64, 48, Fraction(25), Fraction(1, 25), audio=(track,))
        return make_header(info, HEADER.model, 4, EncodeSettings())

    room = MAX_HEADER_BYTES - len(header_to_json(header_of(0)))
    fits = (room - 60) // 4 * 3
    VtkWriter(io.BytesIO(), header_of(fits))
    with pytest.raises(InputError, match="do not fit the header"):
        header_of((room - 4) // 4 * 3)
