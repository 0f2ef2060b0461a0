"""The shape of a model as data, and the JSON in which a weights file carries it. Nothing here imports torch.

A configuration holds everything needed to build the network that a weights file belongs to. It is stored as JSON in the
metadata of the file, under the key `CONFIG_KEY`, together with the version of its layout. For older files, which carry
only the name of a preset, see `vtok_codec.models.former_config`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vtok_codec.errors import ModelError
from vtok_codec.layout import GopLayout, Stride

CONFIG_KEY = "config"
"""The metadata key under which a weights file carries its configuration."""
CONFIG_VERSION = 1
"""The version of the configuration's JSON layout."""

BLOCK_KINDS = ("2d+1d", "3d", "2d")
"""The kinds of residual blocks that a model can be built from (VidTok, Tab. 2)."""
RESAMPLING_KINDS = ("shuffle", "blend", "learned-blend")
"""How neighbouring levels are connected: by strided convolutions alone, or blended with a fixed or a learned α."""
CODEBOOK_KINDS = ("vq", "simvq", "lfq")
"""The quantizers that FSQ can be compared with."""
SHARP = "sharp"
"""The name of the sharp decoder of a codec."""
FLOW = "flow"
"""The objective of flow matching, along whose path One-DVA draws from noise too."""
DDIM = "ddim"
"""The objective of denoising diffusion."""
OBJECTIVES = (DDIM, FLOW)
"""The training objectives of diffusion decoders."""
ORDERS = ("raster", "waves")
"""The orders in which a generator goes through a latent frame: row by row, or all rows at once, each two columns behind
the row above it."""
MAX_CLASSES = 1 << 14
"""The largest number of classes of videos that a generator tells apart."""
MAX_QUERIES = 255
"""The largest number of 1D tokens per window, which one byte of a file counts."""
MAX_WINDOW_STEPS = 4
"""The most time steps of the latent grid that a window of 1D tokens spans: a decoder takes no more at once."""
_LEAST_HEAD = 8
"""The smallest number of features of an attention head: some for each of three axes."""

_MAX_EXPANSION = 16
_MAX_SIDE = 1 << 16
_MAX_ITEMS = 64


@dataclass(frozen=True)
class Level:
    """One resolution of the networks."""

    factor: Stride
    """Downsampling over time, height and width from the next finer level, or from pixels for the first level."""
    channels: int
    """Feature channels at this level."""
    encoder_blocks: int
    """Residual blocks of the encoder at this level."""
    decoder_blocks: int
    """Residual blocks of the decoder at this level."""


@dataclass(frozen=True)
class Codebook:
    """A quantizer with a codebook of vectors, used in comparisons with FSQ."""

    kind: str
    """One of `CODEBOOK_KINDS`."""
    channels: int
    """Latent channels per token, d. The codebook of LFQ has 2^d entries."""
    size: int = 0
    """The number of entries of the codebook; unused for LFQ."""

    def __post_init__(self) -> None:
        if self.kind not in CODEBOOK_KINDS:
            raise ModelError(f"quantizer {self.kind!r} is unknown; use fsq, {', '.join(CODEBOOK_KINDS)}")
        integers([self.channels], "channels of the quantizer", 1)
        integers([self.size], "size of the quantizer", 0 if self.kind == "lfq" else 2)


