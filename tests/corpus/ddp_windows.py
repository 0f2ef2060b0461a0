"""Trains a tiny model on a corpus under torchrun for one epoch, and writes which windows each process has seen.

torchrun --nproc-per-node=2 ddp_windows.py CORPUS OUT_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from vtok_codec import TokenWindows


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    windows = TokenWindows(sys.argv[1], latents=1, start="any")
    sampler = windows.sampler(batch_size=2, seed=4, rank=rank, world=world)
    model = DistributedDataParallel(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    seen = []
    # Processes may have one batch more or less than others.
    with model.join():
        for batch in DataLoader(windows, batch_sampler=sampler, num_workers=1):
            loss = model(batch["tokens"].float().flatten(0, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += list(zip(batch["key"], batch["latent"].tolist(), strict=True))
    Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
