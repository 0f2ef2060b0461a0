"""A finer grid for the first frame of a GOP: in the networks, in files, in arrays of tokens, in training."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, LANES, TINY, randomized
from torch import Tensor

from vtok_codec.api import Codec
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.pixel_decoder import check_fits
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.header import Header
from vtok_codec.container.header_json import header_from_json, header_to_json
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import FormatError, InputError, ModelError
from vtok_codec.media.reader import VideoReader, read_pixels
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.models.causal import State
from vtok_codec.models.config import Level
from vtok_codec.models.convert import convert
from vtok_codec.models.first_frame import from_phases, to_phases
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import find_prior
from vtok_codec.stream.headers import make_header
from vtok_codec.stream.reading import read_gops, read_tokens
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.stream.verifying import verify
from vtok_codec.training.codec import setup
from vtok_codec.training.codec.klt import warm_start
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.codec.stages import CodecRecipe
from vtok_codec.training.codec.subject import CodecSubject
from vtok_codec.training.codec.validation import validate
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.optimizer import StageOptimizer
from vtok_codec.training.prior.network import PriorModel
from vtok_codec.training.prior.setup import network_configs
from vtok_codec.training.prior.stages import STAGES as PRIOR_STAGES
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import Augmentation, CropShape
from vtok_codec.training.stages import STAGES
from vtok_codec.training.subject import Request, Start
from vtok_codec.weights_file import WeightsFile

ENHANCED = replace(TINY, levels=(*TINY.levels, Level((1, 2, 2), 24, 1, 2)), enhanced_first_frame=True)
HALVED = replace(TINY, levels=(*TINY.levels, Level((2, 2, 3), 24, 1, 2)), enhanced_first_frame=True)
"""Of twice the stride in time, and of another factor in each direction."""


def random_video(frames: int, height: int = 32, width: int = 48, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.fixture(params=[ENHANCED, HALVED], ids=["4x16x16", "8x16x24"])
def model(request: pytest.FixtureRequest) -> OneVAE:
    return randomized(OneVAE(request.param)).double().eval()


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    path = tmp_path / "enhanced.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(ENHANCED)), ENHANCED, {}))
    return load_tokenizer(WeightsFile("enhanced", path), "cpu")


def test_phases_hold_the_fine_grid_row_by_row() -> None:
    fine = torch.arange(24.0).reshape(1, 1, 1, 4, 6)
    phases = to_phases(fine, (2, 3))
    assert phases.shape == (1, 1, 6, 2, 2)
    assert phases[0, 0, 4].tolist() == fine[0, 0, 0, 1::2, 1::3].tolist()
    assert torch.equal(from_phases(phases, (2, 3)), fine)


@pytest.mark.parametrize("stickiness", [0.0, 0.7])
def test_chunks_equal_the_whole(model: OneVAE, stickiness: float) -> None:
    stride, (rows, columns) = model.config.stride[0], model.config.first_grid
    video = random_video(5 * stride)
    whole, _ = model.encode_digits(video, None, stickiness)
    assert whole.shape[2] == 5 - 1 + rows * columns
    state: State = None
    digits = []
    for part in video.split([stride, 2 * stride, 2 * stride], dim=2):
        coded, state = model.encode_digits(part, state, stickiness)
        digits.append(coded)
    assert torch.equal(torch.cat(digits, dim=2), whole)
    shown, _ = model.decode_digits(whole, None)
    state, pixels = None, []
    for coded in digits:
        decoded, state = model.decode_digits(coded, state)
        pixels.append(decoded)
    assert shown.shape == video.shape
    assert torch.allclose(torch.cat(pixels, dim=2), shown, atol=1e-12)


def test_phases_are_never_sticky(model: OneVAE) -> None:
    """Neighbours in space are no frames one after the other."""
    video = random_video(2 * model.config.stride[0])
    rows, columns = model.config.first_grid
    plain, sticky = (model.encode_digits(video, None, delta)[0] for delta in (0.0, 4.0))
    first = rows * columns
    assert torch.equal(plain[:, :, : first + 1], sticky[:, :, : first + 1])


def test_every_phase_counts_for_the_first_frame_and_the_later_ones(model: OneVAE) -> None:
    stride, (rows, columns) = model.config.stride[0], model.config.first_grid
    digits, _ = model.encode_digits(random_video(2 * stride), None)
    shown, _ = model.decode_digits(digits, None)
    for phase in range(rows * columns):
        changed = digits.clone()
        changed[:, :, phase] = 0
        other, _ = model.decode_digits(changed, None)
        differs = (other != shown).flatten(3).any(3)[0].any(0)
        assert differs[stride - 1] and differs[stride:].any()


def test_no_latent_sees_a_later_frame(model: OneVAE) -> None:
    stride, (rows, columns) = model.config.stride[0], model.config.first_grid
    video = random_video(3 * stride)
    other = video.clone()
    other[:, :, stride:] = random_video(2 * stride, seed=2)
    latents, others = (model.encoder(x, None)[0] for x in (video, other))
    first = rows * columns
    assert torch.equal(latents[:, :, :first], others[:, :, :first])
    assert not torch.equal(latents[:, :, first], others[:, :, first])


@pytest.mark.parametrize("changes", [{"levels": TINY.levels[:1]}, {"causal": False}])
def test_only_where_there_is_a_first_frame_and_a_finer_grid(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="first-frame enhancement"):
        replace(ENHANCED, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 2, 5, 13, 14, 40])
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_files_and_arrays_hold_the_same(tokenizer: Tokenizer, frames: int, chunk: int) -> None:
    pixels = read_pixels(LANES, frames)[:, :50, :70]
    video = [Frame(image, number, 1) for number, image in enumerate(pixels)]
    info = VideoInfo(70, 50, Fraction(25), Fraction(1, 25))
    out = io.BytesIO()
    encode_video(info, video, tokenizer, EncodeSettings(gop_seconds=0.8, chunk_latents=chunk), out)
    summary = verify(io.BytesIO(out.getvalue()), find_prior)
    assert summary.header.model.first_grid == (2, 2) and summary.totals.frames == frames
    shown = list(decode_events(VtkReader(io.BytesIO(out.getvalue())), tokenizer))
    assert [(frame.pts, frame.pixels.shape) for frame in shown if isinstance(frame, Frame)] == [
        (number, (50, 70, 3)) for number in range(frames)
    ]
    if chunk == 4:
        tokens = read_tokens(io.BytesIO(out.getvalue()), find_prior, gop=0)
        in_gop = min(frames, 17)
        assert tokens.shape == (-(-(in_gop + 3) // 4) + 3, 4, 5, 2)
        assert np.array_equal(Codec(tokenizer).tokenize(pixels[:in_gop]), tokens)
        back = Codec(tokenizer).detokenize(tokens, (50, 70), in_gop)
        assert np.array_equal(back, np.stack([f.pixels for f in shown[:in_gop] if isinstance(f, Frame)]))
        gops = list(read_gops(VtkReader(io.BytesIO(out.getvalue())), find_prior))
        again = io.BytesIO()
        Codec(tokenizer).pack([g.tokens for g in gops], again, 25, (50, 70), [g.frames for g in gops])
        # Of a file of one short GOP the header says less.
        assert (again.getvalue() == out.getvalue()) == (frames >= 14)
        totals = verify(io.BytesIO(again.getvalue()), find_prior).totals
        assert replace(totals, file_digest=summary.totals.file_digest) == summary.totals


def test_decoding_may_start_and_recover_anywhere(tokenizer: Tokenizer) -> None:
    out = io.BytesIO()
    with VideoReader(LANES) as reader:
        encode_video(reader.info, reader.events(), tokenizer, EncodeSettings(gop_seconds=0.8), out)
    data = out.getvalue()

    def frames(data: bytes, **window: float) -> list[Frame]:
        events = decode_events(VtkReader(io.BytesIO(data)), tokenizer, **window)  # type: ignore[arg-type]
        return [event for event in events if isinstance(event, Frame)]

    whole = frames(data)
    later = frames(data, start_s=1.0)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(whole[-len(later) :], later, strict=True))
    damaged = bytearray(data)
    damaged[VtkReader(io.BytesIO(data)).index()[1].offset + 60] ^= 1
    recovered = frames(bytes(damaged), recover=True)
    assert len(recovered) == len(whole)
    wrong = [not np.array_equal(a.pixels, b.pixels) for a, b in zip(whole, recovered, strict=True)]
    assert 0 < sum(wrong) <= 20 and not wrong[0] and not wrong[-1]


def test_too_few_latent_frames_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="at least 4 latent frames"):
        Codec(tokenizer).detokenize(np.zeros((3, 2, 2, 1), np.uint16))


def test_headers_tell_the_grid(tokenizer: Tokenizer) -> None:
    header = make_header(
        VideoInfo(70, 50, Fraction(25), Fraction(1, 25)), tokenizer.id, tokenizer.max_tokens, EncodeSettings()
    )
    text = header_to_json(header)
    assert header_from_json(text) == header
    fields = json.loads(text)
    assert fields["model"]["first_grid"] == [2, 2]
    for grid in ([3, 2], [0, 1], [2], "2"):
        fields["model"]["first_grid"] = grid
        with pytest.raises(FormatError, match="first_grid"):
            header_from_json(json.dumps(fields).encode())
    other: Header = replace(header, model=replace(header.model, first_grid=(1, 1)))
    assert "first_grid" not in json.loads(header_to_json(other))["model"]
    with pytest.raises(FormatError, match="does not fit its model"):
        check_fits(tokenizer, other)


def test_a_grid_cannot_make_a_chunk_too_large(tokenizer: Tokenizer) -> None:
    header = make_header(
        VideoInfo(8192, 4096, Fraction(25), Fraction(1, 25)), tokenizer.id, tokenizer.max_tokens, EncodeSettings()
    )
    fields = json.loads(header_to_json(header))
    fields["model"] |= {"stride": [4, 64, 64], "first_grid": [64, 64]}
    with pytest.raises(FormatError, match="a chunk of 402"):
        header_from_json(json.dumps(fields).encode())


def test_golden_file_still_reads() -> None:
    """Two GOPs, of nine and three frames, by `test_container.write_file` with a `first_grid` of 2 and 2."""
    data = (DATA / "golden-first-grid.vtk").read_bytes()
    assert VtkReader(io.BytesIO(data)).header.model.first_grid == (2, 2)
    assert np.array_equal(read_tokens(io.BytesIO(data), find_prior), np.load(DATA / "golden-first-grid.npy"))
    verify(io.BytesIO(data), find_prior)


def test_a_finer_model_gives_the_first_frame_its_weights() -> None:
    """What codes every frame on the finer grid is what the enhanced first frame needs."""
    source, target = randomized(OneVAE(TINY)).eval(), randomized(OneVAE(ENHANCED), seed=1).eval()
    conversion = convert(source.state_dict(), TINY, target)
    kept = {name for name in conversion.kept if ".first." in name}
    assert {"encoder.first.linear.weight", "encoder.first.out.weight", "decoder.first.enter.weight"} <= kept
    assert {"decoder.first.linear.weight", "decoder.first.count_bias", "encoder.first.norm.weight"} <= kept
    torch.nn.init.zeros_(target.encoder.first.blocks[0].out.weight)  # type: ignore[union-attr]
    torch.nn.init.zeros_(target.encoder.first.blocks[0].out.bias)  # type: ignore[union-attr]
    still = random_video(1).float().expand(-1, -1, 4, -1, -1)
    wanted, _ = source.encoder(still, None)
    got, _ = target.encoder(still, None)
    assert torch.allclose(from_phases(got, (2, 2)), wanted, atol=1e-5)
    back = convert(target.state_dict(), ENHANCED, OneVAE(TINY))
    assert "encoder.linear.weight" in back.kept and "decoder.enter.weight" in back.kept


@pytest.mark.parametrize("name", ["continuous", "discrete", "rate"])
def test_every_parameter_trains(name: str) -> None:
    model = randomized(OneVAE(ENHANCED))
    start = Augmentation(gop_start=1.0)
    recipe = replace(STAGES[name].recipe, lpips_weight=0.0, augmentation=start)
    assert isinstance(recipe, CodecRecipe)
    networks = network_configs(PRIOR_STAGES["prior"][1], ENHANCED.layout.phases)
    prior = PriorModel(*networks, ENHANCED.fsq_levels, ENHANCED.max_tokens) if any(recipe.rate_weights) else None
    objective = CodecObjective(recipe, ENHANCED, None, prior=prior)
    assert objective.unseen_frames == 3
    video = torch.rand(8, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video[:, :, :4] = video[:, :, :1]
    loss = objective(model, video, torch.Generator().manual_seed(0))
    loss.total.backward()
    assert loss.video.shape == loss.reconstruction.shape == (8, 3, 5, 32, 32)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name
    subject = CodecSubject(ENHANCED, [])
    stepped = StageOptimizer(model.to(memory_format=torch.channels_last), subject, [], STAGES[name].recipe)  # type: ignore[call-overload]
    assert {id(p) for p in stepped.parameters} == {id(p) for p in model.parameters()}


def test_compressing_keeps_what_the_first_frame_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 4×8×8 model goes on as the way of the first frame; only the coarse grid starts from the KLT."""
    monkeypatch.setattr(setup, "warm_start", functools.partial(warm_start, batches=2))
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    source = randomized(OneVAE(TINY)).eval()
    start = Start(TINY, source.state_dict(), "here")
    recipe = replace(STAGES["compress"].recipe, lpips_weight=0.0)
    sampler = CropSampler(ClipLibrary([tmp_path], 1 << 30), recipe.augmentation, 0, ENHANCED.layout)
    made = [setup.prepare(Request(ENHANCED, recipe, sampler, [], Processes(), start)).model]
    still = torch.from_numpy(read_pixels(LANES, 1)).permute(3, 0, 1, 2)[None, :, :, :64, :64].float() / 127.5 - 1
    still = still.expand(-1, -1, 4, -1, -1)
    wanted, got = (model.eval().encoder(still, None)[0] for model in (source, made[0]))
    assert torch.allclose(from_phases(got, (2, 2)), wanted, atol=0.02)
    assert made[0].encoder.linear.weight.abs().sum() > 0 and not made[0].encoder.out.weight.any()


