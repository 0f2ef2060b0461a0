"""Whole runs: they learn, resume exactly, and refuse what cannot be."""

from __future__ import annotations

import functools
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import VTOK
from helpers import DATA, LANES, TINY, Given, inside, randomized
from safetensors.torch import load_file
from torch import nn
from training_helpers import SHAPE, codec_recipe, sampler_of, settings_of

import vtok_codec.training.run as run_module
from vtok_codec.codec.decoders import tokenizer_of
from vtok_codec.codec.tokenizer import load_tokenizer
from vtok_codec.errors import ModelError, SettingError, TrainingError
from vtok_codec.files import exclusive
from vtok_codec.models.onevae import OneVAE
from vtok_codec.models.weights import CODEC, build, dump_weights
from vtok_codec.registry import RUN_WEIGHTS, find_weights
from vtok_codec.training.checkpoint import CHECKPOINT, read_checkpoint
from vtok_codec.training.codec.objective import CodecObjective
from vtok_codec.training.data.crops import ThreadedBatches
from vtok_codec.training.log_window import LogWindow
from vtok_codec.training.recipe import CropShape
from vtok_codec.training.run import resume_training, run_training
from vtok_codec.training.schedule import Budget
from vtok_codec.training.trainer import LOG, STRIP, Cadence, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_step_without_a_term_does_not_count_in_its_mean() -> None:
    window = LogWindow()
    window.add({"loss": 1.0, "term": math.nan}, 64)
    window.add({"loss": 3.0, "term": 2.0}, 64)
    assert window.means() == {"loss": 2.0, "term": 2.0}


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


@pytest.fixture
def slow_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take two seconds more to be set up."""
    prepare = run_module._trainer

    def slowly(*args: Any, **options: Any) -> Trainer[Any]:
        time.sleep(2)
        return prepare(*args, **options)

    monkeypatch.setattr(run_module, "_trainer", slowly)


def test_minutes_count_the_set_up(data: Path, tmp_path: Path, small_stages: None, slow_set_up: None) -> None:
    """A run whose set-up takes longer than its minutes ends after its first step."""
    trainer = run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(minutes=0.01), quiet=True)
    assert trainer.step == 1 and trainer.seconds >= 2


def test_the_schedule_begins_after_the_set_up(
    data: Path, tmp_path: Path, small_stages: None, slow_set_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, step = [], Trainer._train_step

    def noting(self: Trainer[Any], batch: Any, progress: float) -> dict[str, float]:
        seen.append(progress)
        return step(self, batch, progress)

    monkeypatch.setattr(Trainer, "_train_step", noting)
    run, settings = tmp_path / "run", settings_of(data, "continuous")
    trainer = run_training(settings, run, Budget(steps=2, minutes=1), quiet=True)
    assert seen == [0, 0.5]
    assert read_checkpoint(run)["setup_seconds"] == trainer.setup_seconds >= 2
    resumed = resume_training(run, Budget(steps=3, minutes=1), quiet=True)
    assert resumed.setup_seconds >= trainer.setup_seconds + 2


def test_a_run_that_has_ended_says_so(
    data: Path, tmp_path: Path, small_stages: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_training(settings_of(data, "continuous"), run, Budget(steps=2), quiet=True)
    assert resume_training(run, Budget(steps=2), quiet=False).step == 2
    assert f"{run} has ended: it took 2 steps in " in capsys.readouterr().err
    assert resume_training(run, Budget(steps=3), quiet=False).step == 3
    assert "has ended" not in capsys.readouterr().err


def model_of(run: Path) -> OneVAE:
    """The EMA weights of a run."""
    return build(CODEC, Given(TINY, (run / RUN_WEIGHTS).read_bytes()))


@torch.inference_mode()
def error_of(model: OneVAE, folder: Path) -> float:
    """Root mean squared error over some fixed crops, all tokens read."""
    objective = CodecObjective(replace(codec_recipe("discrete"), lpips_weight=0.0), model.config, None)
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
    def slow(self: ThreadedBatches, number: int, shape: CropShape) -> torch.Tensor:
        time.sleep(0.5)
        return self._sampler.batch(number, shape)

    monkeypatch.setattr("vtok_codec.training.run.Cadence", functools.partial(Cadence, log_steps=2))
    monkeypatch.setattr(ThreadedBatches, "batch", slow)
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
    whole, halves = (read_checkpoint(tmp_path / name) for name in ("whole", "halves"))
    for part in ("model", "ema", "objective"):
        for name, value in whole[part].items():
            assert torch.equal(value, halves[part][name]), name
    assert load_file(tmp_path / "halves" / RUN_WEIGHTS).keys() == whole["ema"].keys()


_COMPILED = """
import sys
from pathlib import Path
from helpers import TINY
from vtok_codec.models.presets import PRESETS
from vtok_codec.models.config import config_to_json
from vtok_codec.training.run import _trainer
from vtok_codec.training.settings import RunSettings

