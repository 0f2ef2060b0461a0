"""The interface between the trainer and the kinds of models that it can train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import torch
from torch import Tensor, nn

from vtok_codec.media.types import Pixels
from vtok_codec.models.causal import FrameConv
from vtok_codec.models.config import ModelConfig
from vtok_codec.models.weights import dump_weights
from vtok_codec.training.data.crops import Batches, CropSampler
from vtok_codec.training.objective import Model, TrainingObjective
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import Recipe, RecipeT

PICTURED_CLIPS = 4
"""The number of held-out clips that a picture strip shows."""


class Subject(ABC, Generic[Model, RecipeT]):
    """The properties of a kind of model that the trainer depends on."""

    def __init__(self, config: ModelConfig, clips: Sequence[Tensor]) -> None:
        """Describe a model.

        Args:
            config: The configuration of the model.
            clips: Held-out clips, each `3 T H W` in [−1, 1]; empty if this process does not validate.
        """
        self.config = config
        self.clips = clips

    @property
    def identity(self) -> Mapping[str, str]:
        """Values by name that must be the same when a checkpoint is resumed, besides the model and the stage."""
        return {}

    def codebook_size(self, model: Model) -> int | None:
        """Return the number of codebook entries whose use is logged; None for a model without a codebook."""
        return None

    @abstractmethod
    def freeze(self, model: Model, recipe: RecipeT) -> None:
        """Turn off the gradients of everything that the recipe does not train.

        Raises:
            SettingError: The recipe trains parts that the model does not have.
        """

    @abstractmethod
    def networks(self, model: Model) -> list[nn.Module]:
        """Return the networks whose convolutions and linear layers are hidden layers, to which `muon` applies Muon."""

    @abstractmethod
    def linear_paths(self, model: Model) -> list[FrameConv]:
        """Return the linear paths: layers whose learning rate is proportional to the size of their weights."""

    @abstractmethod
    def compile(self, model: Model) -> None:
        """Compile the networks that a training step evaluates.

        They are compiled for fixed shapes, since compiling for dynamic shapes fails on channels-last views.
        """

    @abstractmethod
    def figures(self, model: Model) -> dict[str, float]:
        """Measure the model on the held-out clips and return the figures by name."""

    @abstractmethod
    def strip(self, model: Model) -> Pixels:
        """Draw a picture of some held-out clips and of what the model makes of them, `H W 3`, uint8."""

    def weights(self, model: Model, metadata: Mapping[str, str]) -> bytes:
        """Serialize the model as a weights file with the given metadata."""
        return dump_weights(model, self.config, metadata)

    def companions(self, weights: bytes) -> Mapping[str, bytes]:
        """Return further files that lie beside a weights file which `weights` made, by name."""
        return {}


class Adversary(ABC):
    """A discriminator that trains against the model."""

    @abstractmethod
    def __init__(self, recipe: Any, device: torch.device, processes: Processes) -> None:
        """Create a discriminator for a recipe."""

    starts_at: float
    """The fraction of the stage after which the discriminator joins the loss of the model."""
    network: nn.Module
    """The network of the discriminator."""

    @abstractmethod
    def learn(self, real: Tensor, made: Tensor, factor: float) -> Tensor:
        """Train the discriminator for one step.

        Args:
            real: Source videos, `B 3 T H W` in [−1, 1].
            made: What the model makes of them, of the same shape.
            factor: The learning rate as a fraction of its peak.

        Returns:
            The loss of the discriminator.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint stores of the discriminator."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from."""

    config: ModelConfig
    """The configuration of the model that the weights belong to."""
    tensors: Mapping[str, Tensor]
    """The tensors by name, in fp32."""
    source: str
    """The name of the weights in messages."""


@dataclass(frozen=True)
class Request:
    """Everything that a kind of model needs to prepare a run."""

    config: ModelConfig
    """The configuration of the model to train."""
    recipe: Recipe
    """The settings of the stage."""
    sampler: CropSampler | None
    """The training videos; None for a model that trains on tokens."""
    clips: Sequence[Tensor]
    """Held-out clips, each `3 T H W` in [−1, 1]; empty if this process does not validate."""
    processes: Processes
    """The processes that train together."""
    start: Start | None = None
    """The weights to start from, if there are any."""
    fresh: bool = True
    """Whether to initialize the model; False if a checkpoint will be loaded into it."""
    warm: bool = True
    """Whether a fresh codec starts from the KLT (`vtok_codec.training.codec.klt`)."""
    codec: Any = None
    """The codec (`WeightsFile`) whose tokens the model takes; None for a codec itself."""
    prior: bytes | None = None
    """The file of the prior of the codec's tokens; None if there is none yet."""
    reads: tuple[str, ...] = ()
    """SHA-256 hashes of earlier weights whose files the model decodes as well."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """The device to train on."""
    seed: int = 1
    """The seed of all random choices in the run."""
    data: Sequence[str] = ()
    """The folders with the training data."""
    overridden: frozenset[str] = frozenset()
    """The names of the settings that were asked for."""
    quiet: bool = False
    """Whether to show no progress bars."""


@dataclass(frozen=True)
class Prepared(Generic[Model, RecipeT]):
    """Everything that the trainer needs to train one model."""

    model: Model
    """The model before its first step."""
    subject: Subject[Model, RecipeT]
    """The properties of the model that depend on its kind."""
    objective: TrainingObjective[RecipeT]
    """The loss that the model minimizes."""
    adversary: type[Adversary] | None = None
    """The class of the discriminator that trains against the model, if there is one."""
    notes: tuple[str, ...] = ()
    """Messages to the user about how the model was initialized, one line each."""
    batches: Batches | None = None
    """The training data, for kinds of models that do not train on crops of videos."""
