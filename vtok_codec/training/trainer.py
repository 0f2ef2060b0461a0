"""The training loop: one stage of one model, resumable, logged, with pictures to look at."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, nn
from tqdm import tqdm

from vtok_codec.errors import TrainingError
from vtok_codec.media.picture import png_bytes
from vtok_codec.models.precision import fast_type
from vtok_codec.registry import RUN_WEIGHTS
from vtok_codec.training.adversarial import PatchDiscriminator, discriminator_loss
from vtok_codec.training.codebook_use import CodebookUse
from vtok_codec.training.crops import Batches
from vtok_codec.training.objective import Loss, TrainingObjective
from vtok_codec.training.optimizer import StageOptimizer
from vtok_codec.training.processes import Processes
from vtok_codec.training.stages import Stage
from vtok_codec.training.subjects import Model, Subject

CHECKPOINT = "checkpoint.pt"
WEIGHTS = RUN_WEIGHTS
LOG = "log.jsonl"
STRIP = "strip-{}.png"
"""By step: pictures of the clips that are watched, and what the EMA weights make of them."""
_MAX_BAD_STEPS = 5
"""Steps in a row with a loss that is not finite, after which a run stops."""
_ADVERSARIAL_BETAS = (0.5, 0.9)
"""Of AdamW for the discriminator (OneVAE, section 4.1, after VQGAN)."""
_FINAL_RATE = 0.02
"""Learning rate at the end of the cosine, as a part of its peak."""


@dataclass(frozen=True)
class Budget:
    """When a stage ends: after so many steps, or minutes of training, whichever is set."""

    steps: int | None = None
    minutes: float | None = None

    def progress(self, step: int, seconds: float) -> float:
        """Part of the stage that is done, 0…1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


@dataclass(frozen=True)
class Cadence:
    """How often a run speaks and saves."""

    log_steps: int = 50
    validate_steps: int = 1000
    checkpoint_minutes: float = 5.0


class _Adversary:
    """The discriminator of a run, which trains against the decoder."""

    def __init__(self, stage: Stage, device: torch.device, processes: Processes) -> None:
        self.discriminator = PatchDiscriminator().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._shared = processes.wrap(self.discriminator)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=stage.learning_rate, betas=_ADVERSARIAL_BETAS, weight_decay=0.0
        )
        self._peak_rate = stage.learning_rate
        self._clip_norm = stage.clip_norm

    def learn(self, real: Tensor, made: Tensor, factor: float) -> Tensor:
        """One step at `factor` of the learning rate; its loss."""
        self.optimizer.param_groups[0]["lr"] = self._peak_rate * factor
        self.optimizer.zero_grad()
        loss = discriminator_loss(self._shared, real, made)
        loss.backward()
        # The norm of gradients that are averaged is the same in all processes, so that all step or none.
        norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), self._clip_norm)
        if math.isfinite(float(norm)):
            self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


