"""An evaluation as text: a table for the terminal, rows for CSV, one object for JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vtok_codec.evaluation.campaign import BD_ANCHOR, Evaluation, MeanBDRate
from vtok_codec.evaluation.clips import Clip
from vtok_codec.evaluation.codecs import Codec
from vtok_codec.evaluation.measure import ClipResult

MEASURE_NAMES = {
    "psnr_db": "PSNR dB",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "energy": "energy",
    "flicker": "flicker",
    "vmaf": "VMAF",
    "vmaf_neg": "VMAF-NEG",
}
_DECIMALS = {"psnr_db": 2, "ssim": 4, "ms_ssim": 4, "lpips": 4, "energy": 3, "flicker": 3, "vmaf": 2, "vmaf_neg": 2}


def figure(name: str, value: float | None) -> str:
    """A figure as it is shown: `-` where there is none, `inf` for a lossless copy's PSNR."""
    return "-" if value is None else f"{value:.{_DECIMALS.get(name, 1)}f}"


def bd_cell(rate: MeanBDRate) -> str:
    """A rate difference with the number of clips that have one."""
    return "no common range" if rate.mean is None else f"{100 * rate.mean:+.1f} % ({rate.clips}/{rate.of})"


class TextTable:
    """Results as lines of a terminal, with columns as wide as the names in them."""

    def __init__(self, clips: Sequence[Clip], codecs: Sequence[Codec], measures: Sequence[str]) -> None:
        self._measures = measures
        self._clip_width = max(len(name) for name in ("mean of 100", *(clip.name for clip in clips)))
        self._codec_width = max(len(name) for name in ("codec", *(codec.name for codec in codecs)))

    def heading(self) -> str:
        """The line above the rows."""
        names = "".join(f"{MEASURE_NAMES[measure]:>10}" for measure in self._measures)
        start = f"{'clip':{self._clip_width}} {'codec':{self._codec_width}} {'setting':17}"
        return f"{start} {'bits/px':>8} {'kbit/s':>8}{names} {'enc s':>7} {'dec s':>7} {'enc MiB':>8} {'dec MiB':>8}"

    def row(self, result: ClipResult) -> str:
        """One result."""
        values = "".join(f"{figure(name, getattr(result.quality, name)):>10}" for name in self._measures)
        start = f"{result.clip:{self._clip_width}} {result.codec:{self._codec_width}} {result.setting:17}"
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
    title = f"BD-rate against {BD_ANCHOR}"
    width = max(len(name) for name in (title, *rates))
    lines = [f"{title:{width}}" + "".join(f"{MEASURE_NAMES[measure]:>19}" for measure in evaluation.ordering_measures)]
    for codec, own in rates.items():
        lines.append(f"{codec:{width}}" + "".join(f"{bd_cell(rate):>19}" for rate in own.values()))
    return [*lines, "(mean over the clips where both reach the same quality; in brackets how many of them)"]


def fvd_lines(evaluation: Evaluation) -> list[str]:
    """FVD at each operating point, where it was measured."""
    return [
        f"FVD of {codec}, {setting}, over {len(evaluation.clips)} clips: "
        + ("needs two or more" if value is None else f"{value:.1f}")
        for (codec, setting), value in evaluation.fvd.items()
    ]


def to_csv(evaluations: Sequence[Evaluation]) -> str:
    """Every result as a row, with a heading."""
    text = io.StringIO()
    rows = [result.flat() for evaluation in evaluations for result in evaluation.results]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["clip"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(evaluations: Sequence[Evaluation], context: dict[str, Any]) -> dict[str, Any]:
    """All figures as one object. An infinite PSNR is the string `inf`, since JSON has no number for it."""
    return {"context": context, "evaluations": [_json_of(evaluation) for evaluation in evaluations]}


def _json_of(evaluation: Evaluation) -> dict[str, Any]:
    document: dict[str, Any] = {
        "title": evaluation.title,
        "clips": [{"name": c.name, "sha256": c.sha256, "frames": c.frames} for c in evaluation.clips],
        "results": [_finite(result.flat()) for result in evaluation.results],
        "means": [_finite(result.flat()) for result in evaluation.means()],
        "failures": evaluation.failures,
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
