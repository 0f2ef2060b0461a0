"""`vtok corpus` end to end: real worker processes, which crash, stall and are killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from command_helpers import VTOK, text, vtok
from corpus_helpers import begin, contents, make, make_clips, tiny_weights
from helpers import inside

SIZES = [("64x48", 20), ("48x64", 9), ("64x48", 1), ("32x32", 40), ("64x48", 5), ("64x48", 30), ("32x32", 8)]

HOOK = """
import importlib.abc, os, sys, time

def change():
    import vtok_codec.media.reader as reader
    usual = reader.VideoReader.__init__
    def init(self, source, *rest, **named):
        name = os.path.basename(str(named.get("name") or source))
        if "crash" in name:
            os.abort()
        if "stall" in name:
            time.sleep(1000)
        usual(self, source, *rest, **named)
    reader.VideoReader.__init__ = init

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "vtok_codec.corpus.clips":
            sys.meta_path.remove(self)
            change()

sys.meta_path.insert(0, Finder())
"""
"""What makes a clip crash or stall its worker, by its name; Python runs it at the start of every process."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, and a corpus of them that nothing disturbed."""
    place = tmp_path_factory.mktemp("place")
    make_clips(place / "clips", SIZES)
    model = tiny_weights(place)
    make(place / "undisturbed", begin(place / "undisturbed", [place / "clips"], model))
    return place


def command(place: Path, folder: Path, *more: object, clips: str = "clips") -> list[str]:
    settings = ["--model", place / "tiny.safetensors", "--gop-latents", 4, "--clips-per-shard", 3]
    limits = ["--max-pixels", 1 << 20, "--device", "cpu"]
    return [*map(str, ["corpus", "encode", place / clips, "-o", folder, *settings, *limits, *more])]


