"""Stage `prior`: what is trained is what is written, it learns, it resumes, and its files serve encode and decode."""

from __future__ import annotations

import io
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import SMALL_LANES, TINY, inside, randomized
from prior_helpers import FIRST, LATER, PHASES
from safetensors.numpy import load_file

import vtok_codec
from vtok_codec.codec.tokenizer import Placement, Tokenizer
from vtok_codec.container.reader import VtkReader
from vtok_codec.errors import TrainingError, VtokWarning
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import dump_weights
from vtok_codec.prior_files import PRIOR_FOLDERS, RUN_PRIOR, find_prior
from vtok_codec.stream.reading import read_gops
from vtok_codec.tokens.prior.network import Network, NetworkConfig
from vtok_codec.tokens.prior.prior import ErrorWeights, parse_prior, prior_parts
from vtok_codec.tokens.radix import tokens_to_digits
from vtok_codec.training.checkpoint import read_checkpoint
from vtok_codec.training.prior import errors
from vtok_codec.training.prior.digits import DigitBatches, digits_of_files
from vtok_codec.training.prior.export import export_prior
from vtok_codec.training.prior.growing import can_grow, grown
from vtok_codec.training.prior.network import ABSENT, PriorModel
from vtok_codec.training.prior.stages import STAGES
from vtok_codec.training.recipe import CropShape
from vtok_codec.training.trainer import Trainer
from vtok_codec.weights_file import WeightsFile

LEVELS = (8, 5)


