"""Writes `docs/notebook/ablations.md` from the figures of `bench/ablations.py`: a table and a curve per comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

_HEAD = """# Ablations: claims of the papers, tested with small models

Models are small (48 and 128 channels) and train on batches of 12 crops of 16 frames of 64×64
pixels. All runs of a comparison have the same start, order of data and number of steps. PSNR and
LPIPS are measured with the EMA weights on the first 17 frames of 8 held-out clips. Differences
below about 0.05 dB lie within the variation between seeds. "Order 0" is the entropy of the digits
in bits per pixel, each plane of digits by itself. The coder of a file needs fewer bits, and has
changed over time. Diffusion decoders have the shipped size and train on batches of 8 such crops.
Flicker is the mean absolute error of the changes from frame to frame, in levels of 0 to 255.

`bench/ablations.py --report` writes this page from the figures in the folder beside it. This
command trains all runs anew, with their figures in another folder:

    .venv/bin/python bench/ablations.py --data train/ --data images/ --val val/ --out FOLDER
"""
_COLUMNS = (
    "run",
    "M parameters",
    "GMAC per frame",
    "PSNR dB",
    "LPIPS",
    "first frame",
    "later frames",
    "unrounded",
    "bits/px",
    "order 0",
    "codebook used",
)
_CLOSE_COLUMNS = (
    "run",
    "M parameters",
    "GMAC per frame",
    "rounded: PSNR dB",
    "LPIPS",
    "flicker",
    "unrounded: PSNR dB",
    "LPIPS",
    "bits/px",
    "codebook used",
)
_BY_FRAME = "first frame, frame by frame"
"""The comparison whose figure shows PSNR by frame instead of learning curves."""
_UNROUNDED = "channels of continuous latents"
"""The comparison whose learning curves are those of unrounded latents."""
_DENOISING_COLUMNS = ("run", "M parameters", "GMAC per step", "steps", "PSNR dB", "LPIPS", "gradient energy")


def write_report(comparisons: Mapping[str, Sequence[str]], folder: Path, slug: Any) -> None:
    """Write the page beside `folder`, and the learning curves into it.

    Args:
        comparisons: The file names of the runs of each comparison, in order.
        folder: The folder with the figures. If the folder of a comparison has a file `verdict.md`, its text goes below
            the title.
        slug: The function that turns a name into a file name.
    """
    # A fixed salt keeps the identifiers in the SVG files the same each time.
    rcParams["svg.hashsalt"] = "vtok"
    parts = [_HEAD]
    for name, runs in comparisons.items():
        place = folder / slug(name)
        found = [
            json.loads((place / f"{run}.json").read_text(encoding="utf-8"))
            for run in runs
            if (place / f"{run}.json").exists()
        ]
        if len(found) < 2:
            # One run alone is no comparison.
            continue
        verdict = place / "verdict.md"
        text = verdict.read_text(encoding="utf-8").strip() + "\n\n" if verdict.exists() else ""
        figure = _by_frame(found) if name == _BY_FRAME else _curves(found, rounded=name != _UNROUNDED)
        figure.savefig(place / "curve.svg", metadata={"Date": None})
        shown = "PSNR by frame" if name == _BY_FRAME else "learning curves"
        picture = f"![{shown}]({folder.name}/{slug(name)}/curve.svg)\n"
        table = _denoising_table(found) if _denoises(found) else _table(found)
        parts.append(f"## {name[0].upper()}{name[1:]}\n\n{text}{table}\n{picture}")
    folder.with_suffix(".md").write_text("\n".join(parts), encoding="utf-8")


def _all_tokens(run: dict[str, Any]) -> str:
    """Return the number of tokens that a run is judged by: all, or fewer if the run trained with fewer."""
    first = str(run["run"]).split()[0]
    return (
        first
        if run["run"].endswith("tokens alone")
        else max(key.removeprefix("psnr_first_") for key in run["curve"][-1] if "psnr_first_" in key)
    )


def _table(runs: Sequence[dict[str, Any]]) -> str:
    if all(run.get("closely") for run in runs):
        return _lines([_CLOSE_COLUMNS, *(_close_cells(run) for run in runs)])
    rows = [list(_COLUMNS)]
    for run in runs:
        counts = [_all_tokens(run)] if run["run"] != "nested" else ["1", "2", "4"]
        rows += [_cells(run, count, len(counts) > 1) for count in counts]
    if not any("lpips_1" in run["curve"][-1] for run in runs):
        # Early comparisons were made without LPIPS.
        place = _COLUMNS.index("LPIPS")
        rows = [row[:place] + row[place + 1 :] for row in rows]
    return _lines(rows)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def _close_cells(run: dict[str, Any]) -> list[str]:
    """Return the row of a run that was measured closely, with all tokens."""
    rounded, unrounded = run["closely"]["rounded"], run["closely"]["unrounded"]
    last, cost = run["curve"][-1], run["cost"]
    return [
        run["run"],
        f"{cost['parameters'] / 1e6:.2f}",
        f"{cost['encoder_gmac'] + cost['decoder_gmac']:.2f}",
        f"{rounded['psnr']:.2f}",
        f"{rounded['lpips']:.4f}",
        f"{rounded['flicker']:.2f}",
        f"{unrounded['psnr']:.2f}",
        f"{unrounded['lpips']:.4f}",
        f"{last[f'raw_bpp_{_all_tokens(run)}']:.4f}",
        f"{100 * run['codebook_used']:.0f} %",
    ]


def _by_frame(runs: Sequence[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot(xlabel="frame", ylabel="PSNR, dB")
    for run in runs:
        frames = run["closely"]["rounded"]["psnr_by_frame"]
        axes.plot(range(1, len(frames) + 1), frames, marker=".", label=run["run"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _denoises(runs: Sequence[dict[str, Any]]) -> bool:
    """Return whether the runs train diffusion decoders."""
    return "psnr_1_base" in runs[0]["curve"][-1]


def _denoising_table(runs: Sequence[dict[str, Any]]) -> str:
    """Return a table of figures for one token: the codec's own decoder, then each run for each number of steps."""
    rows = ["| " + " | ".join(_DENOISING_COLUMNS) + " |", "| --- |" + " ---: |" * (len(_DENOISING_COLUMNS) - 1)]
    first = runs[0]["curve"][-1]
    rows.append("| the codec's own decoder | | | | " + " | ".join(_looks(first, "1_base")) + " |")
    for run in runs:
        last, cost = run["curve"][-1], run["cost"]
        about = f"{run['run']} | {cost['parameters'] / 1e6:.2f} | {cost['decoder_gmac']:.2f}"
        for key in last:
            if key.startswith("psnr_1_") and key.endswith("_steps"):
                made = key.removeprefix("psnr_")
                rows.append(f"| {about} | {made.split('_')[1]} | " + " | ".join(_looks(last, made)) + " |")
    return "\n".join(rows) + "\n"


