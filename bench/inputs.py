"""Encodes hard and malformed inputs with `vtok encode` and, for comparison, with x264 through FFmpeg.

    .venv/bin/python bench/inputs.py [--out FILE.json] [--hour]

The script makes every input from a moving test picture. It reports the exit code of each program, the number of frames
that it coded, and the last message of vtok. A traceback or a signal is a crash. It is a silent loss if vtok accepts a
malformed input without a message, or loses frames of a hard one.

`--hour` also codes an hour of video (3,600 s, 10 frames per second) and a minute of it, and reports their peak memory.
This takes a few minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import imageio_ffmpeg
from common import print_table, write_json

from vtok_codec.errors import VtokError
from vtok_codec.evaluation.usage import run_measured
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.verifying import verify

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
_HOUR_S, _MINUTE_S = 3600, 60
"""The lengths of the clips for `--hour` in seconds."""


@dataclass(frozen=True)
class Outcome:
    """What both programs made of one input."""

    input: str
    """A description of the input."""
    malformed: bool
    """Whether the input is damaged, or no video at all."""
    frames: int | None
    """The number of frames that a lenient decoder finds; None if it cannot open the file."""
    vtok_exit: int
    """The exit code of `vtok encode`."""
    vtok_frames: int
    """The number of frames that vtok coded."""
    vtok_says: str
    """The last line that vtok printed, apart from its summary."""
    ffmpeg_exit: int
    """The exit code of FFmpeg."""
    ffmpeg_frames: int
    """The number of frames that FFmpeg coded."""
    crashed: bool
    """Whether vtok ended with a traceback or by a signal."""
    silent_loss: bool
    """Whether vtok accepted a malformed input without a message, or lost frames of a hard one."""


def make(target: Path, *options: str, size: str = "160x120", frames: int = 50, sound: int = 0) -> Path:
    """Make a test clip.

    Args:
        target: The file to write.
        options: Options of FFmpeg for the output.
        size: Width and height in pixels.
        frames: The number of frames, at 25 per second.
        sound: The number of audio tracks.
    """
    inputs = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25"]
    for track in range(sound):
        inputs += ["-f", "lavfi", "-i", f"sine=frequency={440 * (track + 1)}:sample_rate=44100"]
    maps = [part for stream in range(1 + sound) for part in ("-map", str(stream))]
    length = ["-t", str(frames / 25)] if sound else ["-frames:v", str(frames)]
    subprocess.run([FFMPEG, "-v", "error", "-y", *inputs, *maps, *length, *options, str(target)], check=True)
    return target


def rotated(folder: Path) -> Path:
    """Make a clip with a display rotation."""
    source, target = make(folder / "upright.mp4"), folder / "rotated.mp4"
    command = [FFMPEG, "-v", "error", "-y", "-display_rotation:v:0", "90", "-i", source, "-c", "copy", target]
    subprocess.run(command, check=True)
    return target


def edit_list(folder: Path) -> Path:
    """Make a clip with an edit list that skips its first frames."""
    source, target = make(folder / "whole.mp4", "-g", "25", "-pix_fmt", "yuv420p"), folder / "edit.mp4"
    subprocess.run([FFMPEG, "-v", "error", "-y", "-ss", "0.8", "-i", source, "-c", "copy", target], check=True)
    return target


def joined(folder: Path) -> Path:
    """Join two copies of a clip byte by byte, so that the timestamps start again in the middle."""
    part = make(folder / "part.vob", "-c:v", "mpeg2video", sound=1).read_bytes()
    target = folder / "parts.vob"
    target.write_bytes(part * 2)
    return target


HARD: dict[str, Callable[[Path], Path]] = {
    "rotated by 90°": rotated,
    "variable rate": lambda d: make(d / "vfr.mp4", "-vf", "select='mod(n,7)*mod(n,5)'", "-fps_mode", "vfr"),
    "10 bit, PQ": lambda d: make(
        d / "hdr.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084", frames=10
    ),
    "odd size": lambda d: make(d / "odd.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv444p", size="161x123", frames=10),
    "one frame per second": lambda d: make(d / "slow.mp4", "-r", "1", frames=100),
    "interlaced": lambda d: make(d / "field.mpg", "-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "setfield=tff"),
    "gif": lambda d: make(d / "a.gif", frames=20),
    "anamorphic": lambda d: make(d / "sar.mp4", "-vf", "setsar=16/11"),
    "4:2:2": lambda d: make(d / "422.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv422p", frames=10),
    "4:4:4": lambda d: make(d / "444.mp4", "-pix_fmt", "yuv444p"),
    "full range": lambda d: make(d / "full.mp4", "-pix_fmt", "yuvj420p"),
    "grey": lambda d: make(d / "grey.mkv", "-c:v", "ffv1", "-pix_fmt", "gray", frames=10),
    "B-frames": lambda d: make(d / "b.mp4", "-bf", "3", "-pix_fmt", "yuv420p"),
    "edit list": edit_list,
    "two audio tracks": lambda d: make(d / "two.mp4", sound=2),
    "audio in ADTS": lambda d: make(d / "adts.ts", sound=1),
    "two frames": lambda d: make(d / "short.mp4", frames=2),
    "one picture": lambda d: make(d / "one.png", "-update", "1", frames=1),
    "MJPEG in AVI": lambda d: make(d / "m.avi", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "VP9 in WebM": lambda d: make(d / "v.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", frames=20),
    "two parts joined": joined,
    "raw y4m": lambda d: make(d / "r.y4m", "-pix_fmt", "yuv420p", frames=10),
}


def malformed(folder: Path) -> Iterator[tuple[str, Path]]:
    """Make files that are damaged, cut short, or no videos at all, and yield their names and paths."""
    fast = make(folder / "fast.mp4", "-movflags", "+faststart", "-pix_fmt", "yuv420p", "-g", "10").read_bytes()
    late = make(folder / "late.mp4", "-pix_fmt", "yuv420p").read_bytes()
    pieces = make(folder / "pieces.mp4", "-movflags", "frag_keyframe+empty_moov", "-g", "10").read_bytes()
    half = len(fast) // 2
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"This is no video.\n" * 50,
        "zeroes.mp4": bytes(10_000),
        "moov missing, cut.mp4": late[: len(late) // 2],
        "faststart, cut at 50 %.mp4": fast[:half],
        "faststart, cut in the header.mp4": fast[:200],
        "fragmented, cut at 60 %.mp4": pieces[: int(len(pieces) * 0.6)],
        "4 KiB zeroed in the middle.mp4": fast[:half] + bytes(4096) + fast[half + 4096 :],
        "100 bytes flipped.mp4": bytes(
            b ^ (0x55 if n % (len(fast) // 100) == 0 and n > 3000 else 0) for n, b in enumerate(fast)
        ),
        "4 KiB taken out.mp4": fast[:half] + fast[half + 4096 :],
    }
    for name in ("Matroska.mkv", "WebM.webm", "AVI.avi", "FLV.flv", "NUT.nut"):
        codec = ["-c:v", "libvpx", "-deadline", "realtime"] if name == "WebM.webm" else ["-c:v", "mpeg4"]
        whole = make(folder / name, *(["-c:v", "flv1"] if name == "FLV.flv" else codec)).read_bytes()
        contents[f"{name.partition('.')[0]}, cut at 60 %.{name.partition('.')[2]}"] = whole[: int(len(whole) * 0.6)]
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        yield name.rpartition(".")[0], folder / name
    yield "sound only", make_sound(folder / "sound.mp4")
    yield "size changes midway", size_change(folder)


def make_sound(target: Path) -> Path:
    """Make a file with an audio track alone."""
    subprocess.run([FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "sine=duration=1", str(target)], check=True)
    return target


def size_change(folder: Path) -> Path:
    """Make a file of two MPEG-2 streams with different picture sizes, one after the other."""
    parts = [make(folder / f"{size}.mpg", "-c:v", "mpeg2video", size=size) for size in ("160x120", "192x144")]
    target = folder / "joined.mpg"
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target


def frames_of(path: Path) -> int | None:
    """Count the frames that a lenient decoder finds, or return None if it cannot open the file."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                try:
                    count += len(packet.decode())
                except av.FFmpegError:
                    continue
    except (av.FFmpegError, IndexError):
        return count or None
    return count


