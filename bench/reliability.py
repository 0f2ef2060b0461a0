"""Writes docs/explanation/reliability.md from the results of other benchmarks.

    .venv/bin/python bench/reliability.py FOLDER

FOLDER holds any of `inputs.json` and `faults.json`, which `bench/inputs.py --hour` and `bench/faults.py` write with
`--out`, and `kills.json` and `cost.json`, which `bench/kills.py` and `bench/cost.py` write with `--json`. Sections
whose results are not there stay as they are, and so does the section on sound, whose table
`tests/media/test_audio_table.py` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Callable
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
        "`ffmpeg -i … -c:v libx264`. *vtok says* is the last message of vtok. If nothing can be read, both fail. If a\n"
        "part can be read, both write it; FFmpeg then exits with 0, vtok with 3. A video whose size changes midway\n"
        "ends for vtok at the change. Some inputs do not say how long they are: MPEG, y4m, GIF and NUT files, and\n"
        "Matroska and FLV through a pipe. If such an input ends between two pictures, vtok cannot notice that it was\n"
        "cut.\n\n"
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


def kept(page: str, heading: str) -> str:
    """Return a section of the page as it stands; nothing if it has none."""
    found = re.search(rf"^## {heading}\n.*?(?=^## |^The delay)", page, flags=re.M | re.S)
    return found[0].rstrip("\n") + "\n" if found else ""


def faults(document: dict[str, Any]) -> str:
    """Return the section on faults in `.vtk` files."""
    rows = [[kind, *(str(count.get(name, 0)) for name in COLUMNS)] for kind, count in document["counts"].items()]
    files = ", ".join(f"{size} bytes by {model} and `{coder}`" for model, coder, size in document["files"])
    others = [[name, str(count), str(noticed)] for name, count, noticed in document["others"]]
    return (
        "## Faults in a `.vtk`\n\n"
        "Each fault is at a random place of one of four files with sound, in GOPs of half a second:\n"
        f"{files}.\n"
        "A fault is noticed if `verify` rejects the file; *by decode* counts those that end a plain decode. A frame\n"
        "is recovered if its chunk, as `decode --recover` reads it, is equal to that of the undamaged file. Nothing\n"
        "can be read without the header.\n\n"
        "*flip* changes one byte, *cut* ends the file, *zero* sets up to 4 KiB to 0, *remove* takes up to 4 KiB out;\n"
        "*no index, zero* also destroys the footer.\n\n"
        "    .venv/bin/python bench/faults.py\n\n"
        + table(["fault", *COLUMNS], rows)
        + "\nFaults of the first four kinds in other formats, of the same clip and of random tokens:\n\n"
        + table(["read by", "faults", "noticed"], others)
    )


def kills(document: dict[str, Any]) -> str:
    """Return the section on killed commands."""
    rows = [[str(cell) for cell in row] for row in document["kills"]]
    return (
        "## Killed commands\n\n"
        "Each command is killed with SIGKILL at random times. A kill counts as a *loss* if it damages a file that was\n"
        "whole, or if a checkpoint is damaged or older than before. Finally, the command runs once without a kill. It\n"
        "must then produce the same output as if nothing had been killed, and leave no partial file.\n\n"
        "    .venv/bin/python bench/kills.py\n\n" + table(["command", "kills", "losses", "right in the end"], rows)
    )


def cost(document: dict[str, Any]) -> str:
    """Return the section on the cost of hostile files."""
    rows = [[str(cell) for cell in row] for row in document["rows"]]
    return (
        "## The cost of hostile files\n\n"
        "The table shows how much processor time and memory `verify` needs for hostile files, which declare much data\n"
        "in few bytes. Black videos, which are harmless and small as well, stand beside them. The [file\n"
        "format](../reference/format.md) states the limits.\n\n"
        "    .venv/bin/python bench/cost.py\n\n" + table(["file", "bytes", "seconds", "ms per byte", "MiB"], rows)
    )


_SECTIONS: tuple[tuple[str, str, Callable[[dict[str, Any]], str] | None], ...] = (
    ("Inputs", "inputs", inputs),
    ("Sound", "", None),
    ("Faults in a `.vtk`", "faults", faults),
    ("Killed commands", "kills", kills),
    ("The cost of hostile files", "cost", cost),
    ("An hour", "inputs", length),
)
"""For each section: its heading, the JSON file that it is made of, and the function that makes it."""


def main() -> None:
    """Read the JSON files and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    path = ROOT / "docs" / "explanation" / "reliability.md"
    page = path.read_text(encoding="utf-8")
    parts = [_INTRO]
    for heading, name, make in _SECTIONS:
        results = folder / f"{name}.json"
        made = make(json.loads(results.read_text(encoding="utf-8"))) if make and results.exists() else ""
        parts.append(made or kept(page, heading))
    path.write_text(wrapped("\n".join(filter(None, [*parts, _LATENCY]))), encoding="utf-8")


def wrapped(text: str) -> str:
    """Wrap the paragraphs of a page at 100 columns; tables, code and headings stay as they are."""
    blocks = text.split("\n\n")
    return "\n\n".join(block if re.match(r"[|#<]|    ", block) else _filled(block) for block in blocks)


def _filled(block: str) -> str:
    lines = textwrap.wrap(" ".join(block.split()), 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines) + ("\n" if block.endswith("\n") else "")


if __name__ == "__main__":
    main()
