"""Stage `latent-flow` learns from clips and resumes exactly; stage `redrawn` trains a decoder on what it draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_helpers import make_clips, tiny_weights
from generator_helpers import SMALL_FLOW, flow_weights, random_flow
from helpers import inside
from safetensors.numpy import load_file

from vtok_codec.errors import TrainingError
from vtok_codec.layout import GopLayout
from vtok_codec.models.weights import LATENT_FLOW, build, dump_weights
from vtok_codec.registry import is_generator
from vtok_codec.training.codec.redrawing import Redrawing
from vtok_codec.training.data.library import ClipLibrary, clips_to_encode
from vtok_codec.training.latent_flow import latents
from vtok_codec.training.latent_flow.latents import LatentBatches, moments
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import CropShape
from vtok_codec.training.trainer import Trainer
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

SMALL = [
    part
    for setting in ("phases=2x12x32", "width=32", "blocks=2", "heads=2", "reach=2", "warmup_steps=2")
    for part in ("--set", setting)
]
REDRAWN = ["--set", "phases=1x12x32", "--set", "warmup_steps=1", "--set", "redrawn_share=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a tiny model, those of a latent flow for it, and a folder of clips."""
    place = tmp_path_factory.mktemp("place")
    make_clips(place / "clips", [("64x48", 40), ("48x64", 30)])
    flow_weights(place, tiny_weights(place))
    return place


def train(place: Path, run: Path, *more: object) -> tuple[int, str, str]:
    command = ("train", "--stage", "latent-flow", "--codec", place / "tiny.safetensors", "--data", place / "clips")
    return inside(*command, "--run", run, *SMALL, *more)