PRESETS["tiny"] = TINY
config = config_to_json(TINY)
settings = RunSettings("continuous", None, None, (sys.argv[1],), None, 1, 5, "cpu", 1.0, True, (), config=config)
_trainer(settings, Path(sys.argv[2]), None, fresh=True, quiet=True)
"""


def test_a_compiled_run_starts_in_a_process_of_its_own(data: Path, tmp_path: Path) -> None:
    """Other tests import what torch then has at hand; the command does not."""
    command = [sys.executable, "-c", _COMPILED, str(data), str(tmp_path / "run")]
    run = subprocess.run(command, cwd=DATA.parent, capture_output=True, text=True)
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
    with pytest.raises(TrainingError, match="no run"):
        resume_training(tmp_path / "run", Budget(steps=1), quiet=True)
    with pytest.raises(TrainingError, match="no video or image"):
        run_training(settings_of(tmp_path / "run", "continuous"), tmp_path / "run", Budget(steps=1), quiet=True)
    assert not list((tmp_path / "run").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot hold a run"):
        run_training(settings_of(data, "continuous"), tmp_path / "file" / "run", Budget(steps=1), quiet=True)
    (tmp_path / "run" / CHECKPOINT).touch()
    with pytest.raises(TrainingError, match="already holds a run"):
        run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=1), quiet=True)


def test_two_processes_cannot_train_in_one_folder(data: Path, tmp_path: Path, small_stages: None) -> None:
    """They would overwrite each other's checkpoints."""
    run = tmp_path / "run"
    run_training(settings_of(data, "continuous"), run, Budget(steps=1), quiet=True)
    before = (run / CHECKPOINT).read_bytes()
    with exclusive(run / "run.lock"), pytest.raises(TrainingError, match="another process trains in"):
        resume_training(run, Budget(steps=2), quiet=True)
    assert (run / CHECKPOINT).read_bytes() == before
    resume_training(run, Budget(steps=2), quiet=True)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with exclusive(fresh / "run.lock"), pytest.raises(TrainingError, match="another process trains in"):
        run_training(settings_of(data, "continuous"), fresh, Budget(steps=1), quiet=True)
    (tmp_path / "clips").mkdir()
    with pytest.raises(TrainingError, match="no video or image"):
        run_training(settings_of(tmp_path / "clips", "continuous"), tmp_path / "never", Budget(steps=1), quiet=True)
    mistyped = replace(settings_of(data, "continuous"), data=(str(data), str(tmp_path / "clip")))
    with pytest.raises(TrainingError, match="clip is not a folder"):
        run_training(mistyped, tmp_path / "never", Budget(steps=1), quiet=True)
    assert not (tmp_path / "never").exists()


def test_a_run_that_never_saved_is_begun_anew(data: Path, tmp_path: Path, small_stages: None) -> None:
    """Its log and its pictures would pass for the new run's."""
    run = tmp_path / "run"
    run.mkdir()
    (run / LOG).write_text('{"step": 50}\n')
    (run / STRIP.format("0000050")).touch()
    run_training(settings_of(data, "continuous"), run, Budget(steps=1), quiet=True)
    assert not (run / LOG).exists() or "50" not in (run / LOG).read_text()
    assert not list(run.glob("strip*"))


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
    changed = (("learning_rate", "0"), ("weight_decay", "0.5"), ("betas", "0.5,0.75"))
    resumed = resume_training(run, Budget(steps=2), quiet=True, overrides=changed)
    groups = resumed.optimizer._adamw.param_groups
    assert {group["betas"] for group in groups} == {(0.5, 0.75)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}
    before = read_checkpoint(run)["model"]
    resume_training(run, Budget(steps=3), quiet=True)
    after = read_checkpoint(run)["model"]
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_saves_first(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """As job schedulers end runs: nothing but the step under way may be lost."""
    weights, run = tmp_path / "tiny.safetensors", tmp_path / "run"
    weights.write_bytes(dump_weights(randomized(OneVAE(TINY)), TINY, {}))
    settings = ["--set", "phases=1x8x32", "--set", "lpips_weight=0", "--set", "rate_weights="]
    command = [*VTOK, "train", "--stage", "rate", "--from", weights, "--data", data, "--run", run, *settings]
    with subprocess.Popen([*map(str, command), "--steps", "100000"], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (run / LOG).exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    step = read_checkpoint(run)["step"]
    assert step >= 50 and f"after step {step}; go on with --resume {run}" in told.decode()
    assert inside("train", "--resume", run, "--steps", step + 1, "-q")[0] == 0


def test_a_run_that_is_ended_while_it_is_set_up_resumes_exactly(data: Path, tmp_path: Path, small_stages: None) -> None:
    """It takes one step, which is the first one of its stage and not the last."""
    settings = settings_of(data, "continuous")
    settings = replace(settings, overrides=(*settings.overrides, ("phases", "2x8x32,1x8x64@0.9")))
    run_training(settings, tmp_path / "whole", Budget(steps=3), quiet=True)
    ended = run_training(settings, tmp_path / "run", Budget(steps=3, ends=lambda: True), quiet=True)
    assert ended.step == 1
    resume_training(tmp_path / "run", Budget(steps=3), quiet=True)
    whole, resumed = (read_checkpoint(tmp_path / name)["model"] for name in ("whole", "run"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_run_that_changed_nothing_is_an_error(
    data: Path, tmp_path: Path, small_stages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss was not finite in any step, though in fewer than end a run at once."""

    def skip(self: Trainer[Any], *_: object) -> dict[str, float]:
        self.step += 1
        self._skip_step()
        return {"loss": math.inf}

    monkeypatch.setattr(Trainer, "_train_step", skip)
    with pytest.raises(TrainingError, match="none of 2 steps changed the model"):
        run_training(settings_of(data, "continuous"), tmp_path / "run", Budget(steps=2), quiet=True)
