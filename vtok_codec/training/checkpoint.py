"""Checkpoints that survive a crash: each is written atomically with a digest, and the one before it is kept."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from vtok_codec.errors import TrainingError
from vtok_codec.files import write_whole

CHECKPOINT = "checkpoint.pt"
"""The name of the newest checkpoint in a run's folder."""
PREVIOUS = "checkpoint-previous.pt"
"""The name of the second newest checkpoint in a run's folder."""
_MAGIC = b"vtok checkpoint 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint."""
    return any((folder / name).exists() for name in (CHECKPOINT, PREVIOUS))


_RESUME = "resume from the last checkpoint, if there is one"


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, and keep the last one beside it under the name `PREVIOUS`.

    Raises:
        TrainingError: A value is not finite, or the file cannot be written. The last checkpoint is still there.
    """
    if bad := next(_not_finite(state), None):
        raise TrainingError(
            f"the state of the run is not finite ({bad}); resume from the last checkpoint, if there is one"
        )
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = folder / CHECKPOINT
    try:
        if path.exists():
            _keep_as_previous(path)
        write_whole(path, b"".join((_MAGIC, hashlib.sha256(data).digest(), data)))
    except OSError as error:
        if not path.exists() and (folder / PREVIOUS).exists():
            os.replace(folder / PREVIOUS, path)
        raise TrainingError(f"cannot save to {folder}: {error.strerror or error}; make room, and {_RESUME}") from error


def _keep_as_previous(path: Path) -> None:
    """Give a checkpoint the name `PREVIOUS` as well, so that at every moment a whole checkpoint has a name."""
    previous = path.with_name(PREVIOUS)
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:
        # A file system without links.
        os.replace(path, previous)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the newest checkpoint of a run that is not damaged.

    Raises:
        TrainingError: There is no such checkpoint.
    """
    reasons = []
    for name in (CHECKPOINT, PREVIOUS):
        try:
            return _read(folder / name)
        except (OSError, ValueError, RuntimeError, EOFError, LookupError, TypeError, UnpicklingError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            reason = next(iter((text or "").splitlines()), "it is empty")
            reasons.append(f"{name}: {reason}")
    raise TrainingError(f"{folder} holds no run that can be resumed: {'; '.join(reasons)}")


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if data.startswith(_MAGIC):
        digest, data = data[len(_MAGIC) :][:_DIGEST_BYTES], data[len(_MAGIC) + _DIGEST_BYTES :]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("it is damaged: its digest does not match")
    # Checkpoints of earlier versions have no digest.
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint")
    if bad := next(_not_finite(state), None):
        raise ValueError(f"it holds values that are not finite ({bad})")
    return state


def _not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yield the names of tensors with values that are not finite."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _not_finite(inner, f"{name}[{number}]")
