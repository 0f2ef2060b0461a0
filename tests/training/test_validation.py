"""What a run measures and draws of held-out clips."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, ClipMaker, pixels_of, psnr_db, randomized
from training_helpers import settings_of

from vtok_codec.errors import TrainingError
from vtok_codec.media.picture import png_bytes
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.onevae import OneVAE
from vtok_codec.training import run as run_module
from vtok_codec.training.codec.validation import decode_codes, validate
from vtok_codec.training.data.held_out import filled_clip, validation_clips
from vtok_codec.training.measures import mean_lpips
from vtok_codec.training.objective import perceptual_distance
from vtok_codec.training.run import run_training
from vtok_codec.training.schedule import Budget
from vtok_codec.training.subject import Prepared
from vtok_codec.training.trainer import LOG, Cadence, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_last_step_is_validated_once(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "broken.mp4").unlink()
    monkeypatch.setattr("vtok_codec.training.run.Cadence", lambda: Cadence(validate_steps=2))
    for steps, validated in ((4, [2, 4]), (3, [2, 3])):
        run = tmp_path / str(steps)
        settings = replace(settings_of(data, "continuous"), validation=str(data))
        run_training(settings, run, Budget(steps=steps), quiet=True)
        lines = map(json.loads, (run / LOG).read_text().splitlines())
        assert [line["step"] for line in lines if "validation" in line] == validated


def test_strips_are_png(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    (tmp_path / "strip.png").write_bytes(png_bytes(picture))
    assert np.array_equal(pixels_of(tmp_path / "strip.png")[0], picture)
    assert math.isinf(psnr_db(picture, picture))


def test_validation_takes_the_videos_of_a_folder(data: Path, tmp_path: Path) -> None:
    (data / "broken.mp4").unlink()
    clips = validation_clips(data, 12, TINY.layout)
    assert [tuple(clip.shape) for clip in clips] == [(3, 17, 64, 96), (3, 17, 80, 48)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no video in"):
        validation_clips(tmp_path / "empty", 12, TINY.layout)


def test_a_held_out_clip_smaller_than_a_position_is_told(make_clip: ClipMaker) -> None:
    small = make_clip("small.mp4", size="12x6", frames=3)
    with pytest.raises(TrainingError, match="smaller than one latent position"):
        validation_clips(small.parent, 1, TINY.layout)


def test_validation_tells_lpips_where_its_network_is_given(data: Path) -> None:
    (data / "broken.mp4").unlink()
    model, lpips = randomized(OneVAE(TINY)).eval(), load_lpips()
    clip = validation_clips(data, 1, TINY.layout)[0]
    figures = validate(model, [clip], [1, 4], None, lpips)
    padded = filled_clip(clip[None], TINY.layout)
    with torch.inference_mode():
        codes = model.quantizer.quantize(model.encoder(padded, None)[0]).codes
        for count in (1, 4):
            shown = ((decode_codes(model, codes, count).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
            pair = [video[0, :, 3::4].transpose(0, 1).contiguous() for video in (padded, shown)]
            assert figures[f"lpips_{count}"] == pytest.approx(float(lpips(*pair).mean()), rel=1e-3)
    assert figures["lpips_1"] != figures["lpips_4"]
    assert "lpips_1" not in validate(model, [clip], [1])


@pytest.mark.parametrize(("files", "limit"), [(23, 12), (35, 12), (5, 12), (24, 12)])
def test_held_out_clips_are_spread_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int, limit: int
) -> None:
    for number in range(files):
        (tmp_path / f"{number:02d}.mp4").touch()
    monkeypatch.setattr("vtok_codec.training.data.held_out._load", lambda path, layout: int(path.stem))
    chosen = validation_clips(tmp_path, limit, TINY.layout)
    steps = {after - before for before, after in pairwise([*chosen, files])}
    assert len(chosen) == min(limit, files) and max(steps) - min(steps) <= 1


def test_lpips_of_validation_is_on_the_device_of_the_run(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer moves the loss; here the loss does without LPIPS."""
    seen: list[Prepared[Any, Any]] = []

    def keep(stage: str, prepared: Prepared[Any, Any], *rest: object) -> Trainer[Any]:
        seen.append(prepared)
        raise TrainingError("seen")

    monkeypatch.setattr(run_module, "Trainer", keep)
    monkeypatch.setattr(run_module, "_device_name", lambda name: "meta")
    (data / "broken.mp4").unlink()
    settings = settings_of(data, "continuous")
    settings = replace(settings, validation=str(data), overrides=(*settings.overrides, ("lpips_weight", "0")))
    with pytest.raises(TrainingError, match="seen"):
        run_training(settings, tmp_path / "run", Budget(steps=1), quiet=True)
    lpips = seen[0].subject._lpips
    assert lpips is not None and {buffer.device.type for buffer in lpips.buffers()} == {"meta"}


@pytest.mark.parametrize("side", [8, 24, 31])
def test_pictures_too_small_for_lpips_grow(side: int) -> None:
    lpips = load_lpips()
    video = torch.rand(1, 3, 4, side, 40) * 2 - 1
    generator = torch.Generator().manual_seed(1)
    assert perceptual_distance(lpips, video, -video, 2, generator) > 0
    assert mean_lpips(lpips, video * 0, video.abs() * 255) > 0
