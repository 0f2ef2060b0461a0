"""Several processes that train one model together, as `torchrun` starts them: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work: `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that logs, validates and saves."""
        return self.rank == 0

    def share(self, drawn: Tensor) -> Tensor:
        """This process' part of what was drawn alike by all, for the samples of the whole batch."""
        return drawn.tensor_split(self.count)[self.rank]

    def normal(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """This process' part of normal noise for the whole batch, of which `like`, `B …`, is its own part.

        It is drawn where `like` lies: on a GPU, since a CPU takes longer for it than the GPU for the whole step.
        """
        shape = (len(like) * self.count, *like.shape[1:])
        if like.device.type == "cpu":
            return self.share(torch.randn(shape, generator=generator))
        seed = int(torch.randint(2**62, (), generator=generator))
        there = torch.Generator(like.device).manual_seed(seed)
        return self.share(torch.randn(shape, generator=there, device=like.device))

    def agree(self, value: float) -> float:
        """The first process' value, in all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU, which may change."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """The mean over all processes of each value."""
        if self.count == 1:
            return values
        summed = torch.tensor(list(values.values()), dtype=torch.float64)
        distributed.all_reduce(summed)
        return dict(zip(values, (summed / self.count).tolist(), strict=True))

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes."""
        trained = any(parameter.requires_grad for parameter in module.parameters())
        # Buffers change alike everywhere, or not at all.
        return DistributedDataParallel(module, broadcast_buffers=False) if self.count > 1 and trained else module


def join_processes(device: torch.device) -> Processes:
    """Join the processes that `torchrun` started; alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not distributed.is_initialized():
        # Values that are agreed on stay on the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), count)


def leave_processes() -> None:
    """The end of `join_processes`, once all is done; not after an error, since leaving waits for the others."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
