"""Video → `.vtk` → video: nothing lost, whatever the length, the size and the place to start.

By the shipped model, or by a tiny one with random weights where good pictures are of no matter.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_parts import FileParts, changed, parts_of
from helpers import DATA, LANES, SMALL_LANES, TINY, ClipMaker, psnr_db, randomized
from numpy.typing import NDArray

import vtok_codec
from vtok_codec.api import Codec
from vtok_codec.audio import AudioPacket
from vtok_codec.clip import Clip
from vtok_codec.codec.decoder import Gap, decode_events
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.prefetch import Prefetch
from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.container.framing import CompactFraming
from vtok_codec.container.reader import VtkReader
from vtok_codec.container.records import AUDIO, END, TOKENS
from vtok_codec.errors import DamageError, FormatError, InputError, SettingError
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Frame, Pixels, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import find_prior
from vtok_codec.stream import unpacking
from vtok_codec.stream.chunks import chosen_coder
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.reading import read_gops, read_tokens
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.verifying import verify
from vtok_codec.tokens.coders import WAVES, ZSTD
from vtok_codec.tokens.radix import Digits
from vtok_codec.weights_file import WeightsFile


def encoded(source: Path, tokenizer: Tokenizer, settings: EncodeSettings | None = None) -> bytes:
    out = io.BytesIO()
    with VideoReader(source) as reader:
        encode_video(reader.info, reader.events(), tokenizer, settings or EncodeSettings(), out)
    return out.getvalue()


def decoded(data: bytes, tokenizer: Tokenizer, **window: float) -> list[Frame | AudioPacket | Gap]:
    return list(decode_events(VtkReader(io.BytesIO(data)), tokenizer, **window))  # type: ignore[arg-type]


def frames_of(events: list[Frame | AudioPacket | Gap]) -> list[Frame]:
    return [event for event in events if isinstance(event, Frame)]


@pytest.fixture(scope="module")
def lanes(tokenizer: Tokenizer) -> bytes:
    """The clip of the repository, in GOPs of about 0.8 s."""
    return encoded(SMALL_LANES, tokenizer, EncodeSettings(gop_seconds=0.8))


@pytest.fixture(scope="module")
def whole(lanes: bytes, tokenizer: Tokenizer) -> list[Frame]:
    """All of its frames, decoded."""
    return frames_of(decoded(lanes, tokenizer))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tiny model with random weights, for what does not depend on how good pictures are."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    return Tokenizer(WeightsFile("tiny", path), Placement(torch.device("cpu"), torch.float32))


@pytest.fixture(scope="module")
def tiny_lanes(tiny: Tokenizer) -> bytes:
    """The clip of the repository by the tiny model, in GOPs of about 0.8 s."""
    return encoded(SMALL_LANES, tiny, EncodeSettings(gop_seconds=0.8))


@pytest.fixture(scope="module")
def tiny_whole(tiny_lanes: bytes, tiny: Tokenizer) -> list[Frame]:
    """All of its frames, decoded."""
    frames = frames_of(decoded(tiny_lanes, tiny))
    assert len({frame.pixels.tobytes() for frame in frames}) == len(frames) == 61
    return frames


def test_a_real_clip_looks_like_itself(lanes: bytes, tokenizer: Tokenizer, whole: list[Frame]) -> None:
    source = read_pixels(SMALL_LANES, 100)
    assert psnr_db(np.stack([frame.pixels for frame in whole]), source) > 24
    assert verify(io.BytesIO(lanes), find_prior).bits_per_pixel < 0.12


@pytest.mark.parametrize("model", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_pictures_do_not_depend_on_the_threads(model: str) -> None:
    codec = vtok_codec.load(model, device="cpu")
    frames = read_pixels(SMALL_LANES, 9)
    threads, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            tokens = codec.tokenize(frames)
            made.append((tokens, codec.detokenize(tokens)))
    finally:
        torch.set_num_threads(threads)
    for tokens, pixels in made[1:]:
        assert np.array_equal(tokens, made[0][0]) and np.array_equal(pixels, made[0][1])


def test_sticky_digits_make_smaller_files_of_the_same_model(lanes: bytes, tokenizer: Tokenizer) -> None:
    sticky = encoded(SMALL_LANES, tokenizer, EncodeSettings(gop_seconds=0.8, stickiness=0.5))
    assert len(sticky) < 0.9 * len(lanes)
    source = read_pixels(SMALL_LANES, 100)
    plain, held = (
        psnr_db(np.stack([frame.pixels for frame in frames_of(decoded(data, tokenizer))]), source)
        for data in (lanes, sticky)
    )
    assert plain - 3 < held < plain
    with pytest.raises(SettingError, match="stickiness"):
        encoded(SMALL_LANES, tokenizer, EncodeSettings(stickiness=-0.1))


@pytest.mark.parametrize("latents", [1, 3])
def test_slices_change_no_digit_and_no_pixel(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, latents: int
) -> None:
    """How many latent frames go through the networks at once is a matter of speed and memory only."""
    frames = read_pixels(LANES, 30)[:, :100, :150]

    def coded() -> tuple[Digits, Pixels]:
        digits, state = tokenizer.encode(frames[:13], 2, None)
        more, _ = tokenizer.encode(frames[13:], 2, state, 0.1)
        pixels, state = tokenizer.decode(digits, (100, 150), 13, None)
        return np.concatenate([digits, more], 1), np.concatenate(
            [pixels, tokenizer.decode(more, (100, 150), 17, state)[0]]
        )

    usual = coded()
    calls: list[tuple[int, ...]] = []
    encode_digits = tokenizer.model.encode_digits
    monkeypatch.setattr(
        tokenizer.model, "encode_digits", lambda video, *rest: calls.append(video.shape) or encode_digits(video, *rest)
    )
    monkeypatch.setattr("vtok_codec.codec.tokenizer.latents_at_once", lambda device, size: latents)
    for ours, theirs in zip(coded(), usual, strict=True):
        assert np.array_equal(ours, theirs)
    assert max(shape[2] for shape in calls) == 4 * latents


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 13, 14, 17])
def test_every_length_comes_back(make_clip: ClipMaker, tokenizer: Tokenizer, frames: int) -> None:
    source = make_clip("in.mkv", size="40x36", frames=frames)
    back = frames_of(decoded(encoded(source, tokenizer, EncodeSettings(gop_seconds=0.4)), tokenizer))
    with VideoReader(source) as reader:
        wanted = [event for event in reader.events() if isinstance(event, Frame)]
    assert [(f.pts, f.duration, f.pixels.shape) for f in back] == [(f.pts, f.duration, (36, 40, 3)) for f in wanted]


@pytest.mark.parametrize("size", [(1, 1), (9, 7), (8, 8), (17, 33), (8, 64)])
def test_every_size_comes_back(tokenizer: Tokenizer, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
    frames = [Frame(image, number, 1) for number, image in enumerate(pixels)]
    out = io.BytesIO()
    encode_video(VideoInfo(size[1], size[0], Fraction(25), Fraction(1, 25)), frames, tokenizer, EncodeSettings(), out)
    back = frames_of(decoded(out.getvalue(), tokenizer))
    assert [frame.pixels.shape for frame in back] == [(*size, 3)] * 3


def test_a_still_picture_is_a_video_of_one_frame(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    source = make_clip("in.png", frames=1, options=["-update", "1"])
    data = encoded(source, tokenizer)
    assert VtkReader(io.BytesIO(data)).header.rate is None
    assert len(frames_of(decoded(data, tokenizer))) == 1


def test_variable_times_and_audio_come_back_exactly(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    drop = ["-vf", "select='not(eq(mod(n,5),2))*not(eq(n,7))'", "-fps_mode", "vfr"]
    source = make_clip("in.mp4", frames=40, audio=True, options=drop)
    with VideoReader(source) as reader:
        wanted = list(reader.events())
    back = decoded(encoded(source, tokenizer, EncodeSettings(gop_seconds=0.5)), tokenizer)
    assert [frame.pts for frame in frames_of(back)] == [frame.pts for frame in frames_of(wanted)]
    assert frames_of(back)[-1].duration == frames_of(wanted)[-1].duration
    assert [e for e in back if isinstance(e, AudioPacket)] == [e for e in wanted if isinstance(e, AudioPacket)]


def test_starting_anywhere_gives_the_frames_of_a_full_decode(
    tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame]
) -> None:
    rate = 25
    for first, count in ((1, 3), (19, 5), (30, 31), (60, 1)):
        part = frames_of(decoded(tiny_lanes, tiny, start_s=first / rate, duration_s=count / rate))
        assert len(part) == count
        assert [frame.pts for frame in part] == [512 * number for number in range(count)]
        for ours, theirs in zip(part, tiny_whole[first:], strict=False):
            assert np.array_equal(ours.pixels, theirs.pixels)


def test_audio_starts_with_the_video(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    data = encoded(make_clip("in.mp4", frames=50, audio=True), tokenizer, EncodeSettings(gop_seconds=0.4))
    events = decoded(data, tokenizer, start_s=1.0, duration_s=0.5)
    times = [event.pts / 44100 for event in events if isinstance(event, AudioPacket) and event.pts is not None]
    assert 0 <= min(times) < 0.05 and 0.42 < max(times) < 0.5


@pytest.mark.parametrize("window", [{"start_s": -1}, {"start_s": math.nan}, {"duration_s": 0}])
def test_a_window_without_frames_is_refused(lanes: bytes, tokenizer: Tokenizer, window: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="the start must"):
        decoded(lanes, tokenizer, **window)
    for start_s in (100, 1e308):
        with pytest.raises(InputError, match="no frame lies"):
            decoded(lanes, tokenizer, start_s=start_s, duration_s=1e308)


def test_a_start_needs_no_index(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    """A pipe cannot seek, and a cut file has no index: both are decoded from the front."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    data = encoded(make_clip("in.mp4", frames=50, audio=True), tokenizer, EncodeSettings(gop_seconds=0.4))
    window = {"start_s": 0.7, "duration_s": 0.2}
    wanted = decoded(data, tokenizer, **window)
    assert len(frames_of(wanted)) == 5 and len(wanted) > 10
    for stream in (Pipe(data), io.BytesIO(data[:-100])):
        got = list(decode_events(VtkReader(stream), tokenizer, **window))  # type: ignore[arg-type]
        assert [e for e in got if isinstance(e, AudioPacket)] == [e for e in wanted if isinstance(e, AudioPacket)]
        for ours, theirs in zip(frames_of(got), frames_of(wanted), strict=True):
            assert ours.pts == theirs.pts and np.array_equal(ours.pixels, theirs.pixels)


