"""A safetensors file of weights: its bytes, its identity, and what it says about itself. Nothing here imports torch."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vtok_codec.container.header import ModelId
from vtok_codec.errors import ModelError
from vtok_codec.models.config import CONFIG_KEY, ModelConfig, OneVAEConfig, config_from_json, not_a_codec
from vtok_codec.models.former_config import inferred_config

SUFFIX = ".safetensors"
READS = "reads"
"""The metadata key that lists other weights whose tokens this file's decoder reads: SHA-256 hashes, separated by
spaces."""
CODEC_SHA256 = "codec_sha256"
"""The metadata key by which weights that are no codec name the codec weights that they belong to."""
_MAX_METADATA_BYTES = 1 << 24
_PRESET = "preset"
"""The metadata key that names a preset, in files from before weights carried their configuration."""


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file of model weights. Its bytes are read once, when they are first needed."""

    name: str
    """The name under which files refer to the model."""
    path: Path
    """Where the file lies."""
    expected_sha256: str | None = None
    """The hash that the package knows of shipped weights; None for others."""

    @cached_property
    def data(self) -> bytes:
        """The bytes of the file.

        Raises:
            ModelError: It cannot be read, or is not the file that was shipped.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the weights {self.path}: {error.strerror}") from error
        if self.expected_sha256 and hashlib.sha256(data).hexdigest() != self.expected_sha256:
            raise ModelError(f"the weights {self.path} are damaged: they are not the ones that were shipped; reinstall")
        return data

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal: the identity of the weights, which `.vtk` files name."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def reads(self) -> frozenset[str]:
        """The hashes of all weights whose tokens these weights decode.

        Besides their own hash, these are the hashes that the metadata lists under `reads`: weights with the same
        tensors but other metadata, weights with the same encoder, and weights from which training went on so briefly
        that tokens kept their meaning (the model card then says how well).
        """
        return frozenset((self.sha256, *self.metadata.get(READS, "").split()))

    @cached_property
    def _header(self) -> dict[str, Any]:
        """The JSON header of the file: `__metadata__`, and dtype, shape and offsets of each tensor."""
        try:
            (size,) = struct.unpack_from("<Q", self.data)
            if size > _MAX_METADATA_BYTES:
                raise ValueError(f"it declares a header of {size} bytes")
            header = json.loads(self.data[8 : 8 + size])
            if not isinstance(header, dict):
                raise ValueError("its header is not a JSON object")
            return header
        except (ValueError, struct.error, RecursionError) as error:
            raise ModelError(f"{self.path} is not a readable safetensors file: {error}") from error

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The strings that the file says about itself.

        Raises:
            ModelError: It is not a safetensors file.
        """
        said = self._header.get("__metadata__", {})
        if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
            raise ModelError(f"{self.path} is not a readable safetensors file: its metadata are not strings")
        return said

    @property
    def is_model(self) -> bool:
        """Whether the file holds one of the kinds of models that have a configuration, rather than LPIPS or a prior."""
        return CONFIG_KEY in self.metadata or _PRESET in self.metadata

    @cached_property
    def config(self) -> ModelConfig:
        """The configuration of the model, from the metadata, or in older files from the shapes of the tensors.

        Raises:
            ModelError: The file holds no model, or one that needs a newer version of vtok.
        """
        if not self.is_model:
            raise ModelError(f"{self.path} holds no vtok model")
        try:
            if CONFIG_KEY in self.metadata:
                return config_from_json(self.metadata[CONFIG_KEY])
            shapes = {name: tuple(entry["shape"]) for name, entry in self._header.items() if name != "__metadata__"}
            return inferred_config(self.metadata[_PRESET], shapes)
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from None
        except (TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{self.path} is not a readable safetensors file: {error}") from error

    @property
    def codec_config(self) -> OneVAEConfig:
        """The configuration of a codec model.

        Raises:
            ModelError: The file holds another kind of model, or none at all.
        """
        if not isinstance(self.config, OneVAEConfig):
            raise ModelError(f"{self.path} {not_a_codec(self.config)}")
        return self.config

    @property
    def id(self) -> ModelId:
        """What a `.vtk` file says about this codec model.

        Raises:
            ModelError: The file holds no codec model.
        """
        config = self.codec_config
        return ModelId(self.name, self.sha256, config.stride, config.fsq_levels, config.first_grid)
