"""`vtok info`: shows what a `.vtk` file holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtok_codec.cli.errors import reports_errors
from vtok_codec.cli.files import open_input
from vtok_codec.cli.jobs import run_each
from vtok_codec.cli.options import AsJson
from vtok_codec.text import counted, one_line, printable

if TYPE_CHECKING:
    from vtok_codec.container.header import Tags, WindowHeader
    from vtok_codec.stream.verifying import FileSummary


@reports_errors
def info(
    paths: Annotated[list[str], typer.Argument(help="Files. '-' is standard input.")],
    as_json: AsJson = False,
) -> None:
    """Show what .vtk files hold. This reads and checks each whole file."""
    from vtok_codec.stream.verifying import verify

    def show(path: str) -> None:
        with open_input(path) as stream:
            summary = verify(stream)
        if as_json:
            print(json.dumps({"file": path, **_fields(summary)}))
        else:
            print("\n".join([f"{printable(path)}:", *_lines(summary)]))

    run_each(paths, show)


def _fields(summary: FileSummary) -> dict[str, Any]:
    header = asdict(summary.header)
    for track in header["audio"]:
        del track["parameters"], track["avi_parameters"]
        track["tags"] = dict(track["tags"])
    header["tags"] = dict(header["tags"])
    header["file_id"] = header["file_id"].hex()
    totals = asdict(summary.totals)
    return _plain(
        {
            **{("tokens" if key == "tokens_per_position" else key): value for key, value in header.items()},
            "format": _version(summary),
            "frames": totals["frames"],
            "chunks": totals["chunks"],
            "gops": totals["gops"],
            "audio_packets": totals["audio_packets"],
            "token_sha256": summary.totals.token_digest.hex(),
            "constant_rate": summary.steady,
            "duration_s": round(summary.duration_s, 6),
            "file_bytes": summary.file_bytes,
            "token_bytes": summary.token_bytes,
            "audio_bytes": summary.audio_bytes,
            "latent_positions": summary.latent_positions,
            "window_tokens": summary.window_tokens,
            "bits_per_pixel": round(summary.bits_per_pixel, 6),
        }
    )


def _plain(value: Any) -> Any:
    """Convert to types that JSON has; a fraction becomes `n/d`."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _version(summary: FileSummary) -> str:
    return ".".join(map(str, summary.version))


def _words(tags: Tags) -> list[str]:
    return [one_line(f"{name} {text}") for name, text in tags]


def _windows(windows: WindowHeader, count: int) -> str:
    shape = "x".join(map(str, windows.window))
    made_by = f"{windows.name} (weights {windows.weights_sha256[:12]})"
    return f"{counted(count, '1D token')}, at most {windows.most} per window of {shape} positions, by {made_by}"


def _lines(summary: FileSummary) -> list[str]:
    header, totals = summary.header, summary.totals
    rate = "still image" if header.rate is None else f"{float(header.rate):.6g} frames/s"
    if not summary.steady and summary.duration_s:
        rate = f"variable frame rate, {totals.frames / summary.duration_s:.6g} frames/s on average"
    kbit_s = 8 * summary.file_bytes / summary.duration_s / 1000 if summary.duration_s else 0.0
    color = "/".join(map(str, header.color))
    grid = header.model.first_grid
    first = f", first frame of a GOP {grid[0]}x{grid[1]} times as fine" if grid != (1, 1) else ""
    sound = " without the audio" if header.audio else ""
    rows = [
        (
            "video",
            f"{header.width}x{header.height}, {counted(totals.frames, 'frame')}, {rate}, {summary.duration_s:.3f} s",
        ),
        ("shape", f"SAR {header.sar}, rotation {header.rotation}, color {color} (range/primaries/transfer/matrix)"),
        ("model", f"{header.model.name} (weights {header.model.weights_sha256[:12]})"),
        ("tokens", f"{header.tokens_per_position} per position of {'x'.join(map(str, header.model.stride))}{first}"),
        *([("1D", _windows(header.windows, summary.window_tokens))] if header.windows else []),
        ("layout", f"{counted(totals.gops, 'GOP')}, {counted(totals.chunks, 'chunk')}, format {_version(summary)}"),
        ("size", f"{summary.file_bytes} bytes, {summary.bits_per_pixel:.4f} bits/pixel{sound}, {kbit_s:.1f} kbit/s"),
    ]
    rows += [("tag", one_line(f"{name}: {text}")) for name, text in header.tags]
    rows += [("audio", ", ".join([t.codec, f"{t.sample_rate} Hz", t.layout, *_words(t.tags)])) for t in header.audio]
    if header.audio:
        rows.append(("", f"{counted(totals.audio_packets, 'packet')}, {summary.audio_bytes} bytes"))
    return [f"  {name:7}{text}" for name, text in rows]