@dataclass(frozen=True)
class OneVAEConfig:
    """The configuration of a codec model."""

    levels: tuple[Level, ...]
    """The resolutions of the networks, from the finest to the latent grid."""
    fsq_levels: tuple[int, ...]
    """The number of values that each digit of a token can take."""
    max_tokens: int
    """Tokens per latent position, N. They are nested: the first k of them always decode by themselves."""
    blocks: str = "2d+1d"
    """The kind of residual block, one of `BLOCK_KINDS`."""
    resampling: str = "shuffle"
    """How levels are connected, one of `RESAMPLING_KINDS`."""
    expansion: float = 1.0
    """The width inside residual blocks, as a multiple of the width outside."""
    causal: bool = True
    """Whether a frame depends only on itself and earlier frames. Only causal models can stream."""
    codebook: Codebook | None = None
    """The quantizer to use in place of FSQ. Such a model has no digits, so a `.vtk` file cannot hold its tokens."""
    enhanced_first_frame: bool = False
    """Whether the first latent frame of a GOP keeps the grid of the next finer level (OneVAE, section 3.2)."""

    def __post_init__(self) -> None:
        if self.blocks not in BLOCK_KINDS:
            raise ModelError(f"blocks {self.blocks!r} are unknown; use one of {', '.join(BLOCK_KINDS)}")
        if self.resampling not in RESAMPLING_KINDS:
            raise ModelError(f"resampling {self.resampling!r} is unknown; use one of {', '.join(RESAMPLING_KINDS)}")
        if type(self.expansion) not in (int, float) or not 0 < self.expansion <= _MAX_EXPANSION:
            raise ModelError(f"expansion {self.expansion!r}: give a number above 0 and up to {_MAX_EXPANSION}")
        if type(self.causal) is not bool or type(self.enhanced_first_frame) is not bool:
            raise ModelError("causal and enhanced_first_frame are true or false")
        # A digit is a byte.
        if not self.codebook and not all(2 <= level <= 256 for level in self.fsq_levels):
            raise ModelError(f"fsq_levels {self.fsq_levels}: give numbers from 2 to 256")
        if self.enhanced_first_frame and (len(self.levels) < 2 or not self.causal):
            raise ModelError("first-frame enhancement needs a causal model with at least two levels")

    @property
    def stride(self) -> Stride:
        """Frames, rows and columns of the video that one latent position stands for."""
        t, h, w = (math.prod(level.factor[axis] for level in self.levels) for axis in range(3))
        return t, h, w

    @property
    def first_grid(self) -> tuple[int, int]:
        """Rows and columns of the first latent frame of a GOP for each row and column of a later latent frame."""
        _, rows, columns = self.levels[-1].factor
        return (rows, columns) if self.enhanced_first_frame else (1, 1)

    @property
    def layout(self) -> GopLayout:
        """The map between frames and latent frames."""
        return GopLayout(self.stride, self.first_grid)

    @property
    def token_channels(self) -> int:
        """Latent channels per token, d."""
        return self.codebook.channels if self.codebook else len(self.fsq_levels)

    @property
    def latent_channels(self) -> int:
        """Latent channels of all tokens of a position together, N·d."""
        return self.token_channels * self.max_tokens


@dataclass(frozen=True)
class DenoiserConfig:
    """The configuration of a diffusion decoder."""

    codec: OneVAEConfig
    """The codec whose tokens it decodes. It has the levels of that codec, and an up path like that codec's decoder."""
    objective: str
    """The training objective, one of `OBJECTIVES`."""
    down_blocks: tuple[int, ...]
    """Residual blocks of the down path at each level, from the finest to the latent grid."""
    adapter_scales: int = 0
    """The number of scales at which tokens enter the down path, counted from the latent grid; 0 means all of them."""

    def __post_init__(self) -> None:
        codec, scales = self.codec, len(self.codec.levels)
        if self.objective not in OBJECTIVES:
            raise ModelError(f"objective {self.objective!r} is unknown; use {' or '.join(OBJECTIVES)}")
        if not codec.causal or codec.codebook or codec.enhanced_first_frame:
            raise ModelError("a diffusion decoder needs a causal FSQ codec without first-frame enhancement")
        if len(self.down_blocks) != scales or not 0 <= self.adapter_scales <= scales:
            raise ModelError(f"down blocks {self.down_blocks} do not fit a codec with {scales} levels")

    def decodes(self, codec: OneVAEConfig) -> bool:
        """Whether the tokens of `codec` have the shape that this decoder reads.

        The encoder of `codec` may have another depth than the one in this configuration.
        """
        return _without_encoder(codec) == _without_encoder(self.codec)


@dataclass(frozen=True)
class SharpConfig:
    """The configuration of a sharp decoder: a codec's decoder without its encoder, trained for how pictures look."""

    codec: OneVAEConfig
    """The codec whose tokens it decodes, and whose decoder it has the shape of."""

    def decodes(self, codec: OneVAEConfig) -> bool:
        """Whether the tokens of `codec` have the shape that this decoder reads; see `DenoiserConfig.decodes`."""
        return _without_encoder(codec) == _without_encoder(self.codec)


def _without_encoder(config: OneVAEConfig) -> OneVAEConfig:
    return replace(config, levels=tuple(replace(level, encoder_blocks=0) for level in config.levels))


def _check_heads(width: int, heads: int) -> None:
    """Refuse a width that cannot be shared among attention heads."""
    if heads < 1 or width % (2 * heads) or width // heads < _LEAST_HEAD:
        raise ModelError(f"width {width} does not give {heads} heads at least {_LEAST_HEAD} features each")