def coded_frames(path: Path) -> int:
    """Return the number of frames of a `.vtk` file, or 0 if there is no valid file."""
    try:
        with open(path, "rb") as stream:
            return verify(stream, find_prior).totals.frames
    except (OSError, VtokError):
        return 0


def outcome(name: str, path: Path, is_malformed: bool, folder: Path) -> Outcome:
    """Run both programs on one input."""
    ours, theirs = folder / "o.vtk", folder / "o.mkv"
    for target in (ours, theirs):
        target.unlink(missing_ok=True)
    vtok = [sys.executable, "-m", "vtok_codec", "encode", str(path), str(ours), "-f"]
    done = subprocess.run(vtok, capture_output=True, text=True, check=False)
    ffmpeg = [FFMPEG, "-v", "error", "-y", "-i", str(path), "-map", "0:v:0", "-c:v", "libx264", str(theirs)]
    peer = subprocess.run(ffmpeg, capture_output=True, check=False)
    # Take the last line that is no summary, since an error comes after notes on the input.
    said = [line for line in done.stderr.splitlines() if "->" not in line]
    says = said[-1].replace(f"{folder}/", "") if said else ""
    expected, coded = frames_of(path), coded_frames(ours)
    crashed = done.returncode < 0 or "Traceback" in done.stderr
    lost = is_malformed and done.returncode == 0 and not says
    lost = lost or (not is_malformed and coded != expected)
    theirs_frames = (frames_of(theirs) or 0) if theirs.exists() else 0
    return Outcome(
        name, is_malformed, expected, done.returncode, coded, says, peer.returncode, theirs_frames, crashed, lost
    )


