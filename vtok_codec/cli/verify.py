"""`vtok verify`: checks every checksum of a `.vtk` file, without a model."""

from __future__ import annotations

from typing import Annotated

import typer

from vtok_codec.cli.errors import reports_errors
from vtok_codec.cli.files import open_input
from vtok_codec.cli.jobs import run_each
from vtok_codec.cli.options import Quiet, WeightsOfInput
from vtok_codec.text import counted, printable


@reports_errors
def verify(
    paths: Annotated[list[str], typer.Argument(help="Files. '-' is standard input.")],
    weights: WeightsOfInput = None,
    quiet: Quiet = False,
) -> None:
    """Check that .vtk files are intact: every checksum, every token, the totals and the digest.

    This needs no model, but for files of your own model its prior (--weights).
    """
    from vtok_codec.prior_files import priors_beside
    from vtok_codec.stream.verifying import verify as verify_stream

    priors = priors_beside(weights)

    def check(path: str) -> None:
        with open_input(path) as stream:
            summary = verify_stream(stream, priors)
        if not quiet:
            frames, gops = counted(summary.totals.frames, "frame"), counted(summary.totals.gops, "GOP")
            print(f"{printable(path)}: whole, {frames} in {gops}")

    run_each(paths, check)