@dataclass(frozen=True)
class GeneratorConfig:
    """The configuration of a generator, which predicts the tokens of a codec."""

    codec: OneVAEConfig
    """The codec whose tokens it predicts."""
    tokens: int
    """Tokens per latent position that it predicts; it knows nothing of the others."""
    width: int
    """Features per position."""
    blocks: int
    """Transformer blocks."""
    heads: int
    """Attention heads, each with an even share of the features."""
    reach: int
    """Latent frames before its own that a block attends to. Deeper blocks see further through those below them."""
    order: str = "waves"
    """The order of the positions within a latent frame, one of `ORDERS`."""
    classes: tuple[str, ...] = ()
    """The names of the classes of videos that it can draw; none if it draws all videos alike."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes) or "" in self.classes or len(self.classes) > MAX_CLASSES:
            raise ModelError(f"classes must have different names, and at most {MAX_CLASSES}")
        if self.codec.codebook or not self.codec.causal:
            raise ModelError("a generator needs the tokens of a causal FSQ codec")
        if not 1 <= self.tokens <= self.codec.max_tokens:
            raise ModelError(f"tokens {self.tokens}: the codec has 1 to {self.codec.max_tokens} per position")
        _check_heads(self.width, self.heads)
        if self.order not in ORDERS:
            raise ModelError(f"order {self.order!r} is unknown; use {' or '.join(ORDERS)}")

    @property
    def levels(self) -> tuple[int, ...]:
        """The number of values of each digit of a position."""
        return self.codec.fsq_levels * self.tokens


@dataclass(frozen=True)
class LatentFlowConfig:
    """The configuration of a latent flow, which draws the continuous latents of a codec."""

    codec: OneVAEConfig
    """The codec whose latents it draws."""
    tokens: int
    """The tokens per latent position whose channels it draws; it knows nothing of the others."""
    width: int
    """Features per position."""
    blocks: int
    """Transformer blocks."""
    heads: int
    """Attention heads, each with an even share of the features."""
    reach: int
    """Latent frames before its own that a block attends to."""

    def __post_init__(self) -> None:
        if self.codec.codebook or not self.codec.causal:
            raise ModelError("a latent flow needs the latents of a causal FSQ codec")
        if not 1 <= self.tokens <= self.codec.max_tokens:
            raise ModelError(f"tokens {self.tokens}: the codec has 1 to {self.codec.max_tokens} per position")
        _check_heads(self.width, self.heads)

    @property
    def channels(self) -> int:
        """The latent channels that it draws."""
        return self.tokens * self.codec.token_channels


@dataclass(frozen=True)
class OneDVAConfig:
    """The configuration of the transformers of One-DVA, which code 1D tokens beside a codec's first token."""

    codec: OneVAEConfig
    """The codec whose first token is the structural latent."""
    width: int
    """Features per position and per token."""
    blocks: int
    """Transformer blocks of the encoder, and of the decoder."""
    heads: int
    """Attention heads, each with an even share of the features."""
    queries: int
    """The largest number of 1D tokens per window."""
    window_steps: int = 4
    """The time steps of the latent grid that a window spans at most."""
    window_rows: int = 8
    """The rows of the latent grid that a window spans."""
    window_columns: int = 8
    """The columns of the latent grid that a window spans."""
    margin: int = 1
    """How many rows and columns of its neighbours a window reads on each side."""

    def __post_init__(self) -> None:
        if self.codec.codebook or not self.codec.causal or self.codec.max_tokens < 2:
            raise ModelError("One-DVA needs a causal FSQ codec with at least two tokens per position")
        _check_heads(self.width, self.heads)
        most = min(MAX_QUERIES, self.window_steps * self.window_rows * self.window_columns)
        if not 1 <= self.queries <= most:
            raise ModelError(f"{self.queries} queries: a window of this size has 1 to {most}")
        if self.window_steps > MAX_WINDOW_STEPS:
            raise ModelError(f"a window spans at most {MAX_WINDOW_STEPS} time steps, not {self.window_steps}")


ModelConfig = OneVAEConfig | DenoiserConfig | SharpConfig | GeneratorConfig | LatentFlowConfig | OneDVAConfig
"""The configuration of any kind of model."""


def not_a_codec(config: ModelConfig) -> str:
    """Return what to say about weights that stand where those of a codec belong."""
    if isinstance(config, OneDVAConfig):
        return "holds the transformers of One-DVA, which add to a codec; name that codec"
    kind = "generator" if isinstance(config, GeneratorConfig | LatentFlowConfig) else "decoder"
    return f"is a {kind}, which has no encoder; name it as the {kind}"


