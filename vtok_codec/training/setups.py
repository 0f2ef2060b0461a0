"""What prepares the runs of each kind of model: the module `setup` in the kind's folder."""

from __future__ import annotations

from typing import Any, Protocol

from vtok_codec.models.config import ModelConfig, OneVAEConfig
from vtok_codec.training.codec import setup as codec
from vtok_codec.training.diffusion import setup as diffusion
from vtok_codec.training.generator import setup as generator
from vtok_codec.training.latent_flow import setup as latent_flow
from vtok_codec.training.onedva import setup as onedva
from vtok_codec.training.prior import setup as prior
from vtok_codec.training.recipe import Recipe
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import Stage
from vtok_codec.training.subject import Prepared, Request
from vtok_codec.weights_file import WeightsFile


class Setup(Protocol):
    """What the module `setup` of a kind of model provides."""

    DATA: str
    """What the kind trains on: `crops` of videos, whole `clips`, or the tokens of a `corpus`."""

    def check_start(self, stage: Stage, start: WeightsFile | None) -> None:
        """Check that a stage can start from weights.

        Raises:
            SettingError: It cannot.
        """

    def choose_config(self, settings: RunSettings, start: WeightsFile | None, codec: WeightsFile | None) -> ModelConfig:
        """Choose the configuration of the model of a new run.

        Args:
            settings: The settings of the run.
            start: The weights that it starts from, if there are any.
            codec: The codec whose tokens the model is for; None if the model is a codec itself.

        Raises:
            SettingError: The settings do not fit the kind of model.
            ModelError: The weights do not fit it.
        """

    def codec_config(self, config: Any) -> OneVAEConfig:
        """Return the configuration of the codec in which, or on whose tokens, a model trains."""

    def adapted(self, recipe: Any, config: Any) -> Recipe:
        """Return a recipe of the kind with the settings that follow from the configuration of the model."""

    def kept_tokens(self, stage: Stage, config: Any, start: WeightsFile | None) -> tuple[str, ...]:
        """Return the hashes of the codec weights whose tokens the trained weights will read as well."""

    def prepare(self, request: Request) -> Prepared[Any, Any]:
        """Create the network, its loss, and what else a run needs.

        Raises:
            VtokError: The data, weights or settings of the run cannot be used.
        """


SETUPS: dict[str, Setup] = {
    "codec": codec,
    "diffusion": diffusion,
    "prior": prior,
    "generator": generator,
    "latent_flow": latent_flow,
    "onedva": onedva,
}
"""The module of each kind, by one of `vtok_codec.training.stages.KINDS`."""