class _Step(nn.Module):
    """A model with its objective, as one module, so that several processes can average its gradients."""

    def __init__(self, model: nn.Module, objective: TrainingObjective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(
        self, video: Tensor, generator: torch.Generator, progress: float, discriminator: nn.Module | None
    ) -> Loss:
        loss: Loss = self.objective(self.model, video, generator, progress, discriminator)
        return loss


class Trainer(Generic[Model]):
    """Trains `model` through one stage into a run folder: checkpoint, EMA weights, log, strips."""

    def __init__(
        self,
        model: Model,
        subject: Subject[Model],
        stage: Stage,
        objective: TrainingObjective,
        batches: Batches,
        run: Path,
        seed: int,
        device: torch.device,
        cadence: Cadence | None = None,
        compiled: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        subject.freeze(model, stage)
        # A stage has a handful of shapes, each of which is worth a search for the fastest kernels.
        torch.backends.cudnn.benchmark = True
        # Channels-last weights keep every convolution on its fast path.
        self.model: Model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        if compiled:
            # The adaptive weight of a discriminator goes back through the decoder twice.
            functorch_config.donated_buffer = not stage.adversarial_weight
            subject.compile(self.model)
        self.objective: TrainingObjective = objective.to(device)
        self.subject, self.stage, self.run_folder, self.seed = subject, stage, run, seed
        self.device = device
        self.cadence = cadence or Cadence()
        self.optimizer = StageOptimizer(self.model, subject, self.objective.trained.values(), stage)
        # Random, so that every process must make the same one.
        torch.manual_seed(seed)
        self._adversary = _Adversary(stage, device, self.processes) if stage.adversarial_weight else None
        self._shared = self.processes.wrap(_Step(self.model, self.objective))
        codebook_size = subject.codebook_size(self.model)
        self._codebook_use = CodebookUse(codebook_size) if codebook_size else None
        self.step = 0
        self.seconds = 0.0
        self.skipped_steps = 0
        self._bad_in_a_row = 0
        self._batches = batches

    def train(self, budget: Budget, quiet: bool = False) -> None:
        """Train until the budget is spent, then save. What was trained before counts towards it."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        bar = tqdm(
            total=1.0,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            disable=quiet or not self.processes.leads or None,
        )
        started, saved = time.monotonic() - self.seconds, time.monotonic()
        window: list[dict[str, float]] = []
        window_start, pixels, waited = time.monotonic(), 0, 0.0
        validated: int | None = None
        try:
            while (progress := self.processes.agree(budget.progress(self.step, self.seconds))) < 1:
                shape = self.stage.shape_at(progress)
                asked = time.monotonic()
                batch = self._batches.batch(self.step, shape)
                waited += time.monotonic() - asked
                window.append(self._train_step(batch, progress))
                self.seconds = time.monotonic() - started
                pixels += shape.batch * shape.frames * shape.size**2
                if self.step % self.cadence.log_steps == 0:
                    elapsed = time.monotonic() - window_start
                    rate = pixels / 1e6 / elapsed
                    entry = self.processes.mean(_mean(window))
                    entry |= self._codebook_use.take(self.processes) if self._codebook_use else {}
                    entry |= {"mpixel_s": rate * self.processes.count, "size": float(shape.size)}
                    # Of the time, for batches that were not ready.
                    entry["waiting"] = waited / elapsed
                    self._log(entry)
                    bar.set_postfix({key: f"{entry[key]:.4g}" for key in ("loss", "mpixel_s")}, refresh=False)
                    window, window_start, pixels, waited = [], time.monotonic(), 0, 0.0
                if self.step % self.cadence.validate_steps == 0:
                    self._validate()
                    validated = self.step
                if time.monotonic() - saved > self.cadence.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
                bar.update(progress - bar.n)
        finally:
            self._batches.close()
            bar.close()
        self.save()
        if self.step != validated:
            self._validate()

    def _train_step(self, video: Tensor, progress: float) -> dict[str, float]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        factor = _rate_factor(self.step, progress, self.stage.warmup_steps)
        self.optimizer.set_rate(self.stage.learning_rate * factor)
        video = video.to(self.device)
        joined = self._adversary is not None and progress >= self.stage.adversarial_start
        judge = self._adversary.discriminator.requires_grad_(False) if self._adversary and joined else None
        with self._autocast():
            loss: Loss = self._shared(video, generator, progress, judge)
        self.optimizer.zero_grad()
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(self.optimizer.parameters, self.stage.clip_norm)
        values = _floats({**loss.parts, "loss": loss.total.detach(), "grad_norm": norm})
        self.step += 1
        # A loss that is not finite has no finite gradient. Their norm is the same in all processes, the loss is not.
        if not math.isfinite(values["grad_norm"]):
            self._skip_step()
        else:
            self._bad_in_a_row = 0
            self.optimizer.step()
            self._update_ema()
            if self._codebook_use and loss.indices is not None:
                self._codebook_use.add(loss.indices)
        if self._adversary:
            self._adversary.discriminator.requires_grad_(True)
            with self._autocast():
                values["discriminator"] = float(self._adversary.learn(loss.video, loss.reconstruction, factor))
        return values

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast_type(self.device) is torch.bfloat16)

    def _skip_step(self) -> None:
        self.skipped_steps += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= _MAX_BAD_STEPS:
            raise TrainingError(
                f"the loss was not finite {_MAX_BAD_STEPS} steps in a row (step {self.step}); "
                "resume from the last checkpoint with a lower learning_rate"
            )

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.stage.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.ema.parameters(), self.model.parameters(), strict=True)
        averages, values = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    def _validate(self) -> None:
        if not self.subject.clips or not self.processes.leads:
            return
        with self._autocast():
            self._log({"validation": 1.0} | self.subject.figures(self.ema))
            strip = self.subject.strip(self.ema)
        (self.run_folder / STRIP.format(f"{self.step:07d}")).write_bytes(png_bytes(strip))

    def _log(self, entry: dict[str, float]) -> None:
        if not self.processes.leads:
            return
        line = {
            "stage": self.stage.name,
            "step": self.step,
            "minutes": round(self.seconds / 60, 3),
            "lr": self.optimizer.rate,
            "skipped": self.skipped_steps,
        } | {key: round(value, 6) for key, value in entry.items()}
        with open(self.run_folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write checkpoint and EMA weights, each in one move."""
        if not self.processes.leads:
            return
        state = {
            "preset": self.subject.preset,
            "stage": self.stage.name,
            "subject": dict(self.subject.identity),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "skipped_steps": self.skipped_steps,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "objective": {name: value.detach() for name, value in self.objective.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "adversary": self._adversary.state_dict() if self._adversary else None,
        }
        checkpoint = self.run_folder / CHECKPOINT
        partial = checkpoint.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save(state, file)
            # Else a loss of power may leave the new name with nothing behind it.
            os.fsync(file.fileno())
        os.replace(partial, checkpoint)
        metadata = {"stage": self.stage.name, "steps": str(self.step), "minutes": f"{self.seconds / 60:.1f}"}
        weights = self.run_folder / WEIGHTS
        partial = weights.with_suffix(".partial")
        partial.write_bytes(self.subject.weights(self.ema, metadata))
        os.replace(partial, weights)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint that `save` wrote.

        Raises:
            TrainingError: it belongs to another preset or stage.
        """
        for key, mine in (("preset", self.subject.preset), ("stage", self.stage.name)):
            if state.get(key) != mine:
                raise TrainingError(f"the checkpoint is of {key} {state.get(key)!r}, this run of {mine!r}")
        for key, mine in self.subject.identity.items():
            if state.get("subject", {}).get(key) != mine:
                raise TrainingError(
                    f"the checkpoint was made beside another {key}; start another run from its {WEIGHTS}"
                )
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            with torch.no_grad():
                for name, value in self.objective.trained.items():
                    value.copy_(state["objective"][name])
            self.optimizer.load_state_dict(state["optimizer"])
            if self._adversary:
                self._adversary.load_state_dict(state["adversary"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.skipped_steps = state["skipped_steps"]
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise TrainingError(
                f"the checkpoint does not fit this version ({error}); start another run from its {WEIGHTS}"
            ) from None


def _rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / warmup_steps) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as numbers. Each number that is asked of a GPU waits until all before it is done, so ask once."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist(), strict=True))


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """Of each value, over the entries that have it: a term may join in midway."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        for key, value in entry.items():
            values.setdefault(key, []).append(value)
    return {key: sum(given) / len(given) for key, given in values.items()}
