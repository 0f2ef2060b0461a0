"""The networks: causal, chunk by chunk equal to the whole, sound gradients, nested tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import TINY, Given, randomized
from torch import Tensor

from vtok_codec.errors import ModelError
from vtok_codec.metrics.complexity import complexity
from vtok_codec.models.blocks import (
    BLOCKS,
    AlphaBlender,
    BlendedShuffle,
    BlendedUnshuffle,
    FrameBlock,
    FullBlock,
    ResidualBlock,
)
from vtok_codec.models.causal import (
    CausalChain,
    FrameConv,
    PositionNorm,
    State,
    TemporalConv,
    fold_time,
    shuffle,
    unfold_time,
    unshuffle,
)
from vtok_codec.models.config import RESAMPLING_KINDS, Codebook, Level, OneVAEConfig
from vtok_codec.models.convert import convert
from vtok_codec.models.fsq import FSQ
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.presets import PRESETS, presets_of
from vtok_codec.models.weights import CODEC, build, dump_weights


def random_video(frames: int, height: int = 16, width: int = 24, batch: int = 1, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.fixture
def model() -> OneVAE:
    return randomized(OneVAE(TINY)).double().eval()


def test_unshuffle_and_shuffle_are_inverse() -> None:
    video = random_video(8)
    assert torch.equal(shuffle(unshuffle(video, (2, 4, 4)), (2, 4, 4)), video)


def test_unshuffled_blocks_hold_their_pixels_channel_by_channel() -> None:
    video = random_video(4)
    block = unshuffle(video, (4, 8, 8))[0, :, 0, 1, 2]
    assert torch.equal(block, video[0, :, :4, 8:16, 16:24].reshape(-1))


def test_folding_time_copies_nothing_when_channels_last() -> None:
    x = torch.randn(2, 4, 3, 5, 5).to(memory_format=torch.channels_last_3d)
    folded = fold_time(x)
    assert folded.data_ptr() == x.data_ptr()
    assert torch.equal(unfold_time(folded, 2), x)


@pytest.mark.parametrize("stickiness", [0.0, 0.7])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (8, 4), (4, 8), (12,)])
def test_digits_of_chunks_equal_those_of_the_whole(model: OneVAE, sizes: tuple[int, ...], stickiness: float) -> None:
    video = random_video(12)
    whole, _ = model.encode_digits(video, None, stickiness)
    state: State = None
    parts = []
    for chunk in video.split(sizes, dim=2):
        digits, state = model.encode_digits(chunk, state, stickiness)
        parts.append(digits)
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_sticky_digits_hold_until_the_latent_is_far() -> None:
    fsq = FSQ((8, 5), 1)
    # In digits: 3, a little more, more than half and δ more, back a little.
    exact = torch.tensor([3.0, 3.6, 4.3, 3.7])
    latents = torch.zeros(1, 2, 4, 1, 1)
    half, offset = 7 * 1.001 / 2, 0.5
    latents[0, 0, :, 0, 0] = torch.atanh((exact - 4 + offset) / half) - math.atanh(offset / half)
    assert fsq.digits(latents)[0, 0, :, 0, 0].tolist() == [3, 4, 4, 4]
    assert fsq.digits(latents, None, 0.2)[0, 0, :, 0, 0].tolist() == [3, 3, 4, 4]
    previous = torch.tensor([4, 2], dtype=torch.uint8).view(1, 2, 1, 1, 1)
    assert fsq.digits(latents, previous, 0.6)[0, 0, :, 0, 0].tolist() == [4, 4, 4, 4]
    assert fsq.digits(latents)[0, 1].unique().tolist() == [2]


def test_decoded_chunks_equal_the_whole(model: OneVAE) -> None:
    digits, _ = model.encode_digits(random_video(16), None)
    whole, _ = model.decode_digits(digits, None)
    state: State = None
    parts = []
    for chunk in digits.split((1, 2, 1), dim=2):
        pixels, state = model.decode_digits(chunk, state)
        parts.append(pixels)
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-12)


@pytest.mark.parametrize("changed", [4, 7, 11])
def test_no_latent_sees_a_later_frame(model: OneVAE, changed: int) -> None:
    video = random_video(12)
    other = video.clone()
    other[:, :, changed:] = random_video(12 - changed, seed=2)
    before = changed // 4
    latents, others = (model.encoder(x, None)[0] for x in (video, other))
    assert torch.equal(latents[:, :, :before], others[:, :, :before])
    assert not torch.equal(latents[:, :, before], others[:, :, before])


def test_no_pixel_sees_a_later_latent(model: OneVAE) -> None:
    digits, _ = model.encode_digits(random_video(12), None)
    other = digits.clone()
    other[:, :, 2] = 0
    pixels, others = (model.decode_digits(x, None)[0] for x in (digits, other))
    assert torch.equal(pixels[:, :, :8], others[:, :, :8])
    assert not torch.equal(pixels[:, :, 8:], others[:, :, 8:])


@pytest.mark.parametrize("tokens", [1, 2, 3, 4])
def test_fewer_tokens_decode_as_if_the_others_were_dropped(model: OneVAE, tokens: int) -> None:
    digits, _ = model.encode_digits(random_video(4), None)
    few, _ = model.decode_digits(digits[:, : 6 * tokens], None)
    masked, _ = model.decoder(model.fsq.codes(digits).double(), None, torch.tensor([tokens]))
    assert torch.equal(few, masked)


def test_every_token_changes_the_picture(model: OneVAE) -> None:
    digits, _ = model.encode_digits(random_video(4), None)
    outputs = [model.decode_digits(digits[:, : 6 * tokens], None)[0] for tokens in (1, 2, 3, 4)]
    assert all(not torch.allclose(a, b) for a, b in pairwise(outputs))


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_number_of_threads_changes_no_value(kernel: int) -> None:
    """In fp32 torch has another kernel for a `1×1` convolution in one thread than in two."""
    torch.manual_seed(0)
    conv = FrameConv(576, 192, kernel).to(memory_format=torch.channels_last)
    x, threads = torch.randn(1, 576, 4, 6, 8), torch.get_num_threads()
    made = []
    try:
        with torch.inference_mode():
            for count in (1, 2):
                torch.set_num_threads(count)
                made.append(conv(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*made)


def test_features_are_passed_to_every_level_or_to_none(model: OneVAE) -> None:
    codes = model.quantizer.quantize(model.encoder(random_video(16), None)[0]).codes
    with pytest.raises(ValueError, match="shorter"):
        model.decoder(codes, None, passed=[torch.zeros(())] * (len(model.decoder.level_starts) - 1))


def test_norm_gradients_are_summed_in_fp32() -> None:
    """The other trap: the CPU kernel's own parameters get gradients summed in bf16, 65 % wrong here."""
    torch.manual_seed(0)
    norm = PositionNorm(8)
    x = torch.randn(1, 8, 8, 50, 50)
    target = torch.randn(1, 8, 8, 50, 50) + 0.3
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        norm.zero_grad()
        norm(x.to(dtype)).backward(target.to(dtype))
        gradients.append(norm.bias.grad.clone())
    assert (gradients[1] - gradients[0]).norm() <= 0.01 * gradients[0].norm()


