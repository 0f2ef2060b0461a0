"""Writes docs/reliability.md from the results of other benchmarks.

    .venv/bin/python bench/reliability.py FOLDER

FOLDER holds `inputs.json` and `faults.json`, which `bench/inputs.py --hour` and `bench/faults.py` write with `--out`.
The section on sound is kept as it stands: `tests/media/test_audio_table.py` writes its table.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from common import ROOT
from faults import COLUMNS
from results import table

_INTRO = """# Reliability

This page shows how vtok handles difficult and damaged inputs, and damage to its own files. Every section names the
command that makes its table; `bench/reliability.py` writes the page from the JSON output of these commands.
[security.md](security.md) describes the protection against hostile files.
"""

_LATENCY = "The delay of a live pipe is in [results.md](results.md#live-pipes).\n"


def inputs(document: dict[str, Any]) -> str:
    """Return the section on hard and malformed inputs, with FFmpeg for comparison."""
    rows = []
    for one in document["inputs"]:
        frames = "–" if one["frames"] is None else str(one["frames"])
        ours, theirs = (f"{one[f'{who}_exit']} · {one[f'{who}_frames']}" for who in ("vtok", "ffmpeg"))
        rows.append([one["input"], frames, ours, theirs, one["vtok_says"].removeprefix("vtok: ").replace("|", "\\|")])
    crashes, losses = (sum(one[name] for one in document["inputs"]) for name in ("crashed", "silent_loss"))
    return (
        "## Inputs\n\n"
        "The benchmark makes all inputs itself. *frames* is the number of frames that a lenient decoder finds in an\n"
        "input. *vtok* and *ffmpeg* are the exit code and the number of coded frames of `vtok encode` and of\n"
        "`ffmpeg -i … -c:v libx264`. *vtok says* is the last message of vtok. Both programs write the frames before\n"
        "the damage, but FFmpeg exits with 0 where vtok exits with 3. Some inputs do not say how long they are: MPEG,\n"
        "y4m, GIF and NUT files, and Matroska and FLV through a pipe. If such an input ends between two pictures,\n"
        "vtok cannot notice that it was cut.\n\n"
        "    .venv/bin/python bench/inputs.py --hour\n\n"
        f"{len(rows)} inputs, {crashes} crashes, {losses} silent losses of frames.\n\n"
        + table(["input", "frames", "vtok", "ffmpeg", "vtok says"], rows)
    )


def length(document: dict[str, Any]) -> str:
    """Return the section on the memory for an hour of video, which is empty if that was not measured."""
    if not document["long"]:
        return ""
    rows = [[name, f"{one['peak_mib']:.0f}", f"{one['seconds']:.0f}"] for name, one in document["long"].items()]
    return "## An hour\n\n256×144, 10 frames/s; the same command.\n\n" + table(["command", "peak MiB", "seconds"], rows)


def sound(page: str) -> str:
    """Return the section on sound of the page as it stands."""
    found = re.search(r"^## Sound\n.*?(?=^## )", page, flags=re.M | re.S)
    assert found, "the page has no section on sound"
    return found[0].rstrip("\n") + "\n"


def faults(document: dict[str, Any]) -> str:
    """Return the section on faults in `.vtk` files."""
    rows = [[kind, *(str(count.get(name, 0)) for name in COLUMNS)] for kind, count in document["counts"].items()]
    return (
        "## Faults in a `.vtk`\n\n"
        f"Each fault is at a random place of a file of {document['bytes']} bytes and {document['frames']} frames, in\n"
        "GOPs of half a second. A fault is noticed if `verify` rejects the file. A frame is recovered if its chunk,\n"
        "as `decode --recover` reads it, is equal to that of the undamaged file. Nothing can be read without the\n"
        "header.\n\n"
        "    .venv/bin/python bench/faults.py --faults 1000\n\n" + table(["fault", *COLUMNS], rows)
    )


def main() -> None:
    """Read the JSON files and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    names = ("inputs", "faults")
    read = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    page = ROOT / "docs" / "reliability.md"
    kept = sound(page.read_text(encoding="utf-8"))
    parts = [_INTRO, inputs(read["inputs"]), kept, faults(read["faults"]), length(read["inputs"]), _LATENCY]
    page.write_text("\n".join(filter(None, parts)), encoding="utf-8")


if __name__ == "__main__":
    main()
