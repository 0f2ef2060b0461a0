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
from vtok_codec.cli.options import AsJson, WeightsOfInput
from vtok_codec.errors import VtokError
from vtok_codec.text import counted, one_line, printable

if TYPE_CHECKING:
    from vtok_codec.audio import Tags
    from vtok_codec.container.header import Header, WindowHeader
    from vtok_codec.stream.verifying import FileSummary


@reports_errors
def info(
    paths: Annotated[list[str], typer.Argument(help="Files. '-' is standard input.")],
    weights: WeightsOfInput = None,
    as_json: AsJson = False,
) -> None:
    """Show what .vtk files hold. This reads and checks each whole file; of a damaged one it shows the header."""
    from vtok_codec.container.reader import VtkReader
    from vtok_codec.prior_files import priors_beside
    from vtok_codec.stream.verifying import summary_of

    priors = priors_beside(weights)

    def show(path: str) -> None:
        with open_input(path) as stream:
            reader = VtkReader(stream)
            version = ".".join(map(str, reader.version))
            try:
                summary = summary_of(reader, priors)
            except VtokError:
                _print(path, reader.header, version, None, as_json)
                raise
        _print(path, reader.header, version, summary, as_json)

    run_each(paths, show)


def _print(path: str, header: Header, version: str, summary: FileSummary | None, as_json: bool) -> None:
    """Print what a file holds: its header, and what follows it if that is whole."""
    if as_json:
        totals = _total_fields(summary) if summary else {}
        print(json.dumps({"file": path, **_header_fields(header, version), "whole": summary is not None, **totals}))
    else:
        print(
            "\n".join([f"{printable(path)}:", *(f"  {name:7}{text}" for name, text in _rows(header, version, summary))])
        )


def _header_fields(header: Header, version: str) -> dict[str, Any]:
    fields = asdict(header)
    for track in fields["audio"]:
        del track["parameters"], track["avi_parameters"]
        track["tags"] = dict(track["tags"])
    fields["tags"] = dict(fields["tags"])
    fields["file_id"] = fields["file_id"].hex()
    named = {("tokens" if key == "tokens_per_position" else key): value for key, value in fields.items()}
    return {**_plain(named), "format": version}


def _total_fields(summary: FileSummary) -> dict[str, Any]:
    totals = summary.totals
    return {
        "frames": totals.frames,
        "chunks": totals.chunks,
        "gops": totals.gops,
        "audio_packets": totals.audio_packets,
        "token_sha256": totals.token_digest.hex(),
        "constant_rate": summary.steady,
        "duration_s": round(summary.duration_s, 6),
        "file_bytes": summary.file_bytes,
        "token_bytes": summary.token_bytes,
        "audio_bytes": summary.audio_bytes,
        "latent_positions": summary.latent_positions,
        "window_tokens": summary.window_tokens,
        "bits_per_pixel": round(summary.bits_per_pixel, 6),
    }


def _plain(value: Any) -> Any:
    """Convert to types that JSON has; a fraction becomes `n/d`."""
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _words(tags: Tags) -> list[str]:
    return [one_line(f"{name} {text}") for name, text in tags]


def _windows(windows: WindowHeader, summary: FileSummary | None) -> str:
    shape = "x".join(map(str, windows.window))
    count = f"{counted(summary.window_tokens, '1D token')}, " if summary else "1D tokens, "
    made_by = f"{windows.name} (weights {windows.weights_sha256[:12]})"
    return f"{count}at most {windows.most} per window of {shape} positions, by {made_by}"


def _video(header: Header, summary: FileSummary | None) -> str:
    rate = "still image" if header.rate is None else f"{float(header.rate):.6g} frames/s"
    size = f"{header.width}x{header.height}"
    if summary is None:
        return f"{size}, {rate}"
    frames = summary.totals.frames
    if not summary.steady and summary.duration_s:
        rate = f"variable frame rate, {frames / summary.duration_s:.6g} frames/s on average"
    return f"{size}, {counted(frames, 'frame')}, {rate}, {summary.duration_s:.3f} s"


def _tokens(header: Header) -> str:
    grid = header.model.first_grid
    first = f", first frame of a GOP {grid[0]}x{grid[1]} times as fine" if grid != (1, 1) else ""
    return f"{header.tokens_per_position} per position of {'x'.join(map(str, header.model.stride))}{first}"


def _size(header: Header, summary: FileSummary) -> str:
    kbit_s = 8 * summary.file_bytes / summary.duration_s / 1000 if summary.duration_s else 0.0
    sound = " without the audio" if header.audio else ""
    return f"{summary.file_bytes} bytes, {summary.bits_per_pixel:.4f} bits/pixel{sound}, {kbit_s:.1f} kbit/s"


def _rows(header: Header, version: str, summary: FileSummary | None) -> list[tuple[str, str]]:
    """Return the names and texts of the lines to print; those of the totals only where there is a summary."""
    color = "/".join(map(str, header.color))
    totals = summary.totals if summary else None
    layout = f"{counted(totals.gops, 'GOP')}, {counted(totals.chunks, 'chunk')}, " if totals else ""
    rows = [
        ("video", _video(header, summary)),
        ("shape", f"SAR {header.sar}, rotation {header.rotation}, color {color} (range/primaries/transfer/matrix)"),
        ("model", f"{header.model.name} (weights {header.model.weights_sha256[:12]})"),
        ("tokens", _tokens(header)),
        *([("1D", _windows(header.windows, summary))] if header.windows else []),
        ("layout", f"{layout}format {version}"),
        *([("size", _size(header, summary))] if summary else []),
    ]
    rows += [("tag", one_line(f"{name}: {text}")) for name, text in header.tags]
    rows += [("audio", ", ".join([t.codec, f"{t.sample_rate} Hz", t.layout, *_words(t.tags)])) for t in header.audio]
    if header.audio and summary:
        rows.append(("", f"{counted(summary.totals.audio_packets, 'packet')}, {summary.audio_bytes} bytes"))
    return rows
