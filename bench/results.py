"""Writes docs/results.md from what the other benches measured.

    .venv/bin/python bench/results.py FOLDER

FOLDER holds eval.json (`vtok eval … --json`), rate.json, speed.json and latency.json (`--out` of the benches), or some
of them: the sections of the others stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT

from vtok_codec.evaluation.table import MEASURE_NAMES, figure
from vtok_codec.registry import DEFAULT_MODEL

_INTRO = """# Results

Where vtok stands, the bad news included. Every table names the command that makes it, and the weights that it is of;
this page is written by `bench/results.py` from their JSON.
"""
_EVAL_COMMAND = (
    "vtok eval CLIPS -m onevae-nano-4x8x8 -m onevae-nano-4x16x16 --tokens 1,2,4 --against x264,x265,av1"
    " --report out/ --json"
)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def of_weights(figures: dict[str, Any]) -> str:
    """The weights that figures are of, which may not be those that another table is of."""
    return f"weights {figures['weights'][:12]}"


def quality(document: dict[str, Any]) -> str:
    """Means over clips, rate differences, and the clips that ours does worst on."""
    (evaluation,) = document["evaluations"]
    measures = [name for name in MEASURE_NAMES if any(mean[name] is not None for mean in evaluation["means"])]
    rows = [
        [
            f"{mean['codec']}, {mean['setting']}",
            f"{mean['bits_per_pixel']:.4f}",
            *(figure(name, mean[name]) for name in measures),
            f"{mean['encode_s']:.1f}",
            f"{mean['decode_s']:.1f}",
        ]
        for mean in evaluation["means"]
    ]
    heads = ["means over clips", "bits/px", *(MEASURE_NAMES[name] for name in measures), "enc s", "dec s"]
    rates = evaluation["bd_rate"]
    ordering = list(next(iter(rates.values())))
    bd_rows = [
        [
            codec,
            *(
                "no common range"
                if own[name]["mean"] is None
                else f"{100 * own[name]['mean']:+.0f} % ({own[name]['clips']})"
                for name in ordering
            ),
        ]
        for codec, own in rates.items()
    ]
    frames = sum(clip["frames"] for clip in evaluation["clips"])
    context = document["context"]
    return (
        f"## Quality and size\n\n{len(evaluation['clips'])} of the held-out clips, all their {frames} frames, on "
        f"{context['machine']}: every third of `val` (`ls val/*.mp4 | awk 'NR % 3 == 1'`), so that it takes ten to "
        "twenty minutes; all of them, three times as long. Our own figures on all clips stand on the models' cards. "
        "Seconds are those of all these clips together.\n\n"
        f"    {_EVAL_COMMAND}\n\n"
        + "".join(f"- {line}\n" for line in [*context["codecs"], *context["notes"]])
        + f"\n{table(heads, rows)}\n"
        + "Rate against x264 at equal quality (Bjøntegaard; mean over the clips, in brackets how many, where both "
        + "reach the same quality). Below zero is smaller.\n\n"
        + table(["codec", *(MEASURE_NAMES[name] for name in ordering)], bd_rows)
        + f"\n{equal_size(evaluation)}\n{worst(evaluation)}"
    )


def equal_size(evaluation: dict[str, Any]) -> str:
    """Each of our operating points beside x264 at the same size, clip by clip, between the points of its curve."""
    names = ("psnr_db", "lpips", "vmaf_neg")
    x264: dict[str, list[dict[str, Any]]] = {}
    for result in evaluation["results"]:
        if result["codec"] == "x264":
            x264.setdefault(result["clip"], []).append(result)
    rows = []
    for mean in evaluation["means"]:
        if mean["is_anchor"]:
            continue
        pairs = []
        for result in evaluation["results"]:
            curve = sorted(x264.get(result["clip"], []), key=lambda point: point["bits_per_pixel"])
            rates = [math.log(point["bits_per_pixel"]) for point in curve]
            rate = math.log(result["bits_per_pixel"])
            ours = (result["codec"], result["setting"]) == (mean["codec"], mean["setting"])
            if ours and rates and rates[0] <= rate <= rates[-1]:
                theirs = {name: float(np.interp(rate, rates, [point[name] for point in curve])) for name in names}
                pairs.append((result, theirs))
        cells = [f"{np.mean([own['bits_per_pixel'] for own, _ in pairs]):.4f} ({len(pairs)})"] if pairs else ["-"]
        for name in names:
            values = [float(np.mean([each[name] for each in side])) for side in zip(*pairs, strict=True)]
            cells.append(" / ".join(figure(name, value) for value in values) or "-")
        rows.append([f"{mean['codec']}, {mean['setting']}", *cells])
    heads = ["ours / x264", "bits/px", *(MEASURE_NAMES[name] for name in names)]
    note = (
        "At equal size, x264 medium between the points of its curve; in brackets the clips where it reaches that size:"
    )
    return f"{note}\n\n{table(heads, rows)}"


def worst(evaluation: dict[str, Any]) -> str:
    """The default model at its middle operating point, clip by clip, the lowest PSNR first."""
    ours = [mean for mean in evaluation["means"] if mean["codec"] == DEFAULT_MODEL]
    middle = ours[(len(ours) - 1) // 2]
    own = [
        result
        for result in evaluation["results"]
        if (result["codec"], result["setting"]) == (middle["codec"], middle["setting"])
    ]
    names = ("psnr_db", "ssim", "lpips", "vmaf_neg", "flicker")
    rows = [
        [result["clip"], f"{result['bits_per_pixel']:.4f}", *(figure(name, result[name]) for name in names)]
        for result in sorted(own, key=lambda result: result["psnr_db"])
    ]
    title = f"{middle['codec']}, {middle['setting']}"
    return f"Clip by clip, {title}:\n\n" + table(["clip", "bits/px", *(MEASURE_NAMES[name] for name in names)], rows)


def packing(rate: dict[str, Any]) -> str:
    """What each packing makes of the tokens."""
    counts = list(rate["tokens"])
    rows = [[name, *(f"{rate['tokens'][count][name]:.3f}" for count in counts)] for name in rate["tokens"][counts[0]]]
    heads = ["part of 16 bits a token", *(f"{count} token{'s' if count != '1' else ''}" for count in counts)]
    note = (
        f"{rate['clips']} clips, {of_weights(rate)}. The last three rows are code lengths of simpler adaptive coders."
    )
    return f"## Packing\n\n{note}\n\n    bench/rate.py val/*.mp4\n\n{table(heads, rows)}"


def speed(figures: dict[str, Any]) -> str:
    """The model alone, whole commands, growth, memory."""
    model = [
        [
            f"{row['size']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}, {row['direction']}",
            *(f"{row[name]:.1f}" for name in ("frames_s", "mpixel_s", "gmac_s")),
            f"{100 * row['part_of_limit']:.0f} %",
        ]
        for row in figures["model"]
    ]
    commands = [
        [
            f"{row['command']}, {row['size']}, {row['length_s']:g} s",
            *(f"{row[name]:.1f}" for name in ("frames_s", "mpixel_s")),
            figure("mib", row["peak_mib"]),
        ]
        for row in figures["command"]
    ]
    peaks = [[f"{command}, {seconds} s", figure("mib", mib)] for command, seconds, mib in figures["memory"]]
    return (
        f"## Speed and memory\n\n{figures['cpu']}, {figures['cores']} cores, torch {figures['torch']}, "
        f"{of_weights(figures)}.\n\n"
        "    bench/speed.py\n\n"
        "The model alone; the largest of its convolutions by itself reaches "
        f"{figures['limit_gmac_s']:.0f} GMAC/s with all threads.\n\n"
        + table(["model", "frames/s", "Mpixel/s", "GMAC/s", "of the limit"], model)
        + "\nWhole commands, without the time that a one-frame clip takes:\n\n"
        + table(["command", "frames/s", "Mpixel/s", "peak MiB"], commands)
        + "\nPeak memory at 1280×720:\n\n"
        + table(["command", "peak MiB"], peaks)
    )


def latency(figures: dict[str, Any]) -> str:
    """How far a live pipe lags."""
    rows = [[name, f"{value:.2f}"] for name, value in figures.items() if "frame" in name]
    title = f"{figures['size']} at {figures['rate']} frames/s"
    note = "`vtok encode - - | vtok decode - -`, second half of a run; a chunk is 16 frames; "
    note += f"{of_weights(figures)}."
    return f"## Live pipes\n\n{note}\n\n    bench/latency.py\n\n{table([title, ''], rows)}"


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "eval": quality,
    "rate": packing,
    "speed": speed,
    "latency": latency,
}
"""What writes each section of the page, in their order, by the name of the JSON that it is written from."""


def main() -> None:
    """Read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    page = ROOT / "docs" / "results.md"
    _, *present = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = []
    for (name, write), old in zip(SECTIONS.items(), present, strict=True):
        figures = folder / f"{name}.json"
        sections.append(
            write(json.loads(figures.read_text(encoding="utf-8"))) if figures.exists() else old.rstrip("\n") + "\n"
        )
    page.write_text("\n".join([_INTRO, *sections]), encoding="utf-8")


if __name__ == "__main__":
    main()
