"""The training loop, which trains a model through one stage, logs its progress and saves checkpoints."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import torch
import torch._functorch.config as functorch_config
from torch import Tensor, nn
from tqdm import tqdm

from vtok_codec.errors import TrainingError
from vtok_codec.files import write_whole
from vtok_codec.media.picture import png_bytes
from vtok_codec.models.config import config_to_json
from vtok_codec.models.precision import fast_type
from vtok_codec.prior_files import RUN_PRIOR
from vtok_codec.registry import RUN_WEIGHTS
from vtok_codec.training.checkpoint import write_checkpoint
from vtok_codec.training.codebook_use import CodebookUse
from vtok_codec.training.data.crops import Batches
from vtok_codec.training.log_window import LogWindow
from vtok_codec.training.objective import Loss, Model, TrainingObjective
from vtok_codec.training.optimizer import StageOptimizer
from vtok_codec.training.processes import Processes
from vtok_codec.training.recipe import CropShape
from vtok_codec.training.schedule import Budget, rate_factor
from vtok_codec.training.subject import Prepared

LOG = "log.jsonl"
"""The name of the log in a run's folder: one JSON object per line."""
STRIP = "strip-{}.png"
"""The name of a picture of held-out clips and what the EMA weights make of them, to be formatted with the step."""
_MAX_BAD_STEPS = 5
"""A run stops after this many steps in a row without a finite gradient."""


@dataclass(frozen=True)
class Cadence:
    """How often a run logs, validates and saves."""

    log_steps: int = 50
    """Steps between two entries of the log."""
    validate_steps: int = 1000
    """Steps between two validations."""
    checkpoint_minutes: float = 5.0
    """Minutes between two checkpoints."""


class _Step(nn.Module):
    """A model and its objective as one module, so that several processes can average the gradients of both."""

    def __init__(self, model: nn.Module, objective: TrainingObjective[Any]) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Any, generator: torch.Generator, progress: float, discriminator: nn.Module | None) -> Loss:
        loss: Loss = self.objective(self.model, batch, generator, progress, discriminator)
        return loss


