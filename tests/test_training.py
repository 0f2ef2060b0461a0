"""Training: it learns, repeats, resumes exactly, and survives what it is fed."""

from __future__ import annotations

import functools
import itertools
import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LANES, TINY, ClipMaker, pixels_of, psnr_db, randomized
from safetensors.torch import load_file
from torch import nn

from vtok_codec.cli.train import _STAGES
from vtok_codec.codec.loading import tokenizer_of
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.errors import ModelError, SettingError, TrainingError
from vtok_codec.evaluation.lpips import LPIPS, load_lpips
from vtok_codec.media.picture import png_bytes
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import build_model, parse_tensors
from vtok_codec.registry import find_weights
from vtok_codec.training.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from vtok_codec.training.codebook_use import CodebookUse
from vtok_codec.training.crops import Augmentation, CropSampler, CropShape, Prefetcher, blurred
from vtok_codec.training.klt import _equalizing_rotation, warm_start
from vtok_codec.training.library import ClipLibrary
from vtok_codec.training.muon import Muon
from vtok_codec.training.objective import DISTORTIONS, Objective, perceptual_distance
from vtok_codec.training.optimizer import StageOptimizer
from vtok_codec.training.prior import DigitPrior
from vtok_codec.training.resident import ResidentCrops, batches_for
from vtok_codec.training.run import RunSettings, override, resume_training, run_training
from vtok_codec.training.stages import DIFFUSION, STAGES, Phase, Stage
from vtok_codec.training.subjects import CodecSubject, train_only
from vtok_codec.training.trainer import CHECKPOINT, LOG, STRIP, WEIGHTS, Budget, Cadence, Trainer
from vtok_codec.training.validation import decode_codes, validate, validation_clips, whole_latents

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = CropShape(batch=2, frames=8, size=32)


@pytest.fixture
def data(make_clip: ClipMaker, tmp_path: Path) -> Path:
    """A folder with two videos, a photograph, and two files that are neither."""
    for number, size in enumerate(("96x64", "48x80")):
        make_clip(f"data{number}.mp4", size=size, frames=20)
    make_clip("photo.png", size="80x56", frames=1, options=["-update", "1"])
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("data0.mp4", "data1.mp4", "photo.png"):
        (tmp_path / name).rename(folder / name)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "notes.txt").write_text("nor this")
    return folder


def sampler_of(folder: Path, seed: int = 3) -> CropSampler:
    return CropSampler(ClipLibrary([folder], 1 << 30), Augmentation(), seed)


def settings_of(folder: Path, stage: str, start: str | None = None) -> RunSettings:
    return RunSettings(
        stage=stage,
        preset="tiny",
        start=start,
        data=(str(folder),),
        validation=None,
        validation_clips=1,
        seed=5,
        device="cpu",
        cache_gib=1.0,
        compiled=False,
        overrides=(("warmup_steps", "2"),),
    )


@pytest.fixture
def small_stages(monkeypatch: pytest.MonkeyPatch, tiny_preset: str) -> None:
    """The real stages on small crops, with a quick warm start."""
    monkeypatch.setattr("vtok_codec.training.run.warm_start", functools.partial(warm_start, batches=2))
    for name, stage in STAGES.items():
        monkeypatch.setitem(STAGES, name, replace(stage, phases=(Phase(0.0, SHAPE),)))


