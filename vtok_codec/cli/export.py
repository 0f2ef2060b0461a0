"""`vtok export`: a codec as ONNX graphs, which run without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.options import Force, Quiet
from vtok_codec.errors import OutputError


@reports_errors
def export(
    model: Annotated[str, typer.Argument(help="A shipped model or a weights file.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write to, which is made if it is not there.")],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Export a codec as ONNX graphs, with a copy of its weights that they read, and its prior.

    `vtok decode --engine onnx --weights FOLDER/MODEL.safetensors` decodes with them, as does any program that runs
    ONNX. MODEL.json lists all files with their hashes, and the operators of each graph. See docs/howto/onnx.md.
    """
    from vtok_codec.export.onnx_files import OPSET, exported_files
    from vtok_codec.files import replacing
    from vtok_codec.registry import find_weights

    weights = find_weights(model)
    index = folder / f"{weights.name}.json"
    if index.exists() and not force:
        raise OutputError(f"{index} exists; use -f to overwrite it")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in exported_files(weights, lambda part: None if quiet else notice(f"exporting {part.value}")):
        with replacing(folder / name, overwrite=True) as partial:
            partial.write_bytes(data)
    if not quiet:
        about = json.loads(index.read_text(encoding="utf-8"))
        size = sum(entry["bytes"] for entry in about["files"].values()) / 1e6
        notice(f"{weights.name} -> {folder}: {len(about['files'])} files, {size:.1f} MB, opset {OPSET}")
