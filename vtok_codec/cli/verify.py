"""`vtok verify`: checks every checksum of a `.vtk` file, without a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vtok_codec.cli.common import Quiet, counted, notice, open_input, reports_errors
from vtok_codec.errors import VtokError


@reports_errors
def verify(
    paths: Annotated[list[str], typer.Argument(help="Files; '-' is standard input.")],
    quiet: Quiet = False,
) -> None:
    """Check that .vtk files are whole: every CRC, every token, the totals and the digest."""
    from vtok_codec.codec.tokenfile import verify as verify_stream

    worst = 0
    for path in paths:
        try:
            with open_input(path) as stream:
                summary = verify_stream(stream)
        except VtokError as error:
            notice(str(error))
            worst = max(worst, error.exit_code)
        else:
            if not quiet:
                print(
                    f"{path}: whole, {counted(summary.totals.frames, 'frame')} in {counted(summary.totals.gops, 'GOP')}"
                )
    if worst:
        raise typer.Exit(worst)
