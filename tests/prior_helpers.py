"""Small priors with random weights, for tests."""

from __future__ import annotations

import numpy as np

from vtok_codec.tokens.prior.layers import LARGEST, Tensors
from vtok_codec.tokens.prior.network import MAX_LEVELS, NetworkConfig
from vtok_codec.tokens.prior.prior import dump_prior

FIRST = NetworkConfig(slots=0, places=1, channels=4, blocks=1, features=5, inputs=2, reach=5, steps=3)
PHASES = NetworkConfig(slots=3, places=4, channels=4, blocks=1, features=5, inputs=2, reach=3, steps=3)
LATER = NetworkConfig(slots=2, places=3, channels=6, blocks=2, features=5, inputs=3, reach=3, steps=2)


def random_tensors(config: NetworkConfig, planes: int, seed: int) -> dict[str, np.ndarray]:
    """Tensors of a network that is sure of some digits and unsure of others."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> None:
        tensors[name] = np.clip(rng.normal(0, 30, shape).round(), -LARGEST, LARGEST).astype(np.int8)

    def scale(name: str, shift: int, *shape: int, rows: tuple[int, ...] = ()) -> None:
        tensors[f"{name}.bias"] = rng.integers(-3000, 9000, (*rows, *shape)).astype(np.int32)
        tensors[f"{name}.shift"] = rng.integers(shift - 1, shift + 2, shape).astype(np.uint8)

    inputs, channels, features = config.inputs, config.channels, config.features
    if config.slots:
        weight("trunk.in.weight", 9 * config.slots * planes * inputs, channels)
        scale("trunk.in", 10, channels, rows=(config.places,))
        for name in (f"trunk.{block}.{half}" for block in range(config.blocks) for half in range(2)):
            weight(f"{name}.weight", 9 * channels, channels)
            scale(name, 9, channels)
        weight("head.trunk", planes, channels, features)
        weight("head.before", planes, 9 * inputs, features)
        weight("head.values", min(config.slots, 2), planes, MAX_LEVELS, features)
    for plane in range(planes - 1):
        weight(f"head.plane.{plane}", config.reach**2 * inputs, planes - 1 - plane, features)
    weight("head.own", config.steps - 1, planes, 4 * inputs, features)
    scale("head", 9, planes, features, rows=(config.steps,))
    weight("hidden.weight", planes, features, features)
    scale("hidden", 6, planes, features)
    weight("logits.weight", planes, features, MAX_LEVELS)
    scale("logits", 7, planes, MAX_LEVELS)
    return tensors


def random_prior(levels: tuple[int, ...], tokens: int, phases: int = 1, codec_sha256: str = "", seed: int = 1) -> bytes:
    """The file of a prior for tokens with these levels."""
    planes = len(levels) * tokens
    first = FIRST if phases == 1 else PHASES
    networks: dict[str, tuple[NetworkConfig, Tensors]] = {
        "first": (first, random_tensors(first, planes, seed)),
        "later": (LATER, random_tensors(LATER, planes, seed + 1)),
    }
    return dump_prior(levels, tokens, networks, {"codec_sha256": codec_sha256})
