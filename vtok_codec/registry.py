"""Finds weights: shipped ones by name, others by path. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from vtok_codec.container.header import ModelId
from vtok_codec.errors import ModelError
from vtok_codec.models.config import (
    SHARP,
    DenoiserConfig,
    GeneratorConfig,
    LatentFlowConfig,
    OneDVAConfig,
    OneVAEConfig,
    SharpConfig,
)
from vtok_codec.weights_file import CODEC_SHA256, SUFFIX, WeightsFile

DEFAULT_MODEL = "onevae-nano-4x8x8"
DETERMINISTIC = "deterministic"
"""The name of the decoder that belongs to a file's model."""
STRUCTURAL = "structural"
"""The name that chooses the codec's own decoder for a file with 1D tokens, which that decoder ignores."""
DRAWS = "draws"
"""The metadata key of One-DVA's weights that can draw from noise; its value is the objective of their training."""
RUN_WEIGHTS = f"ema{SUFFIX}"
"""The name of the weights file in the folder of a training run."""
RUN_CODEC = f"codec{SUFFIX}"
"""The name of a codec beside weights that are for it, where it was not shipped."""
_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "weights", _PACKAGE.parent / "weights")
"""Where shipped weights lie: inside the package in a wheel, beside it in a checkout."""
WEIGHTS_FOLDER = "VTOK_WEIGHTS"
"""The environment variable that names the folder for fetched weights."""
_SUMS = "SHA256SUMS"
"""The file beside the shipped weights that lists their hashes."""


def fetched_folder() -> Path:
    """Return the folder that holds weights which were fetched: that of `WEIGHTS_FOLDER`, or one of the user's cache."""
    named = os.environ.get(WEIGHTS_FOLDER)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "vtok" / "weights"


def shipped_weights() -> list[WeightsFile]:
    """All weights of this version that are here, by name: those that came with the package, and those fetched since."""
    known = known_hashes()
    places = {path.name: path for path in sorted(shipped_folder().glob(f"*{SUFFIX}"))}
    for name in known:
        if name not in places and (fetched := fetched_folder() / name).is_file():
            places[name] = fetched
    return [WeightsFile(places[name].stem, places[name], known.get(name)) for name in sorted(places)]


def missing_weights() -> list[str]:
    """Return the names of the weights of this version that are not here, and can be fetched."""
    here = {weights.name for weights in shipped_weights()}
    return sorted({name.removesuffix(SUFFIX) for name in known_hashes()} - here)


def shipped_folder() -> Path:
    """Return the folder of the weights that came with the package."""
    return next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


def known_hashes(suffix: str = SUFFIX) -> dict[str, str]:
    """Return the hash of each file of this version with a suffix, by the name of the file."""
    try:
        lines = (shipped_folder() / _SUMS).read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {name: sha256 for sha256, name in (line.split() for line in lines) if name.endswith(suffix)}


def is_decoder(weights: WeightsFile) -> bool:
    """Whether a file holds a decoder without its codec."""
    return weights.is_model and isinstance(weights.config, DenoiserConfig | SharpConfig)


def is_generator(weights: WeightsFile) -> bool:
    """Whether a file holds a generator of tokens or of latents."""
    return weights.is_model and isinstance(weights.config, GeneratorConfig | LatentFlowConfig)


def is_onedva(weights: WeightsFile) -> bool:
    """Whether a file holds One-DVA's transformers."""
    return weights.is_model and isinstance(weights.config, OneDVAConfig)


def find_codec(weights: WeightsFile) -> WeightsFile:
    """Find the codec that weights without one are for: beside them, or among the shipped ones.

    Raises:
        ModelError: It is not here.
    """
    wanted, beside = weights.metadata.get(CODEC_SHA256, ""), weights.path.parent / RUN_CODEC
    named = WeightsFile(weights.metadata.get("codec", beside.stem), beside)
    # Reading a file takes time, so the one of the right name comes first.
    shipped = sorted(shipped_weights(), key=lambda file: file.name != named.name)
    for codec in (*([named] if beside.is_file() else []), *shipped):
        if codec.is_model and isinstance(codec.config, OneVAEConfig) and wanted in codec.reads:
            return codec
    raise ModelError(
        f"{weights.path} is for the codec with weights {wanted[:12] or 'unknown'}, which is not here; put it beside "
        f"them as {RUN_CODEC}"
    )


def is_shipped(name: str) -> bool:
    """Whether weights of this name came with the package, or were fetched."""
    return name in {weights.name for weights in shipped_weights()}


def is_known(name: str) -> bool:
    """Whether this version knows weights of this name, which may have to be fetched."""
    return f"{name}{SUFFIX}" in known_hashes()


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
        return WeightsFile(_model_name(path.resolve().name), path / RUN_WEIGHTS)
    if path.suffix == SUFFIX:
        if not path.is_file():
            raise ModelError(f"no weights file at {path}")
        return WeightsFile(_model_name(path.stem), path)
    if path.exists() and not is_known(str(name)):
        raise ModelError(f"{path} is no weights file; name a {SUFFIX} file or the folder of a training run")
    return find_shipped(str(name))


