"""Formats evaluations as text: as a table for the terminal, as CSV, and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from vtok_codec.evaluation.campaign import BD_ANCHOR, Evaluation, MeanBDRate
from vtok_codec.evaluation.clips import SourceClip
from vtok_codec.evaluation.codecs import CodecUnderTest
from vtok_codec.evaluation.measure import ClipResult
from vtok_codec.text import counted

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
"""The names of the fields of `Scores` for the user."""
_DECIMALS = {
    "psnr_db": 2,
    "ssim": 4,
    "ms_ssim": 4,
    "lpips": 4,
    "energy": 3,
    "flicker": 3,
    "vmaf": 2,
    "vmaf_neg": 2,
    "distance": 2,
}


def figure(name: str, value: float | None) -> str:
    """Format a value of a result: `-` for None, `inf` for the PSNR of a lossless copy.

    Args:
        name: The field of `Scores` that the value belongs to; any other name gives one decimal.
        value: The value.
    """
    return "-" if value is None else f"{value:.{_DECIMALS.get(name, 1)}f}"


def bd_cell(rate: MeanBDRate) -> str:
    """Format a mean BD-rate in percent, with the number of clips that have one."""
    return "no common range" if rate.mean is None else f"{100 * rate.mean:+.1f} % ({rate.clips}/{rate.of})"


class TextTable:
    """Formats results as lines for a terminal, in columns that are wide enough for the names in them.

    Args:
        clips: The clips of the results.
        codecs: The codecs of the results.
        measures: The fields of `Scores` to show.
    """

    def __init__(self, clips: Sequence[SourceClip], codecs: Sequence[CodecUnderTest], measures: Sequence[str]) -> None:
        self._measures = measures
        self._clip_width = max(len(name) for name in ("mean of 100", *(clip.name for clip in clips)))
        self._codec_width = max(len(name) for name in ("codec", *(codec.name for codec in codecs)))
        self._setting_width = max(len(name) for name in ("setting", *(codec.setting for codec in codecs)))

    def heading(self) -> str:
        """Return the heading of the table, one line."""
        names = "".join(f"{MEASURE_NAMES[measure]:>10}" for measure in self._measures)
        start = self._start("clip", "codec", "setting")
        return f"{start} {'bits/px':>8} {'kbit/s':>8}{names} {'enc s':>7} {'dec s':>7} {'enc MiB':>8} {'dec MiB':>8}"

    def row(self, result: ClipResult) -> str:
        """Format one result as a line."""
        values = "".join(f"{figure(name, getattr(result.scores, name)):>10}" for name in self._measures)
        start = self._start(result.clip, result.codec, result.setting)
        memory = " ".join(f"{figure('mib', mib):>8}" for mib in (result.encode_mib, result.decode_mib))
        return (
            f"{start} {result.bits_per_pixel:8.4f} {figure('kbit_s', result.kbit_s):>8}{values} "
            f"{result.encode_s:7.2f} {result.decode_s:7.2f} {memory}"
        )

    def _start(self, clip: str, codec: str, setting: str) -> str:
        """Return the first three columns of a line."""
        return f"{clip:{self._clip_width}} {codec:{self._codec_width}} {setting:{self._setting_width}}"


def bd_lines(evaluation: Evaluation) -> list[str]:
    """Format the BD-rates against x264 as the lines of a table; no lines if x264 was not measured."""
    rates = evaluation.bd_rates()
    if not rates:
        return []
    title = f"BD-rate against {BD_ANCHOR}"
    width = max(len(name) for name in (title, *rates))
    lines = [f"{title:{width}}" + "".join(f"{MEASURE_NAMES[measure]:>19}" for measure in evaluation.ordering_measures)]
    for codec, own in rates.items():
        lines.append(f"{codec:{width}}" + "".join(f"{bd_cell(rate):>19}" for rate in own.values()))
    return [*lines, "(mean over the clips where both reach the same quality; in brackets how many of them)"]


def distance_lines(evaluation: Evaluation) -> list[str]:
    """Format the Fréchet distances at each operating point, one line each; no lines if none was measured."""
    return [
        f"{name} of {codec}, {setting}, over {counted(len(evaluation.clips), 'clip')}: "
        + ("needs more or larger clips" if value is None else f"{value:.2f}")
        for name, distances in evaluation.distances.items()
        for (codec, setting), value in distances.items()
    ]


def to_csv(evaluations: Sequence[Evaluation]) -> str:
    """Format all results as CSV, with a heading and one row per result."""
    text = io.StringIO()
    rows = [result.flat() for evaluation in evaluations for result in evaluation.results]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["clip"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(evaluations: Sequence[Evaluation], context: dict[str, Any]) -> dict[str, Any]:
    """Collect all results in one JSON object. An infinite PSNR becomes the string `inf`, since JSON has no infinity.

    Args:
        evaluations: The evaluations.
        context: What else to record, such as versions.
    """
    return {"context": context, "evaluations": [_json_of(evaluation) for evaluation in evaluations]}


def _json_of(evaluation: Evaluation) -> dict[str, Any]:
    """Collect the results of one evaluation in a JSON object."""
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
    for name, distances in evaluation.distances.items():
        key = name.lower().replace("-", "_")
        document[key] = [
            {"codec": codec, "setting": setting, key: value} for (codec, setting), value in distances.items()
        ]
    return document


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace infinite numbers by the string `inf`."""
    return {key: "inf" if isinstance(value, float) and math.isinf(value) else value for key, value in values.items()}
