"""The settings that every training stage has: crops, learning rate, optimizer. Nothing here imports torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from vtok_codec.errors import SettingError
from vtok_codec.layout import Stride

_PARTS_OF_ONE = ("_share", "_start", "_until")
"""How the names of settings end that are a share of something, or a part of the stage."""


@dataclass(frozen=True)
class CropShape:
    """The size of a batch of crops."""

    batch: int
    """Crops per batch and process."""
    frames: int
    """Frames per crop."""
    size: int
    """Height and width of a crop in pixels."""


@dataclass(frozen=True)
class Phase:
    """A part of a stage in which all crops have one shape. It lasts until the next phase begins."""

    start: float
    """The fraction of the whole stage at which the phase begins."""
    shape: CropShape
    """The shape of the batches in this phase."""


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied. Every field is a probability."""

    photo: float = 0.15
    """The probability of a pan over a photograph instead of a part of a video."""
    shrink: float = 0.4
    """The probability that a crop is cut larger, by a factor of up to 2.5, and scaled down to its size."""
    skip: float = 1.0
    """The probability of taking only every second or third frame, which makes motion faster (VidTok, section 3.4)."""
    color: float = 0.5
    """The probability of a changed contrast, brightness and gain of each colour channel."""
    flat: float = 0.03
    """The probability of almost no contrast. Nested tokens fail on flat pictures unless they train on some."""
    freeze: float = 0.04
    """The probability that the first frame fills the whole crop, as in a still picture."""
    gop_start: float = 0.0
    """The probability that the first frame is repeated as at the start of a GOP."""
    soft: float = 0.0
    """The probability of blur, as an upscaled or poor source shows it."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a stage that all kinds of models share. Each kind adds fields of its own."""

    phases: tuple[Phase, ...]
    """The crops to train on, from the first phase to the last."""
    learning_rate: float
    """The peak learning rate."""
    lpips_weight: float = 0.0
    """The weight of LPIPS in the loss."""
    lpips_frames: int = 1
    """The number of frames of each sample that LPIPS compares."""
    token_weights: tuple[float, ...] = ()
    """How often a sample reads 1, 2, … N tokens, as relative weights. If empty, half of the samples read all N, and
    the others read each smaller number equally often."""
    optimizer: str = "muon"
    """`muon` (Muon on the matrices of hidden layers, AdamW on the rest) or `adamw` for everything."""
    warmup_steps: int = 200
    """The number of steps over which the learning rate rises to its peak."""
    betas: tuple[float, float] = (0.9, 0.99)
    """The decay rates of the two moments of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of parameters with two or more dimensions. The linear paths have none."""
    clip_norm: float = 1.0
    """The norm to which a larger gradient is scaled down."""
    ema_decay: float = 0.999
    """The decay per step of the exponential moving average of the weights."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How crops are varied."""
    unused: ClassVar[frozenset[str]] = frozenset()
    """The settings above that a kind of stage makes no use of."""

    def shape_at(self, progress: float) -> CropShape:
        """Return the shape of the crops to train on when the fraction `progress` of the stage is done."""
        return [phase.shape for phase in self.phases if phase.start <= progress][-1]


@dataclass(frozen=True)
class TransformerRecipe(Recipe):
    """The settings of stages that train a causal transformer over latent frames.

    `phases` count in the pixels that the latent frames stand for: 2x48x256 means batches of 2 windows of 12 latent
    frames and 16×16 positions, for a codec with a stride of 4×16×16. Clips with fewer positions give smaller windows.
    """

    width: int = 320
    """Features per position."""
    blocks: int = 6
    """Transformer blocks."""
    heads: int = 5
    """Attention heads."""
    reach: int = 3
    """Latent frames before its own that a block attends to."""
    dropout: float = 0.1
    """The probability of dropping a feature that a block adds to a position, during training."""
    unused: ClassVar[frozenset[str]] = frozenset({"token_weights", "lpips_weight", "lpips_frames", "augmentation"})
    """The settings of all stages that these do not use: they train on tokens, not on crops."""


RecipeT = TypeVar("RecipeT", bound=Recipe)


def override(recipe: RecipeT, changes: Sequence[tuple[str, str]], stage: str) -> RecipeT:
    """Return a recipe with some of its fields changed.

    The new values are given as text: numbers and names as they are, lists of them separated by commas (`0.2,0.1`), and
    `phases` in the format of `parse_phases`. A field of the augmentation has the name `augmentation.NAME`.

    Args:
        recipe: The recipe to change.
        changes: Pairs of the name of a field and its new value.
        stage: The name of the stage, for error messages.

    Raises:
        SettingError: A field does not exist, or the value does not fit it.
    """
    for key, text in changes:
        group, _, name = key.rpartition(".")
        if group == "augmentation":
            changed: Any = _overridden(recipe.augmentation, name, text, key, stage)
            recipe = dataclasses.replace(recipe, augmentation=changed)
        elif key == "phases":
            recipe = dataclasses.replace(recipe, phases=parse_phases(text))
        else:
            recipe = _overridden(recipe, key, text, key, stage)
    return recipe


def check_used(recipe: Recipe, changes: Sequence[tuple[str, str]], stage: str) -> None:
    """Check that a stage uses the settings that a user changes.

    Args:
        recipe: The settings of the stage.
        changes: Pairs of the name of a field and its new value.
        stage: The name of the stage, for error messages.

    Raises:
        SettingError: It does not use one of them.
    """
    for key, _ in changes:
        if key.partition(".")[0] in recipe.unused:
            raise SettingError(f"setting {key}: stage {stage} does not use it; leave it out")


