"""Carry the weights of a model over to a model of another configuration.

For example, a discrete model can start from a continuous one, a 4×16×16 model from a 4×8×8 one, or a model with a
deeper decoder from a shallower one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vtok_codec.models.causal import TemporalConv, zero_init
from vtok_codec.models.config import OneVAEConfig
from vtok_codec.models.first_frame import fine_stride
from vtok_codec.models.onevae import OneVAE


@dataclass(frozen=True)
class Conversion:
    """What a conversion did with each tensor."""

    kept: tuple[str, ...]
    """The names of the model's tensors that were taken over from the source."""
    new: tuple[str, ...]
    """The names of the model's tensors that still have their initial values."""
    dropped: tuple[str, ...]
    """The names of the source's tensors that the model does not use."""

    def __str__(self) -> str:
        parts = [f"{len(self.kept)} tensors kept"]
        for label, names in (("new", self.new), ("dropped", self.dropped)):
            modules = dict.fromkeys(name.rpartition(".")[0] for name in names)
            if modules:
                parts.append(f"{label}: {', '.join(modules)}")
        return "; ".join(parts)


@torch.no_grad()
def convert(tensors: Mapping[str, Tensor], source: OneVAEConfig, model: OneVAE) -> Conversion:
    """Copy into `model` every tensor of the source that has the same function and the same shape.

    Some changes of the configuration need more than that:

    - If the stride changes, the last layer of both networks is set to zero again, since its output from features that
      are not trained yet would only do harm. Until then the linear paths, which `warm_start` fits, carry the picture.
    - If first-frame enhancement is new, the layers of the first frame take over what a model with that finer grid does
      with every frame.
    - If residual blocks become wider inside, they still compute the same as before, since nothing reads their new
      channels yet.

    Args:
        tensors: The tensors of the source, by name.
        source: The configuration of the source.
        model: The model that receives the weights, freshly initialized.

    Returns:
        The names of the tensors that were kept, are new, or were dropped.
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
    """Whether the tensor belongs to a residual block that becomes wider inside and keeps its width outside."""
    block = re.match(r"\w+\.level(\d+)\.block", role)
    if block is None or source.blocks != target.blocks or source.expansion >= target.expansion:
        return False
    ours, theirs = (config.levels[int(block[1])].channels for config in (target, source))
    return ours == theirs


def _widened(given: Tensor, fresh: Tensor, slots: int) -> Tensor:
    """Embed a tensor of a narrower residual block in the tensor of a wider one, so that the block computes the same.

    New outputs keep their initial weights, and old outputs ignore the new inputs.

    Args:
        given: The tensor of the narrower block.
        fresh: The initialized tensor of the wider block.
        slots: The number of frames whose channels are stacked in the input of the convolution.
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
    """Name a tensor by its function, whatever its place in a chain, such as `encoder.level1.block0.…`."""
    side, part, *rest = name.split(".")
    if part in ("chain", "deep"):
        _, place, *rest = rest
        return ".".join([side, _places(side, part, config)[int(place)], *rest])
    if (side, part) in (("decoder", "out"), ("decoder", "norm")):
        return name
    level, stride = len(config.levels), config.stride
    if part == "first" and rest[0] not in ("blocks", "down"):
        # The layers of an enhanced first frame do what a model with that finer grid does with every frame.
        name, level, stride = ".".join([side, *rest]), level - 1, fine_stride(stride, config.first_grid)
    # All other tensors belong to a latent grid: those of linear paths to its stride, the rest to its level.
    return f"{name}/{stride}" if ".linear." in name else f"{name}/level{level}"


def _places(side: str, part: str, config: OneVAEConfig) -> list[str]:
    """Name the function of each layer of a chain, in order, such as `level1.block0`.

    In a model with first-frame enhancement, the last level has a chain of its own, `deep`.
    """
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
