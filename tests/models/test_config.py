"""Configurations: JSON and back, shapes from the command line, and weights from before files carried one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import TINY, randomized
from safetensors.torch import save

from vtok_codec.errors import ModelError, SettingError
from vtok_codec.models.config import (
    Codebook,
    DenoiserConfig,
    LatentFlowConfig,
    Level,
    ModelConfig,
    OneVAEConfig,
    config_from_json,
    config_to_json,
)
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.former_config import inferred_config
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.reshaping import reshaped
from vtok_codec.models.weights import CODEC, DIFFUSION_DECODER, build, dump_weights
from vtok_codec.registry import shipped_weights
from vtok_codec.weights_file import WeightsFile

FORMER_4X8X8 = OneVAEConfig(
    levels=(Level((2, 4, 4), 64, 1, 2), Level((2, 2, 2), 192, 3, 4)), fsq_levels=(8, 8, 8, 5, 5, 5), max_tokens=4
)
"""The shape of `onevae-nano-4x8x8` until it got seven more blocks."""
FORMER_4X16X16 = OneVAEConfig(
    levels=(*FORMER_4X8X8.levels, Level((1, 2, 2), 256, 2, 4)),
    fsq_levels=(8, 8, 8, 5, 5, 5),
    max_tokens=4,
    enhanced_first_frame=True,
)
"""The shape of `onevae-nano-4x16x16` until it got six more blocks."""


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        replace(TINY, codebook=Codebook("vq", 4, 64), causal=False, blocks="3d", resampling="blend", expansion=1.5),
        FORMER_4X16X16,
        LatentFlowConfig(FORMER_4X16X16, tokens=2, width=64, blocks=2, heads=2, reach=3),
    ],
)
def test_json_and_back(config: ModelConfig) -> None:
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("name", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_weights_from_before_configurations_load(name: str, tmp_path: Path) -> None:
    """Their preset has another shape by now; the tensors tell theirs."""
    former = FORMER_4X8X8 if name.endswith("8x8") else FORMER_4X16X16
    model = OneVAE(former).half()
    path = tmp_path / "former.safetensors"
    path.write_bytes(save({key: value.contiguous() for key, value in model.state_dict().items()}, {"preset": name}))
    weights = WeightsFile("former", path)
    assert weights.config == former != PRESETS[name]
    rebuilt = build(CODEC, weights)
    for key, value in model.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[key], value.float())
    assert weights.id.stride == former.stride and weights.id.first_grid == former.first_grid


@pytest.mark.parametrize("objective", ["ddim", "flow"])
def test_diffusion_decoders_from_before_configurations_load(objective: str, tmp_path: Path) -> None:
    config = DenoiserConfig(FORMER_4X8X8, objective, (2, 2))
    preset = {"ddim": "cdt-nano-4x8x8", "flow": "flow-nano-4x8x8"}[objective]
    tensors = {key: value.half().contiguous() for key, value in Denoiser(config).state_dict().items()}
    path = tmp_path / "former.safetensors"
    path.write_bytes(save(tensors, {"preset": preset}))
    weights = WeightsFile("former", path)
    assert isinstance(weights.config, DenoiserConfig) and weights.config.objective == objective
    assert weights.config.decodes(FORMER_4X8X8) and not weights.config.decodes(FORMER_4X16X16)
    assert build(DIFFUSION_DECODER, weights).config.down_blocks == (2, 2)


def test_shipped_models_carry_their_configuration() -> None:
    models = [weights for weights in shipped_weights() if weights.is_model]
    assert len(models) == 5
    for weights in models:
        assert config_from_json(weights.metadata["config"]) == weights.config
    former = {"6b766bf54559", "0750c81d7119"}
    assert former <= {sha[:12] for weights in models for sha in weights.reads}


@pytest.mark.parametrize(
    ("preset", "shapes"),
    [
        ("no stride", {}),
        ("onevae-nano-4x8x8", {}),
        ("onevae-nano-4x8x8", {"decoder.norm.weight": ()}),
        ("onevae-nano-1x1x1", {"decoder.norm.weight": (8,)}),
    ],
)
def test_tensors_of_something_else_are_refused(preset: str, shapes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ModelError):
        inferred_config(preset, shapes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "need a newer vtok"),
        ({"kind": "transformer"}, "need a newer vtok"),
        ({"attention": True}, "need a newer vtok"),
        ({"levels": []}, "not valid"),
        ({"levels": [{"factor": [1, 2], "channels": 1, "encoder_blocks": 1, "decoder_blocks": 1}]}, "not valid"),
        ({"max_tokens": "4"}, "not valid"),
        ({"max_tokens": 10**9}, "not valid"),
        ({"fsq_levels": [1]}, "not valid"),
        ({"blocks": "4d"}, "are unknown"),
        ({"expansion": "x"}, "expansion 'x'"),
        ({"expansion": -1}, "expansion -1"),
        ({"expansion": float("nan")}, "expansion nan"),
        ({"causal": "false"}, "true or false"),
        ({"enhanced_first_frame": 1}, "true or false"),
        ({"codebook": {"kind": "vq", "channels": -4, "size": 64}}, "channels of the quantizer"),
        ({"codebook": {"kind": "vq", "channels": 4, "size": 0}}, "size of the quantizer"),
        ({"codebook": {"kind": "kmeans", "channels": 4, "size": 8}}, "is unknown"),
    ],
)
def test_configurations_that_lie_are_refused(change: dict[str, object], message: str) -> None:
    text = json.dumps(json.loads(config_to_json(TINY)) | change)
    with pytest.raises(ModelError, match=message):
        config_from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"version": 1, "kind": "onevae"}', "[" * 100_000])
def test_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ModelError):
        config_from_json(text)


def test_a_shape_can_be_changed() -> None:
    changes = (
        ("widths", "24,40"),
        ("encoder_blocks", "1,2"),
        ("decoder_blocks", "0,3"),
        ("fsq_levels", "5,5,5"),
        ("max_tokens", "2"),
        ("blocks", "2d"),
        ("resampling", "blend"),
        ("expansion", "1.5"),
        ("causal", "false"),
    )
    config = reshaped(TINY, changes)
    assert [level.channels for level in config.levels] == [24, 40]
    assert [(level.encoder_blocks, level.decoder_blocks) for level in config.levels] == [(1, 0), (2, 3)]
    assert (config.fsq_levels, config.max_tokens, config.blocks) == ((5, 5, 5), 2, "2d")
    assert (config.resampling, config.expansion, config.causal) == ("blend", 1.5, False)
    assert reshaped(config, (("quantizer", "vq:6:128"),)).codebook == Codebook("vq", 6, 128)
    assert reshaped(config, (("quantizer", "lfq:7"),)).codebook == Codebook("lfq", 7)
    assert reshaped(config, (("quantizer", "fsq"),)).codebook is None
    assert OneVAE(config).config == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", "1"),
        ("widths", "8"),
        ("widths", "8,0"),
        ("widths", "8,x"),
        ("quantizer", "rvq:1:2"),
        ("quantizer", "vq:1:2:3"),
        ("causal", "maybe"),
        ("max_tokens", "0"),
        ("expansion", "nan"),
        ("blocks", "5d"),
        ("fsq_levels", "1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(key: str, value: str) -> None:
    with pytest.raises(SettingError, match=f"shape {key}"):
        reshaped(TINY, ((key, value),))


def test_a_file_keeps_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {"stage": "test"}))
    weights = WeightsFile("tiny", path)
    assert weights.config == TINY and weights.metadata["stage"] == "test" and weights.reads == {weights.sha256}


@pytest.mark.parametrize("levels", [(300, 5), (1, 8)])
def test_levels_that_no_digit_can_have_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="fsq_levels"):
        replace(TINY, fsq_levels=levels)


def test_values_too_large_for_half_precision_are_kept(tmp_path: Path) -> None:
    """A codebook counts how often each entry was chosen, which may be more than 65,504."""
    config = replace(TINY, codebook=Codebook("vq", 4, 16))
    model = OneVAE(config)
    model.state_dict()["quantizer.counts"].fill_(70_000)
    path = tmp_path / "large.safetensors"
    path.write_bytes(dump_weights(model, config, {}))
    loaded = build(CODEC, WeightsFile("large", path))
    assert (loaded.state_dict()["quantizer.counts"] == 70_000).all()