def test_headers_that_do_not_fit_their_model_are_refused(lanes: bytes, tokenizer: Tokenizer) -> None:
    """A crafted header with the right hash must not reach the network."""
    reader = VtkReader(io.BytesIO(lanes))
    for change in ({"tokens_per_position": 5}, {"model": replace(reader.header.model, stride=(1, 1, 1))}):
        reader.header = replace(reader.header, **change)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match="does not fit its model"):
            list(decode_events(reader, tokenizer))


@pytest.mark.parametrize(
    "info", [VideoInfo(40000, 8, None, Fraction(1, 25)), VideoInfo(9000, 9000, None, Fraction(1, 25))]
)
def test_what_no_reader_would_read_is_not_written(tokenizer: Tokenizer, info: VideoInfo) -> None:
    with pytest.raises(InputError, match="cannot hold"):
        encode_video(info, [], tokenizer, EncodeSettings(), io.BytesIO())
    with pytest.raises(SettingError, match="gop"):
        small = VideoInfo(8, 8, Fraction(25), Fraction(1, 25))
        encode_video(small, [], tokenizer, EncodeSettings(gop_seconds=math.nan), io.BytesIO())


def test_fewer_tokens_are_worse_but_whole(lanes: bytes, tokenizer: Tokenizer) -> None:
    source = read_pixels(SMALL_LANES, 100)
    quality = [
        psnr_db(np.stack([frame.pixels for frame in frames_of(decoded(lanes, tokenizer, tokens=k))]), source)
        for k in (1, 2)
    ]
    assert quality[0] + 0.3 < quality[1]