@pytest.mark.parametrize("resampling", RESAMPLING_KINDS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_every_variant_streams(blocks: str, resampling: str) -> None:
    config = replace(TINY, blocks=blocks, resampling=resampling)
    model = randomized(OneVAE(config)).double().eval()
    video = random_video(12)
    digits, _ = model.encode_digits(video, None)
    whole, _ = model.decode_digits(digits, None)
    states: list[State] = [None, None]
    for number, chunk in enumerate(video.split(4, dim=2)):
        part, states[0] = model.encode_digits(chunk, states[0])
        assert torch.equal(part, digits[:, :, number : number + 1])
        pixels, states[1] = model.decode_digits(part, states[1])
        assert torch.allclose(pixels, whole[:, :, 4 * number : 4 * number + 4], atol=1e-12)


def test_without_causality_the_past_depends_on_the_future() -> None:
    model = randomized(OneVAE(replace(TINY, causal=False))).double().eval()
    video = random_video(12)
    other = video.clone()
    other[:, :, 8:] = random_video(4, seed=2)
    latents, others = (model.encoder(x, None)[0] for x in (video, other))
    assert not torch.equal(latents[:, :, 1], others[:, :, 1])


def test_blends_start_as_the_papers_and_learn_only_where_asked() -> None:
    blender = AlphaBlender(learned=False)
    one, zero = torch.ones(2), torch.zeros(2)
    assert float(blender(one, zero)[0]) == pytest.approx(1 / (1 + math.exp(-0.2)))
    assert not blender.logit.requires_grad and AlphaBlender(learned=True).logit.requires_grad


DEEPER = replace(TINY, levels=(*TINY.levels, Level((1, 2, 2), 24, 1, 2)))


def test_conversion_keeps_what_stands_for_the_same() -> None:
    source, target = randomized(OneVAE(TINY)), randomized(OneVAE(DEEPER), seed=1)
    conversion = convert(source.state_dict(), TINY, target)
    mine, theirs = target.state_dict(), source.state_dict()
    # One more level in front of the decoder's chain moves every place in it by three.
    places = {f"decoder.chain.layers.{place}": f"decoder.chain.layers.{place + 3}" for place in range(4)}
    for there, here in (places | {"encoder.chain.layers.3.out": "encoder.chain.layers.3.out"}).items():
        names = [name for name in theirs if name.startswith(there + ".")]
        assert names and all(torch.equal(theirs[name], mine[name.replace(there, here, 1)]) for name in names)
    assert {"encoder.linear.weight", "decoder.enter.weight", "decoder.out.weight"} <= set(conversion.new)
    assert {"encoder.linear.weight", "decoder.enter.weight"} <= set(conversion.dropped)
    assert not target.decoder.out.weight.any() and not target.encoder.out.weight.any()
    assert set(conversion.kept) | set(conversion.new) == set(mine)
    assert "kept; new: " in str(conversion)


def test_conversion_between_grids_of_one_depth_starts_from_the_linear_paths() -> None:
    """Tensors of the same shape and place that mean another thing by now."""
    other = replace(DEEPER, levels=(*TINY.levels, Level((2, 2, 2), 24, 1, 2)))
    target = randomized(OneVAE(other), seed=1)
    conversion = convert(randomized(OneVAE(DEEPER)).state_dict(), DEEPER, target)
    assert {"encoder.out.weight", "decoder.out.weight", "encoder.linear.weight"} <= set(conversion.new)
    assert not target.encoder.out.weight.any() and not target.decoder.out.weight.any()


def test_conversion_to_a_deeper_decoder_changes_nothing_yet() -> None:
    """Blocks that are new begin as the identity."""
    levels = (TINY.levels[0], replace(TINY.levels[1], decoder_blocks=4))
    source, target = randomized(OneVAE(TINY)).eval(), OneVAE(replace(TINY, levels=levels)).eval()
    conversion = convert(source.state_dict(), TINY, target)
    assert not conversion.dropped and all(name.startswith("decoder.chain.") for name in conversion.new)
    codes = torch.rand(1, 24, 2, 3, 4) * 2 - 1
    assert torch.allclose(source.decoder(codes, None)[0], target.decoder(codes, None)[0], atol=1e-5)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_conversion_to_wider_blocks_changes_nothing_yet(blocks: str) -> None:
    """But all that is new can learn: it is read by what a gradient reaches."""
    narrow = replace(TINY, blocks=blocks)
    source, target = randomized(OneVAE(narrow)).eval(), OneVAE(replace(narrow, expansion=1.5)).eval()
    conversion = convert(source.state_dict(), narrow, target)
    assert not conversion.new and not conversion.dropped
    video = torch.rand(1, 3, 16, 16, 24) * 2 - 1
    with torch.inference_mode():
        digits, _ = source.encode_digits(video, None)
        assert torch.equal(target.encode_digits(video, None)[0], digits)
        assert torch.allclose(source.decode_digits(digits, None)[0], target.decode_digits(digits, None)[0], atol=1e-5)
    optimizer = torch.optim.SGD(target.decoder.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in target.decoder.named_parameters()}
    for _ in range(2):
        optimizer.zero_grad()
        target.decoder(torch.rand(1, 24, 2, 3, 4) * 2 - 1, None)[0].square().mean().backward()
        optimizer.step()
    for name, value in target.decoder.named_parameters():
        if ".spatial." in name and name.endswith("weight"):
            assert (value != before[name]).flatten(1).any(1).all(), name


def test_conversion_to_another_quantizer_keeps_both_networks() -> None:
    target = OneVAE(replace(TINY, codebook=Codebook("simvq", 6, 32)))
    conversion = convert(randomized(OneVAE(TINY)).state_dict(), TINY, target)
    assert set(conversion.new) == {"quantizer.entries", "quantizer.map.weight"} and not conversion.dropped


def test_complexity_counts_what_the_networks_multiply() -> None:
    config = replace(TINY, levels=(replace(TINY.levels[0], encoder_blocks=0, decoder_blocks=0),))
    figures = complexity(OneVAE(config))
    positions = 256 * 256 / 4 / 4 / 2
    block, width, latents = 3 * 2 * 4 * 4, 8, 24
    assert figures.encoder_gmac == pytest.approx(positions * (block * width + width * latents + block * latents) / 1e9)
    decoding = latents * width + 9 * width * block + latents * block
    assert figures.decoder_gmac == pytest.approx(positions * decoding / 1e9)


LAYERS = {
    "full": lambda: FullBlock(8),
    "frame": lambda: CausalChain([FrameBlock(8)]),
    "blend": lambda: CausalChain([BlendedUnshuffle(8, 8, (1, 2, 2)), BlendedShuffle(8, 8, (2, 1, 1))]),
    "temporal": lambda: TemporalConv(8, 8),
    "block": lambda: ResidualBlock(8),
    "chain": lambda: CausalChain([FrameConv(8, 8), PositionNorm(8), ResidualBlock(8)]),
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_gradients_of_a_temporal_convolution_are_its_slopes(frames: int, causal: bool) -> None:
    """The gradient of what it stacks is written by hand."""
    torch.manual_seed(0)
    layer = TemporalConv(2, 3, causal=causal).double()
    x, memory = (torch.randn(2, 2, t, 2, 3, dtype=torch.float64, requires_grad=True) for t in (frames, 2))
    for state in (None, memory) if causal else (None,):
        inputs = [given for given in (x, state) if given is not None]
        assert torch.autograd.gradcheck(lambda *given: layer(given[0], given[1] if given[1:] else None)[0], inputs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_bf16_gradients_are_close_to_fp32(name: str, frames: int, memory_format: torch.memory_format) -> None:
    """The trap that `TemporalConv` avoids: conv3d (3, 1, 1) in bf16 gives NaN gradients for two contiguous frames."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 8, frames, 16, 16).contiguous(memory_format=memory_format)
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y, _ = layer(x, None)
        y.float().square().mean().backward()
        gradients.append([p.grad.clone() for p in layer.parameters() if p.requires_grad])
    for exact, rounded in zip(*gradients, strict=True):
        assert torch.isfinite(rounded).all()
        assert (rounded - exact).norm() <= 0.03 * exact.norm() + 1e-6


def test_fsq_digits_cover_every_level_and_no_more() -> None:
    fsq = FSQ((8, 8, 8, 5, 5, 5), tokens=2)
    latents = torch.linspace(-8, 8, 2001).expand(1, 12, 2001)[..., None, None]
    digits = fsq.digits(latents)
    for channel, levels in enumerate([8, 8, 8, 5, 5, 5] * 2):
        assert digits[0, channel].unique().tolist() == list(range(levels))


def test_fsq_codes_of_digits_are_those_the_decoder_trains_on() -> None:
    fsq = FSQ((8, 5), tokens=1)
    latents = torch.randn(2, 2, 3, 4, 5) * 2
    assert torch.allclose(fsq.codes(fsq.digits(latents)), fsq.straight_through(latents), atol=1e-6)


def test_fsq_stays_exact_in_a_bf16_module() -> None:
    fsq = FSQ((8, 5), tokens=1)
    latents = torch.randn(1, 2, 3, 4, 5)
    assert torch.equal(fsq.digits(latents), FSQ((8, 5), tokens=1).bfloat16().digits(latents))


def test_fsq_gradient_is_that_of_the_continuous_path() -> None:
    fsq = FSQ((8, 5), tokens=1)
    latents = torch.randn(1, 2, 3, 4, 5, requires_grad=True)
    weight = torch.randn(1, 2, 3, 4, 5)
    (rounded,) = torch.autograd.grad((fsq.straight_through(latents) * weight).sum(), latents)
    (smooth,) = torch.autograd.grad((fsq.continuous(latents) * weight).sum(), latents)
    assert torch.allclose(rounded, smooth)


@pytest.mark.parametrize("name", presets_of(OneVAEConfig))
def test_presets_build_and_code(name: str) -> None:
    config = presets_of(OneVAEConfig)[name]
    model = OneVAE(config).eval()
    st, sh, sw = config.stride
    with torch.inference_mode():
        digits, _ = model.encode_digits(torch.zeros(1, 3, st, 2 * sh, 3 * sw), None)
        assert digits.shape == (1, config.latent_channels, math.prod(config.first_grid), 2, 3)
        assert model.decode_digits(digits, None)[0].shape == (1, 3, st, 2 * sh, 3 * sw)
    assert math.prod(config.fsq_levels) <= 1 << 16


def test_weights_round_trip() -> None:
    model = randomized(OneVAE(TINY))
    loaded = build(CODEC, Given(TINY, dump_weights(model, TINY, {})))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())


def test_weights_that_do_not_fit_are_refused() -> None:
    data = dump_weights(randomized(OneVAE(TINY)), TINY, {})
    with pytest.raises(ModelError, match="does not fit"):
        build(CODEC, Given(PRESETS["onevae-nano-4x8x8"], data))
    with pytest.raises(ModelError, match="not a readable"):
        build(CODEC, Given(TINY, data[: len(data) // 2]))


def test_weights_with_a_nan_are_refused() -> None:
    model = randomized(OneVAE(TINY))
    with torch.no_grad():
        model.decoder.count_bias[0, 0] = math.nan
    with pytest.raises(ModelError, match="not finite"):
        build(CODEC, Given(TINY, dump_weights(model, TINY, {})))
