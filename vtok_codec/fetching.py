"""Fetches weights that the package knows by their hash but does not bring along."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.extras import missing_package
from vtok_codec.files import replacing
from vtok_codec.registry import fetched_folder, known_hashes
from vtok_codec.text import first_line
from vtok_codec.weights_file import SUFFIX

SOURCE = "VTOK_WEIGHTS_SOURCE"
"""The environment variable that names where weights are fetched from."""
_HUB = "hf://"
_TIMEOUT_S = 60
_PIECE = 1 << 20


def fetch_weights(name: str, source: str | None = None) -> Path:
    """Fetch a weights file into the folder of fetched weights.

    Args:
        name: The name of the weights, such as `onevae-nano-4x16x16`.
        source: A folder, an http(s) URL that the name of the file is put behind, or `hf://ORGANISATION/REPOSITORY` for
            a repository on the Hugging Face hub; None for what the environment variable `SOURCE` says.

    Returns:
        Where the file lies.

    Raises:
        SettingError: No source is named, or one of a kind that is not known.
        ModelError: There are no such weights, they cannot be read, or the file there is another one.
        OSError: They cannot be written.
    """
    file = f"{name}{SUFFIX}"
    wanted = known_hashes().get(file)
    if wanted is None:
        raise ModelError(f"this version knows no weights {name!r}; 'vtok models' lists those that it knows")
    source = source or os.environ.get(SOURCE)
    if not source:
        raise SettingError(f"say where to fetch {file} from: a folder, a URL or hf://ORGANISATION/REPOSITORY")
    target = fetched_folder() / file
    target.parent.mkdir(parents=True, exist_ok=True)
    with _fetches(source, file):
        stream = _opened(source, file)
    with stream, replacing(target) as partial:
        with partial.open("wb") as out:
            while piece := _read(stream, source, file):
                out.write(piece)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
        if digest != wanted:
            raise ModelError(f"{file} at {source} is another file: its hash is {digest[:12]}, not {wanted[:12]}")
    return target


def _opened(source: str, file: str) -> BinaryIO:
    """Open a file at a source for reading."""
    if source.startswith(_HUB):
        return _from_hub(source.removeprefix(_HUB), file)
    if source.startswith(("http://", "https://")):
        stream: BinaryIO = urllib.request.urlopen(f"{source.rstrip('/')}/{file}", timeout=_TIMEOUT_S)
        return stream
    if "://" in source:
        raise SettingError(f"source {source!r}: use a folder, an http(s) URL or hf://ORGANISATION/REPOSITORY")
    return (Path(source) / file).open("rb")


def _read(stream: BinaryIO, source: str, file: str) -> bytes:
    """Read the next piece of a file; nothing at its end."""
    with _fetches(source, file):
        return stream.read(_PIECE)


@contextmanager
def _fetches(source: str, file: str) -> Iterator[None]:
    """Turn the errors of folders, servers and addresses into a `ModelError`."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ModelError(f"cannot fetch {file} from {source}: {reason}") from error


def _from_hub(repository: str, file: str) -> BinaryIO:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise missing_package("huggingface_hub", "the hub") from None
    try:
        # It keeps to HF_HUB_OFFLINE, and to the hub's own cache.
        return Path(hf_hub_download(repository, file)).open("rb")
    except Exception as error:
        # The hub's client raises errors of many kinds.
        raise ModelError(f"cannot fetch {file} from the hub's {repository}: {first_line(error)}") from error