def test_reading_one_of_two_tokens_equals_writing_one(tiny_lanes: bytes, tiny: Tokenizer) -> None:
    single = encoded(SMALL_LANES, tiny, EncodeSettings(tokens_per_position=1, gop_seconds=0.8))
    assert np.array_equal(*(read_tokens(io.BytesIO(data), find_prior)[..., :1] for data in (single, tiny_lanes)))
    with pytest.raises(SettingError, match="carries 1"):
        decoded(single, tiny, tokens=2)


def test_a_cut_file_gives_its_whole_chunks(tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame]) -> None:
    got = []
    with pytest.raises(DamageError, match="after chunk"):
        for event in decode_events(VtkReader(io.BytesIO(tiny_lanes[: len(tiny_lanes) // 2])), tiny):
            got.append(event)
    assert 13 <= len(got) < len(tiny_whole)
    for ours, theirs in zip(frames_of(got), tiny_whole, strict=False):
        assert np.array_equal(ours.pixels, theirs.pixels)


def test_an_input_that_breaks_off_leaves_a_whole_file(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    source = make_clip("in.mkv", frames=9)

    def broken() -> Iterator[Frame | AudioPacket]:
        with VideoReader(source) as reader:
            for number, event in enumerate(reader.events()):
                if number == 6:
                    raise InputError("the cable was pulled")
                yield event

    out = io.BytesIO()
    info = VideoInfo(64, 48, Fraction(25), Fraction(1, 1000))
    summary = encode_video(info, broken(), tokenizer, EncodeSettings(), out)
    assert "cable" in str(summary.failure)
    assert verify(io.BytesIO(out.getvalue()), find_prior).totals.frames == 6


def test_an_input_without_a_frame_is_an_error(tiny: Tokenizer) -> None:
    def broken() -> Iterator[Frame | AudioPacket]:
        yield AudioPacket(0, 0, 0, 1, b"sound")
        raise InputError("the cable was pulled")

    with pytest.raises(InputError, match="cable"):
        encode_video(VideoInfo(64, 48, Fraction(25), Fraction(1, 25)), broken(), tiny, EncodeSettings(), io.BytesIO())


def test_a_packet_that_no_record_holds_ends_the_file(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    """What came before it is kept, and every reader takes the file."""
    source, packets = make_clip("in.mp4", frames=30, audio=True), 0

    def swollen(reader: VideoReader) -> Iterator[Frame | AudioPacket]:
        nonlocal packets
        for event in reader.events():
            packets += isinstance(event, AudioPacket)
            large = isinstance(event, AudioPacket) and packets == 20
            yield replace(event, data=bytes(1 << 24)) if large else event

    out = io.BytesIO()
    with VideoReader(source) as reader:
        summary = encode_video(reader.info, swollen(reader), tokenizer, EncodeSettings(), out)
    assert "audio packet of 16777216 bytes" in str(summary.failure)
    assert verify(io.BytesIO(out.getvalue()), find_prior).totals.audio_packets == 19


def test_chunks_are_written_as_soon_as_they_are_whole(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    """A live source: after the 13 frames of the first chunk, its record must be out before the 30th frame comes."""
    source = make_clip("in.mkv", frames=40)
    out = io.BytesIO()
    written_at = {}

    def live() -> Iterator[Frame | AudioPacket]:
        with VideoReader(source) as reader:
            for number, event in enumerate(reader.events()):
                if number == 30:
                    deadline = time.monotonic() + 20
                    while len(out.getvalue()) < 300 and time.monotonic() < deadline:
                        time.sleep(0.01)
                    written_at[number] = len(out.getvalue())
                yield event

    encode_video(VideoInfo(64, 48, Fraction(25), Fraction(1, 1000)), live(), tokenizer, EncodeSettings(), out)
    assert written_at[30] > 300 and verify(io.BytesIO(out.getvalue()), find_prior).totals.frames == 40


def test_the_api_codes_arrays(tokenizer: Tokenizer) -> None:
    codec = Codec(tokenizer)
    frames = read_pixels(SMALL_LANES, 18)[:, :50, :70]
    tokens = codec.tokenize(frames, tokens=3)
    assert tokens.dtype == np.uint16 and tokens.shape == (6, 7, 9, 3)
    back = codec.detokenize(tokens, size=(50, 70), frames=18)
    assert back.shape == frames.shape and psnr_db(back, frames) > 20
    assert codec.detokenize(tokens[..., :1]).shape == (21, 56, 72, 3)


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 8, 8, 3)), np.zeros((4, 8, 8), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_the_api_refuses_other_arrays(tokenizer: Tokenizer, frames: np.ndarray) -> None:
    with pytest.raises(InputError):
        Codec(tokenizer).tokenize(frames)


def test_the_api_equals_the_file(lanes: bytes, tokenizer: Tokenizer, whole: list[Frame], tmp_path: Path) -> None:
    path = tmp_path / "lanes.vtk"
    path.write_bytes(lanes)
    with vtok_codec.open(path, device="cpu") as clip:
        assert isinstance(clip, Clip)
        assert clip.info().totals.frames == 61
        gop = clip.tokens(gop=0)
        assert np.array_equal(clip.tokens()[: len(gop)], gop)
        frames = [frame.pixels for frame in clip.frames(duration=0.2)]
    assert len(frames) == 5 and all(np.array_equal(a, b.pixels) for a, b in zip(frames, whole, strict=False))
    first_gop = read_pixels(SMALL_LANES, 4 * len(gop) - 3)
    assert np.array_equal(Codec(tokenizer).tokenize(first_gop), gop)


def test_a_fork_is_refused_rather_than_hanging(tokenizer: Tokenizer) -> None:
    """The threads of torch do not survive a fork, so that a child would wait for them without end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            Codec(tokenizer).tokenize(np.zeros((2, 16, 16, 3), np.uint8))
        except SettingError as error:
            code = 0 if "fork" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_prefetch_hands_errors_over_and_stops_when_left() -> None:
    made = []

    def source() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with Prefetch(source(), 2) as items:
        assert [next(items), next(items)] == [0, 1]
    assert len(made) < 10 and list(items) == []

    def failing() -> Iterator[int]:
        yield 1
        raise InputError("no more")

    with Prefetch(failing(), 2) as items:
        assert next(items) == 1
        with pytest.raises(InputError, match="no more"):
            next(items)


def test_leaving_one_stage_frees_another_that_waits_for_it() -> None:
    never = threading.Event()

    def waits() -> Iterator[int]:
        never.wait()
        yield 1

    with Prefetch(waits(), 1) as first, Prefetch(first, 1) as second:
        pass
    assert list(second) == []
    never.set()


def places_of(data: bytes) -> list[tuple[int, int]]:
    """Where each token record of a file starts, and its GOP."""
    return [(chunk.start, chunk.fields.gop) for chunk in parts_of(data).of_type(TOKENS)]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


@pytest.mark.parametrize("index", ["whole", "damaged"])
@pytest.mark.parametrize("chunk", ["first", "last"])
def test_recovery_loses_the_damaged_gop_only(
    tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame], chunk: str, index: str
) -> None:
    own = [place for place, gop in places_of(tiny_lanes) if gop == 1]
    damaged = flipped(tiny_lanes, own[0 if chunk == "first" else -1] + 60)
    if index == "damaged":
        damaged = flipped(damaged, len(damaged) - 4)
    with pytest.raises(DamageError):
        decoded(damaged, tiny)
    events = decoded(damaged, tiny, recover=True)
    frames, gaps = frames_of(events), [event for event in events if isinstance(event, Gap)]
    assert [frame.pts for frame in frames] == [frame.pts for frame in tiny_whole]
    assert len(gaps) == 1
    tick = float(VtkReader(io.BytesIO(tiny_lanes)).header.time_base)
    start, end = gaps[0].start_s - 1e-6, (gaps[0].end_s or 0) - 1e-6
    lost = [number for number, frame in enumerate(tiny_whole) if start <= frame.pts * tick < end]
    assert len(lost) == gaps[0].filled > 0
    for number, (frame, good) in enumerate(zip(frames, tiny_whole, strict=True)):
        expected = tiny_whole[lost[0] - 1] if number in lost else good
        assert np.array_equal(frame.pixels, expected.pixels), number


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda codec: codec.tokenize([[0]]), "must be a NumPy array, not builtins.list"),
        (lambda codec: codec.tokenize(torch.zeros(1, 8, 8, 3, dtype=torch.uint8)), "not torch.Tensor"),
        (lambda codec: codec.tokenize(np.zeros((1, 8, 8, 3), np.uint8), stickiness=-1.0), "from 0 to 4"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.float32)), "tokens must be integers"),
        (lambda codec: codec.detokenize(np.full((1, 1, 1, 2), -1)), "token -1"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), size=(9, 8)), "not within"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), size=(-1, 8)), "not within"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), frames=0), "stand for 1 to 1"),
        (lambda codec: codec.detokenize(np.zeros((2, 1, 1, 2), np.uint16), frames=6), "stand for 1 to 5"),
        (lambda codec: codec.detokenize(np.zeros((2, 1, 1, 2), np.uint16), frames=2.5), "frames must be a whole"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), size=8), "size must be the height and"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), size=(8,)), "size must be the height and"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), size=(8, 7.5)), "width of size must be"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), decoder="ddim", seed=1.5), "seed must be"),
        (lambda codec: codec.detokenize(np.zeros((1, 1, 1, 2), np.uint16), decoder="ddim", steps=1.5), "steps must"),
        (lambda codec: codec.tokenize(np.zeros((1, 8, 8, 3), np.uint8), tokens="2"), "tokens must be a whole number"),
        (lambda codec: codec.tokenize_batch(torch.zeros(1, 3, 1, 8, 8), tokens=1.5), "tokens must be a whole number"),
        (
            lambda codec: codec.pack([np.ones((1, 1, 1, 2), np.uint16)], io.BytesIO(), frames=5),
            "a list of whole numbers",
        ),
        (lambda codec: codec.pack([np.ones((1, 1, 1, 2), np.uint16)], io.BytesIO(), size=(8,)), "size must be the"),
    ],
)
def test_arrays_that_are_none_of_ours_are_refused(
    tokenizer: Tokenizer, call: Callable[[Codec], object], message: str
) -> None:
    with pytest.raises((InputError, SettingError), match=message):
        call(Codec(tokenizer))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clip: clip.tokens(gop="0"), "gop must be a whole number"),
        (lambda clip: list(clip.frames(start="1")), "start must be seconds"),
        (lambda clip: list(clip.frames(duration=object())), "duration must be seconds"),
        (lambda clip: list(clip.frames(tokens=1.5)), "tokens must be a whole number"),
        (lambda clip: vtok_codec.open(None), "give its contents as bytes, not NoneType"),
        (lambda clip: vtok_codec.open("a\0b.vtk"), "cannot read"),
    ],
)
def test_a_clip_refuses_arguments_of_wrong_types(
    lanes: bytes, tokenizer: Tokenizer, call: Callable[[Clip], object], message: str
) -> None:
    with pytest.raises((InputError, SettingError), match=message):
        call(vtok_codec.open(lanes))


def test_a_clip_is_opened_from_bytes_of_any_type(lanes: bytes) -> None:
    expected = vtok_codec.open(lanes).tokens(gop=0)
    for data in (bytearray(lanes), memoryview(lanes)):
        assert np.array_equal(vtok_codec.open(data).tokens(gop=0), expected)


def test_one_gop_is_read_without_the_next(lanes: bytes, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither unpacked nor looked at, so that damage in it does not matter; and its prior is looked up once."""
    unpacked: list[bool] = []
    digits = unpacking._Unpacker.digits

    def counting(self: Any, chunk: Any) -> Digits:
        unpacked.append(chunk.first)
        return digits(self, chunk)

    monkeypatch.setattr(unpacking._Unpacker, "digits", counting)
    data = encoded(SMALL_LANES, tokenizer, EncodeSettings(gop_latents=4, chunk_latents=2))
    clip, found = vtok_codec.open(data), []

    def finder(sha256: str) -> Any:
        found.append(sha256)
        return find_prior(sha256)

    whole = list(read_gops(VtkReader(io.BytesIO(data)), finder))
    assert len(whole) > 2 and len(found) == 1
    unpacked.clear()
    assert np.array_equal(clip.tokens(gop=1), whole[1].tokens) and unpacked == [True, False]


def test_rounded_times_are_steady_and_a_gap_between_chunks_is_not(tokenizer: Tokenizer) -> None:
    """As `verify` says it."""

    def steadiness(times: list[int]) -> list[bool]:
        info = VideoInfo(16, 16, Fraction(30), Fraction(1, 1000))
        frames = (Frame(np.zeros((16, 16, 3), np.uint8), pts) for pts in times)
        out = io.BytesIO()
        encode_video(info, frames, tokenizer, EncodeSettings(gop_latents=4, chunk_latents=2), out)
        gops = list(read_gops(VtkReader(io.BytesIO(out.getvalue())), find_prior))
        assert verify(io.BytesIO(out.getvalue()), find_prior).steady == all(gop.steady for gop in gops)
        return [gop.steady for gop in gops]

    even = [round(number * 1000 / 30) for number in range(26)]
    assert steadiness(even) == [True, True]
    assert steadiness([*even[:5], *(time + 50 for time in even[5:])]) == [False, True]


def test_frames_that_are_not_asked_for_are_not_decoded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.ones((20, 1, 1, 2), np.uint16)
    codec = Codec(tokenizer)
    whole = codec.detokenize(tokens)
    decoded: list[int] = []
    decode = Tokenizer.decode

    def counting(self: Tokenizer, digits: Digits, *arguments: Any) -> tuple[Pixels, State]:
        decoded.append(digits.shape[1])
        return decode(self, digits, *arguments)

    monkeypatch.setattr(Tokenizer, "decode", counting)
    for frames, latents in ((1, 4), (13, 4), (14, 8), (77, 20)):
        decoded.clear()
        assert np.array_equal(codec.detokenize(tokens, frames=frames), whole[:frames])
        assert sum(decoded) == latents


@pytest.mark.parametrize(
    ("rate", "kept"), [(30000 / 1001, "30000/1001"), (24000 / 1001, "24000/1001"), (29.97, "2997/100"), (30, "30")]
)
def test_arrays_are_packed_at_any_usual_rate(tokenizer: Tokenizer, rate: float, kept: str) -> None:
    out = io.BytesIO()
    Codec(tokenizer).pack([np.ones((2, 3, 4, 1), np.int64)], out, rate, frames=[4], size=(20, 30))
    summary = verify(io.BytesIO(out.getvalue()), find_prior)
    assert summary.header.rate == Fraction(kept) and summary.totals.frames == 4


@pytest.mark.parametrize("wrong", [np.full((1, 2, 2, 1), 64000), np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 3, 1), int)])
def test_nothing_is_written_of_arrays_that_do_not_fit(tokenizer: Tokenizer, wrong: NDArray[np.int64]) -> None:
    out = io.BytesIO()
    with pytest.raises(InputError):
        Codec(tokenizer).pack([np.ones((1, 2, 2, 1), np.int64), wrong], out)
    assert not out.getvalue()


def test_chunks_beyond_waves_are_packed_by_zstd(tokenizer: Tokenizer) -> None:
    """4 tokens of 4096 by 4096 pixels: more digits a chunk than waves may have."""
    info = VideoInfo(4096, 4096, Fraction(25), Fraction(1, 25))
    for tokens, coder in ((4, ZSTD), (1, WAVES)):
        header = make_header(info, tokenizer.id, tokenizer.max_tokens, EncodeSettings(tokens_per_position=tokens))
        assert chosen_coder(header, EncodeSettings.coder, None).spec == coder


def test_tokens_decode_gop_by_gop(tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame], tmp_path: Path) -> None:
    """As README shows it: the arrays of a file's GOPs are all it takes to make its frames."""
    path = tmp_path / "lanes.vtk"
    path.write_bytes(tiny_lanes)
    codec = Codec(tiny)
    with Clip(path) as clip:
        gops = list(clip.gops())
        header = clip.header
    size = (header.height, header.width)
    made = np.concatenate([codec.detokenize(tokens, size, gop=gop) for gop, tokens in enumerate(gops)])
    assert np.array_equal(made[: len(tiny_whole)], np.stack([frame.pixels for frame in tiny_whole]))
    assert len(made) - len(tiny_whole) < header.model.stride[0]
    assert np.array_equal(np.concatenate(gops), read_tokens(io.BytesIO(tiny_lanes), find_prior))


def test_recovery_within_a_window_minds_the_window_only(tiny_lanes: bytes, tiny: Tokenizer) -> None:
    places = places_of(tiny_lanes)
    later = flipped(tiny_lanes, next(place for place, gop in places if gop == 2) + 60)
    plain = decoded(later, tiny, duration_s=0.5)
    assert len(frames_of(plain)) == len(decoded(later, tiny, duration_s=0.5, recover=True)) > 5
    within = flipped(tiny_lanes, next(place for place, gop in places if gop == 1) + 60)
    events = decoded(within, tiny, start_s=0.4, duration_s=0.6, recover=True)
    (gap,) = (event for event in events if isinstance(event, Gap))
    # The gap runs past the window's end, and is filled up to it.
    assert gap.start_s == pytest.approx(0.28) and gap.end_s == pytest.approx(0.6)
    assert len(frames_of(events)) == 15 and gap.filled == 8
    assert [frame.pts for frame in frames_of(events)] == [
        frame.pts for frame in frames_of(decoded(tiny_lanes, tiny, start_s=0.4, duration_s=0.6))
    ]


@pytest.mark.parametrize("last_chunk", [1, 5])
def test_a_last_chunk_is_not_taken_for_a_first_one(tiny: Tokenizer, last_chunk: int) -> None:
    """Without an index a short chunk may look like the first of its GOP: decoded so, it would be plausible nonsense."""
    out = io.BytesIO()
    with VideoReader(SMALL_LANES, audio=False) as reader:
        shown = islice(reader.frames(), 29 + 13 + last_chunk)
        encode_video(reader.info, shown, tiny, EncodeSettings(gop_seconds=1.28), out)
    data = out.getvalue()
    places = [place for place, gop in places_of(data) if gop == 1]
    assert len(places) == 2
    damaged = flipped(flipped(data, places[0] + 60), len(data) - 4)
    events = decoded(damaged, tiny, recover=True)
    assert len(frames_of(events)) == 29
    assert [event.end_s for event in events if isinstance(event, Gap)] == [None]


@pytest.mark.parametrize("recover", [False, True])
def test_damage_of_a_gop_entered_for_its_audio_is_no_matter(
    make_clip: ClipMaker, tokenizer: Tokenizer, recover: bool
) -> None:
    clip = make_clip("in.mp4", frames=60, audio=True)
    data = encoded(clip, tokenizer, EncodeSettings(gop_seconds=0.5))
    gops = dict(reversed([(gop, place) for place, gop in places_of(data)]))
    start = VtkReader(io.BytesIO(data)).index()[3].pts / 12800 + 0.2
    whole = [frame.pts for frame in frames_of(decoded(data, tokenizer, start_s=start))]
    before = decoded(flipped(data, gops[2] + 60), tokenizer, start_s=start, recover=recover)
    assert [frame.pts for frame in frames_of(before)] == whole
    assert not any(isinstance(event, Gap) for event in before)
    within = flipped(flipped(data, gops[2] + 60), gops[3] + 60)
    if recover:
        assert sum(isinstance(event, Gap) for event in decoded(within, tokenizer, start_s=start, recover=True)) == 1
    else:
        with pytest.raises(DamageError):
            decoded(within, tokenizer, start_s=start)


@pytest.mark.parametrize("recover", [False, True])
def test_decoding_compares_the_tokens_with_the_digest(
    tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame], recover: bool
) -> None:
    """A GOP of another file may have right CRCs; what it decodes to is not what was encoded."""

    def another(parts: FileParts) -> None:
        (end,) = parts.of_type(END)
        totals = parts.framing.totals_from_bytes(end.payload)
        end.payload = parts.framing.totals_to_bytes(replace(totals, token_digest=bytes(32)))

    data = changed(tiny_lanes, another)
    with pytest.raises(DamageError, match="do not match the digest"):
        verify(io.BytesIO(data), find_prior)
    events = decode_events(VtkReader(io.BytesIO(data)), tiny, recover=recover)
    whole = len(tiny_whole)
    assert all(isinstance(next(events), Frame) for _ in range(whole))
    if recover:
        gap = next(events)
        assert isinstance(gap, Gap) and "do not match the digest" in gap.reason
    else:
        with pytest.raises(DamageError, match="do not match the digest"):
            next(events)
    # A part of a file cannot be compared.
    assert len(decoded(data, tiny, start_s=1.0)) == len(decoded(tiny_lanes, tiny, start_s=1.0))


def test_what_is_wrong_at_the_very_end_is_told_after_all_frames(
    tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame]
) -> None:
    whole = len(tiny_whole)
    for data in (tiny_lanes[:-10], tiny_lanes[: -CompactFraming.footer_size], tiny_lanes + b"hidden"):
        events = decode_events(VtkReader(io.BytesIO(data)), tiny)
        assert all(isinstance(next(events), Frame) for _ in range(whole))
        with pytest.raises(DamageError, match=r"footer|after the end|cut short"):
            next(events)
    assert len(decoded(data, tiny, recover=True)) == whole


def test_much_audio_may_stand_before_the_first_frame(make_clip: ClipMaker, tokenizer: Tokenizer) -> None:
    """A recording whose picture starts minutes after its sound."""
    with VideoReader(make_clip("in.mp4", frames=9, audio=True)) as reader:
        info, frames = reader.info, list(reader.frames())
    rate = info.audio[0].sample_rate
    early = [AudioPacket(0, (number - 20) * rate, None, rate, bytes(1 << 20)) for number in range(20)]
    out = io.BytesIO()
    encode_video(info, [*early, *frames], tokenizer, EncodeSettings(), out)
    events = decoded(out.getvalue(), tokenizer)
    assert [event.pts for event in events[:20]] == [packet.pts for packet in early]
    assert len(frames_of(events)) == 9
    assert len(decoded(out.getvalue(), tokenizer, duration_s=0.2)) == 5


def test_recovery_of_a_cut_file_gives_what_is_there(
    tiny_lanes: bytes, tiny: Tokenizer, tiny_whole: list[Frame]
) -> None:
    events = decoded(tiny_lanes[: places_of(tiny_lanes)[-1][0] + 40], tiny, recover=True)
    gaps = [event for event in events if isinstance(event, Gap)]
    frames = frames_of(events)
    assert len(gaps) == 1 and gaps[0].end_s is None and "cut short" in gaps[0].reason
    assert 0 < len(frames) < len(tiny_whole)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(frames, tiny_whole, strict=False))


