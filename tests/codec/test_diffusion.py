"""Diffusion decoders: they start at the deterministic one, stream, repeat, train, and refuse other codecs' tokens."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import LANES, TINY, Given, randomized
from torch import Tensor

from vtok_codec.api import Codec
from vtok_codec.cli.train import _DENOISERS
from vtok_codec.codec.decoder import decode_events
from vtok_codec.codec.decoders import Decoders
from vtok_codec.codec.diffusion import DiffusionDecoder
from vtok_codec.codec.encoder import encode_video
from vtok_codec.codec.noise import MAX_SEED
from vtok_codec.codec.pixel_decoder import DecoderChoice
from vtok_codec.codec.tokenizer import Tokenizer, load_tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import InputError, ModelError, SettingError, TrainingError
from vtok_codec.evaluation.codecs import model_codecs
from vtok_codec.media.reader import read_pixels
from vtok_codec.media.types import Frame, VideoInfo
from vtok_codec.metrics.complexity import complexity
from vtok_codec.metrics.lpips import load_lpips
from vtok_codec.models.causal import State
from vtok_codec.models.config import OBJECTIVES, DenoiserConfig
from vtok_codec.models.denoiser import Denoiser
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.paths import PATHS
from vtok_codec.models.presets import PRESETS, presets_of
from vtok_codec.models.sampling import sample
from vtok_codec.models.weights import CODEC, DIFFUSION_DECODER, build, dump_weights
from vtok_codec.registry import RUN_WEIGHTS, find_decoder
from vtok_codec.stream.settings import EncodeSettings
from vtok_codec.training.checkpoint import read_checkpoint
from vtok_codec.training.codec.klt import warm_start
from vtok_codec.training.data.crops import CropSampler
from vtok_codec.training.data.library import ClipLibrary
from vtok_codec.training.diffusion.objective import DenoisingObjective
from vtok_codec.training.diffusion.stages import DiffusionRecipe
from vtok_codec.training.diffusion.validation import validate
from vtok_codec.training.recipe import Augmentation, CropShape, Phase, override
from vtok_codec.training.run import resume_training, run_training
from vtok_codec.training.schedule import Budget
from vtok_codec.training.settings import RunSettings
from vtok_codec.training.stages import STAGES
from vtok_codec.training.trainer import LOG, Trainer
from vtok_codec.weights_file import WeightsFile


def recipe() -> DiffusionRecipe:
    """The recipe of the stage that trains diffusion decoders."""
    found = STAGES["diffusion"].recipe
    assert isinstance(found, DiffusionRecipe)
    return found


CONFIGS = {objective: DenoiserConfig(TINY, objective, (1,) * len(TINY.levels)) for objective in PATHS}


@pytest.fixture(autouse=True)
def small(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    for objective, config in CONFIGS.items():
        monkeypatch.setitem(PRESETS, f"{objective}-tiny", config)
    phases = (Phase(0.0, CropShape(2, 8, 32)),)
    quick = replace(recipe(), phases=phases, warmup_steps=2)
    monkeypatch.setitem(STAGES, "diffusion", replace(STAGES["diffusion"], recipe=quick))


@pytest.fixture(scope="module")
def codec() -> OneVAE:
    return randomized(OneVAE(TINY)).eval()


@pytest.fixture(params=CONFIGS)
def denoiser(request: pytest.FixtureRequest, codec: OneVAE) -> Denoiser:
    return randomized(Denoiser(CONFIGS[request.param]), seed=3).eval()


def random_codes(latents: int = 5, batch: int = 2) -> Tensor:
    return torch.rand(batch, 24, latents, 3, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def random_noise(latents: int = 5, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 4 * latents, 24, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("objective", PATHS)
@torch.inference_mode()
def test_it_starts_as_the_deterministic_decoder(codec: OneVAE, objective: str, steps: int) -> None:
    denoiser, counts = Denoiser(CONFIGS[objective]).eval(), torch.tensor([1, 3])
    denoiser.start_from(codec.decoder)
    picture, _ = codec.decoder(random_codes(), None, counts)
    got, _ = sample(denoiser, random_codes(), random_noise(), None, counts, steps)
    assert torch.allclose(got, picture, atol=1e-4)


@torch.inference_mode()
def test_chunks_equal_the_whole_on_the_same_noise(denoiser: Denoiser) -> None:
    codes, noise, counts = random_codes(), random_noise(), torch.tensor([2, 4])
    whole, _ = sample(denoiser, codes, noise, None, counts, 3)
    state: State = None
    parts = []
    for begin, end in ((0, 1), (1, 3), (3, 5)):
        part, state = sample(denoiser, codes[:, :, begin:end], noise[:, :, 4 * begin : 4 * end], state, counts, 3)
        parts.append(part)
    assert torch.allclose(torch.cat(parts, dim=2), whole, atol=1e-4)


@torch.inference_mode()
def test_all_that_it_reads_counts(denoiser: Denoiser) -> None:
    codes, noise = random_codes(), random_noise()
    whole, _ = sample(denoiser, codes, noise, None, None, 2)
    later = noise.clone()
    later[:, :, 8:] = random_noise(3, seed=2)
    changed, _ = sample(denoiser, codes, later, None, None, 2)
    assert torch.allclose(whole[:, :, :8], changed[:, :, :8], atol=1e-5)
    assert not torch.allclose(whole[:, :, 8:12], changed[:, :, 8:12], atol=1e-3)
    fewer, _ = sample(denoiser, codes, noise, None, torch.tensor([1, 1]), 2)
    assert not torch.allclose(fewer, whole, atol=1e-3)
    condition, _ = denoiser.condition(codes, None, torch.tensor([4, 4]))
    times = torch.ones(2)
    told, _ = denoiser(noise, None, times, condition)
    assert not torch.allclose(denoiser(noise, None, 0.2 * times, condition)[0], told, atol=1e-3)
    for scale in range(2):
        without = tuple(torch.zeros_like(f) if n == scale else f for n, f in enumerate(condition.features))
        other, _ = denoiser(noise, None, times, condition._replace(features=without))
        assert not torch.allclose(other, told, atol=1e-3)
    for changes in ({"codes": -codes}, {"counts": torch.tensor([1, 1])}):
        other, _ = denoiser(noise, None, times, condition._replace(**changes))
        assert not torch.allclose(other, told, atol=1e-3)


@pytest.mark.parametrize("objective", PATHS)
def test_paths_lead_from_video_to_noise(objective: str) -> None:
    path = PATHS[objective]
    clean, noise = random_noise(seed=5), random_noise(seed=6)
    assert torch.allclose(path.noisy(clean, noise, torch.zeros(2)), clean, atol=1e-6)
    assert torch.allclose(path.noisy(clean, noise, torch.ones(2)), noise, atol=1e-6)
    # A network that is always right is followed along the path, whatever the steps.
    middle = path.step(noise, clean, torch.tensor(1.0), torch.tensor(0.4))
    assert torch.allclose(middle, path.noisy(clean, noise, torch.full((2,), 0.4)), atol=1e-5)
    assert torch.allclose(path.step(middle, clean, torch.tensor(0.4), torch.tensor(0.0)), clean, atol=1e-5)


def test_the_flow_steps_along_its_velocity() -> None:
    """One-DVA, eq. 2, with the velocity that x₀ implies."""
    noisy, clean = random_noise(seed=5), random_noise(seed=6)
    t, s = torch.tensor(0.8), torch.tensor(0.3)
    velocity = (noisy - clean) / t
    assert torch.allclose(PATHS["flow"].step(noisy, clean, t, s), noisy + velocity * (s - t), atol=1e-5)


def test_weights_of_times_are_bounded() -> None:
    times = torch.linspace(1e-4, 1, 50)
    ddim = PATHS["ddim"].weight(times)
    assert ddim.max() == 5 and ddim.min() == pytest.approx(0.2) and (ddim.diff() <= 0).all()
    snr = (math.cos(0.45 * math.pi / 2) / math.sin(0.45 * math.pi / 2)) ** 2
    assert float(PATHS["ddim"].weight(torch.tensor(0.45))) == pytest.approx(snr, rel=1e-5)
    flow = PATHS["flow"].weight(times)
    assert flow.max() == pytest.approx(100) and flow[-1] == 1


@pytest.mark.parametrize("scales", [1, 2])
def test_an_adapter_may_have_fewer_scales(scales: int) -> None:
    denoiser = Denoiser(replace(CONFIGS["ddim"], adapter_scales=scales))
    features, _ = denoiser.adapter(random_codes(), None, torch.tensor([4, 4]))
    assert [f.shape[-1] for f in features] == [4, 8][:scales]
    noise = random_noise()
    assert sample(denoiser, random_codes(), noise, None)[0].shape == noise.shape


@pytest.mark.parametrize("changes", [{"causal": False}, {"enhanced_first_frame": True}])
def test_codecs_of_another_kind_have_none(changes: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        DenoiserConfig(replace(TINY, **changes), "ddim", (1, 1))  # type: ignore[arg-type]


def test_the_command_line_names_presets_that_exist() -> None:
    assert _DENOISERS.keys() == PATHS.keys() == set(OBJECTIVES)
    assert all(presets_of(DenoiserConfig)[preset].objective == objective for objective, preset in _DENOISERS.items())


def test_every_level_needs_its_blocks() -> None:
    with pytest.raises(ModelError, match="do not fit"):
        DenoiserConfig(TINY, "ddim", (1,))


@pytest.mark.parametrize("steps", [0, 17])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(SettingError, match="steps"):
        sample(Denoiser(CONFIGS["ddim"]), random_codes(), random_noise(), None, None, steps)


@pytest.mark.parametrize("name", presets_of(DenoiserConfig))
def test_presets_fit_their_codecs(name: str) -> None:
    config = presets_of(DenoiserConfig)[name]
    cost = complexity(Denoiser(config))
    # One step has to stay within four times the deterministic decoder's time.
    assert cost.encoder_gmac == 0 and cost.decoder_gmac < 2 * complexity(OneVAE(config.codec)).decoder_gmac


@pytest.mark.parametrize("objective", PATHS)
def test_every_parameter_trains(codec: OneVAE, objective: str) -> None:
    model = randomized(Denoiser(CONFIGS[objective]), seed=3)
    loss_of = DenoisingObjective(recipe(), codec, load_lpips())
    video = torch.rand(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loss = loss_of(model, video, torch.Generator().manual_seed(0), progress=0.5)
    loss.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert not any(parameter.grad is not None for parameter in codec.parameters())
    assert set(loss.parts) == {"error", "weighted", "lpips"} and loss.indices is None


def test_stages_of_noise() -> None:
    """One-DVA: nothing but noise at first, then at a tenth of the times; LPIPS in the second part only."""
    stage = replace(recipe(), noise_only_until=0.2, noise_only_share=0.1, lpips_start=0.4)
    loss_of = DenoisingObjective(stage, randomized(OneVAE(TINY)), load_lpips())
    generator = torch.Generator().manual_seed(0)
    assert (loss_of._times("flow", 100, generator, 0.1) == 1).all()
    for objective in PATHS:
        times = loss_of._times(objective, 4000, generator, 0.3)
        assert 0.08 < float((times == 1).float().mean()) < 0.12 and times.min() > 0 and times.max() == 1
    video = torch.rand(1, 3, 8, 32, 32) * 2 - 1
    early = loss_of(Denoiser(CONFIGS["flow"]), video, generator, progress=0.3)
    assert "lpips" not in early.parts


def settings_of(data: Path, objective: str, codec: Path, start: str | None = None) -> RunSettings:
    return RunSettings(
        stage="diffusion",
        preset=f"{objective}-tiny",
        start=start,
        data=(str(data),),
        validation=str(data),
        validation_clips=1,
        seed=5,
        device="cpu",
        cache_gib=1.0,
        compiled=False,
        overrides=(),
        codec=str(codec),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A folder with a clip, and a codec made of the KLT of its blocks."""
    folder = tmp_path_factory.mktemp("diffusion")
    data = folder / "data"
    data.mkdir()
    (data / "lanes.mp4").symlink_to(LANES)
    model = OneVAE(TINY)
    warm_start(model, CropSampler(ClipLibrary([data], 1 << 30), Augmentation(), 0, TINY.layout), batches=3)
    codec = folder / "codec.safetensors"
    codec.write_bytes(dump_weights(model, TINY, {}))
    yield data, codec


