"""`vtok export`: a codec as ONNX graphs, which run without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from vtok_codec.cli.errors import notice, reports_errors
from vtok_codec.cli.options import Force, Quiet
from vtok_codec.errors import OutputError


@reports_errors
def export(
    model: Annotated[str, typer.Argument(help="A shipped model, weights file or run folder.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write to, which is made if it is not there.")],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Export a codec as ONNX graphs, with a copy of its weights that they read, and its prior.

    `vtok decode --engine onnx --weights FOLDER/MODEL.safetensors` decodes with them, as does any program that runs
    ONNX. MODEL.json lists all files with their hashes, and the operators of each graph. See docs/howto/onnx.md.
    """
    from vtok_codec.export.onnx_files import OPSET, exported_files, exported_names
    from vtok_codec.files import replacing
    from vtok_codec.registry import find_weights

    weights = find_weights(model)
    names = exported_names(weights)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {folder}; name another folder")
    if (taken := [name for name in names if (folder / name).exists()]) and not force:
        raise OutputError(f"{folder / taken[0]} exists; use -f to overwrite it")
    for name, data in exported_files(weights, lambda part: None if quiet else notice(f"exporting {part.value}")):
        try:
            with replacing(folder / name, overwrite=True) as partial:
                partial.write_bytes(data)
        except OSError as error:
            raise OutputError(f"cannot write {folder / name}: {error.strerror}; make room, and use -f") from error
    if not quiet:
        about = json.loads((folder / names[-1]).read_text(encoding="utf-8"))
        size = sum(entry["bytes"] for entry in about["files"].values()) / 1e6
        notice(f"{weights.name} -> {folder}: {len(names)} files, {size:.1f} MB, opset {OPSET}")
