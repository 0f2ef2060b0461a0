"""A prior, which is two networks that predict the digits of one model, and the safetensors file that holds it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as dump_safetensors

from vtok_codec.tokens.prior.layers import Tensors
from vtok_codec.tokens.prior.network import MAX_LEVELS, Network, NetworkConfig

PRIOR_KEY = "prior"
"""The metadata key of a safetensors file whose JSON value describes the prior that the file holds."""
_VERSION = 1
"""The version of that description."""
_LIMITS = {
    "slots": (0, 16),
    "places": (1, 64),
    "channels": (1, 1024),
    "blocks": (0, 64),
    "features": (1, 256),
    "inputs": (2, 3),
    "reach": (3, 9),
    "steps": (2, 3),
}
"""The least and the largest value of every field of `NetworkConfig`."""
MAX_PLANES = 64
"""The largest number of planes of a prior."""
_MAX_ERROR = 1e6
"""The largest weight of an error."""
ErrorWeights: TypeAlias = Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
"""See `Prior.errors`."""


@dataclass(frozen=True)
class Prior:
    """The two networks that predict the digits of a model. Threads may share them."""

    sha256: str
    """The SHA-256 of the prior's file, by which `.vtk` files name it."""
    levels: tuple[int, ...]
    """The number of levels of each digit of a token."""
    tokens: int
    """The largest number of tokens per position."""
    first: Network
    """Predicts the first latent frame of a GOP, whose phases it takes as latent frames."""
    later: Network
    """Predicts all later latent frames."""
    errors: ErrorWeights
    """By the number of tokens per position: for each plane, how much an error of a digit harms the picture, in the
    first latent frame of a GOP and in later ones. Only encoders use it; it may be empty."""

    def error_weight(self, planes: int, plane: int, first: bool) -> float:
        """Return how much the squared error of a digit harms the picture, relative to that of a mean digit.

        Args:
            planes: The number of planes that are coded.
            plane: The plane of the digit.
            first: Whether the digit belongs to the first latent frame of a GOP.
        """
        known = self.errors.get(str(planes // len(self.levels)))
        return known[0 if first else 1][plane] if known else 1.0


def dump_prior(
    levels: tuple[int, ...],
    tokens: int,
    networks: Mapping[str, tuple[NetworkConfig, Tensors]],
    metadata: Mapping[str, str],
    errors: ErrorWeights | None = None,
) -> bytes:
    """Serialize a prior as a safetensors file.

    Args:
        levels: The number of levels of each digit of a token.
        tokens: The largest number of tokens per position.
        networks: The shapes and the integer tensors of the networks `first` and `later`.
        metadata: Further entries of the metadata.
        errors: See `Prior.errors`.
    """
    described = {name: asdict(config) for name, (config, _) in networks.items()}
    said = {"version": _VERSION, "levels": levels, "tokens": tokens, **described, "errors": errors or {}}
    text = json.dumps(said, separators=(",", ":"))
    tensors = {
        f"{name}.{key}": np.ascontiguousarray(value)
        for name, (_, own) in networks.items()
        for key, value in own.items()
    }
    return dump_safetensors(tensors, {**metadata, PRIOR_KEY: text})


@lru_cache(maxsize=4)
def parse_prior(data: bytes) -> Prior:
    """Parse a prior from the bytes of its file.

    Raises:
        ValueError: The bytes are not a prior that this version can use.
    """
    parts = prior_parts(data)
    first, later = (Network(config, parts.levels * parts.tokens, tensors) for config, tensors in parts.networks)
    return Prior(hashlib.sha256(data).hexdigest(), parts.levels, parts.tokens, first, later, parts.errors)


class PriorParts(NamedTuple):
    """What the file of a prior holds."""

    levels: tuple[int, ...]
    """The number of levels of each digit of a token."""
    tokens: int
    """The largest number of tokens per position."""
    networks: tuple[tuple[NetworkConfig, Tensors], tuple[NetworkConfig, Tensors]]
    """The shapes and the integer tensors of the networks `first` and `later`."""
    errors: ErrorWeights
    """See `Prior.errors`."""


def prior_parts(data: bytes) -> PriorParts:
    """Take apart the bytes of a prior's file, without a check of the tensors.

    Raises:
        ValueError: The bytes are not a prior that this version can use.
    """
    said, tensors = _contents(data)
    try:
        if said["version"] != _VERSION:
            raise ValueError(f"it needs a newer vtok: version {said['version']!r}")
        levels = tuple(_integer(level, 2, MAX_LEVELS) for level in said["levels"])
        tokens = _integer(said["tokens"], 1, MAX_PLANES // max(1, len(levels)))
        first, later = (_network(said[name], tensors, f"{name}.") for name in ("first", "later"))
        errors = _errors(said.get("errors", {}), len(levels))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its description is not one of a prior: {error}") from None
    return PriorParts(levels, tokens, (first, later), errors)


def _contents(data: bytes) -> tuple[Any, Tensors]:
    """Return the description and the tensors of a prior's file."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        return json.loads(json.loads(data[8 : 8 + size])["__metadata__"][PRIOR_KEY]), parse_safetensors(data)
    except (SafetensorError, struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it holds no prior: {error}") from None


def _network(said: Mapping[str, Any], tensors: Tensors, prefix: str) -> tuple[NetworkConfig, Tensors]:
    names = {field.name for field in fields(NetworkConfig)}
    if set(said) != names:
        raise ValueError(f"it needs a newer vtok: {sorted(set(said) ^ names)}")
    config = NetworkConfig(**{name: _integer(said[name], *_LIMITS[name]) for name in names})
    if config.reach % 2 == 0:
        raise ValueError("its reach is even")
    return config, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def check_shape(config: NetworkConfig) -> None:
    """Check that a file can hold a network of a shape.

    Raises:
        ValueError: It cannot.
    """
    for name, (least, most) in _LIMITS.items():
        if not least <= getattr(config, name) <= most:
            raise ValueError(f"{name} {getattr(config, name)}: a file can hold {least} to {most}")


def _errors(said: Mapping[str, Any], digits: int) -> ErrorWeights:
    """Check the weights of errors."""
    made: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
    for count, pair in said.items():
        if len(pair) != 2:
            raise ValueError(f"its weights of errors are {len(pair)} lists, not two")
        first, later = pair
        for weights in pair:
            if len(weights) != int(count) * digits or not all(0 < float(weight) < _MAX_ERROR for weight in weights):
                raise ValueError("a weight of an error is missing or out of range")
        made[count] = tuple(map(float, first)), tuple(map(float, later))
    return made


def _integer(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"its description has {value!r} where {least} to {most} may stand")
    return value
