"""Writes docs/explanation/results.md from the results of other benchmarks.

    .venv/bin/python bench/results.py FOLDER

FOLDER holds some or all of these files: `eval.json`, the output of `vtok eval … --json`; and `rate.json`, `speed.json`,
`latency.json` and `gop.json`, which the scripts of these names write with `--out`. Sections without a file stay as they
are.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT

from vtok_codec.evaluation.table import MEASURE_NAMES, figure
from vtok_codec.registry import DEFAULT_MODEL

_INTRO = """# Results

This page shows the quality, the file sizes and the speed of vtok, and compares them with other codecs. Every section
names the command that makes its tables and the weights that were measured; 6b766bf54559 is an earlier file of the same
model as 2bf891d84d66. `bench/results.py` writes the page from the JSON output of these commands.
"""
_EVAL_COMMAND = (
    "vtok eval CLIPS -m onevae-nano-4x8x8 -m onevae-nano-4x16x16 --tokens 1,2,4 --rdo 0.02 --against x264,x265,av1"
    " --report out/ --json"
)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown. The first column is aligned to the left, the others to the right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def of_weights(figures: dict[str, Any]) -> str:
    """Return the hash of the weights that were measured, which may differ from table to table."""
    return f"weights {figures['weights'][:12]}"


def quality(document: dict[str, Any]) -> str:
    """Return the section on quality and size: means over clips, differences in rate, and the figures of each clip."""
    (evaluation,) = document["evaluations"]
    measures = [name for name in MEASURE_NAMES if any(mean[name] is not None for mean in evaluation["means"])]
    rows = [
        [
            f"{mean['codec']}, {mean['setting']}",
            f"{mean['bits_per_pixel']:.4f}",
            *(figure(name, mean[name]) for name in measures),
            f"{mean['encode_s']:.2f}",
            f"{mean['decode_s']:.2f}",
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
    if evaluation["failures"]:
        raise SystemExit(f"not measured on all clips, so that means would not compare: {evaluation['failures'][0]}")
    frames = sum(clip["frames"] for clip in evaluation["clips"])
    context = document["context"]
    return (
        f"## Quality and size\n\nMeasured on {len(evaluation['clips'])} held-out clips with {frames} frames in all, on "
        f"{context['machine']}. The clips are every third file of `val` (`ls val/*.mp4 | awk 'NR % 3 == 1'`); the run "
        "takes ten to twenty minutes. `val` holds excerpts of other people's videos and is not published; run the "
        "command on clips of your own. The model cards have the figures of vtok on all clips.\n\n"
        "*energy* is the amount of fine detail relative to the source: 1 for a copy, less for a blur. *flicker* is how "
        "far the changes of brightness from frame to frame differ from those of the source, on a scale from 0 to 255. "
        "VMAF-NEG is VMAF without credit for sharpening. Less is better for LPIPS and flicker. *enc s* and *dec s* are "
        "the mean seconds of a clip. Measured with `--effort fast`, in format 2.2; `slow` saves about 16 % at equal "
        "PSNR ([notebook](../notebook/refinement.md)).\n\n"
        f"    {_EVAL_COMMAND}\n\n"
        + "".join(f"- {line}\n" for line in [*context["codecs"], *context["notes"]])
        + f"\n{table(heads, rows)}\n"
        + "Difference in rate to x264 at equal quality (Bjøntegaard delta). Negative numbers mean smaller files. Each "
        + "is a mean over the clips on which both codecs reach the same quality; their count is in brackets.\n\n"
        + table(["codec", *(MEASURE_NAMES[name] for name in ordering)], bd_rows)
        + f"\n{equal_size(evaluation)}\n{worst(evaluation)}"
    )


def equal_size(evaluation: dict[str, Any]) -> str:
    """Return a comparison of vtok with x264 at the same size, interpolated between the points of x264's curve."""
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
    heads = ["vtok / x264", "bits/px", *(MEASURE_NAMES[name] for name in names)]
    note = (
        "Comparison with x264 (medium) at equal size, interpolated between the points of its curve. Each number is a "
        "mean over the clips on which x264 reaches that size; their count is in brackets:"
    )
    return f"{note}\n\n{table(heads, rows)}"


def worst(evaluation: dict[str, Any]) -> str:
    """Return the figures of each clip for the default model at its middle number of tokens, the lowest PSNR first."""
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
    return f"Each clip, for {title}:\n\n" + table(["clip", "bits/px", *(MEASURE_NAMES[name] for name in names)], rows)


