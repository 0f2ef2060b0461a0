"""The configurations of weights files that carry none, inferred from the shapes of their tensors.

The first weights files held only the name of a preset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from vtok_codec.errors import ModelError
from vtok_codec.layout import Stride
from vtok_codec.models.config import DDIM, FLOW, DenoiserConfig, Level, ModelConfig, OneVAEConfig

Shapes = Mapping[str, Sequence[int]]
"""The shape of each tensor of a weights file, by the tensor's name."""

_FORMER_FACTORS: tuple[Stride, ...] = ((2, 4, 4), (2, 2, 2))
"""The first two levels of every model whose weights file carries no configuration."""
_FORMER_FSQ = (8, 8, 8, 5, 5, 5)


def inferred_config(preset: str, shapes: Shapes) -> ModelConfig:
    """Infer the configuration of a weights file that was written before such files carried one.

    Channels and numbers of blocks follow from the tensors, and the stride follows from the end of the preset's name,
    such as `4x16x16`. A diffusion decoder does not hold its codec's encoder, so the result gives that encoder 0 blocks.

    Args:
        preset: The name of the preset in the file's metadata, such as `onevae-nano-4x16x16`.
        shapes: The shapes of the file's tensors.

    Raises:
        ModelError: The preset's name holds no stride, or the tensors are not those of such a model.
    """
    found = re.search(r"-(\d+)x(\d+)x(\d+)$", preset)
    if not found:
        raise ModelError(f"the weights carry no model configuration, and preset {preset!r} names no stride")
    stride = tuple(map(int, found.groups()))
    done = tuple(math.prod(factor[axis] for factor in _FORMER_FACTORS) for axis in range(3))
    rest = tuple(whole // part for whole, part in zip(stride, done, strict=True))
    factors = [*_FORMER_FACTORS, *([(rest[0], rest[1], rest[2])] if rest != (1, 1, 1) else [])]
    try:
        if any(name.startswith("up.") for name in shapes):
            return _inferred_denoiser(preset, shapes, factors)
        enhanced = "encoder.first.linear.weight" in shapes
        encoder = list(_levels("encoder", shapes))
        decoder = list(_levels("decoder", shapes))[::-1]
        return _inferred_codec(shapes, factors, encoder, decoder, "decoder", enhanced)
    except (KeyError, IndexError, ValueError) as error:
        raise ModelError(f"the tensors are not those of preset {preset!r}: {error}") from None


def _inferred_codec(
    shapes: Shapes,
    factors: Sequence[Stride],
    encoder: Sequence[int],
    decoder: Sequence[int],
    prefix: str,
    enhanced: bool,
) -> OneVAEConfig:
    """Infer a codec's configuration, given the numbers of blocks of both networks per level, from the finest on."""
    widths = [shapes[f"{prefix}.norm.weight"][0], *_inner_widths(shapes, prefix)]
    max_tokens = shapes[f"{prefix}.count_bias"][0]
    levels = tuple(Level(*parts) for parts in zip(factors, widths, encoder, decoder, strict=True))
    return OneVAEConfig(levels, _FORMER_FSQ, max_tokens, enhanced_first_frame=enhanced)


def _inner_widths(shapes: Shapes, prefix: str) -> list[int]:
    """Return the channels of all levels but the finest, which are the inputs of a decoder's upsampling layers."""
    names = [name for part in ("deep", "chain") for name in _layer_names(shapes, prefix, part)]
    return [shapes[name][1] for name in names if ".project." in name][::-1]


def _inferred_denoiser(preset: str, shapes: Shapes, factors: Sequence[Stride]) -> DenoiserConfig:
    decoder = list(_levels("up", shapes))[::-1]
    codec = _inferred_codec(shapes, factors, [0] * len(factors), decoder, "up", enhanced=False)
    down = tuple(
        len({name.split(".")[3] for name in shapes if name.startswith(f"down.{level}.blocks.")})
        for level in range(len(factors))
    )
    objective = {"cdt": DDIM, "flow": FLOW}.get(preset.partition("-")[0], "")
    return DenoiserConfig(codec, objective, down)


def _levels(prefix: str, shapes: Shapes) -> Iterator[int]:
    """Yield the number of residual blocks at each level, in the order in which the network runs through the levels."""
    parts = [part for part in ("deep", "chain") if _layer_names(shapes, prefix, part)]
    # An encoder runs through its deepest level last, a decoder first.
    order = parts[::-1] if prefix == "encoder" else parts
    kinds = [".project." in name for part in order for name in _layer_names(shapes, prefix, part)]
    blocks = 0
    for place, resamples in enumerate(kinds):
        if resamples and (place or prefix != "encoder"):
            yield blocks
            blocks = 0
        blocks += not resamples
    yield blocks


def _layer_names(shapes: Shapes, prefix: str, part: str) -> list[str]:
    """Return the name of one tensor per layer of a chain, in order; if a layer resamples, that of its projection."""
    found: dict[int, str] = {}
    for name in shapes:
        if name.startswith(f"{prefix}.{part}.layers."):
            number = int(name.split(".")[3])
            if number not in found or name.endswith(".project.weight"):
                found[number] = name
    return [found[number] for number in sorted(found)]