def test_batches_depend_on_their_number_only(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = sampler_of(data), CropSampler(ClipLibrary([data], 1), Augmentation(), 3)
    other.batch(9, SHAPE)
    prefetcher = Prefetcher(one)
    for number in (0, 1, 2):
        batch = prefetcher.batch(number, SHAPE)
        assert batch.shape == (2, 3, 8, 32, 32) and batch.abs().max() <= 1
        assert torch.equal(batch, other.batch(number, SHAPE))
    prefetcher.close()
    assert not torch.equal(one.batch(0, SHAPE), one.batch(1, SHAPE))
    assert not torch.equal(one.batch(0, SHAPE), sampler_of(data, seed=4).batch(0, SHAPE))


def test_unreadable_files_are_named_once_and_skipped(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sampler = sampler_of(data)
    for number in range(8):
        sampler.batch(number, SHAPE)
    errors = capfd.readouterr().err
    assert errors.count("broken.mp4") == 1 and errors.count("\n") == 1


def test_a_crop_shows_a_part_of_its_clip(data: Path) -> None:
    """Without augmentation every crop must be found in the source, pixel by pixel."""
    plain = Augmentation(photo=0, shrink=0, skip=0, color=0, flat=0, freeze=0)
    library = ClipLibrary([data], 1 << 30)
    crop = CropSampler(library, plain, 0).batch(0, CropShape(1, 2, 32))[0]
    pixels = ((crop + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    mirrored = [pixels[::time, :, ::side] for time in (1, -1) for side in (1, -1)]
    found = False
    for path in library.videos:
        clip = library.read(path)
        if clip is None:
            continue
        windows = np.lib.stride_tricks.sliding_window_view(clip, (2, 32, 32, 3))[:, :, :, 0]
        corners = windows[..., 0, 0, 0, :]
        for candidate in mirrored:
            for place in np.argwhere((corners == candidate[0, 0, 0]).all(-1)):
                found = found or np.array_equal(windows[tuple(place)], candidate)
    assert found


def test_soft_crops_are_blurred_by_a_gaussian() -> None:
    """Of an edge, what the normal distribution says; what is to stay sharp, and what is flat, does not change."""
    videos = torch.full((3, 3, 2, 32, 32), -1.0)
    videos[1:, ..., 16:] = 1.0
    sharp, soft = blurred(videos, [1.5, 0.0, 1.5])[1:]
    assert torch.equal(sharp, videos[1])
    expected = torch.special.ndtr((torch.arange(32) - 15.5) / 1.5) * 2 - 1
    torch.testing.assert_close(soft, expected.expand_as(soft), rtol=0, atol=0.02)
    torch.testing.assert_close(blurred(videos, [1.5, 0.0, 1.5])[0], videos[0])
    assert blurred(videos, [0.0] * 3) is videos


def test_so_many_crops_are_soft(data: Path) -> None:
    """And how the others are cut does not depend on it."""
    library, shape = ClipLibrary([data], 1 << 30), CropShape(200, 8, 32)
    never, often = (CropSampler(library, Augmentation(soft=soft), 3).plans(0, shape) for soft in (0.0, 0.4))
    assert not any(plan.blur for plan in never) and 50 < sum(plan.blur > 0 for plan in often) < 110
    assert [plan.path for plan in never] == [plan.path for plan in often]


@pytest.mark.parametrize("gop_start", [0.0, 1.0])
def test_a_device_cuts_the_same_crops(data: Path, gop_start: float) -> None:
    """Crops of their own size to the last bit, also in half a batch; scaled ones nearly."""
    varied = Augmentation(photo=0.3, freeze=0.2, flat=0.2, gop_start=gop_start, soft=0.3)
    sampler = CropSampler(ClipLibrary([data], 1 << 30), varied, 3)
    whole, half = (ResidentCrops.load(sampler, torch.device("cpu"), 1 << 30, rank) for rank in (0, 1))
    assert whole is not None and half is not None
    # The second batch of a shape was planned while the first was used, the next one for nothing.
    for shape, number in itertools.product((CropShape(16, 8, 32), CropShape(8, 8, 64)), (1, 2)):
        expected, made = sampler.batch(number, shape), whole.batch(number, shape)
        scaled = torch.tensor([plan.side > shape.size for plan in sampler.plans(number, shape)])
        assert made.shape == expected.shape
        torch.testing.assert_close(made[~scaled], expected[~scaled], rtol=0, atol=1e-6)
        if shape.size == 32:
            assert 0 < scaled.sum() < len(scaled)
            assert (made - expected)[scaled].abs().mean() < 0.1 * expected[scaled].std()
            half_shape = CropShape(8, 8, 32)
            assert torch.equal(half.batch(number, half_shape), made[8:])
    whole.close()
    half.close()


def test_clips_that_do_not_fit_stay_off_the_device(data: Path) -> None:
    sampler = sampler_of(data)
    assert ResidentCrops.load(sampler, torch.device("cpu"), 1000) is None
    prefetcher = batches_for(torch.device("cpu"), sampler)
    assert isinstance(prefetcher, Prefetcher)
    prefetcher.close()


def test_muon_steps_as_torchs_does() -> None:
    """Wide, tall and square matrices, several of a shape, one of which has no gradient in one step."""
    torch.manual_seed(0)
    shapes = [(8, 24), (8, 24), (24, 8), (16, 16), (8, 24)]
    ours = [torch.randn(shape) for shape in shapes]
    theirs = [nn.Parameter(matrix.clone()) for matrix in ours]
    muon = Muon(ours, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    muon.rate = 0.02
    for step in range(4):
        for place, matrix in enumerate(theirs):
            matrix.grad = None if step == place == 2 else torch.randn(matrix.shape)
        reference.step()
        muon.step([matrix.grad for matrix in theirs])
    for mine, matrix, shape in zip(ours, theirs, shapes, strict=True):
        # Both compute in bf16, in another order.
        torch.testing.assert_close(mine, matrix.detach(), rtol=0, atol=4 * 0.02 * 0.2 * max(shape) ** 0.5 * 0.02)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_it_computes_in_bf16_where_the_processor_does(
    has_bf16: bool, data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it does not, torch emulates it, many times slower than fp32."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16)
    types = set()

    def note(module: nn.Module, given: object, made: object) -> None:
        if isinstance(module, nn.Conv2d) and isinstance(made, torch.Tensor):
            types.add(made.dtype)

    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=1), quiet=True)
    finally:
        hook.remove()
    assert types and (torch.bfloat16 in types) is has_bf16


def test_a_stages_crops_can_be_set() -> None:
    stage = override(STAGES["rate"], (("phases", "64x16x128,16x32x192@0.75"),))
    assert stage.shape_at(0.7) == CropShape(64, 16, 128) and stage.shape_at(0.75) == CropShape(16, 32, 192)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "64x16",
        "0x16x64",
        "4x8x64",
        "4x16x60",
        "4x-16x64",
        "4x16x64@0.1",
        "4x16x64,4x16x64",
        "4x16x64,2x16x64@1",
    ],
)
def test_crops_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="setting phases"):
        override(STAGES["rate"], (("phases", text),))


def test_equalizing_rotation_shares_the_variance() -> None:
    variances = torch.tensor([100.0, 20.0, 5.0, 2.0, 1.0, 0.1])
    rotation = _equalizing_rotation(variances)
    assert torch.allclose(rotation.T @ rotation, torch.eye(6), atol=1e-6)
    shared = (rotation.T @ torch.diag(variances) @ rotation).diagonal()
    assert torch.allclose(shared, variances.mean().expand(6), rtol=1e-4)


def test_warm_start_codes_real_video_untrained(tmp_path: Path) -> None:
    """A fresh model, no training: each further token must bring it nearer."""
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    model = OneVAE(TINY).eval()
    start = warm_start(model, sampler_of(tmp_path), batches=2)
    assert start.psnr_db > 20
    video = torch.from_numpy(np.stack(pixels_of(LANES)[:8])).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.inference_mode():
        digits, _ = model.encode_digits(video, None)
        quality = [
            psnr_db(model.decode_digits(digits[:, : 6 * k], None)[0].numpy() * 127.5, video.numpy() * 127.5)
            for k in (1, 2, 4)
        ]
    assert 19 < quality[0] < quality[1] < quality[2]


def test_perceptual_distance_looks_from_every_place() -> None:
    """Dots on the grid of LPIPS's first layer are now between its places, now on them."""
    lpips = LPIPS(parse_tensors(find_weights("lpips-alex").data, "lpips"))
    video = torch.rand(1, 3, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    dotted = video.clone()
    dotted[..., ::4, ::4] = -1
    seen = {float(perceptual_distance(lpips, video, dotted, 1, torch.Generator().manual_seed(n))) for n in range(80)}
    assert len(seen) == 16


def test_lpips_is_that_of_its_authors() -> None:
    weights = find_weights("lpips-alex")
    lpips = LPIPS(parse_tensors(weights.data, str(weights.path)))
    source = torch.from_numpy(pixels_of(LANES)[0][:128, :128]).permute(2, 0, 1)[None].float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(source.shape, generator=generator)
    assert lpips(source, source).item() == 0
    weak, strong = (lpips(source, (source + level * noise).clamp(-1, 1)).item() for level in (0.05, 0.3))
    assert 0.01 < weak < strong < 1.5


@pytest.mark.parametrize("name", [name for name in STAGES if name != DIFFUSION])
def test_every_parameter_of_a_stage_gets_a_gradient(name: str) -> None:
    model = randomized(OneVAE(TINY))
    train_only(model, STAGES[name].trains)
    lpips = LPIPS(parse_tensors(find_weights("lpips-alex").data, "lpips"))
    stage = replace(STAGES[name], lpips_frames=2)
    objective = Objective(stage, TINY, lpips)
    video = torch.rand(8, 3, 8, 32, 32) * 2 - 1
    loss = objective(model, video, torch.Generator().manual_seed(0))
    loss.total.backward()
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name
        else:
            assert parameter.grad is None and parameter_name.startswith("encoder."), parameter_name


def model_of(run: Path, preset: str = "tiny") -> OneVAE:
    """The EMA weights of a run."""
    return build_model(preset, (run / WEIGHTS).read_bytes(), str(run))


@torch.inference_mode()
def error_of(model: OneVAE, folder: Path) -> float:
    """Root mean squared error over some fixed crops, all tokens read."""
    objective = Objective(replace(STAGES["discrete"], lpips_weight=0.0), model.config, None)
    sampler = sampler_of(folder, seed=99)
    losses = [objective(model, sampler.batch(n, SHAPE), torch.Generator().manual_seed(n)) for n in range(16)]
    return float(np.mean([float(loss.parts["rmse"]) for loss in losses]))


def test_both_stages_learn(tmp_path: Path, small_stages: None) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "lanes.mp4").symlink_to(LANES)
    run_training(settings_of(data, "continuous"), tmp_path / "c", Budget(steps=20), quiet=True)
    run_training(settings_of(data, "discrete", str(tmp_path / "c")), tmp_path / "d", Budget(steps=150), quiet=True)
    assert len((tmp_path / "d" / LOG).read_text().splitlines()) == 3
    before, after = (error_of(model_of(tmp_path / run), data) for run in ("c", "d"))
    assert after < 0.99 * before, (before, after)


def test_the_log_tells_how_much_of_the_time_batches_were_waited_for(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: Prefetcher, number: int, shape: CropShape) -> torch.Tensor:
        time.sleep(0.5)
        return self._sampler.batch(number, shape)

    monkeypatch.setattr("vtok_codec.training.run.Cadence", functools.partial(Cadence, log_steps=2))
    monkeypatch.setattr(Prefetcher, "batch", slow)
    run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=2), quiet=True)
    first = json.loads((tmp_path / "run" / LOG).read_text(encoding="utf-8").splitlines()[0])
    elapsed_s = 2 * SHAPE.batch * SHAPE.frames * SHAPE.size**2 / 1e6 / first["mpixel_s"]
    assert 1.0 <= first["waiting"] * elapsed_s < elapsed_s