@pytest.mark.parametrize("objective", PATHS)
def test_it_learns_what_the_deterministic_decoder_leaves(trained: tuple[Path, Path], objective: str) -> None:
    data, codec_path = trained
    codec = build(CODEC, Given(TINY, codec_path.read_bytes()))
    model = Denoiser(CONFIGS[objective])
    model.start_from(codec.decoder)
    loss_of = DenoisingObjective(replace(recipe(), lpips_weight=0.0), codec, None)
    video = CropSampler(ClipLibrary([data], 1 << 30), Augmentation(), 1, TINY.layout).batch(0, CropShape(4, 8, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    errors = []
    for step in range(60):
        loss = loss_of(model, video, torch.Generator().manual_seed(step % 3))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        errors.append(float(loss.parts["error"]))
    assert np.mean(errors[-3:]) < 0.9 * np.mean(errors[:3]), (errors[:3], errors[-3:])


def test_a_run_tells_how_it_does_and_what_it_is_for(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, codec = trained
    run_training(settings_of(data, "flow", codec), tmp_path / "run", Budget(steps=2), quiet=True)
    log = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    figures = log[-1]
    for name in ("psnr_1_base", "psnr_1_1_steps", "psnr_2_2_steps", "lpips_2_2_steps", "energy_1_base"):
        assert math.isfinite(figures[name])
    assert 0 < figures["energy_1_base"] < 2 and figures["lpips_1_base"] > 0
    assert list((tmp_path / "run").glob("strip-*.png"))
    run = WeightsFile("run", tmp_path / "run" / RUN_WEIGHTS)
    assert isinstance(run.config, DenoiserConfig)
    assert (run.config.objective, run.metadata["codec"]) == ("flow", "codec")
    decoder = DiffusionDecoder(run, load_tokenizer(WeightsFile("codec", codec), "cpu"))
    assert decoder.steps == 1 and decoder.chosen(2, 1).steps == 2
    on = replace(settings_of(data, "flow", codec, str(tmp_path / "run")), validation=None)
    run_training(on, tmp_path / "on", Budget(steps=1), quiet=True)
    run_training(replace(on, preset="ddim-tiny"), tmp_path / "other", Budget(steps=1), quiet=True)
    made, given = (WeightsFile("run", tmp_path / name / RUN_WEIGHTS) for name in ("other", "run"))
    assert isinstance(made.config, DenoiserConfig) and made.config.objective == "ddim"
    ours, theirs = (build(DIFFUSION_DECODER, file).state_dict() for file in (made, given))
    assert all(torch.allclose(value, theirs[name], atol=1e-2) for name, value in ours.items())
    monkeypatch.setitem(PRESETS, "wide", replace(CONFIGS["ddim"], down_blocks=(2, 2)))
    with pytest.raises(ModelError, match="does not have the shape of the decoder"):
        run_training(replace(on, preset="wide"), tmp_path / "off", Budget(steps=1), quiet=True)
    with pytest.raises(SettingError, match="is for stage diffusion"):
        run_training(replace(on, stage="discrete"), tmp_path / "off", Budget(steps=1), quiet=True)


def test_a_resumed_run_ends_with_the_same_weights(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, codec = trained
    settings = replace(settings_of(data, "ddim", codec), validation=None)
    run_training(settings, tmp_path / "whole", Budget(steps=4), quiet=True)

    class StoppedError(Exception):
        pass

    def stop_at_two(self: Trainer[Denoiser], *args: object, **kwargs: object) -> dict[str, float]:
        if self.step == 2:
            self.save()
            raise StoppedError
        return train_step(self, *args, **kwargs)  # type: ignore[arg-type]

    train_step = Trainer._train_step
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Trainer, "_train_step", stop_at_two)
        run_training(settings, tmp_path / "halves", Budget(steps=4), quiet=True)
    resume_training(tmp_path / "halves", Budget(steps=4), quiet=True)
    whole, halves = (read_checkpoint(tmp_path / name) for name in ("whole", "halves"))
    assert whole["step"] == halves["step"] == 4
    for part in ("model", "ema"):
        assert all(torch.equal(value, halves[part][name]) for name, value in whole[part].items())
    other = tmp_path / "other.safetensors"
    other.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    text = (tmp_path / "halves" / "run.json").read_text()
    (tmp_path / "halves" / "run.json").write_text(text.replace(str(codec), str(other)))
    with pytest.raises(TrainingError, match="beside another codec_sha256"):
        resume_training(tmp_path / "halves", Budget(steps=5), quiet=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("token_weights", "1,1"),
        ("token_weights", "-1,1,1,1"),
        ("warmup_steps", "0"),
        ("rate_weights", "1,1,1,1"),
        ("trains", "decoder"),
        ("adversarial_weight", "1"),
        ("distortion", "mse"),
    ],
)
def test_settings_that_it_cannot_use_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, key: str, value: str
) -> None:
    data, codec = trained
    with pytest.raises(SettingError, match=f"setting {key}"):
        settings = replace(settings_of(data, "ddim", codec), overrides=((key, value),))
        run_training(settings, tmp_path / "run", Budget(steps=1), quiet=True)
    with pytest.raises(SettingError, match="noise_only_until"):
        override(STAGES["discrete"].recipe, (("noise_only_until", "0.5"),), "discrete")


@torch.inference_mode()
def test_a_flat_clip_has_no_energy_to_keep(codec: OneVAE) -> None:
    figures = validate(Denoiser(CONFIGS["ddim"]).eval(), codec, [torch.zeros(3, 5, 32, 32)], None)
    assert set(figures) == {f"psnr_{k}_{name}" for k in (1, 2) for name in ("base", "1_steps", "2_steps")}


@pytest.fixture
def pair(codec: OneVAE, tmp_path: Path) -> tuple[Tokenizer, WeightsFile]:
    """A codec, and the weights of a diffusion decoder for it."""
    path = tmp_path / "codec.safetensors"
    path.write_bytes(dump_weights(codec, TINY, {}))
    file = WeightsFile("codec", path)
    decoder = tmp_path / "decoder.safetensors"
    about = {"codec": "codec", "codec_sha256": file.sha256}
    decoder.write_bytes(dump_weights(randomized(Denoiser(CONFIGS["ddim"]), seed=3), CONFIGS["ddim"], about))
    return load_tokenizer(file, "cpu"), WeightsFile("decoder", decoder)


def coded(tokenizer: Tokenizer, frames: np.ndarray, chunk: int = 4) -> bytes:
    out = io.BytesIO()
    info = VideoInfo(frames.shape[2], frames.shape[1], Fraction(25), Fraction(1, 25))
    video = [Frame(image, number, 1) for number, image in enumerate(frames)]
    encode_video(info, video, tokenizer, EncodeSettings(gop_seconds=0.8, chunk_latents=chunk), out)
    return out.getvalue()


def pixels(data: bytes, decoder: DiffusionDecoder, **window: float) -> np.ndarray:
    events = decode_events(VtkReader(io.BytesIO(data)), decoder, **window)  # type: ignore[arg-type]
    return np.stack([event.pixels for event in events if isinstance(event, Frame)])


def test_decoding_repeats_wherever_it_starts(pair: tuple[Tokenizer, WeightsFile]) -> None:
    tokenizer, file = pair
    frames = read_pixels(LANES, 50)[:, :52, :70]
    data = coded(tokenizer, frames)
    whole = pixels(data, DiffusionDecoder(file, tokenizer).chosen(2, 7))
    assert whole.shape == frames.shape
    assert np.array_equal(pixels(data, DiffusionDecoder(file, tokenizer).chosen(2, 7)), whole)
    assert not np.array_equal(pixels(data, DiffusionDecoder(file, tokenizer).chosen(2, 8)), whole)
    later = pixels(data, DiffusionDecoder(file, tokenizer).chosen(2, 7), start_s=1.2)
    assert np.array_equal(later, whole[30:])
    # GOPs have noise of their own, and one of still pictures must not show its first one again.
    still = coded(tokenizer, np.repeat(frames[:1], 40, axis=0))
    shown = pixels(still, DiffusionDecoder(file, tokenizer).chosen(2, 7))
    assert not np.array_equal(shown[0], shown[17])


def test_how_a_file_is_cut_into_chunks_changes_nothing_visible(pair: tuple[Tokenizer, WeightsFile]) -> None:
    tokenizer, file = pair
    frames = read_pixels(LANES, 40)[:, :48, :64]
    one, other = (pixels(coded(tokenizer, frames, n), DiffusionDecoder(file, tokenizer)) for n in (1, 4))
    assert np.abs(one.astype(int) - other).max() <= 3


def test_arrays_decode_as_files(pair: tuple[Tokenizer, WeightsFile]) -> None:
    tokenizer, file = pair
    frames = read_pixels(LANES, 17)[:, :48, :64]
    api = Codec(tokenizer)
    tokens = api.tokenize(frames)
    made = api.detokenize(tokens, decoder=str(file.path), steps=2, seed=3)
    assert np.array_equal(made, pixels(coded(tokenizer, frames), DiffusionDecoder(file, tokenizer).chosen(2, 3)))


def test_decoders_are_measured_side_by_side(pair: tuple[Tokenizer, WeightsFile], tmp_path: Path) -> None:
    tokenizer, file = pair
    plain, two = model_codecs([tokenizer], [1], decoders=["deterministic", f"{file.path}:3"])
    assert (plain.name, two.name) == ("codec", "codec decoder.safetensors:3")
    assert plain.identity != two.identity and "in 3 steps" in two.description
    source = tmp_path / "lanes.vtk"
    source.write_bytes(coded(tokenizer, read_pixels(LANES, 5)))
    assert not np.array_equal(*(np.stack(list(codec.frames(source))) for codec in (plain, two)))
    with pytest.raises(SettingError, match="steps as a number"):
        model_codecs([tokenizer], [1], decoders=["ddim:two"])


def test_a_decoder_is_measured_with_the_models_that_it_is_for(
    pair: tuple[Tokenizer, WeightsFile], codec: OneVAE, tmp_path: Path
) -> None:
    tokenizer, file = pair
    path = tmp_path / "other.safetensors"
    path.write_bytes(dump_weights(codec, TINY, {"steps": "1"}))
    other = load_tokenizer(WeightsFile("other", path), "cpu")
    measured = model_codecs([other, tokenizer], [1], decoders=["deterministic", str(file.path)])
    assert [each.name for each in measured] == ["other", "codec", "codec decoder.safetensors"]
    with pytest.raises(ModelError, match="is for the tokens of weights"):
        model_codecs([other], [1], decoders=["deterministic", str(file.path)])


def test_decoders_of_other_tokens_are_refused(pair: tuple[Tokenizer, WeightsFile], tmp_path: Path) -> None:
    tokenizer, file = pair
    decoders = Decoders(tokenizer)
    made = decoders.choose(DecoderChoice(str(file.path), 3, MAX_SEED))
    assert isinstance(made, DiffusionDecoder) and (made.steps, made.seed) == (3, MAX_SEED)
    path = tmp_path / "other.safetensors"
    path.write_bytes(dump_weights(randomized(OneVAE(TINY), seed=9), TINY, {}))
    stranger = load_tokenizer(WeightsFile("other", path), "cpu")
    with pytest.raises(ModelError, match="use the deterministic decoder"):
        Decoders(stranger).choose(DecoderChoice(str(file.path)))
    with pytest.raises(ModelError, match="no ddim decoder for these weights"):
        find_decoder("ddim", frozenset(("0" * 64,)))
    with pytest.raises(ModelError, match="no weights file"):
        decoders.choose(DecoderChoice(str(tmp_path / "none.safetensors")))
    with pytest.raises(ModelError, match="holds no ema"):
        decoders.choose(DecoderChoice(str(tmp_path)))
    with pytest.raises(ModelError, match="name it as the decoder"):
        build(CODEC, file)
    with pytest.raises(ModelError, match="not a diffusion decoder"):
        build(DIFFUSION_DECODER, Given(TINY, file.data))
    for steps, seed in ((0, 0), (17, 0), (1, -1), (1, MAX_SEED + 1)):
        with pytest.raises(SettingError, match="give"):
            made.chosen(steps, seed)
    for steps, seed in ((1, 0), (None, 1)):
        with pytest.raises(SettingError, match="no steps and no noise"):
            decoders.choose(DecoderChoice("deterministic", steps, seed))
    with pytest.raises(InputError, match="no GOP -1"):
        made.decode(np.zeros((6, 1, 2, 2), np.uint8), (16, 16), 1, None, -1)


def test_every_seed_has_noise_of_its_own(pair: tuple[Tokenizer, WeightsFile]) -> None:
    tokenizer, file = pair
    decoder = DiffusionDecoder(file, tokenizer)
    noises = [decoder.chosen(1, seed)._noise(0, 0, (1, 1)) for seed in (0, 1, 1 << 63, (1 << 63) + 1, MAX_SEED)]
    noises += [decoder._noise(gop, latent, (1, 1)) for gop, latent in ((1, 0), (0, 1), (MAX_SEED, 0))]
    assert len({noise.tobytes() for noise in noises}) == len(noises)
