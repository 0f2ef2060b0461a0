"""Commands in pipes: formats, interrupts, readers that leave."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from command_helpers import GOLDEN, VTOK, text, vtok
from helpers import SMALL_LANES, ClipMaker, inside, pixels_of


def test_pipes_give_the_same_tokens_and_frames(clip: Path, tmp_path: Path, ffmpeg: str) -> None:
    """ffmpeg … -f nut - | vtok encode - - | vtok decode - - | ffmpeg, all at once."""
    shell = (
        f"{ffmpeg} -v error -i {SMALL_LANES} -c copy -f nut - | {' '.join(VTOK)} encode - - -q --gop 0.8 "
        f"| tee {tmp_path}/piped.vtk | {' '.join(VTOK)} decode - - -q "
        f"| {ffmpeg} -v error -i - -c:v ffv1 {tmp_path}/rec.mkv"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "", "")
    for name, path in (("file", clip), ("pipe", tmp_path / "piped.vtk")):
        assert inside("tokens", path, tmp_path / f"{name}.npy")[0] == 0
    assert np.array_equal(np.load(tmp_path / "file.npy"), np.load(tmp_path / "pipe.npy"))
    assert inside("decode", clip, tmp_path / "direct.mkv", "--codec", "ffv1")[0] == 0
    direct, piped = pixels_of(tmp_path / "direct.mkv"), pixels_of(tmp_path / "rec.mkv")
    assert len(direct) == 61 and all(np.array_equal(a, b) for a, b in zip(direct, piped, strict=True))


def test_a_pipe_keeps_every_audio_packet_beside_its_pictures(make_clip: ClipMaker, tmp_path: Path, ffmpeg: str) -> None:
    """Two tracks through ffmpeg | encode | decode: the same packets at the same times, none far from its pictures."""
    one = make_clip("one.mkv", frames=75, audio=True)
    source = tmp_path / "two.mkv"
    tracks = ["-map", "0", "-map", "0:a", "-c:v", "copy", "-c:a:0", "copy", "-c:a:1", "libopus"]
    subprocess.run([ffmpeg, "-v", "error", "-i", one, *tracks, source], check=True)
    shell = (
        f"{ffmpeg} -v error -i {source} -map 0 -c copy -f nut - | tee {tmp_path}/in.nut "
        f"| {' '.join(VTOK)} encode - - -q --gop 0.8 "
        f"| {' '.join(VTOK)} decode - - -q > {tmp_path}/back.nut"
    )
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "", "")
    given, back = packets_of(tmp_path / "in.nut"), packets_of(tmp_path / "back.nut")
    # What comes first comes at 0 then.
    begin = min(at for _, at, _ in given)
    given = [(track, at - begin, data) for track, at, data in given]
    for track in (0, 1):
        wanted, got = ([packet for packet in packets if packet[0] == track] for packets in (given, back))
        assert len(wanted) > 100 and [data for _, _, data in got] == [data for _, _, data in wanted]
    for which in (None, 0, 1):
        before, after = (sorted(at for track, at, _ in packets if track == which) for packets in (given, back))
        assert max(abs(a - b) for a, b in zip(before, after, strict=True)) < Fraction(1, 10_000)
    shown = Fraction(0)
    for track, at, _ in back:
        if track is None:
            shown = at
        assert abs(at - shown) < 1


def packets_of(path: Path) -> list[tuple[int | None, Fraction, bytes]]:
    """Audio track, or None for a picture, time in seconds, and data of each packet, in the order of the file."""
    with av.open(path) as container:
        tracks = {stream.index: number for number, stream in enumerate(container.streams.audio)}
        return [
            (tracks.get(packet.stream.index), packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux()
            if packet.pts is not None and packet.time_base is not None
        ]


def test_decode_writes_every_pipe_format(clip: Path, tmp_path: Path) -> None:
    for name in ("y4m", "matroska", "mp4"):
        result = vtok("decode", clip, "-", "--format", name, "--duration", "0.2", "-q")
        assert result.returncode == 0, result.stderr
        (tmp_path / name).write_bytes(result.stdout)
        assert len(pixels_of(tmp_path / name)) == 5


def test_binary_is_not_written_to_a_terminal(clip: Path) -> None:
    leader, follower = pty.openpty()
    for command in (["encode", str(SMALL_LANES), "-"], ["decode", str(clip), "-"]):
        result = subprocess.run([*VTOK, *command], stdout=follower, stderr=subprocess.PIPE, timeout=300, check=False)
        assert result.returncode == 7
        assert result.stderr == b"vtok: will not write binary data to a terminal; redirect it, or name a file\n"
    os.close(follower)
    os.close(leader)


def test_waiting_for_a_pipe_can_be_interrupted(tmp_path: Path) -> None:
    command = [*VTOK, "encode", "-", str(tmp_path / "o.vtk")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.iterdir()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None and process.stderr.read() == b"vtok: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_reader_that_stalls_can_be_left(clip: Path, number: int, code: int) -> None:
    """The pipe is full, and nobody empties it."""
    command = [*VTOK, "decode", str(clip), "-", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(1)
        time.sleep(2)
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert process.stderr.read().decode() == f"vtok: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_told(clip: Path) -> None:
    for command in (["encode", str(SMALL_LANES), "-", "-q"], ["info", str(GOLDEN)], ["decode", str(clip), "-", "-q"]):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([*VTOK, *command], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
        assert result.returncode == 7, command
        assert result.stderr.count(b"\n") == 1 and b"No space left" in result.stderr


def test_a_reader_that_leaves_is_no_crash(clip: Path) -> None:
    shell = f"{' '.join(VTOK)} decode {clip} - -q | head -c 1000 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=300, check=False)
    assert text(done) == (0, "1000\n141\n", "")


@pytest.fixture
def heard_hangup() -> Iterator[None]:
    """Under `nohup` a hangup is ignored, and would be by a command that is started here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_command_leaves_nothing(
    tmp_path: Path, number: int, code: int, make_clip: ClipMaker, heard_hangup: None
) -> None:
    """A long work, stopped once its output has begun to grow."""
    source = make_clip("long.mkv", size="64x48", frames=1500)
    (tmp_path / "out").mkdir()
    command = [*VTOK, "encode", str(source), str(tmp_path / "out" / "o.vtk"), "-q", "--effort", "slow"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not any(path.stat().st_size > 500 for path in (tmp_path / "out").iterdir()):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.decode() == f"vtok: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_live_recording_that_is_ended_is_kept(number: signal.Signals, tmp_path: Path, ffmpeg: str) -> None:
    """Even if the source has stalled by then."""
    video = ["-f", "lavfi", "-re", "-i", "testsrc2=s=64x48:r=25", "-c:v", "ffv1", "-f", "nut", "-"]
    out = tmp_path / "live.vtk"
    with subprocess.Popen([ffmpeg, "-v", "error", *video], stdout=subprocess.PIPE) as source:
        command = [*VTOK, "encode", "-", str(out), "--gop", "0.5"]
        with subprocess.Popen(command, stdin=source.stdout, stderr=subprocess.PIPE) as recording:
            deadline = time.monotonic() + 120
            while not any(part.stat().st_size > 1000 for part in tmp_path.glob(".live.vtk.*")):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            source.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
            recording.send_signal(number)
            _, told = recording.communicate(timeout=60)
        source.kill()
    assert recording.returncode == 128 + number
    assert f"{out} holds the" in told.decode().splitlines()[-1]
    assert inside("verify", out)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["live.vtk"]
