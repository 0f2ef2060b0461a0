"""Prepares a run that trains a generator: opens the corpus, and creates the network, its loss and its batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.corpus.joined_windows import JoinedWindows
from vtok_codec.corpus.plan import Plan, has_plan, read_plan
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.errors import SettingError
from vtok_codec.models.config import GeneratorConfig, ModelConfig, OneVAEConfig
from vtok_codec.models.generator import Generator
from vtok_codec.models.precision import fast_type
from vtok_codec.training.generator.objective import GeneratorObjective
from vtok_codec.training.generator.stages import GeneratorRecipe
from vtok_codec.training.generator.subject import GeneratorSubject
from vtok_codec.training.generator.windows import WindowBatches
from vtok_codec.training.prior.digits import held_out_digits
from vtok_codec.training.recipe import override
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage, find_stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

DATA = "corpus"
"""The kind of training data; see `vtok_codec.training.run`."""
_SHAPE = ("width", "blocks", "heads", "reach", "order")
"""The settings that give the generator its shape."""


def choose_config(settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> GeneratorConfig:
    """Choose the configuration of the generator: its shape from the settings, its tokens from the corpus.

    Raises:
        SettingError: The settings name a preset or change the shape of a codec, or a number is out of range.
        SettingError: The data are not corpora of the same tokens.
        ModelError: The tokens have no digits, or the settings do not make a generator.
    """
    if settings.preset or settings.shape:
        raise SettingError(
            "the shape of a generator is given by --set width, blocks, heads; leave out --preset, --shape"
        )
    assert codec is not None
    stage = find_stage(settings.stage)
    recipe = override(stage.recipe, settings.overrides, stage.name)
    assert isinstance(recipe, GeneratorRecipe)
    plan = corpus_plan(settings.data)
    if plan.weights_sha256 not in codec.reads:
        raise SettingError(
            f"the tokens of the corpus are those of other weights than {codec.path}; name its own (--codec)"
        )
    tokens = recipe.tokens or plan.tokens_per_position
    if not 1 <= tokens <= plan.tokens_per_position:
        raise SettingError(f"setting tokens={tokens}: the corpus has 1 to {plan.tokens_per_position} per position")
    shape = {name: getattr(recipe, name) for name in _SHAPE}
    classes = corpus_classes(settings.data, recipe.label) if recipe.label else ()
    if start is None:
        return GeneratorConfig(codec.codec_config, tokens, classes=classes, **shape)
    assert isinstance(start.config, GeneratorConfig)
    if start.metadata.get(CODEC_SHA256) not in codec.reads or start.config.tokens > plan.tokens_per_position:
        raise SettingError(f"{start.path} draws other tokens than those of the corpus")
    if given := sorted({key for key, _ in settings.overrides} & {"tokens", *_SHAPE}):
        raise SettingError(f"setting {given[0]}: weights to start from (--from) bring their shape along")
    if unknown := sorted(set(classes) - set(start.config.classes)):
        raise SettingError(f"setting label={recipe.label}: {start.path} does not know the class {unknown[0]!r}")
    return start.config


def adapted(recipe: GeneratorRecipe, config: GeneratorConfig) -> GeneratorRecipe:
    """Return the recipe with the shape of the generator, which weights to start from may have changed."""
    shape = {name: getattr(config, name) for name in ("tokens", *_SHAPE)}
    return replace(recipe, **shape)


def codec_config(config: ModelConfig) -> OneVAEConfig:
    """Return the configuration of the codec whose tokens a run trains on."""
    assert isinstance(config, GeneratorConfig)
    return config.codec


def check_start(stage: Stage, start: WeightsFile | None) -> None:
    """Check that the weights to start from are those of a generator.

    Raises:
        SettingError: They are not.
    """
    if start is not None and not isinstance(start.config, GeneratorConfig):
        raise SettingError(
            f"{start.path} is no generator of tokens; without --from, a generator starts from random weights"
        )


def kept_tokens(stage: Stage, config: ModelConfig, start: WeightsFile | None) -> tuple[str, ...]:
    """Return nothing: the metadata of a generator name its codec."""
    return ()


def prepare(request: Request) -> Prepared[Generator, GeneratorRecipe]:
    """Open the corpora, and create the network, its loss and its batches.

    Raises:
        InputError: A corpus cannot be read, or its clips are too short.
        ModelError: The weights of the codec cannot be used, or those to start from do not fit.
    """
    config, recipe, weights = request.config, request.recipe, request.codec
    assert isinstance(config, GeneratorConfig) and isinstance(recipe, GeneratorRecipe)
    layout = config.codec.layout
    model = Generator(config)
    model.blocks.drop(recipe.dropout)
    if request.start and request.fresh:
        model.load_state_dict(request.start.tensors)
    longest = max(phase.shape.frames for phase in recipe.phases) // layout.stride[0]
    columns = [recipe.label] if recipe.label else []
    windows = JoinedWindows(
        [TokenWindows(path, longest, config.tokens, start="every", columns=columns) for path in request.data]
    )
    sizes = {phase.shape.batch for phase in recipe.phases}
    if len(sizes) > 1:
        raise SettingError("setting phases: give all phases of a generator the same batch size")
    batches = WindowBatches(
        windows,
        config.codec.fsq_levels,
        layout,
        sizes.pop(),
        request.seed,
        request.processes,
        recipe.label,
        config.classes,
    )
    tokenizer = Tokenizer(weights, Placement(request.device, fast_type(request.device)))
    held_out = [held_out_digits(clip, tokenizer) for clip in request.clips]
    metadata = {"codec": weights.name, CODEC_SHA256: weights.sha256}
    subject = GeneratorSubject(config, request.clips, held_out, tokenizer, metadata)
    objective = GeneratorObjective(recipe, config.codec.max_tokens, request.processes)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    notes = (
        f"a generator for {weights.name}, weights {weights.sha256[:12]}, of {parameters / 1e6:.2f} M parameters; "
        f"{len(windows)} windows of {longest} latent frames to train on",
        *([f"{len(config.classes)} classes"] if config.classes else []),
    )
    return Prepared(model, subject, objective, notes=notes, batches=batches)


def corpus_classes(data: Sequence[str], column: str) -> tuple[str, ...]:
    """Return the different values of a column of some corpora as text, in alphabetical order; empty ones are left out.

    Raises:
        SettingError: A corpus has no such column, or the column has no value.
    """
    found = {value for path in data for value in TokenWindows(path, 1, columns=[column]).values(column)}
    if not found:
        raise SettingError(f"setting label={column}: the corpora have no value in this column")
    return tuple(sorted(found))


def corpus_plan(data: Sequence[str]) -> Plan:
    """Return the plan of the corpora that a run trains on: that of the first, of whose tokens all others must be.

    Raises:
        SettingError: The data are not corpora, or their tokens differ.
    """
    if not data or not all(has_plan(Path(path)) for path in data):
        raise SettingError("a generator trains on corpora; make one with 'vtok corpus encode' and name it with --data")
    plans = [read_plan(Path(path)) for path in data]
    for path, plan in zip(data, plans, strict=True):
        if plan.weights_sha256 != plans[0].weights_sha256:
            raise SettingError(f"{path} holds the tokens of {plan.model}, by other weights than those of {data[0]}")
    return min(plans, key=lambda plan: plan.tokens_per_position)
