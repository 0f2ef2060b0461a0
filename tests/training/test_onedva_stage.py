"""The stages of One-DVA: they learn, they resume exactly, and what they write encodes and decodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LANES, inside, randomized
from onedva_helpers import ENHANCED, TINY_DVA, random_onedva

from vtok_codec.errors import SettingError, TrainingError
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.weights import dump_weights
from vtok_codec.registry import RUN_CODEC
from vtok_codec.training.checkpoint import read_checkpoint
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.onedva import klt
from vtok_codec.training.onedva.klt import warm_start
from vtok_codec.training.onedva.objective import OneDVAObjective, codec_latents
from vtok_codec.training.onedva.stages import STAGES
from vtok_codec.training.recipe import Augmentation, CropShape
from vtok_codec.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = replace(STAGES["onedva-lengths"][1], lpips_weight=0.0)
HARM = torch.ones(2, ENHANCED.token_channels)


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """The weights of a small codec, alone in a folder."""
    path = tmp_path / "codec" / "ema.safetensors"
    path.parent.mkdir()
    path.write_bytes(dump_weights(randomized(OneVAE(ENHANCED)), ENHANCED, {}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lanes.mp4").symlink_to(LANES)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny preset, and a transform of few crops."""
    monkeypatch.setitem(PRESETS, "tiny-dva", TINY_DVA)
    monkeypatch.setattr(klt, "_CROPS", 4)


def trained(codec: Path, data: Path, run: Path, *more: object, stage: str = "onedva") -> tuple[int, str, str]:
    settings = ("--set", "phases=1x32x96", "--preset", "tiny-dva", "--codec", codec, "--data", data, "--run", run)
    return inside("train", "--stage", stage, *settings, *more)


