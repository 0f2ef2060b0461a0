"""An evaluation as text: a table for the terminal, rows for CSV, one object for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from vtok_codec.evaluation.campaign import BD_ANCHOR, Evaluation, MeanBDRate
from vtok_codec.evaluation.measure import ClipResult

MEASURE_NAMES = {
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "flicker": "flicker",
    "vmaf": "VMAF",
    "vmaf_neg": "VMAF-NEG",
}
_DECIMALS = {"psnr_db": 2, "ssim": 4, "ms_ssim": 4, "lpips": 4, "flicker": 3, "vmaf": 2, "vmaf_neg": 2}
_CLIP_WIDTH = 40
_CODEC_WIDTH = 20


def figure(name: str, value: float | None) -> str:
    """A figure as it is shown: `-` where there is none, `inf` for a lossless copy's PSNR."""
    return "-" if value is None else f"{value:.{_DECIMALS.get(name, 1)}f}"


def bd_cell(rate: MeanBDRate) -> str:
    """A rate difference with the number of clips that have one."""
    return "no common range" if rate.mean is None else f"{100 * rate.mean:+.1f} % ({rate.clips})"


def heading(measures: Iterable[str]) -> str:
    """The line above the rows."""
    names = "".join(f"{MEASURE_NAMES[measure]:>10}" for measure in measures)
    start = f"{'clip':{_CLIP_WIDTH}} {'codec':{_CODEC_WIDTH}} {'setting':9}"
    return f"{start} {'bits/px':>8} {'kbit/s':>8}{names} {'enc s':>7} {'dec s':>7} {'enc MiB':>8} {'dec MiB':>8}"


def row(result: ClipResult, measures: Iterable[str]) -> str:
    """One result as a line."""
    values = "".join(f"{figure(measure, getattr(result.quality, measure)):>10}" for measure in measures)
    start = f"{result.clip[:_CLIP_WIDTH]:{_CLIP_WIDTH}} {result.codec[:_CODEC_WIDTH]:{_CODEC_WIDTH}} {result.setting:9}"
    memory = " ".join(f"{figure('mib', mib):>8}" for mib in (result.encode_mib, result.decode_mib))
    return (
        f"{start} {result.bits_per_pixel:8.4f} {figure('kbit_s', result.kbit_s):>8}{values} "
        f"{result.encode_s:7.2f} {result.decode_s:7.2f} {memory}"
    )


def bd_lines(evaluation: Evaluation) -> list[str]:
    """The rate differences to x264 as a table; nothing without x264."""
    rates = evaluation.bd_rates()
    if not rates:
        return []
    names = "".join(f"{MEASURE_NAMES[measure]:>17}" for measure in evaluation.measures)
    lines = [f"{f'BD-rate against {BD_ANCHOR}':{_CODEC_WIDTH + 6}}{names}"]
    for codec, own in rates.items():
        lines.append(f"{codec:{_CODEC_WIDTH + 6}}" + "".join(f"{bd_cell(rate):>17}" for rate in own.values()))
    return [*lines, "(mean over the clips, in brackets how many, where both reach the same quality)"]


def fvd_lines(evaluation: Evaluation) -> list[str]:
    """FVD at each operating point, where it was measured."""
    return [
        f"FVD of {codec}, {setting}: {'needs two clips or more' if value is None else f'{value:.1f}'}"
        for (codec, setting), value in evaluation.fvd.items()
    ]


def to_csv(evaluation: Evaluation) -> str:
    """Every result as a row, with a heading."""
    text = io.StringIO()
    rows = [result.flat() for result in evaluation.results]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """All figures as one object. An infinite PSNR is the string `inf`, since JSON has no number for it."""
    document: dict[str, Any] = {
        "results": [_finite(result.flat()) for result in evaluation.results],
        "means": [_finite(result.flat()) for result in evaluation.means()],
    }
    if rates := evaluation.bd_rates():
        document["bd_rate"] = {
            codec: {measure: asdict(rate) for measure, rate in own.items()} for codec, own in rates.items()
        }
    if evaluation.fvd:
        document["fvd"] = [
            {"codec": codec, "setting": setting, "fvd": value} for (codec, setting), value in evaluation.fvd.items()
        ]
    return document


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: "inf" if isinstance(value, float) and math.isinf(value) else value for key, value in values.items()}