def wait_for_a_clip(folder: Path, after: int = 0) -> None:
    """Wait until a worker has begun a clip, and has ended some before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = ""
        for path in (folder / "journal").glob("[0-9]*.log"):
            # A worker that ends removes its journal.
            with contextlib.suppress(FileNotFoundError):
                lines += path.read_text()
        if lines.count("begin") > lines.count("end") >= after:
            return
        time.sleep(0.005)
    raise AssertionError("no worker begins a clip")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_engines_make_the_same_shards(place: Path, tmp_path: Path, engine: str) -> None:
    code, out, err = text(vtok(*command(place, tmp_path / "c", "--engine", engine, "-j", 2, "--progress", "json")))
    assert code == 0 and not out, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert lines[-1]["clips"] == 7 and lines[-1]["shards"] == lines[-1]["all_shards"] == 3
    assert "7 clips (7 ok)" in err
    assert contents(tmp_path / "c") == contents(place / "undisturbed")


def test_clips_that_crash_or_stall_are_passed_over(place: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    bad = make_clips(tmp_path / "clips", SIZES[:2])
    for name in ("a-crash.mp4", "b-stall.mp4"):
        (bad / name).write_bytes((bad / "00.mp4").read_bytes())
    folder = tmp_path / "c"
    run = [*VTOK, *command(place, folder, "--timeout", 6, "-j", 1)]
    run[run.index(str(place / "clips"))] = str(bad)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 9
    assert "2 of 4 clips are bad (1 crashed, 1 timeout)" in result.stderr and "Traceback" not in result.stderr
    code, out, _ = inside("corpus", "status", folder, "--json")
    told = {Path(clip["source"]).name: clip for clip in json.loads(out)["bad"]}
    assert code == 0 and {name: clip["status"] for name, clip in told.items()} == {
        "a-crash.mp4": "crashed",
        "b-stall.mp4": "timeout",
    }
    assert told["a-crash.mp4"]["error"] == "its worker died in each of 2 attempts"
    # Without what made them crash, a second try reads them.
    code, _, err = text(vtok("corpus", "retry", folder, "-j", 1))
    assert code == 0 and "2 clips to try again" in err and "4 clips (4 ok)" in err
    assert inside("corpus", "verify", folder) == (0, f"{folder}: whole, 4 clips in 2 shards\n", "")


def test_kills_lose_nothing(place: Path, tmp_path: Path) -> None:
    """The driver is killed while clips are under way; what the runs leave together is what an undisturbed one makes."""
    folder = tmp_path / "c"
    arguments = command(place, folder, "-j", 2, "-q")
    for done in range(2):
        process = subprocess.Popen([*VTOK, *arguments], stderr=subprocess.DEVNULL)
        wait_for_a_clip(folder, after=done)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(list((folder / "shards").glob("*.parquet"))) < 3
    assert text(vtok(*arguments)) == (0, "", "")
    assert contents(folder) == contents(place / "undisturbed")
    assert sorted(path.name for path in folder.iterdir()) == ["corpus.json", "inputs.parquet", "journal", "shards"]
    assert not list((folder / "journal").iterdir())


def test_two_runs_share_a_corpus(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    runs = [subprocess.Popen([*VTOK, *command(place, folder, "-j", 1, "-q")], stderr=subprocess.PIPE) for _ in range(2)]
    assert [run.communicate(timeout=120)[1] for run in runs] == [b"", b""]
    assert [run.returncode for run in runs] == [0, 0]
    assert contents(folder) == contents(place / "undisturbed")


def test_a_rerun_tells_of_clips_that_came_later(tmp_path: Path) -> None:
    """The corpus stays as it began, and nobody shall think that it holds them; clips that have gone do not matter."""
    clips, model, folder = make_clips(tmp_path / "clips", SIZES[:2]), tiny_weights(tmp_path), tmp_path / "c"
    make(folder, begin(folder, [clips], model))
    before, again = contents(folder), command(tmp_path, folder)
    code, out, err = inside(*again)
    assert (code, out) == (0, "") and "2 clips (2 ok)" in err and "newer" not in err
    shutil.copy(clips / "00.mp4", clips / "02.mp4")
    (clips / "01.mp4").unlink()
    code, out, err = inside(*again)
    first = err.splitlines()[0]
    assert (code, out) == (0, "") and contents(folder) == before
    assert first.startswith(f"vtok: 1 clip of the sources is newer than {folder}") and "another corpus" in first


def test_wrong_options_remove_nothing(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(place / "undisturbed", folder)
    for option in (["--max-bad", "few"], ["--engine", "slurm"], ["--progress", "dots"]):
        code, _, _ = inside("corpus", "retry", folder, "--status", "ok", *option)
        assert code == 2 and contents(folder) == contents(place / "undisturbed")
    (place / "tiny.safetensors").rename(place / "away")
    code, _, err = inside("corpus", "retry", folder, "--status", "ok")
    (place / "away").rename(place / "tiny.safetensors")
    assert code == 6 and "no weights file" in err and contents(folder) == contents(place / "undisturbed")


def test_damaged_shards_are_made_again(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    shutil.copytree(place / "undisturbed", folder)
    tar = folder / "shards" / "000002.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    assert inside("corpus", "verify", folder, "-q")[0] == 9
    code, _, err = text(vtok("corpus", "retry", folder, "--damaged", "-j", 1))
    assert code == 0 and "0 clips and 1 damaged shard to try again" in err
    assert contents(folder) == contents(place / "undisturbed")


def test_a_shard_that_was_never_made_is_not_damaged(place: Path, tmp_path: Path) -> None:
    """Its journal, which knows the clips that crashed, is not taken from the worker that may be making it."""
    folder = tmp_path / "c"
    shutil.copytree(place / "undisturbed", folder)
    for path in (folder / "shards").glob("000002.*"):
        path.unlink()
    code, _, err = inside("corpus", "retry", folder, "--damaged", "--status", "crashed", "-j", 1)
    assert code == 0 and "0 clips and 0 damaged shards to try again" in err
    assert contents(folder) == contents(place / "undisturbed")


def test_a_terminal_shows_two_bars(place: Path, tmp_path: Path) -> None:
    """One counts clips, the other hours of video."""
    run, terminal = pty.fork()
    if run == 0:  # pragma: no cover - the child becomes the command
        os.execv(sys.executable, [*VTOK, *command(place, tmp_path / "c", "-j", 1)])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 4096):
            shown += piece
    _, code = os.waitpid(run, 0)
    assert os.waitstatus_to_exitcode(code) == 0
    assert b"/7 [" in shown and b"h of video [" in shown and b"times real time" in shown
    assert b"7 clips (7 ok)" in shown and b"error" not in shown


def test_an_interrupt_is_one_line(place: Path, tmp_path: Path) -> None:
    run = subprocess.Popen([*VTOK, *command(place, tmp_path / "c")], stderr=subprocess.PIPE, text=True)
    wait_for_a_clip(tmp_path / "c")
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and err.splitlines()[-1] == "vtok: interrupted"
    assert "Traceback" not in err


def test_reports_in_words_and_in_json(place: Path) -> None:
    folder = place / "undisturbed"
    code, out, err = inside("corpus", "status", folder)
    assert (code, err) == (0, "") and "3 of 3 shards done" in out and "7 of 7: 7 ok" in out
    code, out, _ = inside("corpus", "stats", folder)
    assert code == 0 and "clips  7" in out
    stats = json.loads(inside("corpus", "stats", folder, "--json")[1])
    assert stats["clips"] == 7 and stats["frames"] == sum(frames for _, frames in SIZES)
    assert json.loads(inside("corpus", "verify", folder, "--json")[1])["faults"] == []


def test_an_address_is_no_place_for_a_corpus(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But a folder may have a colon in its name."""
    monkeypatch.chdir(tmp_path)
    code, _, err = inside("corpus", "encode", place / "clips", "-o", "s3://bucket/corpus")
    assert code == 2 and "a corpus is made in a folder" in err and not list(tmp_path.iterdir())
    make_clips(tmp_path / "one", SIZES[:1])
    assert text(vtok(*command(place, Path("run:1"), "-j", 1, "-q", clips=str(tmp_path / "one")), cwd=tmp_path)) == (
        0,
        "",
        "",
    )