def test_a_run_of_ones_own_encodes_and_decodes(codec: Path, data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out.vtk"
    code, _, told = trained(codec, data, run, "--val", data, "--steps", 2)
    assert code == 0 and "variance of the second token" in told and "psnr_0" in told
    assert (run / RUN_CODEC).read_bytes() == codec.read_bytes()
    assert inside("encode", "--model", run, LANES, out, "--duration", 0.6, "-q") == (0, "", "")
    assert inside("decode", out, tmp_path / "out.mkv", "--weights", run, "-q") == (0, "", "")
    code, shown, _ = inside("info", out)
    assert code == 0 and "1D tokens" in shown and "at most 6 per window" in shown


def test_all_stages_train_from_the_one_before(codec: Path, data: Path, tmp_path: Path) -> None:
    first, lengths, noise = (tmp_path / name for name in ("first", "lengths", "noise"))
    assert trained(codec, data, first, "--steps", 1, "-q")[0] == 0
    pixels = ("--set", "pixel_start=0", "--from", first)
    assert trained(codec, data, lengths, "--steps", 1, "-q", *pixels, stage="onedva-lengths")[0] == 0
    watched = ("--val", data, "--val-clips", 1)
    assert trained(codec, data, noise, "--steps", 2, "-q", "--from", lengths, *watched, stage="onedva-noise")[0] == 0
    assert "psnr_6_from_noise" in (noise / "log.jsonl").read_text(encoding="utf-8")
    out = tmp_path / "out.vtk"
    assert inside("encode", "--model", noise, LANES, out, "--duration", 0.6, "-q") == (0, "", "")
    drawn = ("--weights", noise, "--decoder", "flow", "--steps", 2)
    assert inside("decode", out, tmp_path / "out.mkv", "-q", *drawn) == (0, "", "")


def test_a_resumed_run_ends_with_the_same_weights(
    codec: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    stage = "onedva-lengths"
    assert trained(codec, data, whole, "--steps", 4, "-q", stage=stage)[0] == 0
    train_step = Trainer._train_step

    def stop_at_two(self: Trainer[Any], *args: Any) -> dict[str, float]:
        if self.step == 2:
            self.save()
            raise TrainingError("stopped")
        return train_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop_at_two)
        assert trained(codec, data, halves, "--steps", 4, "-q", stage=stage)[0] != 0
    assert inside("train", "--resume", halves, "--steps", 4, "-q")[0] == 0
    first, last = (read_checkpoint(run)["model"] for run in (whole, halves))
    assert first["motion"].any() and all(torch.equal(first[name], last[name]) for name in first)


def test_it_learns(codec: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained(codec, data, run, "--steps", 100, "-q", "--set", "learning_rate=1e-2")[0] == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    errors = [line["latent"] for line in log if "latent" in line]
    assert errors[-1] < 0.8 * errors[0]


def sampler(data: Path) -> CropSampler:
    return CropSampler(ClipLibrary([data], 1 << 30), Augmentation(gop_start=1.0), 0, ENHANCED.layout)


def test_the_transform_keeps_more_with_more_tokens(codec: Path, data: Path) -> None:
    kept = []
    for queries in (2, 6, 24):
        model = random_onedva(replace(TINY_DVA, queries=queries))
        kept.append(warm_start(model, randomized(OneVAE(ENHANCED)).eval(), sampler(data)))
    assert 0 < kept[0] < kept[1] < kept[2]


def test_the_first_tokens_say_most(codec: Path, data: Path) -> None:
    """The linear path alone: the error falls with every token, and less and less."""
    model, own = random_onedva(), randomized(OneVAE(ENHANCED)).eval()
    warm_start(model, own, sampler(data))
    second = codec_latents(own, sampler(data).batch(9, CropShape(2, 32, 96))).second
    later = second[:, :, ENHANCED.layout.phases + 3 :]
    later = later - later.mean((0, 2, 3, 4), keepdim=True)
    errors = []
    with torch.no_grad():
        tokens = model.codes(model.linear.project(later, False))
    for count in range(7):
        read = tokens * (torch.arange(6) < count)[:, None]
        made = model.linear.spread(read, False, (2, *later.shape[2:])).detach()
        errors.append(float((made - later).square().mean()))
    assert errors[6] < errors[3] < errors[1] < errors[0]
    assert errors[0] - errors[3] > errors[3] - errors[6]


def test_the_error_of_pixels_reaches_every_weight(data: Path) -> None:
    own, model = randomized(OneVAE(ENHANCED)).eval(), random_onedva().train()
    objective = OneDVAObjective(
        replace(RECIPE, pixel_start=0.0, whole_share=1.0, structural_share=0.0), own, HARM, None
    )
    video = sampler(data).batch(0, CropShape(1, 32, 96))
    objective(model, video, torch.Generator().manual_seed(0)).total.backward()
    without = {"decoder.padding", "decoder.noisy", "decoder.time"}
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(without)):
            assert parameter.grad is not None and parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in own.parameters())


@pytest.mark.parametrize("changes", [{"whole_share": 0.9, "structural_share": 0.3}, {"noisy_share": 1.5}])
def test_shares_beyond_one_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        OneDVAObjective(replace(RECIPE, **changes), randomized(OneVAE(ENHANCED)), HARM, None)  # type: ignore[arg-type]


def test_lengths_follow_from_motion_and_the_shares() -> None:
    objective = OneDVAObjective(RECIPE, randomized(OneVAE(ENHANCED)), HARM, None).eval()
    model = random_onedva()
    model.motion.copy_(torch.tensor([0.1, 0.02]))
    still = torch.zeros(64, 3, 4, 32, 48)
    moving = still.clone()
    moving[:, :, ::2] = 1
    generator = torch.Generator().manual_seed(0)
    few, many = (objective._lengths(model, video, generator).float() for video in (still, moving))
    # A tenth reads all tokens and a tenth none, whatever moves.
    assert 0 < float((few > 0).float().mean()) < 0.3 and float((few[few > 0] == 6).float().mean()) == 1
    assert float(many.mean()) > 4 and 0 < float((many == 0).float().mean()) < 0.3


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--preset", "onevae-nano-4x8x8"), 2, "no preset"),
        (("--shape", "widths=8"), 2, "leave out --shape"),
        (("--from", "onevae-nano-4x16x16"), 2, "is no One-DVA model"),
    ],
)
def test_settings_that_do_not_go_with_one_dva(
    codec: Path, data: Path, tmp_path: Path, options: tuple[str, str], code: int, said: str
) -> None:
    got, _, told = trained(codec, data, tmp_path / "run", "--steps", 1, *options)
    assert got == code and said in told and told.count("\n") == 1
