"""Finds the priors with which tokens are packed: beside the weights of their codec, or among the shipped ones.

Nothing here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vtok_codec.errors import ModelError
from vtok_codec.registry import find_weights, shipped_weights
from vtok_codec.weights_file import CODEC_SHA256, SUFFIX, WeightsFile

if TYPE_CHECKING:
    from vtok_codec.tokens.prior.prior import Prior

RUN_PRIOR = f"prior{SUFFIX}"
"""The name of a prior beside the weights that it belongs to, as in the folder of a training run."""
PRIOR_FOLDERS = "VTOK_PRIORS"
"""The environment variable that lists further folders with priors."""
_PRIOR_PREFIX = "prior-"
"""How the names of shipped priors begin; the name of their model follows."""


def find_prior(sha256: str, beside: Path | None = None) -> Prior:
    """Find the prior with which the tokens of a file were packed.

    Shipped priors are searched first, then the folder `beside`, then the folders that the environment variable
    `VTOK_PRIORS` lists.

    Args:
        sha256: The hash of the prior's file, in hexadecimal.
        beside: The folder of the model's weights, if they are known.

    Raises:
        ModelError: It is not there.
    """
    named = [Path(folder) for folder in os.environ.get(PRIOR_FOLDERS, "").split(os.pathsep) if folder]
    places = [place for folder in (*([beside] if beside else []), *named) for place in sorted(folder.glob("prior*"))]
    others = (WeightsFile(place.stem, place) for place in places if place.suffix == SUFFIX)
    unreadable = ""
    for file in (*_shipped_priors(), *others):
        try:
            found = (file.expected_sha256 or file.sha256) == sha256
        except ModelError as error:
            # It may be any prior; the one that is wanted may come after it.
            unreadable = f"; {error}"
            continue
        if found:
            return parsed_prior(file)
    raise ModelError(
        f"the file was packed with the prior {sha256[:12]}, which is not here; name its folder in the environment "
        f"variable {PRIOR_FOLDERS}, or put it beside the weights of the model and name those{unreadable}"
    )


def priors_beside(weights: str | None) -> Callable[[str], Prior]:
    """Return what finds priors by their hash, also beside weights that a user names.

    Args:
        weights: A shipped name, or the path of a weights file or of a run's folder; None for none.

    Raises:
        ModelError: There are no such weights.
    """
    return partial(find_prior, beside=find_weights(weights).path.parent if weights else None)


def prior_of(weights: WeightsFile) -> Prior | None:
    """Return the prior of a codec's tokens, which lies beside its weights or is shipped; None if there is none.

    Raises:
        ModelError: It cannot be read.
    """
    file = prior_file(weights)
    return parsed_prior(file) if file else None


def prior_file(weights: WeightsFile) -> WeightsFile | None:
    """Return the file of the prior of a codec's tokens; None if there is none."""
    folder = weights.path.parent
    named = (folder / RUN_PRIOR, folder / f"{_PRIOR_PREFIX}{weights.path.stem}{SUFFIX}")
    # A shipped file comes with the hash that it must have.
    shipped = {file.path: file for file in _shipped_priors() if not _is_former(file)}
    beside = [shipped.get(place) or WeightsFile(place.stem, place) for place in named if place.is_file()]
    files = [*beside, *shipped.values()]
    return next((file for file in files if file.metadata.get(CODEC_SHA256) in weights.reads), None)


def _shipped_priors() -> list[WeightsFile]:
    return [weights for weights in shipped_weights() if weights.name.startswith(_PRIOR_PREFIX)]


def _is_former(file: WeightsFile) -> bool:
    """Return whether another shipped prior has taken the place of this one, which only reads older files.

    The name of such a prior ends with the first eight digits of its hash.
    """
    return file.name.endswith(f"-{(file.expected_sha256 or file.sha256)[:8]}")


def parsed_prior(file: WeightsFile) -> Prior:
    """Parse the file of a prior.

    Raises:
        ModelError: It cannot be used.
    """
    from vtok_codec.tokens.prior.prior import parse_prior

    try:
        return parse_prior(file.data)
    except ValueError as error:
        raise ModelError(f"the prior {file.path} cannot be used: {error}") from None