@pytest.mark.parametrize("record", [0, 1])
def test_recovery_tells_of_sound_that_is_lost(make_clip: ClipMaker, tokenizer: Tokenizer, record: int) -> None:
    """The picture is whole, and the gap says so, before the first frame as well."""
    data = encoded(make_clip("in.mp4", frames=50, audio=True), tokenizer, EncodeSettings(gop_seconds=0.4))
    place = parts_of(data).of_type(AUDIO)[record].payload_start
    whole, events = decoded(data, tokenizer), decoded(flipped(data, place + 8), tokenizer, recover=True)
    (gap,) = (event for event in events if isinstance(event, Gap))
    assert gap.start_s == gap.end_s and gap.filled == 0
    assert [frame.pts for frame in frames_of(events)] == [frame.pts for frame in frames_of(whole)]
    assert 0 < sum(isinstance(event, AudioPacket) for event in events) < sum(isinstance(e, AudioPacket) for e in whole)


def test_recovery_of_the_first_gop_starts_later(tiny_lanes: bytes, tiny: Tokenizer) -> None:
    events = decoded(flipped(tiny_lanes, places_of(tiny_lanes)[0][0] + 60), tiny, recover=True)
    frames, gaps = frames_of(events), [event for event in events if isinstance(event, Gap)]
    entries = VtkReader(io.BytesIO(tiny_lanes)).index()
    assert frames[0].pts == entries[1].pts and gaps[0].filled == 0
    assert (gaps[0].start_s, gaps[0].end_s) == (0, pytest.approx(0.68))
    without = flipped(flipped(tiny_lanes, places_of(tiny_lanes)[0][0] + 60), len(tiny_lanes) - 4)
    assert [event.start_s for event in decoded(without, tiny, recover=True) if isinstance(event, Gap)] == [None]
    everywhere = tiny_lanes
    for place, _ in places_of(tiny_lanes):
        everywhere = flipped(everywhere, place + 60)
    with pytest.raises(DamageError, match="nothing of the file could be recovered"):
        decoded(everywhere, tiny, recover=True)


