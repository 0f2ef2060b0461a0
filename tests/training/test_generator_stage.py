"""Stage `generator`: it learns from a corpus, resumes exactly, runs in two processes, and refuses what does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus_helpers import begin, make, make_clips, tiny_weights
from generator_helpers import SMALL as SMALL_CONFIG
from generator_helpers import flow_weights, random_generator
from helpers import inside
from safetensors.numpy import load_file

from vtok_codec.corpus.joined_windows import JoinedWindows
from vtok_codec.corpus.windows import TokenWindows
from vtok_codec.errors import TrainingError
from vtok_codec.models.config import GeneratorConfig
from vtok_codec.models.generator import kinds
from vtok_codec.models.weights import dump_weights
from vtok_codec.registry import find_weights, is_decoder, is_generator
from vtok_codec.tokens.radix import tokens_to_digits
from vtok_codec.training.generator.objective import GeneratorObjective
from vtok_codec.training.generator.stages import STAGES
from vtok_codec.training.generator.windows import TokenBatch, WindowBatches
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import CropShape
from vtok_codec.training.trainer import Trainer
from vtok_codec.weights_file import CODEC_SHA256, WeightsFile

SMALL = [
    part
    for setting in ("phases=2x12x32", "width=32", "blocks=2", "heads=2", "reach=2", "warmup_steps=2")
    for part in ("--set", setting)
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three clips by a tiny model, whose weights lie beside it."""
    place = tmp_path_factory.mktemp("corpus")
    clips = make_clips(place / "clips", [("64x48", 40), ("48x64", 30), ("64x48", 13)])
    make(place / "corpus", begin(place / "corpus", [clips], tiny_weights(place)))
    return place / "corpus"


def train(corpus: Path, run: Path, *more: object) -> tuple[int, str, str]:
    return inside("train", "--stage", "generator", "--data", corpus, "--run", run, *SMALL, *more)


