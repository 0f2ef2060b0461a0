"""Prepares a run that trains a prior: encodes the clips, and creates the networks and their loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import ModelConfig, OneVAEConfig
from vtok_codec.models.precision import fast_type
from vtok_codec.text import counted
from vtok_codec.tokens.prior.network import MAX_LEVELS, NetworkConfig
from vtok_codec.tokens.prior.prior import MAX_PLANES, ErrorWeights, check_shape, prior_parts
from vtok_codec.tokens.radix import Digits
from vtok_codec.training.prior.digits import DigitBatches, all_digits, digits_of_files, held_out_digits
from vtok_codec.training.prior.errors import error_weights
from vtok_codec.training.prior.growing import can_grow, grown
from vtok_codec.training.prior.network import PriorModel
from vtok_codec.training.prior.objective import PriorObjective
from vtok_codec.training.prior.restoring import restored_prior
from vtok_codec.training.prior.stages import STAGES, PriorRecipe
from vtok_codec.training.prior.subject import PriorSubject
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "clips"
"""The kind of training data; see `vtok_codec.training.run`."""
_LATER_SLOTS = 2
"""The latent frames before that the network for later latent frames reads."""
_ERROR_CLIPS = 4
"""The clips on which the harm of errors is measured."""
_SHAPE = ("channels", "blocks", "features", "first_blocks", "first_features")
"""The settings that give the prior its shape."""
_PLACES = 4
"""The places in a GOP, after its first frame, that have biases of their own."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> OneVAEConfig:
    """Choose the configuration of a run, which is that of the codec whose tokens the prior predicts.

    Raises:
        SettingError: The settings name a preset, a shape or another codec, or the tokens have no digits, or digits with
            too many levels.
    """
    if settings.preset or settings.shape or settings.codec:
        raise SettingError("a prior is for the codec that --from names; leave out --preset, --shape and --codec")
    assert codec is not None
    config = codec.codec_config
    if not can_have_prior(config):
        raise SettingError(
            f"a prior needs FSQ with at most {MAX_LEVELS} levels and {MAX_PLANES} digits per position; files of this "
            "codec use waves or zstd"
        )
    return config


def can_have_prior(config: OneVAEConfig) -> bool:
    """Return whether a prior can predict the tokens of a codec."""
    planes = len(config.fsq_levels) * config.max_tokens
    return not config.codebook and max(config.fsq_levels) <= MAX_LEVELS and planes <= MAX_PLANES