@pytest.mark.parametrize(
    ("stage", "optimizer"),
    [
        ("continuous", "muon"),
        ("continuous", "adamw"),
        ("rate", "muon"),
        ("decoder", "muon"),
        ("adversarial", "adamw"),
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(
    data: Path, tmp_path: Path, small_stages: None, stage: str, optimizer: str
) -> None:
    start = None
    if stage != "continuous":
        run_training(settings_of(data, "continuous"), tmp_path / "start", Budget(steps=1), quiet=True)
        start = str(tmp_path / "start")
    settings = settings_of(data, stage, start)
    settings = replace(settings, overrides=(*settings.overrides, ("optimizer", optimizer)))
    run_training(settings, tmp_path / "whole", Budget(steps=6), quiet=True)

    class StoppedError(Exception):
        pass

    def stop_at_three(self: Trainer, *args: object, **kwargs: object) -> dict[str, float]:
        if self.step == 3:
            self.save()
            raise StoppedError
        return train_step(self, *args, **kwargs)  # type: ignore[arg-type]

    train_step = Trainer._train_step
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Trainer, "_train_step", stop_at_three)
        run_training(settings, tmp_path / "halves", Budget(steps=6), quiet=True)
    resume_training(tmp_path / "halves", Budget(steps=6), quiet=True)
    whole, halves = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "halves"))
    for part in ("model", "ema", "objective"):
        for name, value in whole[part].items():
            assert torch.equal(value, halves[part][name]), name
    assert load_file(tmp_path / "halves" / WEIGHTS).keys() == whole["ema"].keys()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_steps_have_the_size_of_their_kind(optimizer: str) -> None:
    """Every weight moves; the hidden matrices by Muon's orthogonal steps, the linear paths by little."""
    model = randomized(OneVAE(TINY)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: value.clone() for name, value in model.named_parameters()}
    stage = replace(STAGES["discrete"], optimizer=optimizer, weight_decay=0.0)
    steps = StageOptimizer(model, CodecSubject("tiny", []), [], stage)
    assert {id(p) for p in steps.parameters} == {id(p) for p in model.parameters()}
    steps.set_rate(0.01)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient.contiguous(memory_format=torch.channels_last) if gradient.ndim == 4 else gradient
    steps.step()
    moved = {name: value.detach() - before[name].detach() for name, value in model.named_parameters()}
    assert all(move.abs().max() > 0 for move in moved.values())
    hidden = moved["decoder.chain.layers.0.spatial.weight"]
    spectrum = torch.linalg.svdvals(hidden.permute(0, 2, 3, 1).flatten(1))
    if optimizer == "muon":
        # Newton–Schulz brings singular values near to one, and the root mean square to 0.2 of the rate.
        assert spectrum.max() / spectrum.min() < 2
        assert float(hidden.square().mean().sqrt()) == pytest.approx(0.002, rel=0.3)
    else:
        assert torch.allclose(hidden.abs(), torch.full_like(hidden, 0.01), rtol=1e-3)
    linear = moved["encoder.linear.weight"].square().mean().sqrt()
    size = before["encoder.linear.weight"].detach().square().mean().sqrt()
    assert float(linear / size) == pytest.approx(0.02, rel=1e-3)