def _model_name(name: str) -> str:
    """Return the name of a file as the name of a model, which `.vtk` files store as text.

    Raises:
        ModelError: It is no text.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelError(f"the name of {name} is not valid UTF-8; rename it") from None
    return name


def find_shipped(name: str) -> WeightsFile:
    """Weights by shipped name only: what a file names must never become a path.

    Raises:
        ModelError: there are none.
    """
    shipped = {weights.name: weights for weights in shipped_weights()}
    if name not in shipped and is_known(name):
        raise ModelError(f"the weights of {name} are not here; 'vtok models fetch {name} --from PLACE' gets them")
    if name not in shipped:
        known = [file.removesuffix(SUFFIX) for file in known_hashes() if file.endswith(SUFFIX)]
        like = get_close_matches(name, [*shipped, *known], 1)
        meant = f"; did you mean {like[0]}?" if like else ""
        raise ModelError(
            f"no model {name!r} is here{meant}; 'vtok models' lists those that are, others are named by a path"
        )
    return shipped[name]


def check_same_weights(weights: WeightsFile, name: str, sha256: str) -> None:
    """Check that weights decode the tokens of a file. With other weights, the file would decode to noise.

    Args:
        weights: The weights at hand.
        name: What the file calls the model that made it.
        sha256: The hash of the weights that made the file, as the file says.

    Raises:
        ModelError: The weights do not decode these tokens.
    """
    if sha256 not in weights.reads:
        raise ModelError(
            f"the file was made with weights {sha256[:12]!r} of {name}, but {weights.path} holds "
            f"{weights.sha256[:12]}; name the weights file that made it"
        )


def weights_of(model: ModelId, named: str | Path | None = None) -> WeightsFile:
    """Return the weights that decode the tokens of a file.

    Args:
        model: What the file says about the model.
        named: A shipped name or a path, of the model or of One-DVA's transformers for it; None for the shipped model
            that the file names.

    Raises:
        ModelError: The model is missing, or does not read the file's tokens.
    """
    if named is None and not is_shipped(model.name) and not is_known(model.name):
        raise ModelError(
            f"the file was made by {model.name!r}, weights {model.weights_sha256[:12]}, which did not come with vtok; "
            "name them (--weights)"
        )
    weights = find_weights(named) if named else find_shipped(model.name)
    if named and is_onedva(weights):
        weights = find_codec(weights)
    check_same_weights(weights, model.name, model.weights_sha256)
    return weights


def weights_of_array(about: Mapping[str, str], named: str | None) -> WeightsFile:
    """Return the weights of the model that made an array of tokens or latents.

    Args:
        about: The metadata of the array, which nobody has checked.
        named: A shipped name or a path; None for the shipped model that the metadata name, or else the default model.

    Raises:
        ModelError: The model is missing, or is another one than the metadata name.
    """
    # What a file names must never become a path.
    weights = find_weights(named) if named else find_shipped(about.get("model", DEFAULT_MODEL))
    if named and is_onedva(weights):
        weights = find_codec(weights)
    check_same_weights(weights, about.get("model", weights.name), about.get("weights_sha256", weights.sha256))
    return weights


def decoder_name(weights: WeightsFile) -> str:
    """Return the name by which users choose a decoder: `sharp`, or the objective of a diffusion decoder."""
    return weights.config.objective if isinstance(weights.config, DenoiserConfig) else SHARP


def find_decoder(name: str, codec_hashes: frozenset[str]) -> WeightsFile:
    """The first shipped decoder of a name, in the order of the files' names, for the tokens of the given codec weights.

    Args:
        name: `sharp`, or one of `vtok_codec.models.config.OBJECTIVES`.
        codec_hashes: Every hash under which the codec's tokens are known (`WeightsFile.reads`).

    Raises:
        ModelError: There is none.
    """
    for weights in filter(is_decoder, shipped_weights()):
        if decoder_name(weights) == name and weights.metadata.get(CODEC_SHA256) in codec_hashes:
            return weights
    fetch = "fetch one that 'vtok models' lists, " if missing_weights() else ""
    raise ModelError(
        f"there is no {name} decoder for these weights; use the deterministic decoder, {fetch}or name the weights file "
        "of a decoder that was trained for them"
    )


def find_generator(name: str | Path | None, codec_hashes: frozenset[str] | None = None) -> WeightsFile:
    """Find the weights of a generator.

    Args:
        name: A shipped name or a path; None for the first shipped generator of such tokens, if there is one.
        codec_hashes: Every hash under which the tokens are known (`WeightsFile.reads`); None for those of any codec.

    Raises:
        ModelError: There is none, or it is for the tokens of other weights.
    """
    if name is not None:
        weights = find_weights(name)
        if not is_generator(weights):
            raise ModelError(f"{weights.path} is not a generator")
        if codec_hashes is not None and weights.metadata.get(CODEC_SHA256) not in codec_hashes:
            codec = weights.metadata.get("codec", "another codec")
            raise ModelError(f"{weights.path} draws the tokens of {codec}, with other weights than those of the file")
        return weights
    for weights in filter(is_generator, shipped_weights()):
        if codec_hashes is None or weights.metadata.get(CODEC_SHA256) in codec_hashes:
            return weights
    raise ModelError(
        "no generator for the tokens of this codec comes with vtok; name one (--generator), or train one with 'vtok "
        "train --stage generator'"
    )