def adapted(recipe: PriorRecipe, config: OneVAEConfig) -> PriorRecipe:
    """Return the recipe as it is, since it does not depend on the codec."""
    return recipe


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose tokens a run trains on."""
    assert isinstance(config, OneVAEConfig)
    return config


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Do nothing: the weights to start from are those of the codec, which may have a prior to go on with."""


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return nothing: a prior decodes no files by itself."""
    return ()


def network_configs(recipe: PriorRecipe, phases: int) -> tuple[NetworkConfig, NetworkConfig]:
    """Return the shapes of the networks `first` and `later` of a new prior."""
    first = NetworkConfig(
        slots=phases - 1,
        places=phases,
        channels=recipe.channels,
        blocks=recipe.first_blocks,
        features=recipe.first_features,
        inputs=2,
        reach=5,
        steps=3,
    )
    later = NetworkConfig(
        slots=_LATER_SLOTS,
        places=_PLACES,
        channels=recipe.channels,
        blocks=recipe.blocks,
        features=recipe.features,
        inputs=3,
        reach=3,
        steps=2,
    )
    return first, later


def initial_prior(request: Request, config: OneVAEConfig) -> tuple[PriorModel, tuple[str, ...]]:
    """Return the prior that a run starts from, and notes about it.

    It is that of the codec, if there is one. If the recipe asks for larger networks, it grows; if it asks for smaller
    ones, the prior is new.

    Raises:
        SettingError: The recipe asks for networks that a file cannot hold.
    """
    recipe = request.recipe if isinstance(request.recipe, PriorRecipe) else STAGES["prior"][1]
    asked = {name: getattr(recipe, name) for name in _SHAPE if name in request.overridden}
    known = prior_parts(request.prior) if request.prior else None
    if request.prior and known and (known.levels, known.tokens) == (config.fsq_levels, config.max_tokens):
        old = (known.networks[0][0], known.networks[1][0])
        new = _checked(_reshaped(*old, asked))
        if new == old:
            return restored_prior(request.prior), ("goes on with the prior of these tokens",)
        if all(map(can_grow, old, new)):
            made = grown(restored_prior(request.prior), *new)
            return made, ("goes on with the prior of these tokens, in larger networks",)
    shapes = _checked(network_configs(recipe, config.layout.phases))
    return PriorModel(*shapes, config.fsq_levels, config.max_tokens), ("starts a new prior",)


def _reshaped(
    first: NetworkConfig, later: NetworkConfig, asked: Mapping[str, int]
) -> tuple[NetworkConfig, NetworkConfig]:
    """Return the shapes of a prior with the settings of the recipe that were asked for."""
    trunk = asked.get("channels", later.channels)
    first = replace(
        first,
        channels=trunk if first.slots else first.channels,
        blocks=asked.get("first_blocks", first.blocks),
        features=asked.get("first_features", first.features),
    )
    blocks, features = asked.get("blocks", later.blocks), asked.get("features", later.features)
    return first, replace(later, channels=trunk, blocks=blocks, features=features)


def _checked(shapes: tuple[NetworkConfig, NetworkConfig]) -> tuple[NetworkConfig, NetworkConfig]:
    """Return shapes that a file can hold.

    Raises:
        SettingError: One of them is too large or too small.
    """
    for shape in shapes:
        try:
            check_shape(shape)
        except ValueError as error:
            raise SettingError(f"the networks of the prior: {error}") from None
    return shapes


def _error_weights(gops: Sequence[Digits], tokenizer: Tokenizer, request: Request) -> ErrorWeights:
    """Measure the harm of errors on some of the GOPs, or keep what the prior that the run goes on with has.

    Args:
        gops: The digits of all GOPs, of which some may be pictures, or have fewer tokens than the codec gives.
        tokenizer: The codec.
        request: What was asked for.
    """
    planes = len(tokenizer.id.levels) * tokenizer.max_tokens
    usable = [gop for gop in gops if len(gop) == planes and gop.shape[1] > tokenizer.layout.phases]
    if not usable:
        return prior_parts(request.prior).errors if request.prior else {}
    count = min(_ERROR_CLIPS, len(usable))
    chosen = [usable[number * len(usable) // count] for number in range(count)]
    return error_weights(chosen, tokenizer, request.seed)


def prepare(request: Request) -> Prepared[PriorModel, PriorRecipe]:
    """Encode all clips with the codec, and create the networks, their loss and their batches.

    Files of the codec's tokens among the data are trained on as they are.

    Raises:
        SettingError: The recipe asks for networks that a file cannot hold.
        ModelError: The weights of the codec or the prior of a file cannot be used, or no clip can be read.
    """
    config, recipe, weights = request.config, request.recipe, request.codec
    assert isinstance(config, OneVAEConfig) and isinstance(recipe, PriorRecipe)
    device = request.device
    tokenizer = Tokenizer(weights, Placement(device, fast_type(device)))
    assert request.sampler is not None
    library, quiet = request.sampler.library, request.quiet or not request.processes.leads
    model, about_start = initial_prior(request, config)
    files = digits_of_files(request.data, tokenizer)
    clips = all_digits(library, tokenizer, bool(recipe.mirrored), quiet)
    if not clips:
        raise ModelError("none of the clips can be read")
    held_out = [held_out_digits(clip, tokenizer) for clip in request.clips]
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    errors = _error_weights([*clips, *(gop for file in files for gop in file)], tokenizer, request)
    subject = PriorSubject(config, request.clips, held_out, config.layout.phases, metadata, errors)
    objective = PriorObjective(recipe, config.max_tokens, len(config.fsq_levels), request.processes)
    # Each process draws batches of its own.
    seed = request.seed + request.processes.rank * 1_000_003
    slots = model.first.config.slots, model.later.config.slots
    batches = DigitBatches([*([clip] for clip in clips), *files], recipe, tokenizer, slots, seed)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    positions = sum(gop[0].size for file in files for gop in file)
    notes = (
        f"a prior for {weights.name}, weights {weights.sha256[:12]}, of {parameters / 1e6:.2f} M parameters; "
        f"{sum(clip[0].size for clip in clips) / 1e6:.1f} M positions of clips to train on, "
        f"{positions / 1e6:.1f} M of {counted(len(files), '.vtk file')}",
        *about_start,
    )
    return Prepared(model, subject, objective, notes=notes, batches=batches)
