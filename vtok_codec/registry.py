"""Where model weights lie: shipped ones by name, others by path. Nothing here needs torch."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vtok_codec.errors import ModelError

DEFAULT_MODEL = "onevae-nano-4x8x8"
DETERMINISTIC = "deterministic"
"""The decoder that is part of every model; the others are diffusion decoders."""
SUFFIX = ".safetensors"
READS = "reads"
"""Of a weights file's metadata: other weights whose tokens its decoder reads, by their hashes, with spaces."""
RUN_WEIGHTS = f"ema{SUFFIX}"
"""The weights in the folder of a training run."""
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""In a wheel, and in a checkout."""
_MAX_METADATA_BYTES = 1 << 24


@dataclass(frozen=True)
class WeightsFile:
    """A weights file, its bytes read once."""

    name: str
    path: Path

    @cached_property
    def data(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the weights {self.path}: {error.strerror}") from error

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def reads(self) -> frozenset[str]:
        """Hashes of the weights whose files these decode: their own, those whose encoder they left as it was, and those
        from which training went on so briefly that the tokens still mean the same (their card tells how well)."""
        return frozenset((self.sha256, *self.metadata.get(READS, "").split()))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The strings that the file says of itself.

        Raises:
            ModelError: it is no safetensors file.
        """
        try:
            (size,) = struct.unpack_from("<Q", self.data)
            if size > _MAX_METADATA_BYTES:
                raise ValueError(f"it declares a header of {size} bytes")
            header = json.loads(self.data[8 : 8 + size])
            said = header.get("__metadata__", {})
            if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
                raise ValueError("its metadata are no strings")
            return said
        except (ValueError, struct.error, AttributeError, RecursionError) as error:
            raise ModelError(f"{self.path} is not a readable safetensors file: {error}") from error


def shipped_weights() -> list[WeightsFile]:
    """All weights that came with the package, by name."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return [WeightsFile(path.stem, path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    return []


def is_shipped(name: str) -> bool:
    """Whether weights of this name came with the package."""
    return name in {weights.name for weights in shipped_weights()}


def find_weights(name: str | Path) -> WeightsFile:
    """Weights by shipped name, or else by the path of a file or of a training run's folder.

    Raises:
        ModelError: there are none.
    """
    path = Path(name)
    if is_shipped(str(name)):
        # Whatever lies in the working folder: `./NAME` is how to name that.
        return find_shipped(str(name))
    if path.is_dir():
        if not (path / RUN_WEIGHTS).is_file():
            raise ModelError(f"{path} holds no {RUN_WEIGHTS}")
        return WeightsFile(path.resolve().name, path / RUN_WEIGHTS)
    if path.suffix == SUFFIX:
        if not path.is_file():
            raise ModelError(f"no weights file at {path}")
        return WeightsFile(path.stem, path)
    return find_shipped(str(name))


def find_shipped(name: str) -> WeightsFile:
    """Weights by shipped name only: what a file names must never become a path.

    Raises:
        ModelError: there are none.
    """
    shipped = {weights.name: weights for weights in shipped_weights()}
    if name not in shipped:
        raise ModelError(f"no model {name!r} is here; 'vtok models' lists those that are, others are named by a path")
    return shipped[name]


def find_decoder(objective: str, codec_sha256: str) -> WeightsFile:
    """The shipped diffusion decoder of an objective for the tokens of these weights: the first by name.

    Raises:
        ModelError: there is none.
    """
    for weights in shipped_weights():
        about = weights.metadata
        if about.get("objective") == objective and about.get("codec_sha256") == codec_sha256:
            return weights
    raise ModelError(
        f"no {objective} decoder for weights {codec_sha256[:12]} is here; use the deterministic decoder, "
        "or name the weights file of one that 'vtok train --stage diffusion' made"
    )
