"""GOPs side by side: in order, each by itself, within the memory; and whatever their number, the same files."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from helpers import SMALL_LANES

from vtok_codec.audio import AudioTrack
from vtok_codec.codec import decoder, encoder
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.lanes import Job, Lanes, plan_lanes, run_in_lanes
from vtok_codec.codec.tokenizer import Tokenizer, lanes_on
from vtok_codec.container.reader import VtkReader
from vtok_codec.media.reader import VideoReader
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.settings import EncodeSettings


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items(four_threads: None) -> None:
    """Late GOPs are done first here, and what is no job stands where it stood."""

    def slow(gop: int, part: int) -> str:
        time.sleep(0.03 / (1 + gop))
        return f"{gop}.{part}"

    def items() -> Iterator[Job[str] | str]:
        for gop in range(6):
            yield f"before {gop}"
            for part in range(3):
                yield Job(part == 0, partial(slow, gop, part))

    expected = [text for gop in range(6) for text in (f"before {gop}", *(f"{gop}.{part}" for part in range(3)))]
    for count in (1, 2, 4):
        assert list(run_in_lanes(items(), Lanes(count, 8))) == expected


def test_gops_run_side_by_side_and_their_parts_one_by_one(four_threads: None) -> None:
    """Two GOPs must meet, each in its first part; no part may begin before the one in front of it has ended."""
    meeting = threading.Barrier(2, timeout=20)
    running = [0, 0]
    threads: list[set[int]] = [set(), set()]

    def work(gop: int, part: int) -> None:
        running[gop] += 1
        assert running[gop] == 1
        threads[gop].add(threading.get_ident())
        if part == 0:
            meeting.wait()
        time.sleep(0.01)
        running[gop] -= 1

    jobs = (Job(part == 0, partial(work, gop, part)) for gop in range(2) for part in range(3))
    assert len(list(run_in_lanes(jobs, Lanes(2, 6)))) == 6
    assert len(threads[0]) == len(threads[1]) == 1 and threads[0] != threads[1]


def test_lanes_share_the_threads_and_give_them_back(four_threads: None) -> None:
    both = threading.Barrier(2, timeout=20)

    def share(meets: bool) -> int:
        if meets:
            both.wait()
        return torch.get_num_threads()

    pair = [Job(True, partial(share, True)), Job(True, partial(share, True))]
    # The first begins before the second is there.
    assert list(run_in_lanes(pair, Lanes(2, 4)))[1] == 2
    assert list(run_in_lanes([Job(True, partial(share, False))], Lanes(2, 4))) == [4]
    assert torch.get_num_threads() == 4
    seen: list[int] = []
    late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert seen == [4]


_HOLES = """
import numpy, resource
from pathlib import Path
from vtok_codec.codec.lanes import Job, Lanes, run_in_lanes

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

def work():
    # Blocks that the C library takes from its heap, every tenth of which stays.
    blocks = [numpy.ones(100_000, numpy.uint8) for _ in range(2000)]
    return blocks[::10]

kept, seen = [], []
for blocks in run_in_lanes((Job(number == 0, work) for number in range(3)), Lanes(1, 1)):
    kept.append(blocks)
    del blocks
    seen.append(resident_mib())
list(run_in_lanes([Job(False, list)], Lanes(1, 1)))
print(seen[-1] - resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what can be given back")
def test_each_chunk_starts_with_an_empty_heap() -> None:
    """What the chunks before left in the heap, among blocks that stay, goes back to the system: 170 MB here."""
    run = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True)
    assert float(run.stdout) > 120


def test_an_error_stands_where_its_job_stood() -> None:
    def fail() -> str:
        raise ValueError("no such thing")

    items: list[Job[str] | str] = ["a", Job(True, fail), "c"]
    results = run_in_lanes(items, Lanes(2, 4))
    assert next(results) == "a"
    with pytest.raises(ValueError, match="no such thing"):
        next(results)


def test_closing_drops_what_has_not_begun_and_waits_for_nothing() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            gate.wait(20)
        return number

    results = run_in_lanes((Job(True, partial(work, n)) for n in range(100)), Lanes(2, 6))
    assert next(results) == 0
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    gate.set()
    time.sleep(0.2)
    assert len(begun) <= 3


@pytest.mark.parametrize("lanes", [Lanes(1, 1), Lanes(3, 30)])
def test_the_number_of_lanes_changes_no_byte_and_no_pixel(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, lanes: Lanes
) -> None:
    def both() -> tuple[bytes, list[Frame]]:
        file = io.BytesIO()
        with VideoReader(SMALL_LANES, audio=False) as reader:
            shown = islice(reader.frames(), 29)
            encode_video(reader.info, shown, tokenizer, EncodeSettings(gop_seconds=0.3), file)
        events = decode_events(VtkReader(io.BytesIO(file.getvalue())), tokenizer)
        return file.getvalue(), [event for event in events if isinstance(event, Frame)]

    data, frames = both()
    for module in (encoder, decoder):
        monkeypatch.setattr(module, "plan_lanes", lambda *arguments: lanes)
    other_data, other_frames = both()
    assert data == other_data and len(frames) == 29
    for one, other in zip(frames, other_frames, strict=True):
        assert one.pts == other.pts and np.array_equal(one.pixels, other.pixels)


def test_lanes_fit_the_threads_and_the_memory(tokenizer: Tokenizer, four_threads: None) -> None:
    info = VideoInfo(256, 256, Fraction(30), Fraction(1, 30))
    header = make_header(info, tokenizer.id, tokenizer.max_tokens, EncodeSettings())

    assert lanes_on(torch.device("cpu")) == 4 and lanes_on(torch.device("cuda")) == 1

    def count(most: int = 4, parts: int = 8, **changes: object) -> int:
        return plan_lanes(replace(header, **changes), 1200, most, parts).count  # type: ignore[arg-type]

    assert count() == 4
    assert count(width=640, height=360) == 2
    assert count(width=1280, height=720) == count(width=4096, height=4096) == 1
    assert count(gop_latents=1200) == 1 and count(gop_latents=400) == 2
    assert count(most=1) == 1
    assert plan_lanes(header, 1200, 4, 8).ahead == 3 * 8 + 1
    track = AudioTrack("aac", Fraction(1, 44100), 44100, "stereo", b"")
    sound = make_header(replace(info, audio=(track,)), tokenizer.id, tokenizer.max_tokens, EncodeSettings())
    assert plan_lanes(sound, 1200, 4, 8).ahead == 2 * (3 * 8 + 1)
    # Small chunks in long GOPs, as only a crafted file has them: each item under way could be audio, of 16 MiB.
    assert count(parts=100) == 2 and count(parts=1 << 20) == 1
    tiny = replace(sound, width=1, height=1)
    assert all(plan_lanes(tiny, 1200, 4, parts).ahead <= 128 for parts in range(1, 200))