def _overridden(fields: Any, name: str, text: str, key: str, stage: str) -> Any:
    """Return the dataclass `fields` with the field `name` set from text. Error messages call the field `key`."""
    current = getattr(fields, name, None) if name in {field.name for field in dataclasses.fields(fields)} else None
    listed = isinstance(current, tuple)
    if not listed and type(current) not in (int, float, str):
        raise SettingError(f"setting {key}: stage {stage} has no setting of that name")
    try:
        if isinstance(current, tuple):
            words = bool(current) and isinstance(current[0], str)
            value: Any = tuple(part if words else float(part) for part in text.split(",") if part)
        else:
            value = text if isinstance(current, str) else int(text) if isinstance(current, int) else float(text)
    except ValueError:
        raise SettingError(f"setting {key}={text}: not a number") from None
    numbers = value if listed else (value,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise SettingError(f"setting {key}={text}: give finite numbers")
    if name == "betas" and len(value) != 2:
        raise SettingError(f"setting {key}={text}: give 2 numbers")
    return dataclasses.replace(fields, **{name: value})


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Parse phases such as `96x16x96,24x32x128@0.7`.

    This example means batches of 96 crops of 16 frames of 96×96 pixels, and from 70 % of the stage on, batches of 24
    crops of 32 frames of 128×128 pixels.

    Raises:
        SettingError: The text does not describe phases.
    """
    try:
        phases = []
        for part in text.split(","):
            sizes, _, start = part.partition("@")
            batch, frames, size = map(int, sizes.split("x"))
            phases.append(Phase(float(start or 0), CropShape(batch, frames, size)))
    except ValueError:
        raise SettingError(f"setting phases={text}: give BATCHxFRAMESxSIZE, and @START for all but the first") from None
    starts = [phase.start for phase in phases]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
        raise SettingError(f"setting phases={text}: the first starts at 0, each later one after it and before 1")
    return tuple(phases)


def check_phases(phases: Sequence[Phase], stride: Stride) -> None:
    """Check that the crops of all phases consist of whole latent frames and whole positions of a model.

    Args:
        phases: The phases of a stage.
        stride: The number of frames, rows and columns that one latent position stands for.

    Raises:
        SettingError: The crops of a phase do not fit the model.
    """
    frames, rows, columns = stride
    for shape in (phase.shape for phase in phases):
        whole = shape.frames % frames == shape.size % rows == shape.size % columns == 0
        if min(shape.batch, shape.frames, shape.size) < 1 or not whole:
            raise SettingError(
                f"setting phases: crops of {shape.batch}x{shape.frames}x{shape.size} do not fit the model; give at "
                f"least one crop, frames in multiples of {frames}, and a size in multiples of {max(rows, columns)}"
            )


def check_recipe(recipe: Recipe, tokens_per_position: int) -> None:
    """Check that the settings of a recipe are valid for a model with `tokens_per_position` tokens.

    Raises:
        SettingError: A number is out of its range, or a list has the wrong length.
    """
    check_weights("token_weights", recipe.token_weights, tokens_per_position)
    if recipe.token_weights and (min(recipe.token_weights) < 0 or sum(recipe.token_weights) <= 0):
        raise SettingError("setting token_weights: give numbers of at least 0, not all of them 0")
    if recipe.warmup_steps < 1:
        raise SettingError("setting warmup_steps: give at least 1")
    for name in (each.name for each in dataclasses.fields(recipe) if each.name.endswith(_PARTS_OF_ONE)):
        if not 0 <= getattr(recipe, name) <= 1:
            raise SettingError(f"setting {name}={getattr(recipe, name)}: give a number from 0 to 1")
    if recipe.lpips_frames < 1:
        raise SettingError("setting lpips_frames: give at least 1; lpips_weight=0 leaves LPIPS out")
    if not 0 < recipe.clip_norm < math.inf:
        raise SettingError(f"setting clip_norm={recipe.clip_norm}: give a number above 0")
    costs = [each.name for each in dataclasses.fields(recipe) if each.name.endswith("_weight")]
    for name in ("learning_rate", "weight_decay", *costs):
        if not 0 <= getattr(recipe, name) < math.inf:
            raise SettingError(f"setting {name}={getattr(recipe, name)}: give a number of at least 0")
    for name, decay in (("betas", recipe.betas[0]), ("betas", recipe.betas[1]), ("ema_decay", recipe.ema_decay)):
        if not 0 <= decay < 1:
            raise SettingError(f"setting {name}: {decay} is not from 0 to below 1")
    for name, share in dataclasses.asdict(recipe.augmentation).items():
        if not 0 <= share <= 1:
            raise SettingError(f"setting augmentation.{name}={share}: give a probability")
    if getattr(recipe, "mirrored", 0) not in (0, 1):
        raise SettingError("setting mirrored: give 1 or 0")
    if recipe.optimizer not in ("muon", "adamw"):
        raise SettingError(f"setting optimizer={recipe.optimizer}: use adamw or muon")


def check_weights(name: str, weights: Sequence[float], tokens_per_position: int) -> None:
    """Check that the list of the setting `name` is empty or has one number per token.

    Raises:
        SettingError: The list has another length.
    """
    if weights and len(weights) != tokens_per_position:
        raise SettingError(f"setting {name}: the model has {tokens_per_position} tokens, give as many numbers")