def random_codes(frames: int, seed: int = 0) -> torch.Tensor:
    """Codes `1 P t 4 5` of random digits."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(TINY.fsq_levels * TINY.max_tokens).view(-1, 1, 1, 1)
    digits = (torch.rand((len(levels), frames, 4, 5), generator=generator) * levels).floor()
    return ((digits - levels // 2) / (levels // 2))[None]


def random_prior() -> DigitPrior:
    prior = DigitPrior(TINY)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        prior.out.weight.copy_(torch.randn(prior.out.weight.shape, generator=generator) * 0.3)
    return prior


@torch.inference_mode()
def test_the_prior_is_a_distribution_over_each_digit() -> None:
    prior, codes = random_prior(), random_codes(3)
    for plane in (0, 5, 13, 23):
        levels = TINY.fsq_levels[plane % 6]
        mass = torch.zeros(4, 5)
        for digit in range(levels):
            changed = codes.clone()
            changed[:, plane, 2] = (digit - levels // 2) / (levels // 2)
            mass += torch.exp2(-prior(changed)[0, plane, 2])
        assert torch.allclose(mass, torch.ones(4, 5), atol=1e-4)


@torch.inference_mode()
def test_the_prior_sees_what_a_decoder_has() -> None:
    """A digit may change the cost of itself, of later tokens of its frame, and of later frames; of nothing else."""
    prior, codes = random_prior(), random_codes(5)
    changed = codes.clone()
    plane, frame = 8, 2
    changed[:, plane, frame, 1, 1] *= -1
    differs = (prior(codes) != prior(changed))[0].any(dim=-1).any(dim=-1)
    assert not differs[:, :frame].any()
    token = plane // 6
    of_own_token = differs[: 6 * (token + 1), frame]
    assert of_own_token.nonzero().flatten().tolist() == [plane]
    assert differs[6 * (token + 1) :, frame].all() and differs[:, frame + 1].all() and differs[:, frame + 2].all()


def test_the_prior_learns_what_repeats() -> None:
    prior = DigitPrior(TINY)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    for step in range(60):
        still = random_codes(1, seed=step).expand(-1, -1, 4, -1, -1)
        bits = prior(still)
        optimizer.zero_grad()
        bits.mean().backward()
        optimizer.step()
    later = float(bits[:, :, 1:].detach().mean())
    first = float(bits[:, :, 0].detach().mean())
    uniform = float(np.log2(TINY.fsq_levels).mean())
    assert later < 0.6 and uniform - 0.1 < first < uniform + 0.4


def test_the_rate_term_makes_digits_cheaper() -> None:
    """Latents free to move must become cheap long before they become wrong."""
    fsq, prior = FSQ(TINY.fsq_levels, TINY.max_tokens), DigitPrior(TINY)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, TINY.latent_channels, 4, 6, 6, generator=generator)
    wanted = fsq.straight_through(latents)
    latents.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [latents], "lr": 0.05}, {"params": prior.parameters(), "lr": 0.005}])
    bits = []
    for _ in range(80):
        codes = fsq.straight_through(latents)
        cost = prior(codes).mean()
        distortion = (codes - wanted).square().mean()
        optimizer.zero_grad()
        (3 * distortion + 0.1 * cost).backward()
        optimizer.step()
        bits.append(float(cost.detach()))
    assert bits[-1] < 0.6 * bits[0]
    assert float(distortion.detach()) < 0.05 * float(wanted.square().mean())


_COMPILED = """
import sys
from pathlib import Path
from conftest import TINY
from vtok_codec.models.presets import PRESETS
from vtok_codec.training.run import RunSettings, _trainer