_KINDS: dict[str, type[ModelConfig]] = {
    "onevae": OneVAEConfig,
    "denoiser": DenoiserConfig,
    "sharp": SharpConfig,
    "generator": GeneratorConfig,
    "latent_flow": LatentFlowConfig,
    "onedva": OneDVAConfig,
}


def config_to_json(config: ModelConfig) -> str:
    """Return a configuration as compact JSON, with the version of its layout and the kind of model."""
    kind = next(name for name, type_ in _KINDS.items() if isinstance(config, type_))
    return json.dumps({"version": CONFIG_VERSION, "kind": kind, **asdict(config)}, separators=(",", ":"))


def config_from_json(text: str) -> ModelConfig:
    """Parse a configuration that `config_to_json` wrote.

    Raises:
        ModelError: The configuration is not valid, or needs a newer version of vtok.
    """
    try:
        members = json.loads(text)
        if not isinstance(members, dict):
            raise ValueError("it is not a JSON object")
        version, kind = members.pop("version", None), members.pop("kind", None)
        if version != CONFIG_VERSION or kind not in _KINDS:
            raise ModelError(f"the weights need a newer vtok: model kind {kind!r}, configuration version {version!r}")
        return _parse(_KINDS[kind], members)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"the model configuration is not valid: {error}") from None


def _parse(type_: type[ModelConfig], members: Mapping[str, Any]) -> ModelConfig:
    """Build a configuration from JSON members; unknown members are an error, since they could change the network."""
    if unknown := set(members) - {field.name for field in fields(type_)}:
        raise ModelError(f"the weights need a newer vtok: the configuration has {min(unknown)!r}")
    values = dict(members)
    if type_ is SharpConfig:
        codec = _parse(OneVAEConfig, values["codec"])
        assert isinstance(codec, OneVAEConfig)
        return SharpConfig(codec)
    if type_ in (GeneratorConfig, LatentFlowConfig, OneDVAConfig):
        return _parse_transformer(type_, values)
    if type_ is DenoiserConfig:
        values["codec"] = _parse(OneVAEConfig, values["codec"])
        values["down_blocks"] = integers(values["down_blocks"], "down_blocks", 0)
        return DenoiserConfig(**values)
    levels = values["levels"]
    if not 1 <= len(levels) <= _MAX_ITEMS:
        raise ValueError(f"it has {len(levels)} levels")
    values["levels"] = tuple(_level(level) for level in levels)
    values["fsq_levels"] = integers(values["fsq_levels"], "fsq_levels", 2)
    values["max_tokens"] = integers([values["max_tokens"]], "max_tokens", 1)[0]
    if values.get("codebook") is not None:
        values["codebook"] = Codebook(**values["codebook"])
    return OneVAEConfig(**values)


def _parse_transformer(type_: Callable[..., ModelConfig], values: dict[str, Any]) -> ModelConfig:
    """Build the configuration of a transformer on the tokens of a codec: the codec and sizes, and sometimes texts."""
    given: dict[str, Any] = {"codec": _parse(OneVAEConfig, values.pop("codec"))}
    if type_ is GeneratorConfig:
        given |= {"order": str(values.pop("order")), "classes": tuple(map(str, values.pop("classes", ())))}
    sizes = {name: integers([value], name, 0 if name == "margin" else 1)[0] for name, value in values.items()}
    return type_(**given, **sizes)


def _level(members: Mapping[str, Any]) -> Level:
    factor = integers(members["factor"], "factor", 1)
    if len(factor) != 3:
        raise ValueError(f"factor {list(factor)} is not three integers")
    channels, encoder_blocks, decoder_blocks = integers(
        [members[name] for name in ("channels", "encoder_blocks", "decoder_blocks")], "channels and blocks", 0
    )
    return Level((factor[0], factor[1], factor[2]), channels, encoder_blocks, decoder_blocks)


def integers(values: Sequence[Any], name: str, least: int) -> tuple[int, ...]:
    """Return values as a tuple if all of them are integers of at least `least`.

    Raises:
        ValueError: They are not, or there are too many; the message calls them `name`.
    """
    if len(values) > _MAX_ITEMS or not all(type(value) is int and least <= value <= _MAX_SIDE for value in values):
        raise ValueError(f"{name} {list(values)[:_MAX_ITEMS]} holds a value that is not an integer from {least} on")
    return tuple(values)