def test_damage_is_found(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (folder / "shards").mkdir(parents=True)
    for path in [*(place / "undisturbed").glob("*.*"), *(place / "undisturbed" / "shards").iterdir()]:
        (folder / path.relative_to(place / "undisturbed")).write_bytes(path.read_bytes())
    tar = folder / "shards" / "000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    code, out, err = inside("corpus", "verify", folder)
    assert code == 9 and not out and "shard 000001, 03:" in err and err.endswith("is not whole: 1 fault\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "-o", "none"], 3, "is not a corpus yet"),
        (["encode", "nothing", "-o", "none"], 3, "no such file"),
        (["status", "none"], 3, "is not a corpus"),
        (["encode", "CLIPS", "-o", "none", "--engine", "slurm"], 2, "local or ray"),
        (["encode", "CLIPS", "-o", "none", "--part", "3/2"], 2, "I from 1 to N"),
        (["encode", "CLIPS", "-o", "none", "--max-bad", "few"], 2, "a share of them"),
        (["encode", "CLIPS", "-o", "none", "--progress", "dots"], 2, "use bar"),
        (["encode", "CLIPS", "-o", "none", "--filter", "sharpest"], 2, "no filter"),
        (["encode", "CLIPS", "-o", "none", "--address", "auto"], 2, "engine ray only"),
        (["retry", "CORPUS", "--status", "lost"], 2, "unreadable"),
        (["encode", "CLIPS", "-o", "CORPUS", "--tokens", "1"], 2, "began with"),
    ],
)
def test_wrong_usage_is_one_line(place: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    names = {"CLIPS": place / "clips", "CORPUS": place / "undisturbed"}
    result, out, err = inside("corpus", *(names.get(each, each) for each in arguments), cwd=tmp_path)
    assert result == code and message in err and not out and "Traceback" not in err
    assert not (tmp_path / "none").exists()
