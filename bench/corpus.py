"""Measures and attacks `vtok corpus` on real clips: its engines, its survival of kills and bad input, and its loader.

    .venv/bin/python bench/corpus.py speed CLIPS…       # engines against each other and against `vtok encode`
    .venv/bin/python bench/corpus.py kills CLIPS…       # killed workers and drivers, and a full disk (needs root)
    .venv/bin/python bench/corpus.py bad CLIPS…         # broken inputs among the clips
    .venv/bin/python bench/corpus.py loader CLIPS…      # windows per second for each coder, against `.npy`

CLIPS are what `vtok corpus encode` takes. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import print_table, write_json

from vtok_codec.corpus.sources import find_clips
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.tokens import waves, waves_compiled

VTOK = [sys.executable, "-m", "vtok_codec"]
ENGINES = ("local", "ray")
SINGLE = 40
"""Clips that `vtok encode` encodes one by one, for comparison."""
ROUNDS = 20
"""Interrupted runs."""
LONGEST_RUN_S = 15.0
"""The longest time after which a run is interrupted."""
BROKEN = 50
"""Broken inputs."""
READ: tuple[tuple[str, str, Callable[[int], Any] | None], ...] = (
    ("zstd", "zstd", None),
    ("waves, compiled", "waves", lambda digits: waves_compiled),
    ("waves, NumPy", "waves", lambda digits: None),
    ("prior", "prior", None),
)
"""What the loader reads: a name, the coder, and the loop for `waves`."""


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a vtok command."""
    return subprocess.run([*VTOK, *map(str, arguments)], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def same(one: Path, other: Path) -> bool:
    """Return whether two corpora have the same shards, byte for byte."""
    names = sorted(path.name for path in (one / "shards").iterdir())
    if names != sorted(path.name for path in (other / "shards").iterdir()):
        return False
    return all(filecmp.cmp(one / "shards" / name, other / "shards" / name, shallow=False) for name in names)


def encoded(clips: Sequence[str], folder: Path, *more: object) -> subprocess.CompletedProcess[str]:
    """Encode a corpus, or go on with it. The command may fail."""
    return run("corpus", "encode", *clips, "-o", folder, *more)


def whole(clips: Sequence[str], folder: Path, *more: object) -> None:
    """Encode a corpus, which must not fail."""
    encoded(clips, folder, *more).check_returncode()


def speed(clips: Sequence[str], work: Path) -> dict[str, object]:
    """Encode all clips by each engine, and some of them by a command each."""
    found = [clip.location for clip in find_clips(clips)]
    times = {engine: seconds(partial(whole, clips, work / engine, "--engine", engine)) for engine in ENGINES}
    some = random.Random(1).sample(found, min(SINGLE, len(found)))
    chosen = work / "some.txt"
    chosen.write_text("\n".join(some))
    plain = ("-q", "-f", "--no-audio", "--rdo", 0, "--coder", "zstd")
    one_by_one = seconds(
        lambda: [run("encode", *plain, clip, work / "x.vtk").check_returncode() for clip in some]  # type: ignore[func-returns-value]
    )
    together = seconds(partial(whole, [str(chosen)], work / "some", "--clips-per-shard", 8))
    rows = [(f"corpus, engine {name}", len(found), t, 60 * len(found) / t) for name, t in times.items()]
    rows += [("vtok encode, one by one", len(some), one_by_one, 60 * len(some) / one_by_one)]
    rows += [("corpus of the same clips", len(some), together, 60 * len(some) / together)]
    print_table(["what", "clips", "seconds", "clips/minute"], rows)
    print(f"the engines' shards are the same: {same(work / 'local', work / 'ray')}; ratio {one_by_one / together:.2f}")
    return {"rows": rows, "same": same(work / "local", work / "ray"), "ratio": one_by_one / together}


def workers_of(driver: int) -> list[int]:
    """Return the process numbers of the workers of a driver that is running."""
    found = subprocess.run(
        ["pgrep", "-P", str(driver), "-f", "spawn_main"], capture_output=True, text=True, check=False
    )
    return [int(number) for number in found.stdout.split()]


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))