def _looks(figures: Mapping[str, float], made: str) -> tuple[str, str, str]:
    return f"{figures[f'psnr_{made}']:.2f}", f"{figures[f'lpips_{made}']:.4f}", f"{figures[f'energy_{made}']:.3f}"


def _cells(run: dict[str, Any], count: str, named: bool) -> list[str]:
    last, cost = run["curve"][-1], run["cost"]
    entropy = last.get(f"order0_bpp_{count}")
    return [
        f"{run['run']}, {count} read" if named else run["run"],
        f"{cost['parameters'] / 1e6:.2f}",
        f"{cost['encoder_gmac'] + cost['decoder_gmac']:.2f}",
        f"{last[f'psnr_{count}']:.2f}",
        f"{last[f'lpips_{count}']:.4f}" if f"lpips_{count}" in last else "–",
        f"{last[f'psnr_first_{count}']:.2f}",
        f"{last[f'psnr_later_{count}']:.2f}" if f"psnr_later_{count}" in last else "–",
        f"{last[f'psnr_continuous_{count}']:.2f}",
        f"{last[f'raw_bpp_{count}']:.4f}",
        "–" if entropy is None else f"{entropy:.4f}",
        f"{100 * run['codebook_used']:.0f} %",
    ]


def _curves(runs: Sequence[dict[str, Any]], rounded: bool) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    denoising = _denoises(runs)
    label = "LPIPS, 1 token, 1 step" if denoising else "PSNR, dB"
    axes = figure.add_subplot(xlabel="steps", ylabel=label)
    for run in runs:
        judged = f"psnr_{'' if rounded else 'continuous_'}"
        points, measure = run["curve"], "lpips_1_1_steps" if denoising else f"{judged}{_all_tokens(run)}"
        steps = [run.get("steps_before", 0) + point["step"] for point in points]
        axes.plot(steps, [point[measure] for point in points], marker=".", label=run["run"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
