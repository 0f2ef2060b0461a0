"""Kills commands at random times with SIGKILL, and checks after each that nothing is lost.

    .venv/bin/python bench/kills.py [--kills 100] [--commands encode …] [--seed 0] [--json FILE]

- `encode` and `decode` overwrite an older file: afterwards there is that file or the new one, whole.
- `corpus`: what was there before is there still; once it is let run, it holds what an undisturbed corpus holds.
- `train` goes on from step to step: its last checkpoint is whole, and never older than the one before; in the end, the
  weights are those of an undisturbed run.

A last run that is not killed must succeed, and leave no partial files.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from common import ROOT, print_table, write_json

from vtok_codec.errors import VtokError
from vtok_codec.training.checkpoint import read_checkpoint

_CLIP = ROOT / "tests" / "data" / "lanes.mp4"
_SMALL = ["--filter", "scale=104:64"]
_STEP = ["--set", "phases=1x16x32", "--set", "lpips_weight=0", "--cache-gib", "0.3", "--quiet"]


class Command:
    """A `vtok` command, which may be killed."""

    def __init__(self, *arguments: object) -> None:
        self.line = [sys.executable, "-m", "vtok_codec", *map(str, arguments)]

    def run(self) -> float:
        """Run it to its end, and return the seconds that it took."""
        started = time.monotonic()
        subprocess.run(self.line, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def kill(self, after_s: float) -> bool:
        """Start it, kill it and all its workers after some seconds, and return whether it was still running."""
        process = subprocess.Popen(
            self.line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        return False


def digest(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return the hashes of the files in a folder."""
    files = [path for path in sorted(folder.rglob(pattern)) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class OneFile:
    """A command that writes one file over an older one.

    Args:
        folder: A folder for it.
        name: The name of the file.
        older: The command that makes the older file.
        newer: The command that is killed.
    """

    def __init__(self, folder: Path, name: str, older: Callable[[Path], Command], newer: Callable[[Path], Command]):
        self._path = folder / name
        self._command = newer(self._path)
        older(self._path).run()
        self._older = digest(folder, name)
        self._folder, self._name = folder, name
        self.seconds = self._command.run()
        self._newer = digest(folder, name)
        older(self._path).run()

    def kill(self, after_s: float) -> tuple[bool, bool]:
        """Kill the command. Returns whether it was still running, and whether something is lost."""
        killed = self._command.kill(after_s)
        return killed, digest(self._folder, self._name) not in (self._older, self._newer)

    def finish(self) -> bool:
        """Let the command run, and return whether its file is right and alone."""
        self._command.run()
        return digest(self._folder) == self._newer


class Corpus:
    """A corpus that is encoded shard by shard."""

    def __init__(self, folder: Path) -> None:
        clips = folder / "clips"
        clips.mkdir()
        for number in range(6):
            shutil.copy(_CLIP, clips / f"{number}.mp4")
        self._made, self._folder = folder / "made", folder
        options = ["--tokens", 1, "--clips-per-shard", 2, "--coder", "zstd", "--quiet", *_SMALL]
        self._command = Command("corpus", "encode", clips, "-o", self._made, *options)
        self.seconds = self._command.run()
        self._right = digest(self._made / "shards")
        shutil.rmtree(self._made)

    def kill(self, after_s: float) -> tuple[bool, bool]:
        """Kill the command; see `OneFile.kill`. A corpus that is whole begins anew."""
        before = self._finished()
        killed = self._command.kill(after_s)
        after = self._finished()
        lost = any(after.get(name) != value for name, value in before.items())
        if after == self._right:
            shutil.rmtree(self._made)
        return killed, lost or any(self._right.get(name) != value for name, value in after.items())

    def finish(self) -> bool:
        """Let the command run, and return whether the corpus is right."""
        self._command.run()
        return digest(self._made / "shards") == self._right

    def _finished(self) -> dict[str, str]:
        """Return the hashes of the shards that count: those with an index."""
        found = digest(self._made / "shards", "[!.]*") if self._made.exists() else {}
        indexed = {name.removesuffix(".parquet") for name in found if name.endswith(".parquet")}
        return {name: value for name, value in found.items() if name.rsplit(".", 1)[0] in indexed}


class Training:
    """A run that is resumed for one step at a time."""

    def __init__(self, folder: Path) -> None:
        (folder / "clips").mkdir()
        shutil.copy(_CLIP, folder / "clips")
        self._folder, self._run = folder, folder / "run"
        options = [
            "--stage",
            "discrete",
            "--from",
            "onevae-nano-4x8x8",
            "--data",
            folder / "clips",
            "--seed",
            3,
            *_STEP,
        ]
        self._start = lambda run, steps: Command("train", *options, "--run", run, "--steps", steps)
        self._start(self._run, 1).run()
        self._step = 1
        self.seconds = self._next(self._run, 2).run()
        self._step = self._saved()

    def kill(self, after_s: float) -> tuple[bool, bool]:
        """Kill the run; see `OneFile.kill`."""
        killed = self._next(self._run, self._step + 1).kill(after_s)
        step = self._saved()
        lost = step < self._step
        self._step = max(step, self._step)
        return killed, lost

    def finish(self) -> bool:
        """Go on for a step, and return whether the weights are those of the same steps undisturbed."""
        self._next(self._run, self._step + 1).run()
        other = self._folder / "undisturbed"
        self._start(other, 1).run()
        for step in range(2, self._saved() + 1):
            self._next(other, step).run()
        one, two = (read_checkpoint(run)["model"] for run in (self._run, other))
        same = all(one[name].equal(value) for name, value in two.items())
        return same and not any("partial" in path.name for path in self._run.iterdir())

    @staticmethod
    def _next(run: Path, step: int) -> Command:
        return Command("train", "--resume", run, "--steps", step, "--quiet")

    def _saved(self) -> int:
        """Return the step of the last checkpoint; −1 if it cannot be read."""
        try:
            return int(read_checkpoint(self._run)["step"])
        except VtokError:
            return -1


def cases(folder: Path) -> dict[str, Callable[[], OneFile | Corpus | Training]]:
    """Return what is killed, by its name."""
    places = {name: folder / name for name in ("encode", "decode", "corpus", "train")}
    for place in places.values():
        place.mkdir()
    source = folder / "in.vtk"
    Command("encode", _CLIP, source, "--quiet", *_SMALL).run()
    encode = ["--quiet", "--force", *_SMALL]
    decode = ["--quiet", "--force"]
    return {
        "encode": lambda: OneFile(
            places["encode"],
            "out.vtk",
            lambda path: Command("encode", _CLIP, path, "--tokens", 1, *encode),
            lambda path: Command("encode", _CLIP, path, *encode),
        ),
        "decode": lambda: OneFile(
            places["decode"],
            "out.mp4",
            lambda path: Command("decode", source, path, "--tokens", 1, *decode),
            lambda path: Command("decode", source, path, *decode),
        ),
        "corpus": lambda: Corpus(places["corpus"]),
        "train": lambda: Training(places["train"]),
    }


def main() -> None:
    """Kill, print a table and write JSON. The exit code is 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--commands", nargs="+", default=["encode", "decode", "corpus", "train"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng, rows = random.Random(arguments.seed), []
    with TemporaryDirectory() as name:
        for what, make in cases(Path(name)).items():
            if what not in arguments.commands:
                continue
            case = make()
            killed = lost = 0
            while killed < arguments.kills:
                was_killed, was_lost = case.kill(rng.uniform(0, 1.05 * case.seconds))
                killed, lost = killed + was_killed, lost + was_lost
            rows.append([what, killed, lost, "yes" if case.finish() else "NO"])
            print_table(["command", "kills", "losses", "right in the end"], rows[-1:])
    write_json(arguments.json, {"kills": rows})
    raise SystemExit(int(any(row[2] or row[3] == "NO" for row in rows)))


if __name__ == "__main__":
    main()
