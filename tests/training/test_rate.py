"""The rate term of stage `rate`: the bits of the coder `prior`, with a gradient that encoders can follow."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LANES, TINY, inside, randomized
from prior_helpers import LATER, PHASES
from safetensors.numpy import load_file
from training_helpers import codec_recipe

from vtok_codec.container.reader import VtkReader
from vtok_codec.layout import GopLayout
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import RUN_PRIOR, prior_file
from vtok_codec.registry import find_weights
from vtok_codec.tokens.prior.prior import prior_parts
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.codec.rate import RateEstimate
from vtok_codec.training.prior.digits import FrameBatch
from vtok_codec.training.prior.export import export_prior
from vtok_codec.training.prior.network import ABSENT, PriorModel
from vtok_codec.training.prior.objective import mean_bits
from vtok_codec.training.prior.restoring import restored_prior
from vtok_codec.weights_file import WeightsFile

pytestmark = pytest.mark.usefixtures("one_thread")
PLANES = len(TINY.fsq_levels) * TINY.max_tokens


def random_codes(frames: int, seed: int = 0) -> torch.Tensor:
    """Codes `1 P t 4 5` of random digits."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor(TINY.fsq_levels * TINY.max_tokens).view(-1, 1, 1, 1)
    digits = (torch.rand((len(levels), frames, 4, 5), generator=generator) * levels).floor()
    return ((digits - levels // 2) / (levels // 2))[None]


def random_prior(seed: int = 1, spread: float = 0.3) -> PriorModel:
    torch.manual_seed(seed)
    model = PriorModel(PHASES, LATER, TINY.fsq_levels, TINY.max_tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn_like(parameter)
    return model


def estimate(phases: int = 1) -> RateEstimate:
    return RateEstimate(random_prior(), GopLayout(TINY.stride, (1, phases)))


@torch.inference_mode()
def test_the_estimate_is_a_distribution_over_each_digit() -> None:
    rate, codes = estimate(), random_codes(3)
    for plane in (0, 5, 13, 23):
        levels = TINY.fsq_levels[plane % 6]
        mass = torch.zeros(())
        for digit in range(levels):
            changed = codes.clone()
            changed[:, plane, 2, 3, 4] = (digit - levels // 2) / (levels // 2)
            mass += torch.exp2(-rate(changed)[0, plane, 2, 3, 4])
        assert float(mass) == pytest.approx(1, abs=1e-4)


@torch.inference_mode()
def test_the_estimate_is_what_the_networks_of_the_file_say() -> None:
    """With two phases, the first two latent frames are those of the network `first`."""
    rate, codes = estimate(phases=2), random_codes(5)
    bits = rate(codes)
    zero = torch.tensor(TINY.fsq_levels * TINY.max_tokens).view(-1, 1, 1, 1) // 2
    digits = (codes[0] * zero + zero).round().to(torch.uint8)
    for latent in range(5):
        network = rate.prior.first if latent < 2 else rate.prior.later
        past = torch.full((1, network.config.slots, *digits[:, 0].shape), ABSENT, dtype=torch.uint8)
        for slot in range(min(network.config.slots, latent)):
            past[0, slot] = digits[:, latent - 1 - slot]
        place = torch.tensor([min(latent if latent < 2 else latent - 2, network.config.places - 1)])
        expected = network.bits(past, digits[None, :, latent], place)[0]
        assert torch.allclose(bits[0, :, latent], expected, atol=1e-5)


@torch.inference_mode()
def test_the_estimate_sees_what_a_decoder_has() -> None:
    """A digit may change the cost of itself, of later digits of its frame, and of later frames; of nothing else."""
    rate, codes = estimate(), random_codes(5)
    changed = codes.clone()
    plane, frame = 8, 2
    changed[:, plane, frame, 1, 1] *= -1
    differs = (rate(codes) != rate(changed))[0].any(dim=-1).any(dim=-1)
    assert not differs[:, :frame].any() and not differs[:plane, frame].any()
    assert differs[plane:, frame].any() and differs[:, frame + 1].any()


def test_a_sample_with_fewer_tokens_costs_what_it_would_by_itself() -> None:
    rate, codes = estimate(), random_codes(3)
    with torch.inference_mode():
        expected = rate(codes[:, :12])
        both = rate(codes.expand(2, -1, -1, -1, -1), torch.tensor([2, 4]))
    assert torch.equal(both[0, :12], expected[0]) and not torch.equal(both[1, :12], expected[0])


def test_the_gradient_is_the_slope_between_the_neighbours_of_a_digit() -> None:
    """The last digit to be coded predicts no other, so its own cost alone tells what another value would change."""
    rate, codes = estimate(), random_codes(3)
    row, column = 3, 4
    half = TINY.fsq_levels[-1] // 2
    for digit in range(TINY.fsq_levels[-1]):
        codes[0, -1, -1, row, column] = (digit - half) / half
        tried = []
        for other in (max(0, digit - 1), min(TINY.fsq_levels[-1] - 1, digit + 1)):
            changed = codes.clone()
            changed[0, -1, -1, row, column] = (other - half) / half
            with torch.no_grad():
                tried.append((other, float(rate(changed).sum())))
        given = codes.clone().requires_grad_()
        rate(given).sum().backward()
        assert given.grad is not None
        (low, before), (high, after) = tried
        slope = half * (after - before) / (high - low)
        assert float(given.grad[0, -1, -1, row, column]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_a_digit_with_a_gradient_costs_as_much_as_one_without() -> None:
    rate, codes = estimate(), random_codes(4)
    with torch.no_grad():
        expected = rate(codes)
    assert torch.allclose(rate(codes.clone().requires_grad_()).detach(), expected, atol=1e-5)


def test_the_rate_term_makes_digits_cheaper() -> None:
    """Latents free to move must become cheap long before they become wrong."""
    fsq, rate = FSQ(TINY.fsq_levels, TINY.max_tokens), estimate()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, TINY.latent_channels, 4, 6, 6, generator=generator)
    wanted = fsq.straight_through(latents)
    latents.requires_grad_()
    optimizer = torch.optim.Adam([{"params": [latents], "lr": 0.05}, {"params": rate.parameters(), "lr": 0.005}])
    bits = []
    for _ in range(80):
        codes = fsq.straight_through(latents)
        cost = rate(codes).mean()
        distortion = (codes - wanted).square().mean()
        optimizer.zero_grad()
        (3 * distortion + 0.1 * cost).backward()
        optimizer.step()
        bits.append(float(cost.detach()))
    assert bits[-1] < 0.6 * bits[0]
    assert float(distortion.detach()) < 0.1 * float(wanted.square().mean())


@pytest.mark.parametrize("model", ["onevae-nano-4x8x8", "onevae-nano-4x16x16"])
def test_a_prior_comes_back_from_its_file_as_it_was(model: str) -> None:
    file = prior_file(find_weights(model))
    assert file is not None
    again = prior_parts(export_prior(restored_prior(file.data), {}))
    for (config, tensors), (other, others) in zip(prior_parts(file.data).networks, again.networks, strict=True):
        assert config == other and tensors.keys() == others.keys()
        assert all(np.array_equal(tensors[name], others[name]) for name in tensors)


def test_a_rate_run_packs_with_the_prior_that_it_trained(tmp_path: Path) -> None:
    """It lies beside the weights, a file is packed with it, and the next run and a resumed one go on with it."""
    codec, data, run = tmp_path / "codec", tmp_path / "data", tmp_path / "rate"
    for folder in (codec, data):
        folder.mkdir()
    weights = codec / "ema.safetensors"
    weights.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    (data / "lanes.mp4").symlink_to(LANES)
    common = ("--data", data, "--set", "rate_weights=1,1,1,1", "--set", "lpips_weight=0", "-q")
    small = ("--set", "phases=1x8x32")
    settings = (*common, *small, "--set", "trains=encoder")
    assert inside("train", "--stage", "rate", "--from", codec, "--run", run, "--steps", 2, *settings) == (0, "", "")
    trained = WeightsFile("rate", run / "ema.safetensors")
    # The encoder alone has trained, so the new weights decode the files of the old ones.
    assert WeightsFile("old", weights).sha256 in trained.reads
    out = tmp_path / "out.vtk"
    assert inside("encode", "--model", run, LANES, out, "--duration", 0.3, "-q") == (0, "", "")
    prior = WeightsFile("prior", run / RUN_PRIOR)
    assert VtkReader(io.BytesIO(out.read_bytes())).header.prior_sha256 == prior.sha256
    before = load_file(run / RUN_PRIOR)
    # Neither verify nor a decoder that learns to read the same tokens leaves the file behind.
    assert inside("verify", out)[0] == 6
    assert inside("verify", out, "--weights", run) == (0, f"{out}: whole, 8 frames in 1 GOP\n", "")
    assert inside("tokens", out, tmp_path / "t.safetensors", "--weights", run)[0] == 0
    decoder = tmp_path / "decoder"
    more = ("--run", decoder, "--steps", 1, "--data", data, "-q", *small, "--set", "lpips_weight=0")
    assert inside("train", "--stage", "decoder", "--from", run, *more) == (0, "", "")
    assert inside("decode", out, tmp_path / "o.mkv", "--weights", decoder, "-q") == (0, "", "")
    assert (decoder / RUN_PRIOR).read_bytes() == (run / RUN_PRIOR).read_bytes()
    assert inside("train", "--resume", run, "--steps", 3, "-q") == (0, "", "")
    more = ("train", "--stage", "prior", "--from", run, "--data", data, "--run", tmp_path / "prior", "--steps", 1)
    code, _, told = inside(*more, "--set", "phases=4x4x64")
    assert code == 0 and "goes on with the prior of these tokens" in told
    after = load_file(tmp_path / "prior" / "ema.safetensors")
    shapes = [{name: value.shape for name, value in tensors.items()} for tensors in (before, after)]
    assert shapes[0] == shapes[1]


def test_the_prior_of_a_rate_run_is_an_average(tmp_path: Path) -> None:
    """As the weights are: two runs with the same steps and other averages write other priors."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lanes.mp4").symlink_to(LANES)
    weights = tmp_path / "codec.safetensors"
    weights.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    settings = ["--set", "rate_weights=1,1,1,1", "--set", "lpips_weight=0", "--set", "phases=1x8x32"]
    settings += ["--set", "learning_rate=0.1", "--set", "warmup_steps=1", "--set", "optimizer=adamw"]
    priors = []
    for decay in ("0", "0.5"):
        run = tmp_path / f"run-{decay}"
        more = [*settings, "--set", f"ema_decay={decay}", "--steps", 4, "-q"]
        told = inside("train", "--stage", "rate", "--from", weights, "--run", run, "--data", tmp_path / "data", *more)
        assert told == (0, "", "")
        priors.append(load_file(run / RUN_PRIOR))
    assert any(not np.array_equal(priors[0][name], priors[1][name]) for name in priors[0])


def test_samples_of_different_numbers_of_tokens_have_a_finite_loss() -> None:
    """What a sample does not have must not spoil the sum of what it has, nor its gradient."""
    model = randomized(OneVAE(TINY))
    recipe = replace(codec_recipe("rate"), lpips_weight=0.0, token_weights=(0.5, 0.0, 0.0, 0.5))
    objective = CodecObjective(recipe, TINY, None, prior=random_prior())
    loss = objective(model, torch.rand(8, 3, 8, 32, 32) * 2 - 1, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss.total) and float(loss.parts["bpp"]) > 0
    loss.total.backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_crops_beyond_the_picture_have_a_finite_cost() -> None:
    model = random_prior()
    digits = torch.full((2, PLANES, 6, 6), ABSENT, dtype=torch.uint8)
    digits[:, :, :3, :4] = 1
    past = torch.full((2, model.later.config.slots, PLANES, 6, 6), ABSENT, dtype=torch.uint8)
    batch = FrameBatch(past, digits, torch.zeros(2, dtype=torch.int64))
    assert torch.isfinite(mean_bits(model.later, batch, PLANES))
