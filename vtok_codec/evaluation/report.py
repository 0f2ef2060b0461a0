"""Formats evaluations as one self-contained HTML page with tables, rate–distortion plots and pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import count
from math import isfinite

from matplotlib.figure import Figure

from vtok_codec.evaluation.anchors import ANCHORS
from vtok_codec.evaluation.campaign import BD_ANCHOR, Evaluation, MeanBDRate
from vtok_codec.evaluation.comparison import Panel, Strip
from vtok_codec.evaluation.measure import ClipResult
from vtok_codec.evaluation.scores import HIGHER_IS_BETTER
from vtok_codec.evaluation.table import MEASURE_NAMES, bd_cell, figure
from vtok_codec.media.picture import png_bytes
from vtok_codec.media.types import Pixels
from vtok_codec.text import counted

# Warm colours make vtok models stand out. Anchors differ in hue and in marker.
_OURS = ("#c2410c", "#b91c1c", "#a16207", "#be185d")
_ANCHOR_LOOKS = {"x264": ("#1d4ed8", "s"), "x265": ("#0f766e", "^"), "av1": ("#6d28d9", "D")}

_STYLE = """
:root { color-scheme: light; --ink: #1c1917; --faint: #78716c; --rule: #e7e5e4; --ours: #c2410c; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; padding: 1.5rem;
  max-width: 1180px; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 110ch; }
.note { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; border-bottom: 2px solid var(--ink); }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; padding-left: 0; }
tr.first td { border-top: 1px solid var(--faint); }
tr.ours td:first-child { color: var(--ours); font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; margin-bottom: 1.6rem; }
.strip figure { margin: 0; }
.strip img { width: 100%; display: block; }
figcaption { font-size: .82rem; color: var(--faint); padding: .15rem 0 .3rem;
  min-height: 3.2em; }