def test_the_warm_start_gives_both_grids_their_paths(tmp_path: Path) -> None:
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    sampler = CropSampler(ClipLibrary([tmp_path], 1 << 30), Augmentation(), 0, TINY.layout)
    models = [OneVAE(config).eval() for config in (ENHANCED, replace(ENHANCED, enhanced_first_frame=False))]
    clip = torch.from_numpy(read_pixels(LANES, 17)).permute(3, 0, 1, 2).float() / 127.5 - 1
    clip = clip[:, :, :128, :192]
    for model in models:
        warm_start(model, sampler, batches=2)
    fine, coarse = (validate(model, [clip], [1, 4]) for model in models)
    for tokens in (1, 4):
        assert fine[f"psnr_first_{tokens}"] > coarse[f"psnr_first_{tokens}"] + 0.3
        assert abs(fine[f"psnr_later_{tokens}"] - coarse[f"psnr_later_{tokens}"]) < 0.5
    assert fine["raw_bpp_4"] == pytest.approx(coarse["raw_bpp_4"] * 8 / 5)


def test_crops_may_start_as_gops_do(tmp_path: Path) -> None:
    (tmp_path / "lanes.mp4").symlink_to(LANES)
    library = ClipLibrary([tmp_path], 1 << 30)
    plain, starting = (
        CropSampler(library, Augmentation(gop_start=share), 0, ENHANCED.layout).batch(0, CropShape(4, 16, 32))
        for share in (0.0, 1.0)
    )
    assert torch.equal(starting[:, :, :4], plain[:, :, :1].expand(-1, -1, 4, -1, -1))
    assert torch.equal(starting[:, :, 4:], plain[:, :, 1:13])