def test_a_gap_cannot_claim_more_frames_than_its_bytes_could_hold(lanes: bytes, tokenizer: Tokenizer) -> None:
    """A crafted time far in the future, its CRC right, must not be filled with frames until then."""
    places = places_of(lanes)
    start = next(place for place, gop in places if gop == 2)

    def in_the_future(parts: FileParts) -> None:
        chunk = next(chunk for chunk in parts.of_type(TOKENS) if chunk.fields.gop == 2)
        chunk.fields = chunk.fields._replace(pts=1 << 50)

    crafted = changed(lanes, in_the_future)
    crafted = flipped(crafted, next(place for place, gop in places if gop == 1) + 60)
    events = decoded(crafted, tokenizer, recover=True)
    gap = next(event for event in events if isinstance(event, Gap))
    assert gap.filled > 30
    lost_bytes = start - next(place for place, gop in places if gop == 1)
    assert len(frames_of(events)) < 100 + 16 * (lost_bytes // CompactFraming.least_chunk_bytes + 1)


def test_a_clip_notices_that_its_file_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "clip.vtk"
    shutil.copy(DATA / "former-prior-4x8x8-08248bb4750a.vtk", path)
    with vtok_codec.open(path) as clip:
        assert len(list(clip.gops()))
        shutil.copy(DATA / "former-weights.vtk", path)
        for use in (lambda: next(clip.gops()), lambda: next(clip.frames()), clip.tokens, clip.info):
            with pytest.raises(InputError, match="another file than when it was opened"):
                use()
