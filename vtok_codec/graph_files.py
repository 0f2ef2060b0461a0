"""Finds the ONNX graphs of codecs: beside their weights, or among the shipped ones. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vtok_codec.errors import ModelError
from vtok_codec.models.onnx_parts import CodecPart, graph_path
from vtok_codec.registry import known_hashes, shipped_folder
from vtok_codec.weights_file import WeightsFile


def find_graph(weights: WeightsFile, part: CodecPart) -> tuple[Path, bytes]:
    """Find the ONNX graph of a part of a codec: beside its weights, or among the shipped ones.

    Returns:
        Where the graph lies, and its bytes.

    Raises:
        ModelError: There is none, it cannot be read, or it is not the one that was shipped.
    """
    beside = graph_path(weights.path, part)
    shipped = shipped_folder() / beside.name
    path = beside if beside.is_file() else shipped
    if not path.is_file():
        raise ModelError(f"there is no {beside.name}, a graph of {weights.path}; 'vtok export' makes it")
    known = known_hashes(".onnx").get(path.name) if path == shipped else _exported_hash(path, weights)
    data = WeightsFile(path.name, path).data
    if known and hashlib.sha256(data).hexdigest() != known:
        raise ModelError(f"the graph {path} is damaged: it is not the one that was made; reinstall, or export it again")
    return path, data


def _exported_hash(graph: Path, weights: WeightsFile) -> str | None:
    """Return the hash of a graph that the list of an export beside it holds, if there is one."""
    try:
        files = json.loads(weights.path.with_suffix(".json").read_text(encoding="utf-8"))["files"]
        return str(files[graph.name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