def hour(folder: Path) -> dict[str, dict[str, float | None]]:
    """Measure the peak memory in MiB and the seconds of both commands on a minute and on an hour of video."""
    figures: dict[str, dict[str, float | None]] = {}
    for length in (_MINUTE_S, _HOUR_S):
        clip, file, back = folder / "long.mp4", folder / "long.vtk", folder / "back.mp4"
        picture = "testsrc2=size=256x144:rate=10"
        command = [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", picture, "-t", str(length), "-preset", "ultrafast"]
        subprocess.run([*command, "-pix_fmt", "yuv420p", str(clip)], check=True)
        for name, source, target in (("encode", clip, file), ("decode", file, back)):
            cost = run_measured([sys.executable, "-m", "vtok_codec", name, str(source), str(target), "-qf"])
            figures[f"{name}, {length} s"] = {"peak_mib": cost.peak_mib, "seconds": cost.seconds}
    return figures


def main() -> None:
    """Try all inputs, print the outcomes and write JSON. The exit code is 1 after a crash or a silent loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hour", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = [(title, build(folder), False) for title, build in HARD.items()]
        inputs += [(title, path, True) for title, path in malformed(folder)]
        outcomes = [outcome(title, path, bad, folder) for title, path, bad in inputs]
        long = hour(folder) if arguments.hour else {}
    rows = [list(asdict(one).values()) for one in outcomes]
    print_table(list(Outcome.__annotations__), rows)
    for title, figures in long.items():
        print(title, figures)
    write_json(arguments.out, {"inputs": [asdict(one) for one in outcomes], "long": long})
    raise SystemExit(int(any(one.crashed or one.silent_loss for one in outcomes)))


if __name__ == "__main__":
    main()