PRESETS["tiny"] = TINY
settings = RunSettings("continuous", "tiny", None, (sys.argv[1],), None, 1, 5, "cpu", 1.0, True, ())
_trainer(settings, Path(sys.argv[2]), resumed=False, quiet=True)
"""


def test_a_compiled_run_starts_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    """Other tests import what torch then has at hand; the command does not."""
    command = [sys.executable, "-c", _COMPILED, str(data), str(tmp_path / "run")]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_a_frozen_encoder_stays_as_it_is(data: Path, tmp_path: Path, small_stages: None) -> None:
    """Tokens must mean to a decoder stage what they mean to the model it started from."""
    run_training(settings_of(data, "continuous"), tmp_path / "start", Budget(steps=1), quiet=True)
    settings = settings_of(data, "decoder", str(tmp_path / "start"))
    run_training(settings, tmp_path / "run", Budget(steps=3), quiet=True)
    before, after = (model_of(tmp_path / run).state_dict() for run in ("start", "run"))
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"decoder"}


def test_a_decoder_trained_alone_reads_the_files_of_its_start(data: Path, tmp_path: Path, small_stages: None) -> None:
    """Over two such stages and a resume; a stage that trains the encoder begins a new kind of tokens."""
    run_training(settings_of(data, "continuous"), tmp_path / "start", Budget(steps=1), quiet=True)
    for stage, start, name in (("decoder", "start", "first"), ("adversarial", "first", "second")):
        run_training(settings_of(data, stage, str(tmp_path / start)), tmp_path / name, Budget(steps=1), quiet=True)
    resume_training(tmp_path / "second", Budget(steps=2), quiet=True)
    run_training(settings_of(data, "rate", str(tmp_path / "second")), tmp_path / "other", Budget(steps=1), quiet=True)
    start, first, second, other = (find_weights(tmp_path / name) for name in ("start", "first", "second", "other"))
    assert start.reads == {start.sha256}
    assert second.reads == {start.sha256, first.sha256, second.sha256}
    assert other.reads == {other.sha256}

    tokenizer = load_tokenizer(start, "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    digits, _ = tokenizer.encode(frames, 2, None)
    reader = tokenizer_of(tokenizer.id, tmp_path / "second", "cpu")
    assert np.array_equal(reader.encode(frames, 2, None)[0], digits)
    assert not np.array_equal(*(each.decode(digits, (16, 16), 9, None)[0] for each in (tokenizer, reader)))
    with pytest.raises(ModelError, match="the file was made with weights"):
        tokenizer_of(tokenizer.id, tmp_path / "other", "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"token_weights": (0.0, 0.0, 0.0, 0.0)},
        {"token_weights": (2.0, -1.0, 0.0, 0.0)},
        {"warmup_steps": 0},
        {"adversarial_weight": 0.1, "trains": ("quantizer",)},
        {"distortion": "psnr"},
    ],
)
def test_stages_that_cannot_train_are_refused_before_they_start(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Objective(replace(STAGES["discrete"], lpips_weight=0.0, **changes), TINY, None)


def test_a_compiled_decoder_can_be_judged(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adaptive weight goes back through the compiled decoder before the loss does."""
    # Compiling the frozen encoder too would take as long again.
    monkeypatch.setattr(CodecSubject, "compile", lambda self, model: model.decoder.compile(dynamic=False))
    run_training(settings_of(data, "continuous"), tmp_path / "start", Budget(steps=1), quiet=True)
    settings = settings_of(data, "adversarial", str(tmp_path / "start"))
    overrides = (*settings.overrides, ("adversarial_start", "0"), ("lpips_weight", "0"))
    settings = replace(settings, compiled=True, overrides=overrides)
    run_training(settings, tmp_path / "run", Budget(steps=2), quiet=True)
    assert (tmp_path / "run" / WEIGHTS).exists()


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(SettingError, match="name some of encoder, quantizer, decoder"):
        train_only(OneVAE(TINY), ("encoder", "head"))