def stopping(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next run after a step, with a checkpoint."""
    train_step = Trainer._train_step

    def stop(self: Trainer[Any], *args: Any) -> dict[str, float]:
        if self.step == step:
            self.save()
            raise TrainingError("stopped")
        return train_step(self, *args)

    monkeypatch.setattr(Trainer, "_train_step", stop)


def test_it_learns_and_says_how_to_use_it(place: Path, tmp_path: Path, one_thread: None) -> None:
    run = tmp_path / "run"
    more = ("--val", place / "clips", "--val-clips", 2, "--set", "learning_rate=5e-3")
    code, _, told = train(place, run, "--steps", 60, *more)
    assert code == 0 and f"vtok continue --generator {run / 'ema.safetensors'}" in told
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    # A guess of nothing has an error of 1, since latents are standardized.
    assert entries[-1]["error_1"] < 0.9 and entries[-1]["error_0.25"] < entries[-1]["error_0.75"]
    weights = WeightsFile("run", run / "ema.safetensors")
    assert is_generator(weights) and list(run.glob("strip-*.png"))
    assert weights.metadata[CODEC_SHA256] == WeightsFile("tiny", place / "tiny.safetensors").sha256


def test_a_resumed_run_ends_with_the_same_weights(
    place: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(place, whole, "--steps", 6, "-q") == (0, "", "")
    with monkeypatch.context() as patch:
        stopping(3, patch)
        assert train(place, halves, "--steps", 6, "-q")[0] == 8
    assert inside("train", "--resume", halves, "--steps", 6, "-q") == (0, "", "")
    one, other = (load_file(run / "ema.safetensors") for run in (whole, halves))
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_it_goes_on_from_weights_of_its_own_shape(place: Path, tmp_path: Path, one_thread: None) -> None:
    flow, codec = place / "flow.safetensors", place / "tiny.safetensors"
    assert train(place, tmp_path / "run", "--steps", 1, "--set", "learning_rate=0", "-q")[0] == 0
    command = ("train", "--stage", "latent-flow", "--codec", codec, "--data", place / "clips", "--steps", 1, "-q")
    more = ("--set", "phases=2x12x32")
    assert inside(*command, "--run", tmp_path / "second", "--from", flow, *more) == (0, "", "")
    for wrong, told in (
        (("--from", flow, "--set", "width=64"), "width"),
        (("--from", codec), "is no latent flow"),
        (("--preset", "tiny"), "--preset"),
        (("--set", "clean_share=1"), "clean_share"),
        (("--set", "dropout=1"), "dropout"),
        (("--set", "lpips_weight=1"), "lpips_weight"),
        (("--compile",), "--compile"),
    ):
        code, _, error = inside(*command, "--run", tmp_path / "third", *more, *wrong)
        assert code != 0 and told in error, wrong


def test_batches_follow_from_their_number_and_differ_between_processes() -> None:
    layout = GopLayout((4, 8, 8), (2, 2))
    random = np.random.default_rng(0)
    clips = [random.normal(size=(frames, 3, *grid)).astype(np.float16) for frames, grid in ((9, (6, 8)), (5, (4, 4)))]
    for clip in clips:
        clip[:, 2] = np.arange(len(clip))[:, None, None]
    shape = CropShape(2, 24, 48)
    made = [LatentBatches(clips, layout, 7, Processes()) for _ in range(2)]
    for number in (3, 0, 11):
        one, other = (batches.batch(number, shape) for batches in made)
        assert torch.equal(one.latents, other.latents) and torch.equal(one.kinds, other.kinds)
        assert one.latents.shape[1] <= 6 and one.latents.shape[3] <= 6 and one.kinds.shape == one.latents.shape[:2]
        # Kinds tell the place in the GOP, which the third channel says here, and from which a part may begin anywhere.
        assert torch.equal(one.kinds, one.latents[:, :, 2, 0, 0].long().clamp(max=layout.phases))
    second = LatentBatches(clips, layout, 7, Processes(1, 2)).batch(3, shape)
    assert not torch.equal(second.latents, made[0].batch(3, shape).latents)
    mean, deviation = moments(clips)
    values = np.concatenate([clip.astype(np.float64).swapaxes(0, 1).reshape(3, -1) for clip in clips], 1)
    assert np.allclose(mean.flatten(), values.mean(1), atol=1e-4)
    assert np.allclose(deviation.flatten(), values.std(1), atol=1e-4)


def test_a_decoder_trains_on_redrawn_latents(
    place: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its encoder and its tokens stay; the run resumes from another folder to the same weights."""
    codec = place / "tiny.safetensors"
    command = ("train", "--stage", "redrawn", "--from", codec, "--data", place / "clips", "--steps", 4, "-q", *REDRAWN)
    named = ("--set", "latent_flow=flow.safetensors")
    assert inside(*command, "--run", tmp_path / "whole", *named, cwd=place) == (0, "", "")
    with monkeypatch.context() as patch:
        stopping(2, patch)
        assert inside(*command, "--run", tmp_path / "halves", *named, cwd=place)[0] == 8
    assert inside("train", "--resume", tmp_path / "halves", "--steps", 4, "-q", cwd=tmp_path) == (0, "", "")
    one, other = (load_file(tmp_path / name / "ema.safetensors") for name in ("whole", "halves"))
    before = load_file(codec)
    assert all(np.array_equal(value, other[name]) for name, value in one.items())
    changed = {name for name, value in one.items() if not np.array_equal(value, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    trained = WeightsFile("whole", tmp_path / "whole" / "ema.safetensors")
    assert WeightsFile("tiny", codec).sha256 in trained.reads


def test_redrawing_keeps_what_stands_before_and_the_other_tokens(place: Path) -> None:
    weights = WeightsFile("flow", place / "flow.safetensors")
    flow = build(LATENT_FLOW, weights)
    codes = torch.rand(2, 24, 5, 3, 4) * 2 - 1
    redrawing = Redrawing(flow, WeightsFile("tiny", place / "tiny.safetensors").codec_config.layout, True).train()
    assert not flow.training and redrawing.tokens == 2
    kept = set()
    for seed in range(8):
        made, again = (redrawing(codes, torch.Generator().manual_seed(seed), Processes()) for _ in range(2))
        assert torch.equal(made, again) and torch.equal(made[:, 12:], codes[:, 12:]) and made.abs().max() <= 1
        begin = 1 if torch.allclose(made[:, :12, 0], codes[:, :12, 0], atol=1e-5) else 0
        assert float((made[:, :12, begin:] != codes[:, :12, begin:]).float().mean()) > 0.99
        kept.add(begin)
    # The codec's first frame is a single latent frame, which stays or is redrawn.
    assert kept == {0, 1}


def test_a_resumed_run_notices_another_latent_flow(place: Path, tmp_path: Path, one_thread: None) -> None:
    flow = tmp_path / "flow.safetensors"
    shutil.copy(place / "flow.safetensors", flow)
    command = ("train", "--stage", "redrawn", "--from", place / "tiny.safetensors", "--data", place / "clips", *REDRAWN)
    run = tmp_path / "run"
    assert inside(*command, "--run", run, "--steps", 1, "-q", "--set", f"latent_flow={flow}") == (0, "", "")
    codec = WeightsFile("tiny", place / "tiny.safetensors")
    config = replace(SMALL_FLOW, codec=codec.codec_config)
    flow.write_bytes(dump_weights(random_flow(config, 1), config, {CODEC_SHA256: codec.sha256}))
    code, _, told = inside("train", "--resume", run, "--steps", 2, "-q")
    assert code == 8 and "made beside another latent flow" in told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ((), "name the weights or the run of a latent flow"),
        (("--set", "latent_flow=tiny.safetensors"), "not a latent flow"),
        (("--set", "latent_flow=flow.safetensors", "--set", "trains=encoder,decoder"), "decoder alone"),
        (("--set", "latent_flow=flow.safetensors", "--set", "redrawn_share=2"), "redrawn_share"),
    ],
)
def test_what_cannot_redraw_is_refused(place: Path, tmp_path: Path, wrong: tuple[str, ...], told: str) -> None:
    command = ("train", "--stage", "redrawn", "--from", "tiny.safetensors", "--data", "clips", "--steps", 1)
    code, _, error = inside(*command, "--run", tmp_path / "run", *REDRAWN, *wrong, cwd=place)
    assert code != 0 and told in error and error.count("\n") <= 2


def test_it_goes_on_for_the_codec_of_the_weights_to_start_from(place: Path, tmp_path: Path, one_thread: None) -> None:
    """And not for the default one, whose latents mean something else."""
    shutil.copy(place / "flow.safetensors", tmp_path / "ema.safetensors")
    command = ("train", "--stage", "latent-flow", "--from", tmp_path / "ema.safetensors", "--data", place / "clips")
    more = ("--set", "phases=2x12x32", "--steps", 1)
    code, _, told = inside(*command, "--run", tmp_path / "run", *more)
    assert code == 6 and told.count("\n") == 1 and told.endswith("as codec.safetensors, or name it with --codec\n")
    shutil.copy(place / "tiny.safetensors", tmp_path / "codec.safetensors")
    code, _, told = inside(*command, "--run", tmp_path / "run", *more)
    assert code == 0, told
    made = WeightsFile("run", tmp_path / "run" / "ema.safetensors").metadata
    assert made[CODEC_SHA256] == WeightsFile("tiny", place / "tiny.safetensors").sha256


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_hides_the_bar_of_the_clips(
    place: Path, tmp_path: Path, quiet: bool, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    asked = []

    def noting(library: ClipLibrary, paths: Sequence[Path], mirrored: bool, quiet: bool) -> Iterator[Any]:
        asked.append(quiet)
        return clips_to_encode(library, paths, mirrored, quiet)

    monkeypatch.setattr(latents, "clips_to_encode", noting)
    assert train(place, tmp_path / "run", "--steps", 1, *(["-q"] if quiet else []))[0] == 0
    assert asked == [quiet]
