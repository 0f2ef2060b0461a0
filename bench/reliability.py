"""Writes docs/reliability.md from what the other benches measured.

    .venv/bin/python bench/reliability.py FOLDER

FOLDER holds inputs.json and faults.json (`--out` of the benches; `bench/inputs.py --hour`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import ROOT
from faults import COLUMNS
from results import table

_INTRO = """# Reliability

What was fed to vtok, what was broken, what was noticed. Every table names the command that makes it; this page is
written by `bench/reliability.py` from their JSON. What a hostile file may not do stands in [security.md](security.md).
"""

_LATENCY = "How far a live pipe lags stands in [results.md](results.md#live-pipes).\n"


def inputs(document: dict[str, Any]) -> str:
    """Hard and malformed inputs, beside FFmpeg."""
    rows = []
    for one in document["inputs"]:
        frames = "–" if one["frames"] is None else str(one["frames"])
        ours, theirs = (f"{one[f'{who}_exit']} · {one[f'{who}_frames']}" for who in ("vtok", "ffmpeg"))
        rows.append([one["input"], frames, ours, theirs, one["vtok_says"].removeprefix("vtok: ").replace("|", "\\|")])
    crashes, losses = (sum(one[name] for one in document["inputs"]) for name in ("crashed", "silent_loss"))
    return (
        "## Inputs\n\n"
        "Each input is made by the bench. Frames: those that a lenient decoder finds. Then exit code and frames of\n"
        "`vtok encode` and of `ffmpeg -i … -c:v libx264`, and the first line that vtok says. What came before\n"
        "the damage is written in both; FFmpeg ends in 0 where vtok ends in 3. What says nowhere how long it is\n"
        "(MPEG, y4m, gif, NUT; Matroska and FLV through a pipe) and ends between two pictures passes for whole.\n\n"
        "    .venv/bin/python bench/inputs.py --hour\n\n"
        f"{len(rows)} inputs, {crashes} crashes, {losses} lost without a word.\n\n"
        + table(["input", "frames", "vtok", "ffmpeg", "vtok says"], rows)
    )


def length(document: dict[str, Any]) -> str:
    """Memory over an hour; nothing where it was not measured."""
    if not document["long"]:
        return ""
    rows = [[name, f"{one['peak_mib']:.0f}", f"{one['seconds']:.0f}"] for name, one in document["long"].items()]
    return "## An hour\n\n256×144, 10 frames/s; the same command.\n\n" + table(["command", "peak MiB", "seconds"], rows)


def faults(document: dict[str, Any]) -> str:
    """Faults put into a file."""
    rows = [[kind, *(str(count.get(name, 0)) for name in COLUMNS)] for kind, count in document["counts"].items()]
    return (
        "## Faults in a `.vtk`\n\n"
        f"One fault at a random place of a file of {document['bytes']} bytes and {document['frames']} frames, in\n"
        "GOPs of half a second. Noticed: `verify` refuses it. Recovered: what `decode --recover` gives, equal chunk\n"
        "by chunk to the whole file's. Where the header is lost nothing can be read.\n\n"
        "    .venv/bin/python bench/faults.py --faults 1000\n\n" + table(["fault", *COLUMNS], rows)
    )


def main() -> None:
    """Read the JSON files, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    names = ("inputs", "faults")
    read = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    parts = [_INTRO, inputs(read["inputs"]), faults(read["faults"]), length(read["inputs"]), _LATENCY]
    (ROOT / "docs" / "reliability.md").write_text("\n".join(filter(None, parts)), encoding="utf-8")


if __name__ == "__main__":
    main()