def test_the_quantizer_alone_trains_the_layers_beside_it() -> None:
    model = OneVAE(TINY)
    train_only(model, ("quantizer",))
    trained = {name.rpartition(".")[0] or name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == {"encoder.out", "encoder.linear", "decoder.enter", "decoder.linear", "decoder"}


def test_a_stage_may_start_continuous() -> None:
    stage = replace(STAGES["compress"], lpips_weight=0.0, continuous_until=0.5, discrete_share=1.0)
    model, objective = randomized(OneVAE(TINY)), Objective(stage, TINY, None)
    video = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    rounded = []
    for progress in (0.4, 0.6):
        loss = objective(model, video, torch.Generator().manual_seed(0), progress)
        codes = model.quantizer.quantize(model.encoder(video, None)[0]).codes
        counts, _ = objective._draw(video, torch.Generator().manual_seed(0), progress)
        discrete = model.decoder(codes, None, counts)[0]
        rounded.append(torch.allclose(loss.reconstruction, discrete, atol=1e-5))
    assert rounded == [False, True]


@pytest.mark.parametrize("distortion", DISTORTIONS)
def test_distortions_grow_with_the_error(distortion: str) -> None:
    error = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    small, large = (float(DISTORTIONS[distortion](scale * error)) for scale in (0.1, 0.2))
    assert 1.9 * small < large < 4.1 * small
    assert float(DISTORTIONS[distortion](0 * error)) <= 1.001e-3


def test_a_discriminator_learns_to_tell_blurred_from_sharp() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    losses = []
    for _ in range(30):
        sharp = torch.rand(2, 3, 4, 32, 32) * 2 - 1
        blurred = torch.nn.functional.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
        loss = discriminator_loss(discriminator, sharp, blurred)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.8 and losses[-1] < 0.3
    assert generator_loss(discriminator, blurred) > generator_loss(discriminator, sharp)
    assert discriminator(sharp).shape == (2, 1, 4, 4, 4)


def test_the_adaptive_weight_makes_both_losses_pull_alike() -> None:
    last = torch.randn(5, requires_grad=True)
    weight = adaptive_weight((3 * last).sum(), (0.5 * last).sum(), last)
    assert float(weight) == pytest.approx(6.0, rel=1e-4)


def test_codebook_use_is_counted() -> None:
    use = CodebookUse(8)
    use.add(torch.tensor([[0, 0], [3, 3]]))
    figures = use.take()
    assert figures["codebook_used"] == 0.25 and figures["codebook_perplexity"] == pytest.approx(2.0)
    assert use.take()["codebook_used"] == 0


def test_each_token_has_its_own_rate_weight() -> None:
    model = randomized(OneVAE(TINY))
    video = torch.rand(2, 3, 8, 32, 32) * 2 - 1
    plain = replace(STAGES["rate"], lpips_weight=0.0, token_weights=(0.0, 1.0, 0.0, 0.0))

    def cost(*weights: float) -> float:
        torch.manual_seed(0)
        loss = Objective(replace(plain, rate_weights=weights), TINY, None)(
            model, video, torch.Generator().manual_seed(0)
        )
        return float(loss.total.detach() - loss.parts["rmse"])

    first, second = cost(0.1, 0.0, 9.0, 9.0), cost(0.0, 0.1, 9.0, 9.0)
    assert first > 0 and second > 0 and first != pytest.approx(second, rel=1e-3)
    # Tokens that are not read cost nothing.
    assert cost(0.3, 0.2, 9.0, 9.0) == pytest.approx(3 * first + 2 * second, rel=1e-3)
    with pytest.raises(SettingError, match="4 tokens"):
        cost(0.1, 0.2)


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(SettingError, match="use adamw or muon"):
        StageOptimizer(OneVAE(TINY), CodecSubject("tiny", []), [], replace(STAGES["discrete"], optimizer="sgd"))


def test_losses_that_are_not_finite_stop_a_run(data: Path, tmp_path: Path, small_stages: None) -> None:
    settings = replace(settings_of(data, "continuous"), overrides=(("learning_rate", "1e30"),))
    with pytest.raises(TrainingError, match="not finite"):
        run_training(settings, tmp_path / "run", Budget(steps=50), quiet=True)


def test_runs_that_cannot_be_are_refused(data: Path, tmp_path: Path, small_stages: None) -> None:
    with pytest.raises(TrainingError, match="a run to start from"):
        run_training(settings_of(data, "discrete"), tmp_path / "run", Budget(steps=1), quiet=True)
    with pytest.raises(SettingError, match="no stage"):
        run_training(settings_of(data, "nonsense"), tmp_path / "run", Budget(steps=1), quiet=True)
    with pytest.raises(TrainingError, match="no run"):
        resume_training(tmp_path / "nothing", Budget(steps=1), quiet=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot hold a run"):
        run_training(settings_of(data, "continuous"), tmp_path / "file" / "run", Budget(steps=1), quiet=True)
    (tmp_path / "run" / CHECKPOINT).touch()
    with pytest.raises(TrainingError, match="holds a run already"):
        run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=1), quiet=True)


