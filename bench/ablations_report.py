"""`docs/ablations.md` from the figures of `bench/ablations.py`: a table and a learning curve a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

_HEAD = """# Ablations: the papers' claims at this scale

Small models (48 and 128 channels), crops of 16×64×64 pixels, 12 a step, the same start, order of data and number of
steps within a comparison; PSNR over the first 17 frames of 8 held-out clips, EMA weights. A difference below about
0.05 dB is noise of the seed. "Order 0" is the entropy of the digits, each plane by itself, in bits a pixel: what a
coder of files makes of them is less, and has changed over time. Diffusion decoders are compared as they ship, on crops
of 8×16×64×64 pixels. This page is written by `bench/ablations.py --report` from the figures beside it:

    .venv/bin/python bench/ablations.py --data train/ --data images/ --val val/
"""
_COLUMNS = (
    "run",
    "M parameters",
    "GMAC a frame",
    "PSNR dB",
    "LPIPS",
    "first frame",
    "later ones",
    "unrounded",
    "bits/px",
    "order 0",
    "codebook used",
)
_DENOISING_COLUMNS = ("run", "M parameters", "GMAC a step", "steps", "PSNR dB", "LPIPS", "energy of gradients")


def write_report(comparisons: Mapping[str, Sequence[str]], folder: Path, slug: Any) -> None:
    """The page beside `folder`, with what it holds of each comparison's runs, in their order; and the pictures in it.

    A comparison's `verdict.md`, where there is one, stands under its title.
    """
    # Else every picture differs each time in the names of its parts.
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
            # Nothing to compare with yet.
            continue
        verdict = place / "verdict.md"
        text = verdict.read_text(encoding="utf-8").strip() + "\n\n" if verdict.exists() else ""
        _curves(found).savefig(place / "curve.svg", metadata={"Date": None})
        picture = f"![learning curves]({folder.name}/{slug(name)}/curve.svg)\n"
        table = _denoising_table(found) if _denoises(found) else _table(found)
        parts.append(f"## {name[0].upper()}{name[1:]}\n\n{text}{table}\n{picture}")
    folder.with_suffix(".md").write_text("\n".join(parts), encoding="utf-8")


def _all_tokens(run: dict[str, Any]) -> str:
    """The number of tokens that its figures are given for: all, but for a model that was trained for fewer."""
    first = str(run["run"]).split()[0]
    return (
        first
        if run["run"].endswith("tokens alone")
        else max(key.removeprefix("psnr_first_") for key in run["curve"][-1] if "psnr_first_" in key)
    )


def _table(runs: Sequence[dict[str, Any]]) -> str:
    rows = [list(_COLUMNS)]
    for run in runs:
        counts = [_all_tokens(run)] if run["run"] != "nested" else ["1", "2", "4"]
        rows += [_cells(run, count, len(counts) > 1) for count in counts]
    if not any("lpips_1" in run["curve"][-1] for run in runs):
        # The first comparisons were made without it.
        place = _COLUMNS.index("LPIPS")
        rows = [row[:place] + row[place + 1 :] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines[1:]]) + "\n"


def _denoises(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether these are diffusion decoders."""
    return "psnr_1_base" in runs[0]["curve"][-1]


def _denoising_table(runs: Sequence[dict[str, Any]]) -> str:
    """From one token: the codec's own decoder, and each run in one step and in as many as are usual."""
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


def _curves(runs: Sequence[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    denoising = _denoises(runs)
    label = "LPIPS, 1 token, 1 step" if denoising else "PSNR, dB"
    axes = figure.add_subplot(xlabel="steps", ylabel=label)
    for run in runs:
        points, measure = run["curve"], "lpips_1_1_steps" if denoising else f"psnr_{_all_tokens(run)}"
        steps = [run.get("steps_before", 0) + point["step"] for point in points]
        axes.plot(steps, [point[measure] for point in points], marker=".", label=run["run"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure
