"""Writes the parts of a codec as ONNX graphs whose weights stay in the codec's safetensors file.

An ONNX graph may name bytes of another file as the values of a tensor. A graph made here names the fp16 values in the
weights file that it was made of, and casts them to float32, in which it computes. Graphs are therefore small, and the
weights are stored once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load as parse_safetensors

from vtok_codec.errors import ModelError
from vtok_codec.export.graphs import Graph, graph_of
from vtok_codec.models.config import OneVAEConfig, config_to_json
from vtok_codec.models.onnx_parts import METADATA_KEY, VERSION, CodecPart, GraphAbout, graph_path
from vtok_codec.models.weights import CODEC, build
from vtok_codec.prior_files import prior_file
from vtok_codec.version import __version__
from vtok_codec.weights_file import SUFFIX, WeightsFile

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The version of ONNX's operators that graphs use."""
_LEAST_EXTERNAL = 64
"""Tensors with fewer values stay in the graph."""


@dataclass(frozen=True)
class ExportedGraph:
    """An ONNX graph."""

    part: CodecPart
    """The part of the codec."""
    data: bytes
    """The bytes of the ONNX file."""
    operators: Mapping[str, int]
    """How often each operator occurs."""


def parts_of(config: OneVAEConfig) -> tuple[CodecPart, ...]:
    """Return the parts that a codec is exported as."""
    if config.layout.phases > 1:
        return CodecPart.FIRST_DECODER, CodecPart.DECODER, CodecPart.FIRST_ENCODER, CodecPart.ENCODER
    return CodecPart.DECODER, CodecPart.ENCODER


def export_part(weights: WeightsFile, part: CodecPart, weights_name: str) -> ExportedGraph:
    """Export a part of a codec.

    Args:
        weights: The weights of the codec.
        part: The part.
        weights_name: The name of the weights file beside which the graph will lie.

    Raises:
        ModelError: The weights are not those of a codec.
        ModuleNotFoundError: A package that export needs is not installed.
    """
    import onnxscript  # noqa: F401 - torch needs it, and says so only after some time

    model = build(CODEC, weights).requires_grad_(False)
    graph = graph_of(model, part)
    proto = _exported(graph)
    stored = _Stored(weights.data, weights_name)
    for tensor in list(proto.graph.initializer):
        _refer(proto, tensor, stored)
    about = GraphAbout(part, weights.sha256, model.config.latent_channels, graph.states)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, about.to_json()
    _forget_sources(proto)
    operators: dict[str, int] = {}
    for node in proto.graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return ExportedGraph(part, proto.SerializeToString(deterministic=True), dict(sorted(operators.items())))


def _exported(graph: Graph) -> onnx.ModelProto:
    """Return a part as an ONNX model with all weights in it."""
    # torch tells on standard error which other packages are missing.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            graph.inputs,
            input_names=list(graph.input_names),
            output_names=list(graph.output_names),
            dynamic_shapes=graph.dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


class _Stored:
    """Where the tensors of a safetensors file lie."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name = name
        (size,) = struct.unpack_from("<Q", data)
        self._header = json.loads(data[8 : 8 + size])
        self._begin = 8 + size
        self._tensors = parse_safetensors(data)
        self._by_size: dict[int, list[str]] = {}
        for tensor, values in self._tensors.items():
            self._by_size.setdefault(values.size, []).append(tensor)

    def find(self, values: np.ndarray) -> tuple[int, int] | None:
        """Return the offset and the length of fp16 values that equal the given ones, if the file holds them."""
        for name in self._by_size.get(values.size, []):
            stored = self._tensors[name]
            if stored.dtype == np.float16 and np.array_equal(stored.reshape(values.shape).astype(np.float32), values):
                begin, end = self._header[name]["data_offsets"]
                return self._begin + begin, end - begin
        return None


def _refer(proto: onnx.ModelProto, tensor: onnx.TensorProto, stored: _Stored) -> None:
    """Replace the values of a tensor by a reference to the weights file and a cast, where that holds them."""
    import onnx

    values = onnx.numpy_helper.to_array(tensor)
    if values.dtype != np.float32 or values.size < _LEAST_EXTERNAL:
        return
    place = stored.find(values)
    if place is None:
        return
    name = tensor.name
    tensor.Clear()
    tensor.name, tensor.data_type = f"{name}.fp16", onnx.TensorProto.FLOAT16
    tensor.dims.extend(values.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", stored.name), ("offset", str(place[0])), ("length", str(place[1]))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    cast = onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
    proto.graph.node.insert(0, cast)


def _forget_sources(proto: onnx.ModelProto) -> None:
    """Drop what the exporter notes about the source code of each node, which holds paths, and about itself."""
    proto.producer_name, proto.producer_version = "vtok", __version__
    proto.graph.doc_string = proto.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        value.doc_string = ""
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]


def exported_names(weights: WeightsFile) -> list[str]:
    """Return the names of all files of an exported codec, the JSON file about them last.

    Raises:
        ModelError: The weights are not those of a codec that can be exported.
    """
    if not isinstance(weights.config, OneVAEConfig):
        raise ModelError(f"{weights.path} is no codec; export takes codecs only")
    config = weights.codec_config
    if not config.causal or config.codebook:
        raise ModelError(f"{weights.path} is not a causal FSQ codec, so that its parts cannot run step by step")
    graphs = [graph_path(Path(f"{weights.name}{SUFFIX}"), part).name for part in parts_of(config)]
    prior = [f"prior-{weights.name}{SUFFIX}"] if prior_file(weights) else []
    return [*graphs, f"{weights.name}{SUFFIX}", *prior, f"{weights.name}.json"]


def exported_files(
    weights: WeightsFile, on_part: Callable[[CodecPart], object] = lambda part: None
) -> Iterator[tuple[str, bytes]]:
    """Yield all files of an exported codec, each as its name and its bytes; the last one is a JSON file about them.

    Args:
        weights: The weights of the codec.
        on_part: Called with each part before it is exported, which takes a minute.

    Raises:
        ModelError, ModuleNotFoundError: See `exported_names` and `export_part`.
    """
    exported_names(weights)
    files: dict[str, dict[str, object]] = {}

    def listed(name: str, data: bytes, **more: object) -> tuple[str, bytes]:
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **more}
        return name, data

    copy = f"{weights.name}{SUFFIX}"
    for part in parts_of(weights.codec_config):
        on_part(part)
        graph = export_part(weights, part, copy)
        name = graph_path(Path(copy), part).name
        yield listed(name, graph.data, part=part.value, operators=graph.operators)
    yield listed(copy, weights.data)
    prior = prior_file(weights)
    if prior:
        yield listed(f"prior-{weights.name}{SUFFIX}", prior.data)
    about = {
        "version": VERSION,
        "model": json.loads(config_to_json(weights.codec_config)),
        "name": weights.name,
        "weights_sha256": weights.sha256,
        "reads": sorted(weights.reads),
        "opset": OPSET,
        "prior_sha256": prior.sha256 if prior else None,
        "files": files,
    }
    yield f"{weights.name}.json", (json.dumps(about, indent=1) + "\n").encode()