class Trainer(Generic[Model]):
    """Trains a model through one stage.

    The folder of the run receives checkpoints, the EMA weights (an exponential moving average of the model's weights),
    a log, and pictures of held-out clips.
    """

    def __init__(
        self,
        stage: str,
        prepared: Prepared[Model, Any],
        batches: Batches,
        run: Path,
        seed: int,
        device: torch.device,
        cadence: Cadence | None = None,
        compiled: bool = False,
        processes: Processes | None = None,
    ) -> None:
        """Set up a run.

        Args:
            stage: The name of the stage.
            prepared: The model and everything that is particular to its kind.
            batches: The training data.
            run: The folder of the run.
            seed: The seed of all random choices.
            device: The device to train on.
            cadence: How often to log, validate and save.
            compiled: Whether to compile the networks.
            processes: The processes that train together; None for this process alone.
        """
        self.processes = processes or Processes()
        self.subject, self.recipe = prepared.subject, prepared.objective.recipe
        self.subject.freeze(prepared.model, self.recipe)
        # A stage uses only a few crop shapes, so searching for the fastest kernels of each pays off.
        torch.backends.cudnn.benchmark = True
        # Convolutions are fastest with channels-last weights.
        self.model: Model = prepared.model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        if compiled:
            # The adaptive weight of the adversarial loss needs more backward passes, which read the same buffers.
            functorch_config.donated_buffer = prepared.adversary is None
            self.subject.compile(self.model)
        self.objective: TrainingObjective[Any] = prepared.objective.to(device)
        self._averages = {name: value.detach().clone() for name, value in self.objective.trained.items()}
        """The exponential moving averages of the parameters of the objective, such as those of a prior."""
        self.stage, self.run_folder, self.seed = stage, run, seed
        self.device = device
        self.cadence = cadence or Cadence()
        self.optimizer = StageOptimizer(self.model, self.subject, self.objective.trained.values(), self.recipe)
        # All processes must initialize the discriminator with the same weights.
        torch.manual_seed(seed)
        self._adversary = prepared.adversary(self.recipe, device, self.processes) if prepared.adversary else None
        self._shared = self.processes.wrap(_Step(self.model, self.objective))
        codebook_size = self.subject.codebook_size(self.model)
        self._codebook_use = CodebookUse(codebook_size) if codebook_size else None
        self.step = 0
        """The number of steps that were taken."""
        self.seconds = 0.0
        """Seconds that the run has taken, including its set-up and the time before it was resumed."""
        self.setup_seconds = 0.0
        """Those of them in which it was set up, before its first step and whenever it was resumed."""
        self.skipped_steps = 0
        """The number of steps that changed nothing, since their gradient was not finite."""
        self.last_figures: dict[str, float] = {}
        """The figures of the last validation by name."""
        self._bad_in_a_row = 0
        self._batches = batches

    def train(self, budget: Budget, quiet: bool = False, begun: float | None = None) -> None:
        """Train until the budget is spent, then save, and validate unless the run was asked to end.

        Args:
            budget: When the run ends. Steps and minutes before a resume count as well.
            quiet: Whether to show no progress bar.
            begun: When the set-up of the run began, by `time.monotonic`, if that counts too; None for now.

        Raises:
            TrainingError: The gradient was not finite for several steps in a row, or a checkpoint cannot be written.
        """
        self.run_folder.mkdir(parents=True, exist_ok=True)
        bar = tqdm(
            total=1.0,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            disable=quiet or not self.processes.leads or None,
        )
        now = saved = time.monotonic()
        begun = now if begun is None else begun
        started = begun - self.seconds
        self.setup_seconds += now - begun
        self.seconds = now - started
        window, validated = LogWindow(), None
        try:
            while (progress := self._progress(budget, budget.ends())) < 1:
                shape = self.recipe.shape_at(progress)
                with window.waiting():
                    batch = self._batches.batch(self.step, shape)
                window.add(self._train_step(batch, progress), shape.batch * shape.frames * shape.size**2)
                self.seconds = time.monotonic() - started
                if self.step % self.cadence.log_steps == 0:
                    entry = self._entry(window, shape)
                    self._log(entry)
                    bar.set_postfix({key: f"{entry[key]:.4g}" for key in ("loss", "mpixel_s")}, refresh=False)
                    window = LogWindow()
                if self.step % self.cadence.validate_steps == 0:
                    self._validate()
                    validated = self.step
                if time.monotonic() - saved > self.cadence.checkpoint_minutes * 60:
                    self.save()
                    saved = time.monotonic()
                bar.update(progress - bar.n)
            bar.update(1 - bar.n)
        finally:
            self._batches.close()
            bar.close()
        if self.skipped_steps >= self.step:
            raise TrainingError(f"none of {self.step} steps changed the model, since the loss was not finite")
        self.save()
        if self.step != validated and not budget.ends():
            self._validate()

    def has_spent(self, budget: Budget) -> bool:
        """Return whether the run has ended already, and would take no step."""
        return self._progress(budget) >= 1

    def _progress(self, budget: Budget, ended: bool = False) -> float:
        """Return the fraction of the stage that is done, on which all processes agree; 1 if the run was `ended`.

        However long the set-up took, and whatever ended it, a run takes a step, and this is where the stage begins.
        """
        if not self.step:
            return 0.0
        done = budget.progress(self.step, self.seconds, self.setup_seconds)
        return self.processes.agree(1.0 if ended else done)

    def _entry(self, window: LogWindow, shape: CropShape) -> dict[str, float]:
        """Return the entry of the log for the steps of a window."""
        entry = self.processes.mean(window.means())
        entry |= self._codebook_use.take(self.processes) if self._codebook_use else {}
        entry |= {"mpixel_s": window.mpixel_s() * self.processes.count, "size": float(shape.size)}
        return entry | {"waiting": window.share_waited()}

    def _train_step(self, batch: Any, progress: float) -> dict[str, float]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        factor = rate_factor(self.step, progress, self.recipe.warmup_steps)
        self.optimizer.set_rate(self.recipe.learning_rate * factor)
        batch = batch.to(self.device)
        joined = self._adversary is not None and progress >= self._adversary.starts_at
        judge = self._adversary.network.requires_grad_(False) if self._adversary and joined else None
        with self._autocast():
            loss: Loss = self._shared(batch, generator, progress, judge)
        self.optimizer.zero_grad()
        loss.total.backward()
        norm = nn.utils.clip_grad_norm_(self.optimizer.parameters, self.recipe.clip_norm)
        values = _floats({**loss.parts, "loss": loss.total.detach(), "grad_norm": norm})
        self.step += 1
        # A loss that is not finite has no finite gradient. Unlike the loss, the norm is the same in all processes.
        if not math.isfinite(values["grad_norm"]):
            self._skip_step()
        else:
            self._bad_in_a_row = 0
            self.optimizer.step()
            self._update_ema()
            if self._codebook_use and loss.indices is not None:
                self._codebook_use.add(loss.indices)
        if self._adversary:
            self._adversary.network.requires_grad_(True)
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
                "resume from the last checkpoint, if there is one, with a lower learning_rate"
            )

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        pairs = zip(self.ema.parameters(), self.model.parameters(), strict=True)
        averages, values = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)
        for name, value in self.objective.trained.items():
            self._averages[name].lerp_(value, 1 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the parameters of the objective their averages for a while."""
        own = {name: value.detach().clone() for name, value in self.objective.trained.items()}
        self._set_trained(self._averages)
        try:
            yield
        finally:
            self._set_trained(own)

    @torch.no_grad()
    def _set_trained(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.objective.trained.items():
            value.copy_(values[name])

    def _validate(self) -> None:
        if not self.subject.clips or not self.processes.leads:
            return
        with self._autocast(), self._averaged():
            self.last_figures = self.subject.figures(self.ema)
            self._log({"validation": 1.0} | self.last_figures)
            strip = self.subject.strip(self.ema)
        (self.run_folder / STRIP.format(f"{self.step:07d}")).write_bytes(png_bytes(strip))

    def _log(self, entry: dict[str, float]) -> None:
        if not self.processes.leads:
            return
        line = {
            "stage": self.stage,
            "step": self.step,
            "minutes": round(self.seconds / 60, 3),
            "lr": self.optimizer.rate,
            "skipped": self.skipped_steps,
        } | {key: round(value, 6) if math.isfinite(value) else None for key, value in entry.items()}
        with open(self.run_folder / LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write a checkpoint and the EMA weights, each atomically. Only the leading process writes.

        Raises:
            TrainingError: A value is not finite, or the checkpoint cannot be written.
        """
        if not self.processes.leads:
            return
        state = {
            "config": config_to_json(self.subject.config),
            "stage": self.stage,
            "subject": dict(self.subject.identity),
            "seed": self.seed,
            "step": self.step,
            "seconds": self.seconds,
            "setup_seconds": self.setup_seconds,
            "skipped_steps": self.skipped_steps,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "objective": {name: value.detach() for name, value in self.objective.trained.items()},
            "objective_ema": self._averages,
            "optimizer": self.optimizer.state_dict(),
            "adversary": self._adversary.state_dict() if self._adversary else None,
        }
        write_checkpoint(self.run_folder, state)
        metadata = {"stage": self.stage, "steps": str(self.step), "minutes": f"{self.seconds / 60:.1f}"}
        weights = self.subject.weights(self.ema, metadata)
        write_whole(self.run_folder / RUN_WEIGHTS, weights)
        with self._averaged():
            companions = self.subject.companions(weights)
        for name, data in companions.items():
            write_whole(self.run_folder / name, data)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the state of a run from a checkpoint that `save` wrote.

        Raises:
            TrainingError: The checkpoint belongs to another model or stage, or to another version of vtok.
        """
        if state.get("stage") != self.stage:
            raise TrainingError(f"the checkpoint is of stage {state.get('stage')!r}, this run of {self.stage!r}")
        if state.get("config", config_to_json(self.subject.config)) != config_to_json(self.subject.config):
            raise TrainingError("the checkpoint is of a model with another shape")
        for key, mine in self.subject.identity.items():
            if state.get("subject", {}).get(key) != mine:
                raise TrainingError(
                    f"the checkpoint was made beside another {key}; start another run from its {RUN_WEIGHTS}"
                )
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            self._set_trained(state["objective"])
            # Earlier versions kept no averages.
            for name, value in state.get("objective_ema", state["objective"]).items():
                self._averages[name].copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            if self._adversary:
                self._adversary.load_state_dict(state["adversary"])
            self.step, self.seconds = state["step"], state["seconds"]
            # Earlier versions did not tell them apart.
            self.setup_seconds = state.get("setup_seconds", 0.0)
            self.skipped_steps = state["skipped_steps"]
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise TrainingError(
                f"the checkpoint does not fit this version, the settings that were changed, or the {RUN_PRIOR} that "
                f"lies beside it ({error}); undo that, or start another run from its {RUN_WEIGHTS}"
            ) from None


def _floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Convert scalar tensors to numbers in one transfer, since each transfer from a GPU waits for all its work."""
    return dict(zip(values, torch.stack([value.float() for value in values.values()]).tolist(), strict=True))