details summary { cursor: pointer; font-weight: 600; }
"""


def html_report(evaluations: Sequence[tuple[Evaluation, Sequence[Strip]]], notes: Sequence[str]) -> str:
    """Format evaluations as an HTML page.

    Args:
        evaluations: The evaluations, each with its strips of pictures.
        notes: How the results were measured, one line for each note.
    """
    total = sum(len(evaluation.clips) for evaluation, _ in evaluations)
    title = f"vtok eval: {counted(total, 'clip')}"
    parts = [f"<h1>{escape(title)}</h1><p class=note>{'<br>'.join(map(escape, notes))}</p>"]
    for evaluation, strips in evaluations:
        if len(evaluations) > 1:
            parts.append(f"<h1>{escape(evaluation.title)}</h1>")
        parts += _evaluation(evaluation, strips)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _evaluation(evaluation: Evaluation, strips: Sequence[Strip]) -> Iterator[str]:
    frames = sum(clip.frames for clip in evaluation.clips)
    clips = counted(len(evaluation.clips), "clip")
    note = f"{evaluation.title}: {clips}, {counted(frames, 'frame')}. Size is that of the whole file."
    yield _section("Means over clips", note, _result_table(evaluation, evaluation.means(), of_clips=False))
    yield _section("Rate and distortion", "", _plots(evaluation))
    if rates := evaluation.bd_rates():
        note = (
            f"Mean over clips of how much larger a codec's files are than those of {BD_ANCHOR} at equal quality "
            "(Bjøntegaard, PCHIP over log rate; in brackets the clips where both reach the same quality). "
            "Below zero is smaller."
        )
        yield _section(f"Rate against {BD_ANCHOR}", note, _bd_table(evaluation, rates))
    if strips:
        note = "The clips with the lowest, the middle and the highest PSNR; below each picture, its error times four."
        yield _section("Pictures at equal size", note, "".join(map(_strip, strips)))
    if evaluation.failures:
        yield _section("Not measured", "", "<br>".join(map(escape, evaluation.failures)))
    every = _result_table(evaluation, evaluation.results, of_clips=True)
    results = f"<details><summary>{len(evaluation.results)} results</summary>{every}</details>"
    yield _section("Every clip", "", results)


def _section(title: str, note: str, body: str) -> str:
    text = f"<p class=note>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(title)}</h2>{text}{body}</section>"


def _result_table(evaluation: Evaluation, results: Iterable[ClipResult], of_clips: bool) -> str:
    """Format results as a table with one row per result.

    Args:
        evaluation: The evaluation that the results belong to.
        results: The results.
        of_clips: Whether these are results of single clips. Otherwise they are means over clips, with a column for each
            Fréchet distance.
    """
    measures = evaluation.measures
    names = [MEASURE_NAMES[measure] for measure in measures]
    distances = {} if of_clips else evaluation.distances
    heads = [
        "codec",
        "",
        "clip" if of_clips else "clips",
        "bits/px",
        "kbit/s",
        *names,
        "enc s",
        "dec s",
        "enc MiB",
        "dec MiB",
    ]
    heads += distances
    rows = []
    previous = ""
    for result in results:
        values = [getattr(result.scores, measure) for measure in measures]
        cells = [
            result.codec,
            result.setting,
            result.clip,
            f"{result.bits_per_pixel:.4f}",
            figure("kbit_s", result.kbit_s),
            *(figure(measure, value) for measure, value in zip(measures, values, strict=True)),
            *(f"{seconds:.2f}" for seconds in (result.encode_s, result.decode_s)),
            *(figure("mib", mib) for mib in (result.encode_mib, result.decode_mib)),
        ]
        cells += [figure("distance", values.get(result.point)) for values in distances.values()]
        marks = ["ours"] * (not result.is_anchor) + ["first"] * (result.codec != previous)
        previous = result.codec
        rows.append(_row(cells, " ".join(marks)))
    return _table(heads, rows)


def _bd_table(evaluation: Evaluation, rates: dict[str, dict[str, MeanBDRate]]) -> str:
    rows = [
        _row([codec, "", *map(bd_cell, own.values())], "" if codec in ANCHORS else "ours")
        for codec, own in rates.items()
    ]
    return _table(["codec", "", *(MEASURE_NAMES[measure] for measure in evaluation.ordering_measures)], rows)


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"


def _row(cells: Sequence[str], marks: str) -> str:
    return f'<tr class="{marks}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _plots(evaluation: Evaluation) -> str:
    return f"<div class=plots>{''.join(_plot(evaluation, measure) for measure in evaluation.measures)}</div>"


def _plot(evaluation: Evaluation, measure: str) -> str:
    """Plot the means over clips of one measure against bits per pixel, as SVG."""
    canvas = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = canvas.subplots()
    own = count()
    for codec in evaluation.codecs:
        points = [(mean.bits_per_pixel, getattr(mean.scores, measure)) for mean in evaluation.means(codec)]
        points = sorted((rate, value) for rate, value in points if value is not None and isfinite(value))
        ours = codec not in ANCHORS
        color, mark = (_OURS[next(own) % len(_OURS)], "o") if ours else _ANCHOR_LOOKS[codec]
        axes.plot(
            [rate for rate, _ in points],
            [value for _, value in points],
            # Matplotlib leaves out a label that begins with an underscore, and sets text between dollars as a formula.
            color=color,
            marker=mark,
            label=f"\N{WORD JOINER}{codec}".replace("$", r"\$"),
            linewidth=2.4 if ours else 1.4,
            markersize=6 if ours else 4,
            zorder=3 if ours else 2,
        )
    better = {True: "higher is better", False: "lower is better", None: "best at 1"}[HIGHER_IS_BETTER.get(measure)]
    axes.set_title(f"{MEASURE_NAMES[measure]} ({better})", fontsize=10, loc="left")
    axes.set_xscale("log")
    axes.set_xlabel("bits per pixel", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="both", color="#e7e5e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    text = io.StringIO()
    canvas.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _strip(strip: Strip) -> str:
    heads = "".join(_figure(panel) for panel in strip.panels)
    name = escape(f"{strip.clip}, frame {strip.frame}")
    return f"<h3 class=note>{name}</h3><div class=strip>{heads}</div>"


def _figure(panel: Panel) -> str:
    caption = panel.title
    if panel.bits_per_pixel is not None and panel.psnr_db is not None:
        caption += f": {panel.bits_per_pixel:.4f} bits/px, {figure('psnr_db', panel.psnr_db)} dB in this frame"
    error = "" if panel.error is None else _image(panel.error, f"error of {panel.title}")
    return f"<figure>{_image(panel.picture, panel.title)}<figcaption>{escape(caption)}</figcaption>{error}</figure>"


def _image(picture: Pixels, text: str) -> str:
    data = base64.b64encode(png_bytes(picture)).decode()
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{data}">'
