"""What an ONNX graph of a codec says about itself, in its metadata. Nothing here imports torch or ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

from vtok_codec.errors import ModelError

PathT = TypeVar("PathT", bound=PurePath)

METADATA_KEY = "vtok"
"""The metadata key under which a graph carries `GraphAbout` as JSON."""
VERSION = 1
"""The version of inputs, outputs and metadata."""
_MAX_STATES = 256
_MAX_SIZE = 1 << 12


class CodecPart(Enum):
    """A part of a codec that has a graph of its own. The values stand in the names of files."""

    DECODER = "decoder"
    """Decodes a latent frame."""
    FIRST_DECODER = "decoder-first"
    """Decodes the first latent frame of a GOP, for models with first-frame enhancement."""
    ENCODER = "encoder"
    """Encodes the frames of a latent frame."""
    FIRST_ENCODER = "encoder-first"
    """Encodes the first frame of a GOP, for models with first-frame enhancement."""

    @property
    def is_first(self) -> bool:
        """Whether the part begins a GOP, so that it takes no state."""
        return self in (CodecPart.FIRST_DECODER, CodecPart.FIRST_ENCODER)

    @property
    def decodes(self) -> bool:
        """Whether the part turns digits into pixels, rather than pixels into digits."""
        return self in (CodecPart.DECODER, CodecPart.FIRST_DECODER)


@dataclass(frozen=True)
class StateShape:
    """The shape of a tensor of the state, float32 `1 channels frames rows·h columns·w` for a latent grid of `h×w`."""

    channels: int
    """Channels."""
    frames: int
    """Frames."""
    rows: int
    """Rows for each row of the latent grid."""
    columns: int
    """Columns for each column of the latent grid."""


@dataclass(frozen=True)
class GraphAbout:
    """What a graph says about itself."""

    part: CodecPart
    """The part of the codec."""
    weights_sha256: str
    """The hash of the codec's weights."""
    latent_channels: int
    """The digits of all tokens of a position."""
    states: tuple[StateShape, ...]
    """The shapes of `state_0`, `state_1`, … and of `next_0`, `next_1`, …"""

    def to_json(self) -> str:
        """Return the metadata as compact JSON."""
        members: dict[str, Any] = {"version": VERSION, **asdict(self), "part": self.part.value}
        return json.dumps(members, separators=(",", ":"))


def about_from_metadata(metadata: Mapping[str, str], source: str) -> GraphAbout:
    """Parse the metadata of a graph.

    Args:
        metadata: The metadata of the ONNX file.
        source: The name of the file in error messages.

    Raises:
        ModelError: The metadata are not those of a graph that this version can run.
    """
    try:
        members = json.loads(metadata[METADATA_KEY])
        if members["version"] != VERSION:
            raise ModelError(f"{source} needs another version of vtok")
        if len(members["states"]) > _MAX_STATES:
            raise ValueError("it has too many states")
        states = tuple(map(_state, members["states"]))
        part, channels = CodecPart(members["part"]), int(members["latent_channels"])
        return GraphAbout(part, str(members["weights_sha256"]), channels, states)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelError(f"{source} is not a graph that 'vtok export' made: {error}") from None


def _state(members: Mapping[str, Any]) -> StateShape:
    sizes = [int(members[name]) for name in ("channels", "frames", "rows", "columns")]
    if not all(0 < size <= _MAX_SIZE for size in sizes):
        raise ValueError("the shape of a state is out of range")
    return StateShape(*sizes)


def graph_path(weights: PathT, part: CodecPart) -> PathT:
    """Return where the graph of a part lies: beside the weights, named after them."""
    return weights.with_name(f"{weights.stem}.{part.value}.onnx")
