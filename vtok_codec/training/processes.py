"""Training of one model by several processes that `torchrun` started, with gloo on CPUs and NCCL on GPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that train together."""

    rank: int = 0
    """The number of this process, counted from 0."""
    count: int = 1
    """The number of processes."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that logs, validates and saves for all."""
        return self.rank == 0

    def share(self, drawn: Tensor) -> Tensor:
        """Return this process's part of values for the whole batch, which all processes drew alike."""
        return drawn.tensor_split(self.count)[self.rank]

    def normal(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return this process's part of normal noise for the whole batch.

        The noise is drawn on the device of `like`, since a CPU is much slower at it than a GPU.

        Args:
            like: This process's part of the batch, `B …`. The noise has its shape and device.
            generator: A random generator on the CPU that is in the same state in all processes.
        """
        shape = (len(like) * self.count, *like.shape[1:])
        if like.device.type == "cpu":
            return self.share(torch.randn(shape, generator=generator))
        seed = int(torch.randint(2**62, (), generator=generator))
        there = torch.Generator(like.device).manual_seed(seed)
        return self.share(torch.randn(shape, generator=there, device=like.device))

    def agree(self, value: float) -> float:
        """Return the value of the first process in all processes."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)

    def first(self, values: Tensor) -> Tensor:
        """Return the values of the first process in all processes. The tensor may be changed in place."""
        if self.count > 1:
            distributed.broadcast(values, 0)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of the values over all processes. The tensor may be changed in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Return the mean of each value over the processes where it is a number.

        All processes must give the same names in the same order.
        """
        if self.count == 1:
            return values
        own = torch.tensor(list(values.values()), dtype=torch.float64)
        summed = torch.stack([own.where(~own.isnan(), 0.0), (~own.isnan()).double()])
        distributed.all_reduce(summed)
        return dict(zip(values, (summed[0] / summed[1]).tolist(), strict=True))

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged over all processes."""
        trained = any(parameter.requires_grad for parameter in module.parameters())
        # Buffers need no broadcast, since they change in the same way in all processes or not at all.
        return DistributedDataParallel(module, broadcast_buffers=False) if self.count > 1 and trained else module


def join_processes(device: torch.device) -> Processes:
    """Join the processes that `torchrun` started. Without `torchrun`, the process trains alone."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()
    if not distributed.is_initialized():
        # Gloo is needed on a GPU too, since `agree` and `mean` exchange values on the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), count)


def leave_processes() -> None:
    """Leave the processes when all work is done.

    Do not call this after an error, since leaving waits for the other processes.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