def kills(clips: Sequence[str], work: Path) -> dict[str, object]:
    """Interrupt a run again and again: kill a worker, kill the driver, fill the disk. Then finish it."""
    encoded(clips, work / "undisturbed", "--clips-per-shard", 16)
    disk = work / "disk"
    disk.mkdir()
    size = 3 * sum(path.stat().st_size for path in (work / "undisturbed" / "shards").iterdir()) + (1 << 20)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    rng, kinds, done = random.Random(7), ["worker", "driver", "disk"], dict.fromkeys(("worker", "driver", "disk"), 0)
    try:
        folder = disk / "corpus"
        for number in range(ROUNDS):
            kind = kinds[number % len(kinds)]
            full = disk / "ballast"
            command = [*VTOK, "corpus", "encode", *clips, "-o", str(folder), "--clips-per-shard", "16", "-q"]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            time.sleep(rng.uniform(3, LONGEST_RUN_S))
            if kind == "disk":
                fill(full)
                process.wait()
                full.unlink(missing_ok=True)
            else:
                targets = workers_of(process.pid) if kind == "worker" else [process.pid]
                for target in targets[:1]:
                    os.kill(target, signal.SIGKILL)
                if kind == "worker":
                    time.sleep(2)
                    process.send_signal(signal.SIGTERM)
                process.wait()
            done[kind] += 1
        last = encoded(clips, folder, "--clips-per-shard", 16)
        whole = same(folder, work / "undisturbed")
        print(f"{done}; the last run ended with {last.returncode}; the shards are the same: {whole}")
        return {"interruptions": done, "last_code": last.returncode, "same": whole}
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def broken_inputs(folder: Path, clips: Sequence[str]) -> None:
    """Make broken inputs: empty, text, cut, without frames, with flipped bytes, with pictures that are too large."""
    rng = random.Random(3)
    found = [clip.location for clip in find_clips(clips)]
    for number in range(BROKEN):
        data = bytearray(Path(rng.choice(found)).read_bytes())
        name = folder / f"broken-{number:02d}.mp4"
        kind = number % 5
        if kind == 0:
            data = bytearray()
        elif kind == 1:
            data = bytearray(b"This is not a video.\n" * 50)
        elif kind == 2:
            data = data[: rng.randrange(100, len(data) - 100)]
        elif kind == 3:
            for _ in range(200):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            data = bytearray(f"P6 {16384 + number} 16384 255\n".encode() + bytes(64))
            name = name.with_suffix(".png")
        name.write_bytes(data)


def bad(clips: Sequence[str], work: Path) -> dict[str, object]:
    """Encode clips with broken ones among them."""
    inputs = work / "inputs"
    inputs.mkdir()
    broken_inputs(inputs, clips)
    found = len(find_clips(clips))
    strict = encoded([*clips, str(inputs)], work / "corpus")
    lenient = encoded([*clips, str(inputs)], work / "corpus", "--max-bad", BROKEN)
    status = json.loads(run("corpus", "status", work / "corpus", "--json").stdout)
    print(f"{found} clips, {BROKEN} broken: {status['statuses']}; exit codes {strict.returncode}, {lenient.returncode}")
    return {
        "clips": found,
        "broken": BROKEN,
        "statuses": status["statuses"],
        "codes": [strict.returncode, lenient.returncode],
    }


def _read(window: Callable[[int], object], order: Iterable[int]) -> None:
    for number in order:
        window(int(number))


def loader(clips: Sequence[str], work: Path) -> dict[str, object]:
    """Read windows in random order from corpora of each coder, and from `.npy` files of the same tokens."""
    rows: list[tuple[object, ...]] = []
    usual = waves._compiled
    for name, coder, loop in READ:
        whole(clips, work / coder, "--coder", coder)
        waves._compiled = loop or usual  # type: ignore[assignment]
        windows = TokenWindows(work / coder, latents=8)
        order = np.random.default_rng(0).permutation(len(windows))[: 400 if coder == "zstd" else 40]
        # The first round also compiles what is to be compiled.
        tokens = sum(windows[int(number)]["tokens"].size for number in order)
        taken = seconds(partial(_read, windows.__getitem__, order))
        size = sum(path.stat().st_size for path in (work / coder / "shards").glob("*.tar"))
        rows.append((name, len(order) / taken, tokens / taken / 1e6, size))
    waves._compiled = usual
    windows = TokenWindows(work / "zstd", latents=8)
    plain = work / "npy"
    plain.mkdir()
    for number in range(len(windows)):
        np.save(plain / f"{number}.npy", windows[number]["tokens"])
    order = np.random.default_rng(0).permutation(len(windows))[:400]
    tokens = sum(windows[int(number)]["tokens"].size for number in order)
    taken = seconds(partial(_read, lambda number: np.load(plain / f"{number}.npy"), order))
    rows.append((".npy", len(order) / taken, tokens / taken / 1e6, sum(p.stat().st_size for p in plain.iterdir())))
    print_table(["kept as", "windows/s", "M tokens/s", "bytes"], rows)
    return {"rows": rows}


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kills", "bad", "loader"])
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="vtok-corpus-"))
    try:
        figures = {"speed": speed, "kills": kills, "bad": bad, "loader": loader}[chosen.what](chosen.clips, work)
        write_json(chosen.out, figures)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