def packing(rate: dict[str, Any]) -> str:
    """Return the section on the sizes of tokens in different packings."""
    counts = list(rate["tokens"])
    rows = [[name, *(f"{rate['tokens'][count][name]:.3f}" for count in counts)] for name in rate["tokens"][counts[0]]]
    heads = ["fraction of 16 bits per token", *(f"{count} token{'s' if count != '1' else ''}" for count in counts)]
    note = (
        f"Means over {rate['clips']} clips, {of_weights(rate)}. The last three rows are not packings but code lengths "
        "of simpler adaptive coders."
    )
    return f"## Packing\n\n{note}\n\n    .venv/bin/python bench/rate.py val/*.mp4\n\n{table(heads, rows)}"


def speed(figures: dict[str, Any]) -> str:
    """Return the section on the speed and memory of the model alone and of whole commands."""
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
    # Each size comes first, in both directions; then one size at several lengths.
    sizes = 2 * len({row["size"] for row in figures["command"]})
    heads = ["command", "frames/s", "Mpixel/s", "peak MiB"]
    peaks = [[f"{command}, {seconds} s", figure("mib", mib)] for command, seconds, mib in figures["memory"]]
    return (
        f"## Speed and memory\n\n{figures['cpu']}, {figures['cores']} cores, torch {figures['torch']}, "
        f"{of_weights(figures)}.\n\n"
        "    .venv/bin/python bench/speed.py\n\n"
        "The model alone. Its largest convolution by itself reaches "
        f"{figures['limit_gmac_s']:.0f} GMAC/s with all threads; the last column compares the whole model with it, for "
        "the same number of threads.\n\n"
        + table(["model", "frames/s", "Mpixel/s", "GMAC/s", "of the limit"], model)
        + "\nTimes of whole commands, minus that of a clip of one frame:\n\n"
        + table(heads, commands[:sizes])
        + ("\nThe same by length of the clip:\n\n" + table(heads, commands[sizes:]) if commands[sizes:] else "")
        + "\nPeak memory at 1280×720:\n\n"
        + table(["command", "peak MiB"], peaks)
    )


def latency(figures: dict[str, Any]) -> str:
    """Return the section on the delay of live pipes."""
    rows = [[name, f"{value:.2f}"] for name, value in figures.items() if "frame" in name]
    title = f"{figures['size']} at {figures['rate']} frames/s"
    note = "The delay of `vtok encode - - | vtok decode - -` in the second half of a run. A chunk has 16 frames. The "
    note += f"model has {of_weights(figures)}."
    return f"## Live pipes\n\n{note}\n\n    .venv/bin/python bench/latency.py\n\n{table([title, ''], rows)}"


def gops(figures: dict[str, Any]) -> str:
    """Return the section on long groups of pictures."""
    weights = " and ".join(f"{quality} {digest[:12]}" for quality, digest in figures["weights"].items())
    note = (
        f"Means over {figures['clips']} held-out clips of {figures['seconds']:g} s, scaled to {figures['lines']} "
        f"lines, with a GOP every so many seconds; weights {weights}. The first and the last second are the PSNR of "
        "those seconds of each clip: if the last is much lower, quality decays over a long GOP. *decoded first* is how "
        "many frames a player decodes, on average, before the one that it seeks to, since decoding starts with a GOP."
    )
    command = "    .venv/bin/python bench/gop.py val-hd/*.* --plot docs/pictures/gop.svg"
    rows = [list(map(str, row)) for row in figures["rows"]]
    picture = "![PSNR of each frame over the longest GOP](../pictures/gop.svg)"
    return f"## Long GOPs\n\n{note}\n\n{command}\n\n{table(figures['heads'], rows)}\n{picture}\n"


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "eval": quality,
    "rate": packing,
    "speed": speed,
    "latency": latency,
    "gop": gops,
}
"""The functions that write the sections of the page, in order, by the name of the JSON file that they read."""


def main() -> None:
    """Read the JSON files and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    page = ROOT / "docs" / "explanation" / "results.md"
    _, *present = re.split(r"^(?=## )", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sections = []
    kept = [*present, *[""] * len(SECTIONS)]
    for (name, write), old in zip(SECTIONS.items(), kept, strict=False):
        figures = folder / f"{name}.json"
        if figures.exists():
            sections.append(write(json.loads(figures.read_text(encoding="utf-8"))))
        elif old:
            sections.append(old.rstrip("\n") + "\n")
    blocks = "\n".join([_INTRO, *sections]).split("\n\n")
    page.write_text("\n\n".join(map(wrapped, blocks)).rstrip("\n") + "\n", encoding="utf-8")


def wrapped(block: str) -> str:
    """Return a paragraph wrapped at 100 columns, and anything else as it is."""
    if block.startswith("- "):
        return "\n".join(_filled(item, "  ") for item in re.split(r"\n(?=- )", block))
    if block.startswith(("|", " ", "#", "!", "\n")) or not block.strip():
        return block
    return _filled(block)


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    main()