def test_it_trains_on_several_corpora(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    """Such as one of the clips and one of their mirror images; never on tokens of different weights."""
    clips, weights = corpus.parent / "clips", corpus.parent / "tiny.safetensors"
    make(tmp_path / "mirrored", begin(tmp_path / "mirrored", [clips], weights, filters="hflip"))
    one, other = (TokenWindows(path, 3, start="every") for path in (corpus, tmp_path / "mirrored"))
    both = JoinedWindows([one, other])
    assert len(both) == len(one) + len(other) == len(both.grids()) == len(both.shards())
    for number in (0, len(one) - 1, len(one), len(both) - 1, -1):
        place = number % len(both)
        expected = one[place] if place < len(one) else other[place - len(one)]
        assert np.array_equal(both[number]["tokens"], expected["tokens"])
    assert not set(both.shards()[: len(one)]) & set(both.shards()[len(one) :])
    with pytest.raises(IndexError):
        both[len(both)]
    code, _, told = train(corpus, tmp_path / "run", "--data", tmp_path / "mirrored", "--steps", 1, "--set", "tokens=0")
    assert code == 0 and f"{2 * len(one)} windows" in told


def test_clips_that_are_too_short_are_told_in_one_line(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    """As a notice, not as Python's warning with a place in a file; and not at all with -q."""
    long = ("--steps", 1, "--set", "phases=2x32x32")
    code, out, told = train(corpus, tmp_path / "run", *long)
    first = told.splitlines()[0]
    assert (code, out) == (0, "") and "Warning" not in told
    assert first == f"vtok: {corpus}: 1 of 3 clips have fewer than 8 latent frames, and no window"
    assert train(corpus, tmp_path / "quiet", *long, "-q") == (0, "", "")


def test_it_learns_and_says_how_to_use_it(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    run = tmp_path / "run"
    clips = corpus.parent / "clips"
    code, _, told = train(corpus, run, "--val", clips, "--val-clips", 2, "--steps", 60, "--set", "learning_rate=5e-3")
    assert code == 0 and "size_to_coder" in told and f"vtok continue --generator {run / 'ema.safetensors'}" in told
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["bits_per_pixel"] > 0
    # Uniform digits would cost log2(64000) / 6 = 2.66 bits each.
    assert entries[0]["loss"] < 2.6
    weights = WeightsFile("run", run / "ema.safetensors")
    assert is_generator(weights) and not is_decoder(weights)
    codec = WeightsFile("tiny", corpus.parent / "tiny.safetensors")
    assert weights.metadata[CODEC_SHA256] == codec.sha256
    assert list(run.glob("strip-*.png"))


def test_a_resumed_run_ends_with_the_same_weights(
    corpus: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(corpus, whole, "--steps", 6, "-q") == (0, "", "")
    train_step = Trainer._train_step

    def stop_at_three(self: Trainer[Any], *args: Any) -> dict[str, float]:
        if self.step == 3:
            self.save()
            raise TrainingError("stopped")
        return train_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop_at_three)
        assert train(corpus, halves, "--steps", 6, "-q")[0] == 8
    code, _, told = inside("train", "--resume", halves, "--steps", 6, "-q", "--set", "width=64")
    assert code == 2 and "it follows from the model" in told and told.count("\n") == 1
    code, _, told = inside("train", "--resume", halves, "--steps", 6, "-q", "--set", "token_weights=1,0,0,0")
    assert code == 2 and "stage generator does not use it" in told
    assert inside("train", "--resume", halves, "--steps", 6, "-q") == (0, "", "")
    one, other = (load_file(run / "ema.safetensors") for run in (whole, halves))
    assert all(np.array_equal(value, other[name]) for name, value in one.items())


def test_it_can_learn_from_what_it_draws(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    assert train(corpus, plain, "--steps", 3, "-q") == (0, "", "")
    assert train(corpus, drawn, "--steps", 3, "-q", "--set", "drawn_share=0.5") == (0, "", "")
    one, other = (load_file(run / "ema.safetensors") for run in (plain, drawn))
    assert any(not np.array_equal(value, other[name]) for name, value in one.items())


def test_a_share_of_a_window_is_seen_as_drawn() -> None:
    """At most the share of positions, all digits of one together, and only values that the digits can have."""
    levels, share = torch.tensor(SMALL_CONFIG.levels).view(-1, 1, 1, 1), 0.4
    random = torch.Generator().manual_seed(1)
    digits = torch.randint(0, 1 << 20, (8, len(levels), 6, 9, 9), generator=random) % levels
    batch = TokenBatch(digits.to(torch.uint8), kinds(6, 4).expand(8, -1), torch.zeros(8, dtype=torch.int64))
    recipe = replace(STAGES["generator"][1], drawn_share=share)
    torch.manual_seed(1)
    context = GeneratorObjective(recipe, 4, None)._partly_drawn(random_generator(), batch, None)
    assert context.dtype == batch.digits.dtype and bool((context < levels).all())
    changed = (context != batch.digits).any(1).float().mean((1, 2, 3))
    assert bool((changed < share + 0.05).all()) and 0.1 < changed.mean() < 0.3 and changed.std() > 0.05


def test_two_processes_train_together_and_keep_a_run_option(corpus: Path, tmp_path: Path) -> None:
    """torchrun has options of its own that begin with `--run`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vtok_codec"]
    command = ["train", "--stage", "generator", "--data", str(corpus), "--run-dir", str(tmp_path / "run"), *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *command, "--steps", "3", "-q"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "ema.safetensors").is_file()


def test_batches_follow_from_their_number(corpus: Path) -> None:
    """After a seek and in any order a batch is the same; each holds pieces of windows with the places in their GOPs."""
    codec = WeightsFile("tiny", corpus.parent / "tiny.safetensors")
    layout, levels = codec.codec_config.layout, codec.codec_config.fsq_levels
    windows = JoinedWindows([TokenWindows(corpus, latents=3, start="every")])
    shape = CropShape(2, 12, 32)

    def batches() -> WindowBatches:
        return WindowBatches(windows, levels, layout, 2, 7, Processes())

    whole = batches()
    in_order = [whole.batch(number, shape) for number in range(20)]
    for number in (19, 3, 4, 0):
        one = whole.batch(number, shape)
        other = batches().batch(number, shape)
        for mine, theirs in ((one, in_order[number]), (other, in_order[number])):
            assert np.array_equal(mine.digits, theirs.digits) and np.array_equal(mine.kinds, theirs.kinds)
    assert {tuple(batch.digits.shape) for batch in in_order} <= {(2, 12, 3, 4, 4), (1, 12, 3, 4, 4)}
    pieces = {
        tokens_to_digits(windows[number]["tokens"][:, top : top + 4, left : left + 4], levels).tobytes()
        for number in range(len(windows))
        for top in range(5)
        for left in range(5)
        if windows[number]["tokens"][:, top : top + 4, left : left + 4].shape[1:3] == (4, 4)
    }
    assert all(sample.numpy().tobytes() in pieces for batch in in_order for sample in batch.digits)


def test_two_processes_see_other_windows(corpus: Path) -> None:
    codec = WeightsFile("tiny", corpus.parent / "tiny.safetensors").codec_config
    windows = JoinedWindows([TokenWindows(corpus, latents=3, start="every")])
    both = [WindowBatches(windows, codec.fsq_levels, codec.layout, 2, 7, Processes(rank, 2)) for rank in (0, 1)]
    first, second = (each.batch(0, CropShape(2, 12, 64)) for each in both)
    assert first.digits.shape != second.digits.shape or not np.array_equal(first.digits, second.digits)


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (2, "--set width", ["--preset", "onevae-nano-4x8x8"]),
        (2, "other weights", ["--codec", "onevae-nano-4x8x8"]),
        (2, "tokens=3", ["--set", "tokens=3"]),
        (2, "dropout", ["--set", "dropout=1"]),
        (2, "same batch size", ["--set", "phases=2x12x32,4x12x32@0.5"]),
        (3, "no window of 100", ["--set", "phases=2x400x32"]),
        (2, "no generator", ["--from", "onevae-nano-4x8x8"]),
        (6, "order", ["--set", "order=spiral"]),
    ],
)
def test_what_does_not_fit_is_refused(corpus: Path, tmp_path: Path, code: int, words: str, options: list[str]) -> None:
    got, out, told = train(corpus, tmp_path / "run", "--steps", 1, *options)
    assert (got, out) == (code, "") and words in told and told.count("\n") == 1, told


def test_a_generator_for_other_tokens_is_refused(corpus: Path, tmp_path: Path) -> None:
    other = replace(SMALL_CONFIG, codec=find_weights("onevae-nano-4x8x8").codec_config)
    path = tmp_path / "other.safetensors"
    path.write_bytes(dump_weights(random_generator(other), other, {CODEC_SHA256: "0" * 64}))
    got, _, told = train(corpus, tmp_path / "run", "--steps", 1, "--from", path)
    assert got == 2 and "draws other tokens" in told and told.count("\n") == 1


def test_clips_are_no_corpus(corpus: Path, tmp_path: Path) -> None:
    got, _, told = train(corpus.parent / "clips", tmp_path / "run", "--steps", 1)
    assert got == 2 and "vtok corpus encode" in told and told.count("\n") == 1


def test_it_goes_on_from_a_generator(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train(corpus, first, "--steps", 2, "-q") == (0, "", "")
    command = ("train", "--stage", "generator", "--data", corpus, "--run", second, "--from", first)
    setting = ("--set", "phases=2x12x32", "--set", "warmup_steps=2")
    assert inside(*command, *setting, "--steps", 1, "-q") == (0, "", "")
    shapes = [
        {name: value.shape for name, value in load_file(run / "ema.safetensors").items()} for run in (first, second)
    ]
    assert shapes[0] == shapes[1]
    command = ("train", "--stage", "generator", "--data", corpus, "--run", tmp_path / "third", "--from", first)
    got, _, told = inside(*command, "--set", "width=64", "--steps", 1)
    assert got == 2 and "bring their shape along" in told
    flow = flow_weights(tmp_path, corpus.parent / "tiny.safetensors")
    for wrong, reason in ((("--from", flow), "no generator of tokens"), (("--compile",), "--compile")):
        got, _, told = train(corpus, tmp_path / "fourth", *wrong, "--steps", 1)
        assert got != 0 and reason in told


def test_it_learns_the_classes_of_a_column(corpus: Path, tmp_path: Path, one_thread: None) -> None:
    """A clip without a value has no class; the classes are kept in the weights, and `vtok generate` draws them."""
    clips, codec = corpus.parent / "clips", corpus.parent / "tiny.safetensors"
    rows = (("00", "turning"), ("01", ""), ("02", "blue"))
    (tmp_path / "list.csv").write_text("path,kind\n" + "".join(f"{clips}/{n}.mp4,{kind}\n" for n, kind in rows))
    make(tmp_path / "named", begin(tmp_path / "named", [tmp_path / "list.csv"], codec))
    run, out = tmp_path / "run", tmp_path / "out.vtk"
    code, _, told = train(tmp_path / "named", run, "--steps", 2, "--set", "label=kind")
    assert code == 0 and "2 classes" in told
    config = WeightsFile("run", run / "ema.safetensors").config
    assert isinstance(config, GeneratorConfig) and config.classes == ("blue", "turning")
    drawn = ("generate", out, "-g", run, "--codec", codec, "--size", "64x48", "--seconds", 0.2, "-q", "--label")
    assert inside(*drawn, "blue", "--guidance", 2) == (0, "", "")
    code, _, told = inside(*drawn, "green", "--force")
    assert code == 2 and "blue, turning" in told and told.count("\n") == 1

    windows = TokenWindows(tmp_path / "named", 3, start="every", columns=["kind"])
    levels, layout = config.codec.fsq_levels, config.codec.layout
    batches = WindowBatches(JoinedWindows([windows]), levels, layout, 1, 0, Processes(), "kind", config.classes)
    seen = {int(batches.batch(number, CropShape(1, 12, 32)).labels) for number in range(len(windows))}
    assert seen == {0, 1, 2}

    for wrong, said in (
        ("label=title", "title"),
        ("label_dropout=2", "label_dropout"),
        ("drawn_share=2", "drawn_share"),
    ):
        code, _, told = train(tmp_path / "named", tmp_path / "wrong", "--steps", 1, "--set", wrong)
        assert code == 2 and said in told and told.count("\n") == 1