def test_a_run_that_never_saved_is_begun_anew(data: Path, tmp_path: Path, small_stages: None) -> None:
    """Its log and its pictures would pass for the new run's."""
    run = tmp_path / "run"
    run.mkdir()
    (run / LOG).write_text('{"step": 50}\n')
    (run / STRIP.format("0000050")).touch()
    run_training(settings_of(data, "continuous"), run, Budget(steps=1), quiet=True)
    assert not (run / LOG).exists() or "50" not in (run / LOG).read_text()
    assert not list(run.glob("strip*"))


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


def test_the_help_names_every_stage() -> None:
    """The command line lists them without importing torch."""
    assert _STAGES.split(", ") == list(STAGES)


def test_stage_numbers_can_be_set() -> None:
    stage = override(STAGES["discrete"], (("learning_rate", "0.5"), ("warmup_steps", "7")))
    assert isinstance(stage, Stage) and (stage.learning_rate, stage.warmup_steps) == (0.5, 7)
    assert override(STAGES["discrete"], (("optimizer", "adamw"),)).optimizer == "adamw"
    assert override(STAGES["rate"], (("rate_weights", "0.4,0.3,0.2,0.1"),)).rate_weights == (0.4, 0.3, 0.2, 0.1)
    wrong = {
        "learning_rat": "1",
        "learning_rate": "much",
        "name": "x",
        "phases": "x",
        "betas": "0.5",
        "rate_weights": "a",
    }
    for key, value in wrong.items():
        with pytest.raises(SettingError, match="setting"):
            override(STAGES["discrete"], ((key, value),))