@pytest.mark.parametrize("planes", [2, 4], ids=["one token", "two tokens"])
def test_the_written_network_predicts_what_the_trained_one_does(planes: int) -> None:
    """Of all tokens that it knows, and of fewer."""
    torch.manual_seed(3)
    model = PriorModel(PHASES, LATER, LEVELS, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    prior = parse_prior(export_prior(model, {}))
    rng = np.random.default_rng(1)
    grid = (6, 7)
    limits = np.array(LEVELS * 2)[:planes].reshape(-1, 1, 1)
    frames = [(rng.integers(0, 40, (planes, *grid)) % limits).astype(np.uint8) for _ in range(4)]
    for trained, network in ((model.first, prior.first), (model.later, prior.later)):
        for known in (0, 1, network.config.slots):
            past = [frames[1 + slot] if slot < known else None for slot in range(network.config.slots)]
            stacked = np.stack([np.full_like(frames[0], ABSENT) if each is None else each for each in past])
            with torch.no_grad():
                place = torch.tensor([min(known, network.config.places - 1)])
                arguments = torch.from_numpy(stacked)[None], torch.from_numpy(frames[0])[None], place
                expected = trained(*arguments)[:, 0].numpy().reshape(planes, -1, 8)
            expected[1::2, :, 5:] = 0
            assert np.array_equal(logits_of(network, past, int(place), frames[0]), expected)


@pytest.mark.parametrize("first", [FIRST, PHASES], ids=["without slots", "with slots"])
def test_a_grown_prior_predicts_the_same_and_can_learn_more(first: NetworkConfig) -> None:
    torch.manual_seed(4)
    model = PriorModel(first, LATER, LEVELS, 2)
    larger = [replace(old, channels=old.channels + 3, blocks=old.blocks + 1, features=7) for old in (first, LATER)]
    assert can_grow(first, larger[0]) and not can_grow(larger[0], first)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    made = grown(model, *larger)
    planes, grid = 4, (6, 7)
    limits = torch.tensor(LEVELS * 2).view(-1, 1, 1)
    for old, new in ((model.first, made.first), (model.later, made.later)):
        past = torch.randint(0, 40, (3, max(1, old.config.slots), planes, *grid)) % limits
        digits = torch.randint(0, 40, (3, planes, *grid)) % limits
        arguments = past.to(torch.uint8), digits.to(torch.uint8), torch.zeros(3, dtype=torch.int64)
        assert torch.equal(old(*arguments), new(*arguments))
        new.bits(*arguments).mean().backward()
        assert new.logits.grad is not None and new.logits.grad[:, :, old.config.features :].any()
        assert not old.config.slots or bool(new.from_trunk.grad[:, :, old.config.channels :].any())
    assert parse_prior(export_prior(made, {})).later.config == larger[1]


def logits_of(network: Network, past: list[np.ndarray | None], place: int, digits: np.ndarray) -> np.ndarray:
    frame = network.frame(past, place, len(digits), digits.shape[1:])
    logits = np.zeros((len(digits), digits[0].size, 8), np.float32)
    levels = network.levels
    for plane, values in enumerate(digits.reshape(len(digits), -1)):
        for step in range(network.config.steps):
            places = frame.places(step)
            logits[plane, places, : levels[plane]] = frame.logits(plane, step)
            frame.put(plane, step, values[places])
    return logits


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """The weights of a small codec, alone in a folder."""
    path = tmp_path / "codec" / "ema.safetensors"
    path.parent.mkdir()
    path.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a real clip. The harm of errors is measured on a corner of it, since that takes many decodes."""
    monkeypatch.setattr(errors, "_MAX_SIDE", 32)
    monkeypatch.setattr(errors, "_MAX_LATENTS", 2)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lanes.mp4").symlink_to(SMALL_LANES)
    return folder


def trained(codec: Path, data: Path, run: Path, *more: object) -> tuple[int, str, str]:
    setting = ("--set", "phases=4x4x64", "--set", "channels=4", "--set", "features=4", "--set", "first_features=4")
    return inside("train", "--stage", "prior", "--from", codec, "--data", data, "--run", run, *setting, *more)


def test_a_prior_of_ones_own_packs_and_unpacks(
    codec: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    run, out, back = tmp_path / "run", tmp_path / "out.vtk", tmp_path / "back.mp4"
    code, _, told = trained(codec, data, run, "--val", data, "--steps", 3)
    assert code == 0 and "size_to_waves_1" in told and RUN_PRIOR in told
    prior = WeightsFile("prior", run / "ema.safetensors")
    assert inside("encode", "--model", codec, SMALL_LANES, out, "-q") == (0, "", "")
    assert VtkReader(io.BytesIO(out.read_bytes())).header.prior_sha256 is None
    (codec.parent / RUN_PRIOR).write_bytes(prior.data)
    out.unlink()
    assert inside("encode", "--model", codec, SMALL_LANES, out, "-q") == (0, "", "")
    assert VtkReader(io.BytesIO(out.read_bytes())).header.prior_sha256 == prior.sha256
    assert inside("decode", "--weights", codec, out, back, "-q") == (0, "", "")
    code, _, told = inside("verify", out)
    assert code == 6 and told.count("\n") == 1 and prior.sha256[:12] in told and PRIOR_FOLDERS in told
    with vtok_codec.open(out, model=codec) as clip:
        assert clip.info().totals.frames == 61 and len(clip.tokens()) == 16 == len(next(clip.gops()))
        assert len(clip.tokens(gop=0)) == 16
    monkeypatch.setenv(PRIOR_FOLDERS, str(codec.parent))
    assert inside("verify", out, "-q") == (0, "", "")


def test_a_resumed_run_ends_with_the_same_weights(
    codec: Path, data: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert trained(codec, data, whole, "--steps", 6, "-q")[0] == 0
    train_step = Trainer._train_step

    def stop_at_three(self: Trainer[Any], *args: Any) -> dict[str, float]:
        if self.step == 3:
            self.save()
            raise TrainingError("stopped")
        return train_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop_at_three)
        assert trained(codec, data, halves, "--steps", 6, "-q")[0] != 0
    assert inside("train", "--resume", halves, "--steps", 6, "-q")[0] == 0
    first, last = (read_checkpoint(run)["model"] for run in (whole, halves))
    assert all(torch.equal(first[name], last[name]) for name in first)
    first, last = (load_file(run / "ema.safetensors") for run in (whole, halves))
    assert all(np.array_equal(first[name], last[name]) for name in first)


def test_it_learns(codec: Path, data: Path, tmp_path: Path, one_thread: None) -> None:
    """The cost of digits that were not trained on falls below what equal probabilities give."""
    run = tmp_path / "run"
    assert trained(codec, data, run, "--steps", 60, "--val", data, "-q")[0] == 0
    log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    costs = [line["later_bits"] for line in log if "later_bits" in line]
    assert costs and costs[-1] < 0.9 * math.log2(8)


@pytest.mark.parametrize(
    "wrong", [("--preset", "onevae-nano-4x8x8"), ("--shape", "max_tokens=2"), ("--codec", "onevae-nano-4x8x8")]
)
def test_a_prior_is_for_one_codec(codec: Path, data: Path, tmp_path: Path, wrong: tuple[str, str]) -> None:
    code, _, told = trained(codec, data, tmp_path / "run", "--steps", 1, *wrong)
    assert code == 2 and told.count("\n") == 1 and "--from" in told


def test_files_of_tokens_are_trained_on_as_they_are(codec: Path, data: Path, tmp_path: Path, one_thread: None) -> None:
    """Their digits come from the file; planes of tokens that it lacks are absent, and damaged files are skipped."""
    weights = WeightsFile("codec", codec)
    folder = tmp_path / "encoded" / "deeper"
    folder.mkdir(parents=True)
    file = folder / "lanes.vtk"
    assert inside("encode", "--model", codec, "--tokens", 1, "--gop", 0.7, SMALL_LANES, file, "-q")[0] == 0
    (folder / "broken.vtk").write_bytes(file.read_bytes()[:-40])
    tokenizer = Tokenizer(weights, Placement(torch.device("cpu"), torch.float32))
    with pytest.warns(VtokWarning, match=r"broken\.vtk"):
        files = digits_of_files([str(folder.parent)], tokenizer)
    with file.open("rb") as stream:
        gops = list(read_gops(VtkReader(stream), find_prior))
    levels = weights.codec_config.fsq_levels
    expected = [tokens_to_digits(gop.tokens, levels) for gop in gops]
    (read,) = files
    assert len(read) == len(expected) > 1
    assert all(np.array_equal(one, other) for one, other in zip(read, expected, strict=True))

    batches = DigitBatches(files, STAGES["prior"][1], tokenizer, (0, 2), seed=1)
    batch = batches.batch(0, CropShape(batch=8, frames=16, size=32)).later
    assert batch.digits.shape[1] == len(levels) * weights.codec_config.max_tokens
    assert (batch.digits[:, : len(levels)] != ABSENT).any() and (batch.digits[:, len(levels) :] == ABSENT).all()

    assert trained(codec, data, tmp_path / "run", "--data", folder, "--steps", 2, "-q")[0] == 0


def test_files_packed_with_the_prior_of_their_codec_are_read(
    codec: Path, data: Path, tmp_path: Path, one_thread: None
) -> None:
    """It lies beside the codec's weights. A prior that is missing is no reason to go on without the file."""
    run, chosen = tmp_path / "run", tmp_path / "chosen"
    assert trained(codec, data, run, "--steps", 1, "-q")[0] == 0
    (codec.parent / RUN_PRIOR).write_bytes((run / "ema.safetensors").read_bytes())
    chosen.mkdir()
    assert inside("encode", "--model", codec, "-o", chosen, SMALL_LANES, "-q")[0] == 0
    code, _, told = trained(codec, data, tmp_path / "again", "--data", chosen, "--steps", 1)
    assert code == 0 and "skipped" not in told and "1 .vtk file" in told
    (codec.parent / RUN_PRIOR).unlink()
    code, _, told = trained(codec, data, tmp_path / "without", "--data", chosen, "--steps", 1, "-q")
    assert code == 6 and told.count("\n") == 1 and "packed with the prior" in told


def test_the_harm_of_errors_needs_whole_clips(
    codec: Path, data: Path, tmp_path: Path, ffmpeg: str, one_thread: None
) -> None:
    """Pictures have none after their first frame, and files of few tokens not all of it."""
    pictures, chosen = tmp_path / "pictures", tmp_path / "chosen"
    pictures.mkdir()
    chosen.mkdir()
    subprocess.run(
        [ffmpeg, "-v", "error", "-i", SMALL_LANES, "-frames:v", "1", "-update", "1", pictures / "a.png"], check=True
    )

    def errors(run: str, tokens: int) -> ErrorWeights:
        made = ("--model", codec, "--tokens", tokens, "--duration", 0.4, "--rdo", 0, "-qf", "-o", chosen)
        assert inside("encode", *made, SMALL_LANES) == (0, "", "")
        assert trained(codec, pictures, tmp_path / run, "--data", chosen, "--steps", 1, "-q")[0] == 0
        return prior_parts((tmp_path / run / "ema.safetensors").read_bytes()).errors

    assert errors("few", 1) == {}
    measured = errors("all", 4)
    assert set(measured) == {"1", "2", "3", "4"} and len(set(measured["4"][1])) > 6
    (codec.parent / RUN_PRIOR).write_bytes((tmp_path / "all" / "ema.safetensors").read_bytes())
    assert errors("kept", 1) == measured


def test_files_of_other_tokens_are_left_out(codec: Path, data: Path, tmp_path: Path, one_thread: None) -> None:
    other = tmp_path / "other.vtok"
    assert inside("encode", "--model", "onevae-nano-4x16x16", SMALL_LANES, other, "-q")[0] == 0
    code, _, told = trained(codec, data, tmp_path / "run", "--data", tmp_path, "--steps", 1)
    assert code == 0 and "other.vtok" in told and "by other weights" in told and "0 .vtk files" in told


def test_a_long_file_does_not_outweigh_many_clips(codec: Path) -> None:
    """Its groups of pictures count by the square root of their sum, not each by its own."""
    tokenizer = Tokenizer(WeightsFile("codec", codec), Placement(torch.device("cpu"), torch.float32))
    planes = len(tokenizer.id.levels)
    clips = [[np.zeros((planes, 4, 4, 4), np.uint8)] for _ in range(4)]
    long = [np.ones((planes, 4, 4, 4), np.uint8) for _ in range(100)]
    batches = DigitBatches([*clips, long], STAGES["prior"][1], tokenizer, (0, 2), seed=1)
    batch = batches.batch(0, CropShape(batch=800, frames=16, size=32))
    assert float((batch.later.digits[:, 0, 0, 0] == 1).float().mean()) == pytest.approx(10 / 14, abs=0.06)
    assert float((batch.first.digits[:, 0, 0, 0] == 1).float().mean()) == pytest.approx(1 / 5, abs=0.09)


def test_a_prior_grows_from_the_shape_that_it_has(codec: Path, data: Path, tmp_path: Path, one_thread: None) -> None:
    """What is not asked for stays as it is, though the stage has other defaults."""
    run = tmp_path / "run"
    assert trained(codec, data, run, "--steps", 1, "-q")[0] == 0
    (codec.parent / RUN_PRIOR).write_bytes((run / "ema.safetensors").read_bytes())
    usual = ("--from", codec, "--data", data, "--set", "phases=4x4x64", "--steps", 1)
    larger = ("--run", tmp_path / "larger", "--set", "features=6")
    code, _, told = inside("train", "--stage", "prior", *usual, *larger)
    assert code == 0 and "larger networks" in told
    before, after = (parse_prior((path / "ema.safetensors").read_bytes()) for path in (run, tmp_path / "larger"))
    assert after.later.config == replace(before.later.config, features=6) and after.first.config == before.first.config
    for wrong, said in (("features=257", "257"), ("channels=0", "channels")):
        code, _, told = inside("train", "--stage", "prior", *usual, "--run", tmp_path / "wrong", "--set", wrong, "-q")
        assert code == 2 and told.count("\n") == 1 and said in told
    # What the stage has by default is asked for as well, if it is named.
    usual_size = ("--run", tmp_path / "usual", "--set", f"first_features={STAGES['prior'][1].first_features}")
    assert "larger networks" in inside("train", "--stage", "prior", *usual, *usual_size)[2]
    smaller = ("--run", tmp_path / "smaller", "--set", "channels=2", "--set", "features=2")
    assert "starts a new prior" in inside("train", "--stage", "prior", *usual, *smaller)[2]
