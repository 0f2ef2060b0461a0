"""Sound in a `.vtk` file: it stands before the frames of its time, and its damage costs no pictures."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

from vtok_codec.audio import AudioPacket, AudioTrack
from vtok_codec.codec.encoder import _parts
from vtok_codec.container.header import Header, ModelId
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import TokenPayload
from vtok_codec.container.writer import VtkWriter
from vtok_codec.media.types import Frame
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.excerpt import Excerpt
from vtok_codec.stream.unpacking import Damage, UnpackedChunk, salvaged_events, token_bytes
from vtok_codec.tokens.radix import digits_to_tokens
from vtok_codec.tokens.zstd_groups import pack

LEVELS = (2,)
PACKET_MS = 20


def made(fps: int, seconds: int, gop_latents: int) -> bytes:
    """A file of black frames, with a packet of sound for every 20 ms."""
    model = ModelId("x", "0" * 64, (4, 8, 8), LEVELS)
    sound = (AudioTrack("opus", Fraction(1, 1000), 48000, "stereo", b"x"),)
    size = {"width": 8, "height": 8, "sar": Fraction(1), "color": (0, 2, 2, 2), "rotation": 0}
    times = {"rate": Fraction(fps), "time_base": Fraction(1, fps), "frame_ticks": 1}
    lengths = {"tokens_per_position": 1, "gop_latents": gop_latents, "chunk_latents": 4}
    header = Header(**size, **times, model=model, **lengths, file_id=bytes(16), audio=sound)
    black = np.zeros((8, 8, 3), np.uint8)
    events: list[tuple[float, int, Frame | AudioPacket]] = [
        *((number / fps, 0, Frame(black, number, 1)) for number in range(seconds * fps)),
        *((ms / 1000, 1, AudioPacket(0, ms, ms, PACKET_MS, b"a")) for ms in range(0, 1000 * seconds, PACKET_MS)),
    ]
    stream = io.BytesIO()
    writer = VtkWriter(stream, header)
    for part in _parts([event for _, _, event in sorted(events, key=lambda each: each[:2])], header, []):
        if isinstance(part, list):
            writer.write_audio(part)
            continue
        digits = np.zeros((1, *header.chunk_latent_shape(len(part.frames), part.starts_gop)), np.uint8)
        payload = TokenPayload((), 1, 1, pack(digits, LEVELS))
        tokens = token_bytes(digits_to_tokens(digits, LEVELS))
        writer.write_tokens(part.gop, part.frames[0].pts, len(part.frames), payload, digits.size, tokens)
    writer.finish()
    return stream.getvalue()


@pytest.mark.parametrize("fps", [5, 25])
@pytest.mark.parametrize(("start_s", "duration_s"), [(0.2, 2), (0.4, 1), (3, 2.4), (0, 3)])
@pytest.mark.parametrize("pipe", [False, True])
def test_an_excerpt_has_all_its_sound(fps: int, start_s: float, duration_s: float, pipe: bool) -> None:
    """Even if it starts in the first chunk, whose sound stands before it in the file."""
    stream = io.BytesIO(made(fps, 12, 8))
    if pipe:
        stream.seekable = lambda: False  # type: ignore[method-assign]
    excerpt = Excerpt(VtkReader(stream), start_s, duration_s, recover=False, priors=find_prior)
    packets = [packet for event in excerpt.events() if isinstance(event, list) for packet in event]
    played = [each for packet in packets if (each := excerpt.play(packet))]
    assert len(played) == pytest.approx(1000 * duration_s / PACKET_MS, abs=1)


def test_damaged_sound_costs_no_pictures() -> None:
    data = made(25, 12, 25)
    reader = VtkReader(io.BytesIO(data))
    begin, sounds = reader.position, []
    for event in reader.events():
        if isinstance(event, list):
            sounds.append((begin, reader.position))
        begin = reader.position
    for begin, end in sounds[1:]:
        bad = bytearray(data)
        bad[(begin + end) // 2] ^= 1
        events = list(salvaged_events(VtkReader(io.BytesIO(bad)), find_prior))
        assert sum(len(event.chunk.pts) for event in events if isinstance(event, UnpackedChunk)) == 12 * 25
        assert [event.most_frames for event in events if isinstance(event, Damage)] == [0]
        assert sum(len(event) for event in events if isinstance(event, list)) >= 12 * 50 - 60


def test_gops_of_one_chunk_are_found_without_an_index() -> None:
    """Though nothing but the length of a GOP tells their first chunk from a later one."""
    data = made(25, 8, 4)
    reader = VtkReader(io.BytesIO(data))
    second = reader.index()[1].offset
    bad = bytearray(data[:-12])
    bad[second + 20] ^= 1
    found = salvaged_events(VtkReader(io.BytesIO(bad)), find_prior)
    gops = [event.chunk.gop for event in found if isinstance(event, UnpackedChunk)]
    assert gops == [gop for gop in range(len(reader.index())) if gop != 1]


def test_damage_behind_the_video_loses_nothing() -> None:
    """In the index, the totals or the footer, wherever it is."""
    data = made(25, 4, 8)
    whole = list(salvaged_events(VtkReader(io.BytesIO(data)), find_prior))
    last = max(number for number, event in enumerate(whole) if isinstance(event, UnpackedChunk))
    ends = [len(data) - back for back in (1, 5, 9, 13, 20, 40, 60)]
    for place in ends:
        bad = bytearray(data)
        bad[place] ^= 1
        events = list(salvaged_events(VtkReader(io.BytesIO(bad)), find_prior))
        assert not any(isinstance(event, Damage) for event in events)
        assert len(events) > last