def test_budgets_end_by_whichever_comes_first() -> None:
    assert Budget(steps=10).progress(5, 1e9) == 0.5
    assert Budget(minutes=2).progress(5, 60) == 0.5
    assert Budget(steps=10, minutes=2).progress(5, 120) == 1.0


def test_strips_are_png(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    (tmp_path / "strip.png").write_bytes(png_bytes(picture))
    assert np.array_equal(pixels_of(tmp_path / "strip.png")[0], picture)
    assert math.isinf(psnr_db(picture, picture))


@pytest.mark.parametrize(("name", "content"), [(CHECKPOINT, b""), (CHECKPOINT, b"noise"), ("run.json", b"{}")])
def test_a_run_that_cannot_be_read_is_told(
    data: Path, tmp_path: Path, small_stages: None, name: str, content: bytes
) -> None:
    run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=1), quiet=True)
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(TrainingError, match="no run that can be resumed"):
        resume_training(tmp_path / "run", Budget(steps=2), quiet=True)


def test_a_run_goes_on_with_other_settings_and_from_any_folder(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    run = tmp_path / "run"
    run_training(replace(settings_of(data, "continuous"), data=(data.name,)), run, Budget(steps=1), quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume_training(run, Budget(steps=2), quiet=True, overrides=(("learning_rate", "0"),))
    before = torch.load(run / CHECKPOINT, weights_only=True)["model"]
    resume_training(run, Budget(steps=3), quiet=True)
    after = torch.load(run / CHECKPOINT, weights_only=True)["model"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_large_clip_is_held_to_its_bytes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtok_codec.training.library.MAX_CLIP_BYTES", 7 * 96 * 64 * 3)
    library = ClipLibrary([data], 1 << 30)
    clip = library.read(library.videos[1])
    assert clip is not None and clip.shape == (7, 64, 96, 3)


def test_validation_takes_the_videos_of_a_folder(data: Path, tmp_path: Path) -> None:
    (data / "broken.mp4").unlink()
    clips = validation_clips(data, 12)
    assert [tuple(clip.shape) for clip in clips] == [(3, 17, 64, 96), (3, 17, 80, 48)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="no video in"):
        validation_clips(tmp_path / "empty", 12)


def test_validation_tells_lpips_where_its_network_is_given(data: Path) -> None:
    (data / "broken.mp4").unlink()
    model, lpips = randomized(OneVAE(TINY)).eval(), load_lpips()
    clip = validation_clips(data, 1)[0]
    figures = validate(model, [clip], [1, 4], None, lpips)
    padded = whole_latents(clip[None], 4)
    with torch.inference_mode():
        codes = model.quantizer.quantize(model.encoder(padded, None)[0]).codes
        for count in (1, 4):
            shown = ((decode_codes(model, codes, count).clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
            pair = [video[0, :, 3::4].transpose(0, 1).contiguous() for video in (padded, shown)]
            assert figures[f"lpips_{count}"] == pytest.approx(float(lpips(*pair).mean()), rel=1e-3)
    assert figures["lpips_1"] != figures["lpips_4"]
    assert "lpips_1" not in validate(model, [clip], [1])


def test_clips_that_do_not_fit_a_gpu_are_cut_by_the_cpu(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    batches = batches_for(torch.device("cuda"), sampler_of(data))
    shape = CropShape(batch=2, frames=4, size=32)
    try:
        assert isinstance(batches, Prefetcher)
        assert torch.equal(batches.batch(5, shape), sampler_of(data).batch(5, shape))
    finally:
        batches.close()
