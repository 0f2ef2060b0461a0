"""Weights of one configuration carried over to another: continuous to discrete, 4×8×8 to 4×16×16, a deeper decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vtok_codec.models.causal import TemporalConv, zero_init
from vtok_codec.models.first_frame import fine_stride
from vtok_codec.models.onevae import OneVAE, OneVAEConfig


@dataclass(frozen=True)
class Conversion:
    """What became of the weights, by the names that the new model has for them."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    """Of the model only: as it was initialized."""
    dropped: tuple[str, ...]
    """Of the source only, by their names there."""

    def __str__(self) -> str:
        parts = [f"{len(self.kept)} tensors kept"]
        for label, names in (("new", self.new), ("dropped", self.dropped)):
            modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
            if modules:
                parts.append(f"{label}: {', '.join(modules)}")
        return "; ".join(parts)


@torch.no_grad()
def convert(tensors: Mapping[str, Tensor], source: OneVAEConfig, model: OneVAE) -> Conversion:
    """Give `model` every weight of `source` that stands for the same thing and has the same shape.

    Where the latent grid changes, the last layer of both networks is set to zero again: what they would make of
    features that nothing has trained yet is worse than nothing, and the linear paths (`warm_start`) carry the picture.
    An enhanced first frame takes over what a model of its own grid does with every frame. Blocks that are wider inside
    do what they did: nothing reads their new channels yet.
    """
    theirs = {_role(name, source): (name, value) for name, value in tensors.items()}
    state = model.state_dict()
    kept, new = [], []
    for name, value in state.items():
        role = _role(name, model.config)
        _, given = theirs.get(role, ("", None))
        if given is not None and _widens(role, source, model.config):
            given = _widened(given, value, TemporalConv.MEMORY + 1 if ".mix." in role else 1)
        if given is not None and given.shape == value.shape:
            value.copy_(given)
            kept.append(name)
        else:
            new.append(name)
    roles = {_role(name, model.config) for name in kept}
    dropped = tuple(name for role, (name, _) in theirs.items() if role not in roles)
    last: list[str] = []
    if source.stride != model.config.stride:
        zero_init(model.encoder.out)
        zero_init(model.decoder.out)
        last += ["encoder.out.", "decoder.out."]
    if model.encoder.first is not None and "encoder.first.linear.weight" in new:
        zero_init(model.encoder.first.out)
        last.append("encoder.first.out.")
    new += [name for name in kept if name.startswith(tuple(last))]
    kept = [name for name in kept if not name.startswith(tuple(last))]
    return Conversion(tuple(kept), tuple(new), dropped)


def _widens(role: str, source: OneVAEConfig, target: OneVAEConfig) -> bool:
    """Whether it is a tensor of a residual block that has more channels inside now, and as many outside."""
    block = re.match(r"\w+\.level(\d+)\.block", role)
    if block is None or source.blocks != target.blocks or source.expansion >= target.expansion:
        return False
    ours, theirs = (config.levels[int(block[1])].channels for config in (target, source))
    return ours == theirs


def _widened(given: Tensor, fresh: Tensor, slots: int) -> Tensor:
    """A tensor of a narrower block in the place of one of a wider: new outputs as they are, read by no old one.

    `slots`: how often the inputs stand side by side, once for each frame that the convolution sees.
    """
    wide, rows = fresh.clone(), len(given)
    if given.ndim == 1:
        wide[:rows] = given
        return wide
    wide[:rows] = 0
    old = given.unflatten(1, (slots, -1))
    wide[:rows].unflatten(1, (slots, -1))[:, :, : old.shape[2]] = old
    return wide


def _role(name: str, config: OneVAEConfig) -> str:
    """A name by what the tensor does, whatever its place in a chain: `encoder.level1.block0.…`."""
    side, part, *rest = name.split(".")
    if part in ("chain", "deep"):
        _, place, *rest = rest
        return ".".join([side, _places(side, part, config)[int(place)], *rest])
    if (side, part) in (("decoder", "out"), ("decoder", "norm")):
        return name
    level, stride = len(config.levels), config.stride
    if part == "first" and rest[0] not in ("blocks", "down"):
        # What the first frame's own way does is what a model of its finer grid does with every frame.
        name, level, stride = ".".join([side, *rest]), level - 1, fine_stride(stride, config.first_grid)
    # All others sit at a latent grid.
    return f"{name}/{stride}" if ".linear." in name else f"{name}/level{level}"


def _places(side: str, part: str, config: OneVAEConfig) -> list[str]:
    """What each layer of a chain is. The last level of a model with an enhanced first frame has one of its own."""
    levels = list(enumerate(config.levels))
    if config.enhanced_first_frame:
        levels = levels[-1:] if part == "deep" else levels[:-1]
    places: list[str] = []
    for number, level in levels:
        blocks = level.encoder_blocks if side == "encoder" else level.decoder_blocks
        names = [f"level{number}.block{block}" for block in range(blocks)]
        if side == "encoder":
            places += [f"level{number}.down", *names]
        else:
            places = [*names, *([f"level{number}.up"] if number else []), *places]
    return places
